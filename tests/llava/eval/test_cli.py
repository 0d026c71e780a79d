"""The real command line, offline: results and manifest where all assets are there, else exit 2."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from eval_toy import KILLS_RANK_1, Toy, write_toy_task
from media import moving_square, write_video


def _run(
    toy: Toy, documents: list[dict[str, Any]], folder: Path, *, ranks: int = 1, **changes: object
) -> subprocess.CompletedProcess[str]:
    """Evaluate the documents as users do; results go to ``folder / "out"``."""
    folder.mkdir(exist_ok=True)
    task = write_toy_task(folder / "task", documents)
    arguments = ",".join(f"{name}={value}" for name, value in toy.arguments(**changes).items())
    launch = [sys.executable]
    if ranks > 1:
        launch += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    return subprocess.run(
        [
            *(*launch, "-m", "lmms_eval", "--model", "llava_ov_encoder", "--model_args", arguments),
            *("--include_path", task, "--tasks", "toy_video", "--batch_size", "2"),
            *("--log_samples", "--output_path", folder / "out"),
        ],
        env={**os.environ, "HF_HOME": str(folder / "huggingface")},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=240,
    )


def _results(out: Path) -> dict[str, Any]:
    [path] = out.glob("**/*_results.json")
    return json.loads(path.read_text())


def _manifest(out: Path) -> dict[str, Any]:
    [path] = out.glob("**/manifest.json")
    assert list(path.parent.glob("*_results.json")), "the manifest lies beside the results"
    return json.loads(path.read_text())


def _answers(out: Path) -> dict[int, str]:
    [path] = out.glob("**/*_samples_toy_video.jsonl")
    rows = map(json.loads, path.read_text().splitlines())
    return {row["doc_id"]: row["filtered_resps"] for row in rows}


@pytest.mark.slow
@pytest.mark.slow
def test_a_run_with_all_assets_succeeds(toy: Toy, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = _run(toy, toy.documents, tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    manifest = _manifest(out)
    assert (manifest["hits"], manifest["misses"]) == (3, 0)
    assert manifest["samples"] == {"toy_video": 5}
    answers = _answers(out)
    score = _results(out)["results"]["toy_video"]["length,none"]
    assert score == sum(map(len, answers.values())) / 5


def test_a_run_with_a_missing_asset_exits_with_2(toy: Toy, tmp_path: Path) -> None:
    video = write_video(tmp_path / "new.mp4", moving_square(9, 48, 64))
    documents = [*toy.documents, {"media": [str(video)], "question": "?"}]
    out = tmp_path / "out"
    result = _run(toy, documents, tmp_path)
    assert result.returncode == 2, result.stdout + result.stderr
    assert f"1 of 4 videos of this run have no codec asset ({toy.assets}):\n  " in result.stderr
    assert f"__new: {video}\n" in result.stderr
    [listing] = out.glob("**/missing_codec_assets.jsonl")
    row = json.loads(listing.read_text())
    assert row["video"] == str(video)
    assert row["key"].endswith("__new")
    assert not list(out.glob("**/*_results.json"))


@pytest.mark.slow
def test_stale_settings_exit_with_2(toy: Toy, tmp_path: Path) -> None:
    result = _run(toy, toy.documents, tmp_path, codec_num_images=4)
    assert result.returncode == 2
    assert "made with num_images=2" in result.stderr
    assert "--overwrite" in result.stderr


@pytest.mark.slow
def test_frames_are_an_explicit_choice(toy: Toy, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = _run(toy, toy.documents, tmp_path, codec_root=None, video_input="frames")
    assert result.returncode == 0, result.stdout + result.stderr
    assert (_manifest(out)["hits"], _manifest(out)["frames"]) == (0, 3)


@pytest.mark.slow
def test_two_ranks_answer_as_one(toy: Toy, tmp_path: Path) -> None:
    for ranks in (1, 2):
        result = _run(toy, toy.documents, tmp_path / str(ranks), ranks=ranks)
        assert result.returncode == 0, result.stdout + result.stderr
    one, two = tmp_path / "1", tmp_path / "2"
    assert _answers(one) == _answers(two)
    assert _results(one)["results"] == _results(two)["results"]
    manifest = _manifest(two)
    assert (manifest["world_size"], manifest["hits"]) == (2, 3)
    assert manifest["samples"] == {"toy_video": 5}


@pytest.mark.slow
def test_a_miss_on_one_rank_fails_the_launch(toy: Toy, tmp_path: Path) -> None:
    documents = [*toy.documents, {"media": ["/none/new.mp4"], "question": "?"}]
    result = _run(toy, documents, tmp_path, ranks=2)
    assert result.returncode != 0
    assert "of 2 videos of this run have no codec asset" in result.stderr


@pytest.mark.slow
def test_a_rank_that_dies_ends_all_ranks(toy: Toy, tmp_path: Path) -> None:
    """The launcher ends the other rank, which waits for the dead one; a hang fails by time-out."""
    documents = [*toy.documents, {"media": [], "question": KILLS_RANK_1}]
    result = _run(toy, documents, tmp_path, ranks=2, codec_miss="online")
    assert result.returncode != 0
    assert "SIGKILL" in result.stdout + result.stderr or "-9" in result.stdout + result.stderr
    assert not list((tmp_path / "out").glob("**/*_results.json"))
