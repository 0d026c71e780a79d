"""A data set of one's own: a list of videos with free keys, the asset tool, and a local task."""

import json
from pathlib import Path
from typing import Any

import pytest

from cv_reader.commands import convert
from cv_reader.commands.precompute import main as precompute
from support.eval_run import evaluate_here
from support.eval_toy import Toy, write_toy_task
from support.object_store import BUCKET, fill_bucket, s3_server, use_s3

SMALL = ["--seq_len_frames", "8", "--num_images", "2", "--square_size", "64", "--patch_size", "8"]


def _listing(rows: list[dict[str, Any]], path: Path) -> list[str]:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ["--jsonl", str(path), "--num_workers", "1", *SMALL]


def _evaluate(
    toy: Toy, assets: Path | str, folder: Path, monkeypatch: pytest.MonkeyPatch
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


@pytest.mark.slow
def test_assets_of_a_bucket_give_the_same_answers(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("s3fs")
    pytest.importorskip("moto")
    monkeypatch.setenv("CV_READER_CACHE", str(tmp_path / "cache"))
    expected = _evaluate(toy, toy.assets, tmp_path / "here", monkeypatch)
    assert expected[0] == 0
    tars = tmp_path / "tars"
    assert convert.main([str(toy.assets), "--to", "tar", "--out", str(tars)]) == 0
    use_s3(monkeypatch, "")
    with s3_server() as server:
        fill_bucket(server, toy.assets.parent)
        fill_bucket(server, tars, "tars/")
        use_s3(monkeypatch, server)
        for number, root in enumerate((f"s3://{BUCKET}", f"s3://{BUCKET}/tars")):
            found = _evaluate(toy, root, tmp_path / f"bucket {number}", monkeypatch)
            assert found == expected
    # Everything is in the cache; but whether it is up to date only the store can say.
    assert _evaluate(toy, f"s3://{BUCKET}", tmp_path / "gone", monkeypatch)[0] == 2
