"""Whole benchmarks offline by the scripts: preparation, evaluation and score, with lmms-eval's own
tasks on small copies of the data."""

import json
import os
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from llava.eval.benchmarks.prepare import main as prepare
from llava.eval.benchmarks.table import find_benchmark
from llava.eval.report.page import main as report
from llava.eval.report.results import read_evaluations
from support.eval_benchmarks import (
    COPIES,
    OTHER_COPIES,
    read_samples,
    write_checkpoint_that_says_a,
    write_copy,
)
from support.eval_run import evaluate_here
from support.paths import ROOT

SIZES = {"SEQ_LEN_FRAMES": "8", "NUM_IMAGES": "2", "SQUARE_SIZE": "64", "PATCH_SIZE": "8"}
PREPARE = "scripts/precompute_codec_patch/preprocess_video_benchmark.sh"
EVALUATE = "scripts/eval/local_eval_ov_encoder.sh"


def _script(
    script: str, *arguments: str, home: Path, **variables: str
) -> subprocess.CompletedProcess[str]:
    clean = {name: text for name, text in os.environ.items() if not name.startswith("LLAVA_")}
    return subprocess.run(
        ["bash", script, *arguments],
        cwd=ROOT,
        env={**clean, "HF_HOME": str(home), "NUM_WORKERS": "1", "NUM_GPUS": "1", **variables},
        capture_output=True,
        text=True,
    )


def _write(names: list[str], home: Path) -> list[str]:
    """Write copies; returns those whose videos need preparation."""
    for name in names:
        write_copy(name, home)
    return [name for name in names if name in COPIES]


def _variables(names: list[str], folder: Path) -> dict[str, str]:
    model = write_checkpoint_that_says_a(folder / "model")
    codec = {f"LLAVA_CODEC_{name}": value for name, value in SIZES.items()}
    run = {"MODEL_PATH": str(model), "TASKS": ",".join(names), "OUTPUT_PATH": str(folder / "out")}
    return {**codec, **run, "BATCH_SIZE": "2"}


def _written(folder: Path) -> dict[str, Any]:
    """The results, with the manifest under ``manifest`` and the folders under their names."""
    out = folder / "out"
    [results] = out.glob("**/*_results.json")
    [manifest] = out.glob("**/manifest.json")
    return {
        **json.loads(results.read_text()),
        "manifest": json.loads(manifest.read_text()),
        "out": out,
        "home": folder / "home",
    }


def _by_scripts(names: list[str], folder: Path) -> dict[str, Any]:
    """As users do: two scripts."""
    home = folder / "home"
    prepared = _script(PREPARE, *_write(names, home), home=home, **SIZES)
    assert prepared.returncode == 0, prepared.stdout + prepared.stderr
    result = _script(EVALUATE, home=home, **_variables(names, folder))
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-5000:]
    return _written(folder)


