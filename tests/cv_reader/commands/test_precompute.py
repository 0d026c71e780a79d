"""The offline tool as users run it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cv_reader.assets.contract import read_asset
from cv_reader.commands import precompute
from cv_reader.select.config import AssetConfig
from support.corpus import Corpus

ARGS = [
    "--square_size", "64", "--num_images", "2", "--seq_len_frames", "8", "--num_workers", "1",
]  # fmt: skip
CONFIG = AssetConfig(square_size=64, num_images=2, sequence_length=8)


def _run(data: Path, out: Path, *extra: str) -> int:
    return precompute.main(["--jsonl", str(data), "--out_root", str(out), *ARGS, *extra])


def test_every_line_becomes_an_asset_or_a_failure(
    corpus: Corpus, tmp_path: Path, failures: Callable[[Path], list[dict[str, Any]]]
) -> None:
    good = str(corpus.root / "good.mp4")
    data = corpus.write(
        tmp_path / "videos.jsonl",
        {"video": good, "key": "one", "task": "x", "doc_id": 3},
        {"video": good, "key": "one"},
        {"video": str(corpus.root / "short.mp4")},
        {"video": str(corpus.root / "text.mp4"), "key": "../up"},
        {"video": "gone.mp4", "exists": False},
        "{broken",
        {"key": "no video"},
    )
    assert _run(data, tmp_path / "out") == 1
    names = sorted(path.name for path in (tmp_path / "out" / "assets").iterdir())
    assert names == ["one", "short"]
    asset = read_asset(tmp_path / "out" / "assets" / "one", expected=CONFIG)
    assert (asset.meta["key"], asset.meta["video"]) == ("one", good)
    failed = failures(tmp_path / "out" / "precompute_failed.shard00of01.txt")
    assert [record["key"] for record in failed] == ["%2E.%2Fup", "", ""]
    summary = json.loads((tmp_path / "out" / "summary.shard00of01.json").read_text())
    assert (summary["made"], summary["failed"]) == (2, 3)


def test_a_second_run_keeps_what_is_done_and_refuses_other_settings(
    corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = corpus.write(tmp_path / "v.jsonl", {"video": str(corpus.root / "short.mp4")})
    assert _run(data, tmp_path / "out") == 0
    assert _run(data, tmp_path / "out") == 0
    assert "1 kept" in capsys.readouterr().err
    assert _run(data, tmp_path / "out", "--topk_mode", "time_bucket") == 2
    assert "topk_mode 'global' where 'time_bucket' is asked for" in capsys.readouterr().err


def test_equal_keys_of_different_videos_start_nothing(
    corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"video": f"{folder}/clip.mp4"} for folder in "ab"]
    data = corpus.write(tmp_path / "v.jsonl", *rows)
    assert _run(data, tmp_path / "out") == 2
    message = capsys.readouterr().err
    assert "a/clip.mp4" in message
    assert "b/clip.mp4" in message
    assert not (tmp_path / "out").exists()


def test_a_root_tells_equal_stems_apart(corpus: Corpus, tmp_path: Path) -> None:
    for folder in "ab":
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "clip.mp4").symlink_to(corpus.root / "short.mp4")
    data = corpus.write(tmp_path / "v.jsonl", *({"video": f"{f}/clip.mp4"} for f in "ab"))
    for shard in range(2):
        shards = ["--num_shards", "2", "--shard_id", str(shard)]
        assert _run(data, tmp_path / "out", "--video_root", str(tmp_path), *shards) == 0
    names = sorted(path.name for path in (tmp_path / "out" / "assets").iterdir())
    assert names == ["a__clip", "b__clip"]


@pytest.mark.parametrize(
    ("flag", "reason"), [("--opencv_threads", "OpenCV"), ("--chunksize", "one at a time")]
)
def test_flags_without_a_meaning_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flag: str, reason: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        _run(tmp_path / "v.jsonl", tmp_path / "out", flag, "1")
    assert caught.value.code == 2
    assert reason in capsys.readouterr().err
