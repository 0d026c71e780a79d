"""Whole benchmarks offline by the scripts: preparation, evaluation and score, with lmms-eval's own
tasks on small copies of the data."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from eval_benchmarks import COPIES, read_samples, write_checkpoint_that_says_a, write_copy
from llava.eval.benchmarks import find_benchmark
from llava.eval.report import main as report
from llava.eval.results import read_runs
from paths import ROOT

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


def _prepare_and_evaluate(names: list[str], folder: Path) -> dict[str, Any]:
    """The written results, with the manifest under ``manifest`` and the folder under ``out``."""
    home, out = folder / "home", folder / "out"
    for name in names:
        write_copy(name, home)
    model = write_checkpoint_that_says_a(folder / "model")
    prepared = _script(PREPARE, *names, home=home, **SIZES)
    assert prepared.returncode == 0, prepared.stdout + prepared.stderr
    codec = {f"LLAVA_CODEC_{name}": value for name, value in SIZES.items()}
    result = _script(
        EVALUATE,
        home=home,
        MODEL_PATH=str(model),
        TASKS=",".join(names),
        OUTPUT_PATH=str(out),
        BATCH_SIZE="2",
        **codec,
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-5000:]
    [results] = out.glob("**/*_results.json")
    [manifest] = out.glob("**/manifest.json")
    return {
        **json.loads(results.read_text()),
        "manifest": json.loads(manifest.read_text()),
        "out": out,
        "home": home,
    }


def _check(name: str, run: dict[str, Any]) -> None:
    copy, benchmark = COPIES[name](), find_benchmark(name)
    assert benchmark is not None
    made = {path.name for path in benchmark.assets_folder(run["home"]).iterdir()}
    assert made == set(copy.keys)
    for task in benchmark.tasks:
        score = run["results"][task][f"{copy.metric},none"]
        assert score == pytest.approx(copy.score), task
        answers = [row["filtered_resps"] for row in read_samples(run["out"], task)]
        assert answers == [["A"], ["A"]] or answers == ["A", "A"], task
    _check_report(name, run)


def _check_report(name: str, run: dict[str, Any]) -> None:
    """The report's scores of single samples give lmms-eval's score of the task."""
    copy, benchmark = COPIES[name](), find_benchmark(name)
    assert benchmark is not None
    [result] = read_runs([run["out"]])
    for task in benchmark.tasks:
        found = result.tasks[task]
        assert found.scores == [1.0, 0.0], task
        assert found.value == copy.score
        assert found.visual_tokens == 128, "2 mosaics or frames of 8 x 8 cells"
        shown = [sample.visuals[0]["asset"] for sample in found.samples.values()]
        if task not in benchmark.frame_folder_tasks:
            assert {Path(folder).name for folder in shown} <= set(copy.keys)


def test_videomme_from_videos_to_score(tmp_path: Path) -> None:
    run = _prepare_and_evaluate(["videomme"], tmp_path)
    _check("videomme", run)
    manifest = run["manifest"]
    assert (manifest["hits"], manifest["misses"], manifest["frames"]) == (2, 0, 0)
    assert manifest["samples"] == {"videomme": 2}
    [row, _] = read_samples(run["out"], "videomme")
    assert "Answer with the option's letter from the given choices directly." in str(row)
    assert report([str(run["out"]), "--out", str(tmp_path / "report.html")]) == 0
    assert (tmp_path / "report.html").read_text().count("<img") == 2


@pytest.fixture(scope="module")
def every(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """All benchmarks in one run."""
    return _prepare_and_evaluate(list(COPIES), tmp_path_factory.mktemp("every"))


@pytest.mark.slow
@pytest.mark.parametrize("name", COPIES)
def test_a_benchmark_from_videos_to_score(name: str, every: dict[str, Any]) -> None:
    _check(name, every)


@pytest.mark.slow
def test_every_video_of_every_benchmark_was_an_asset(every: dict[str, Any]) -> None:
    manifest = every["manifest"]
    questions = sum(len(part.rows) for make in COPIES.values() for part in make().annotations)
    assert sum(manifest["samples"].values()) == questions
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