def _in_process(names: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The command that the script would start, without its imports."""
    home = folder / "home"
    monkeypatch.setenv("HF_HOME", str(home))
    flags = [part for name, size in SIZES.items() for part in (f"--{name.lower()}", size)]
    assert prepare([*_write(names, home), "--num_workers", "1", *flags]) == 0
    shown = _script(EVALUATE, home=home, DRY_RUN="1", **_variables(names, folder))
    assert shown.returncode == 0, shown.stderr
    *variables, command = shown.stdout.splitlines()
    for variable in variables:
        monkeypatch.setenv(*variable.split("=", 1))
    interpreter, _, module, *arguments = shlex.split(command)
    assert (Path(interpreter).name, module) == ("python", "llava.eval.launch")
    assert evaluate_here(home, monkeypatch, arguments) == 0
    return _written(folder)


def _check(name: str, run: dict[str, Any]) -> None:
    copy, benchmark = {**COPIES, **OTHER_COPIES}[name](), find_benchmark(name)
    if copy.videos:
        assert benchmark is not None
        made = {path.name for path in benchmark.assets_folder(run["home"]).iterdir()}
        assert made == set(copy.keys)
    for task in benchmark.tasks if benchmark else [name]:
        [metric] = [key for key in run["results"][task] if key.startswith(f"{copy.metric},")]
        assert run["results"][task][metric] == pytest.approx(copy.score), task
        if name != "arc_easy":  # scores of options, no answers
            answers = [row["filtered_resps"] for row in read_samples(run["out"], task)]
            assert answers in ([["A"], ["A"]], ["A", "A"]), task
    _check_report(name, run)


def _check_report(name: str, run: dict[str, Any]) -> None:
    """The report's scores of single samples give lmms-eval's score of the task."""
    copy, benchmark = {**COPIES, **OTHER_COPIES}[name](), find_benchmark(name)
    [result] = read_evaluations([run["out"]])
    for task in benchmark.tasks if benchmark else [name]:
        found = result.tasks[task]
        assert found.scores == [1.0, 0.0], task
        assert found.value == copy.score
        shown = [visual for sample in found.samples.values() for visual in sample.visuals]
        if copy.videos:
            assert found.visual_tokens == 128, "2 mosaics or frames of 8 x 8 cells"
        else:
            assert found.visual_tokens == (0 if name == "arc_easy" else 64)
            assert [visual["source"] for visual in shown] == ["image"] * len(shown)
        if copy.videos and benchmark and task not in benchmark.frame_folder_tasks:
            assert {Path(visual["asset"]).name for visual in shown} <= set(copy.keys)


def test_benchmarks_from_videos_images_and_text_to_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["videomme", "docvqa_val", "arc_easy"]
    run = _in_process(names, tmp_path, monkeypatch)
    for name in names:
        _check(name, run)
    manifest = run["manifest"]
    counts = [manifest[name] for name in ("hits", "misses", "frames", "images")]
    assert counts == [2, 0, 0, 2]
    assert manifest["samples"] == {"videomme": 2, "docvqa_val": 2, "arc_easy": 4}
    [row, _] = read_samples(run["out"], "videomme")
    assert "Answer with the option's letter from the given choices directly." in str(row)
    assert report([str(run["out"]), "--out", str(tmp_path / "report.html")]) == 0
    assert (tmp_path / "report.html").read_text().count("<img") == 2


@pytest.fixture(scope="module")
def every(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """All benchmarks in one run."""
    return _by_scripts([*COPIES, *OTHER_COPIES], tmp_path_factory.mktemp("every"))


@pytest.mark.slow
@pytest.mark.parametrize("name", [*COPIES, *OTHER_COPIES])
def test_a_benchmark_from_data_to_score(name: str, every: dict[str, Any]) -> None:
    _check(name, every)


@pytest.mark.slow
def test_every_video_of_every_benchmark_was_an_asset(every: dict[str, Any]) -> None:
    manifest = every["manifest"]
    questions = sum(len(part.rows) for make in COPIES.values() for part in make().annotations)
    assert sum(manifest["samples"].values()) == questions + 4 * 2 + 2 * 2, "images, options of text"
    assert manifest["images"] == 4 * 2
    assert manifest["frame_folders"] == 2, "MVBench's episodic_reasoning"
    assert manifest["hits"] == questions - 2
    assert (manifest["misses"], manifest["frames"]) == (0, 0)


@pytest.mark.slow
def test_a_deleted_asset_stops_the_run_and_is_named(tmp_path: Path) -> None:
    home = tmp_path / "home"
    write_copy("tomato", home)
    assert _script(PREPARE, "tomato", home=home, **SIZES).returncode == 0
    shutil.rmtree(home / "tomato_offline" / "assets" / "videos__object__0001-01")
    result = _script(
        EVALUATE,
        home=home,
        MODEL_PATH=str(write_checkpoint_that_says_a(tmp_path / "model")),
        OUTPUT_PATH=str(tmp_path / "out"),
        **{f"LLAVA_CODEC_{name}": value for name, value in SIZES.items()},
    )
    assert result.returncode == 2, result.stderr[-2000:]
    assert "1 of 2 videos of this run have no codec asset" in result.stderr
    assert "  videos__object__0001-01: " in result.stderr
    assert not list((tmp_path / "out").glob("**/*_results.json"))
