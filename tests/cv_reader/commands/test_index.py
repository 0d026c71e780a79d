"""``cv_reader index``: one file for a data set, the same however it was made; hostile pickles."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cv_reader.assets import AssetConfig
from cv_reader.assets.make import ReadOptions, select_from_video
from cv_reader.codec_index import CodecIndex
from cv_reader.commands.index.pickles import read_pickle
from cv_reader.commands.main import main
from cv_reader.errors import AssetError
from support.media import moving_square, write_video

SIZES = ["--T", "8", "--num_images", "2", "--square_size", "64", "--patch_size", "16"]


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for number in range(4):
        frames = moving_square(10, 64, 64, (1, number), seed=number)
        write_video(folder / f"v{number}.mp4", frames)
    (folder / "list.csv").write_text("".join(f"v{n}.mp4,{n % 2}\n" for n in (2, 0, 3, 1)))
    return folder


def _index(videos: Path, out: Path, *more: str, code: int = 0) -> Path:
    words = ["index", "--dataset_path", str(videos / "list.csv"), "--out", str(out), *SIZES, *more]
    assert main(words) == code
    return out


def test_the_file_is_the_same_by_one_worker_and_by_four(videos: Path, tmp_path: Path) -> None:
    one = _index(videos, tmp_path / "one" / "i.jsonl", "--num_workers", "1")
    four = _index(videos, tmp_path / "four" / "i.jsonl", "--num_workers", "4")
    assert one.read_bytes() == four.read_bytes()
    index = CodecIndex(one)
    assert list(index.videos()) == ["v2.mp4", "v0.mp4", "v3.mp4", "v1.mp4"]
    config = AssetConfig(sequence_length=8, num_images=2, square_size=64, patch_size=16)
    chosen = select_from_video(videos / "v3.mp4", config, ReadOptions())
    entry = index.entry("v3.mp4")
    order = np.lexsort(chosen.rows.T[::-1])
    np.testing.assert_array_equal(entry.rows, chosen.rows[order])
    np.testing.assert_array_equal(entry.frame_ids, chosen.frame_ids)


def test_a_stopped_run_continues_and_a_changed_video_is_made_again(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = _index(videos, tmp_path / "whole.jsonl", "--num_workers", "1").read_bytes()
    lines = whole.splitlines(keepends=True)
    partial = tmp_path / "again.jsonl.partial.jsonl"
    partial.write_bytes(b"".join([lines[0], lines[3], lines[1], lines[2][:40]]))
    capsys.readouterr()
    again = _index(videos, tmp_path / "again.jsonl", "--num_workers", "1")
    assert again.read_bytes() == whole and not partial.exists()
    assert "2 made, 2 kept" in capsys.readouterr().err
    row = json.loads(lines[2])
    row["source"]["size_bytes"] += 1
    again.write_bytes(b"".join([*lines[:2], json.dumps(row).encode() + b"\n", *lines[3:]]))
    assert _index(videos, again, "--num_workers", "1").read_bytes() == whole
    assert "1 made, 3 kept" in capsys.readouterr().err


def test_any_budget_keeps_the_best_and_other_settings_are_refused(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = _index(videos, tmp_path / "few.jsonl.zst", "--keep", "19", "--num_workers", "1")
    entry = CodecIndex(few).entry("v0.mp4")
    config = AssetConfig(sequence_length=8, num_images=2, square_size=64, patch_size=16)
    best = select_from_video(videos / "v0.mp4", config, ReadOptions()).rows[:19]
    assert {tuple(row) for row in entry.rows.tolist()} == {tuple(row) for row in best.tolist()}
    _index(videos, few, "--keep", "18", "--num_workers", "1", code=2)
    assert "keep 19 against 18" in capsys.readouterr().err
    _index(videos, tmp_path / "x.json", code=2)
    _index(videos, tmp_path / "x.jsonl", "--keep", "-1", code=2)


@pytest.mark.parametrize(
    ("keep", "settings"),
    [
        ("19", ["--select", "rate_distortion"]),
        ("19", ["--topk_mode", "time_bucket"]),
        ("12", ["--keep_first_full_frame"]),
        ("18", ["--block_cells", "2"]),
    ],
)
def test_a_budget_that_no_order_of_the_choice_has_is_refused(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], keep: str, settings: list[str]
) -> None:
    _index(videos, tmp_path / "i.jsonl", "--keep", keep, *settings, code=2)
    assert "--keep must be a multiple of" in capsys.readouterr().err


def test_whole_frames_are_the_choice_of_rate_distortion(videos: Path, tmp_path: Path) -> None:
    more = ("--keep", "32", "--select", "rate_distortion", "--num_workers", "1")
    entry = CodecIndex(_index(videos, tmp_path / "i.jsonl", *more)).entry("v1.mp4")
    config = AssetConfig(
        sequence_length=8, num_images=2, square_size=64, patch_size=16, select="rate_distortion"
    )
    rows = select_from_video(videos / "v1.mp4", config, ReadOptions()).rows
    assert {tuple(row) for row in entry.rows.tolist()} == {tuple(row) for row in rows.tolist()}


def test_a_broken_video_fails_alone(videos: Path, tmp_path: Path) -> None:
    listing = tmp_path / "list.csv"
    listing.write_text("v0.mp4,0\nnone.mp4,1\nv1.mp4,0\n")
    out = tmp_path / "i.jsonl"
    words = [
        "index",
        "--dataset_path",
        str(listing),
        "--video_root",
        str(videos),
        "--out",
        str(out),
    ]
    assert main([*words, *SIZES, "--num_workers", "1"]) == 1
    assert list(CodecIndex(out).videos()) == ["v0.mp4", "v1.mp4"]
    assert "none.mp4" in (tmp_path / "i.jsonl.failed.txt").read_text()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text.replace('"version":1', '"version":9'), "version must be 1"),
        (lambda text: text.replace('"keep":32', '"keep":31'), "rows must have 31"),
        (lambda text: text.replace('"rows":[', '"rows":[99999,'), "rows must"),
        (lambda text: text.replace('"frame_ids":[', '"frame_ids":[-1,'), "frame_ids must"),
        (lambda text: text[:-9], "cut off"),
        (lambda text: text.replace("v2.mp4", "v0.mp4"), "twice"),
        (lambda text: "[" * 100000 + "\n", "not valid JSON"),
    ],
)
def test_a_damaged_index_is_refused(
    videos: Path,
    tmp_path: Path,
    damage: Callable[[str], str],
    message: str,
) -> None:
    path = _index(videos, tmp_path / "i.jsonl", "--num_workers", "1")
    path.write_text(damage(path.read_text()))
    with pytest.raises(AssetError, match=message):
        index = CodecIndex(path)
        for video in index.videos():
            index.entry(video)


class _Hostile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.write_text, (self.path, "executed")


@pytest.mark.parametrize("protocol", range(2, 6))
def test_pickles_of_plain_arrays_are_read_by_every_protocol(tmp_path: Path, protocol: int) -> None:
    for number, dtype in enumerate(("<i4", ">i8", "<u2")):
        path = tmp_path / f"{number}.pkl"
        path.write_bytes(pickle.dumps(np.arange(5, 40, dtype=dtype), protocol=protocol))
        np.testing.assert_array_equal(read_pickle(path), np.arange(5, 40))
    path.write_bytes(pickle.dumps({"visible_indices": np.arange(7)}, protocol=protocol))
    np.testing.assert_array_equal(read_pickle(path), np.arange(7))


def test_nothing_in_a_pickle_is_executed(tmp_path: Path) -> None:
    victim, path = tmp_path / "victim", tmp_path / "x.pkl"
    for content in (_Hostile(victim), [np.arange(3), _Hostile(victim)], np.zeros(3), "text"):
        path.write_bytes(pickle.dumps(content))
        with pytest.raises(AssetError, match="plain array"):
            read_pickle(path)
    path.write_bytes(pickle.dumps(np.arange(3))[:-20])
    with pytest.raises(AssetError, match="plain array"):
        read_pickle(path)
    assert not victim.exists()


def test_pickles_become_an_index(videos: Path, tmp_path: Path) -> None:
    rows = {n: np.sort(np.random.default_rng(n).permutation(8 * 16)[:32]) for n in range(4)}
    for number, indices in rows.items():
        (tmp_path / f"{number}.pkl").write_bytes(pickle.dumps(indices))
    (tmp_path / "map.csv").write_text("".join(f"v{n}.mp4,{n}.pkl\n" for n in rows))
    out = tmp_path / "i.jsonl"
    _index(videos, out, "--pickles", str(tmp_path / "map.csv"), "--num_workers", "1")
    flat = CodecIndex(out).entry("v1.mp4").rows @ np.array([16, 4, 1])
    np.testing.assert_array_equal(flat, rows[1])


def test_an_index_by_an_earlier_rule_is_stale_and_made_again(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = _index(videos, tmp_path / "i.jsonl", "--select", "rate_distortion")
    first, *rest = out.read_text().splitlines(keepends=True)
    header = json.loads(first)
    header["fingerprint"] = "0123456789abcdef"
    out.write_text(json.dumps(header) + "\n" + "".join(rest))
    _index(videos, out, "--select", "rate_distortion", code=2)
    assert "fingerprint 0123456789abcdef where its settings and this version give" in (
        text := capsys.readouterr().err
    )
    assert "make it again with cv_reader index --overwrite" in text
    _index(videos, out, "--select", "rate_distortion", "--overwrite")
