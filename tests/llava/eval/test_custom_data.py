"""A data set of one's own: a list of videos with free keys, the asset tool, and a local task."""

import json
from pathlib import Path
from typing import Any

import pytest

from cv_reader.commands.precompute import main as precompute
from support.eval_run import evaluate_here
from support.eval_toy import Toy, write_toy_task

SMALL = ["--seq_len_frames", "8", "--num_images", "2", "--square_size", "64", "--patch_size", "8"]


def _listing(rows: list[dict[str, Any]], path: Path) -> list[str]:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ["--jsonl", str(path), "--num_workers", "1", *SMALL]


def _evaluate(
    toy: Toy, assets: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[int, dict[int, str]]:
    """Exit code, and answers by document."""
    folder.mkdir()
    task = write_toy_task(folder / "task", toy.documents)
    arguments = toy.arguments(codec_root=assets)
    model_args = ",".join(f"{name}={value}" for name, value in arguments.items())
    code = evaluate_here(
        folder,
        monkeypatch,
        [
            *("--model", "llava_ov_encoder", "--model_args", model_args, "--tasks", "toy_video"),
            *("--include_path", str(task), "--log_samples", "--output_path", str(folder / "out")),
        ],
    )
    rows = [
        json.loads(line)
        for path in (folder / "out").glob("**/*_samples_toy_video.jsonl")
        for line in path.read_text().splitlines()
    ]
    return code, {row["doc_id"]: row["filtered_resps"][0] for row in rows}


@pytest.mark.slow
def test_free_keys_in_shards_give_the_same_answers(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys that are the names of other videos must not mislead: only the recorded path counts."""
    keys = ("long walk", "question 7/a", "a__clip")
    rows = [
        {"video": str(video), "key": key, "question": "What moves?"}
        for video, key in zip(toy.videos, keys, strict=True)
    ]
    command = [*_listing(rows, tmp_path / "my.jsonl"), "--out_root", str(tmp_path / "my")]
    for shard in "01":
        assert precompute([*command, "--num_shards", "2", "--shard_id", shard]) == 0
    assert len(list((tmp_path / "my" / "assets").iterdir())) == 3
    code, answers = _evaluate(toy, tmp_path / "my" / "assets", tmp_path / "mine", monkeypatch)
    assert code == 0
    assert _evaluate(toy, toy.assets, tmp_path / "theirs", monkeypatch) == (0, answers)


@pytest.mark.slow
def test_a_line_that_fails_is_named_by_both_commands(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    rows = [{"video": str(video), "key": f"q{number}"} for number, video in enumerate(toy.videos)]
    rows[1]["video"] = str(tmp_path / "gone.mp4")
    out = tmp_path / "my"
    assert precompute([*_listing(rows, tmp_path / "my.jsonl"), "--out_root", str(out)]) == 1
    [failures] = out.glob("precompute_failed*.txt")
    assert json.loads(failures.read_text())["key"] == "q1"
    capfd.readouterr()
    code, answers = _evaluate(toy, out / "assets", tmp_path / "run", monkeypatch)
    assert (code, answers) == (2, {})
    message = capfd.readouterr().err
    assert "1 of 3 videos of this run have no codec asset" in message
    assert f": {toy.videos[1]}\n" in message
    # The command that the message names repairs it.
    command = message.split("Make them:\n  python ")[1].split("\n")[0].split()
    assert precompute([*command[1:], "--num_workers", "1"]) == 0
    assert _evaluate(toy, out / "assets", tmp_path / "again", monkeypatch)[0] == 0
