"""``--output tar`` under trouble: full and read-only disks, stops at bad moments, cuts anywhere."""

import json
import os
import random
from pathlib import Path
from typing import Any

import pytest

from cv_reader.commands import precompute, validate
from cv_reader.commands.convert.output import TarOutput
from cv_reader.errors import AssetError
from cv_reader.shards import (
    find_shards,
    index_path,
    open_file,
    read_shard_index,
    sample_path,
    scan_tar,
    shard_keys,
)
from support.media import moving_square, write_video
from support.small_disk import remount, small_disk

pytestmark = pytest.mark.slow
KEYS = [f"k{number}" for number in range(9)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine videos."""
    root = tmp_path_factory.mktemp("videos")
    for number, key in enumerate(KEYS):
        write_video(root / f"{key}.mp4", moving_square(9, 48, 64, seed=number))
    lines = [json.dumps({"video": f"{key}.mp4", "key": key}) for key in KEYS]
    (root / "v.jsonl").write_text("\n".join(lines) + "\n")
    return root / "v.jsonl"


@pytest.fixture(scope="module")
def whole(data: Path) -> dict[str, bytes]:
    """The assets of an undisturbed run."""
    assert _precompute(data, data.parent / "whole") == 0
    return _contents(data.parent / "whole")


def _precompute(data: Path, out: Path) -> int:
    size = ["--square_size", "64", "--num_images", "2", "--seq_len_frames", "8"]
    arguments = ["--jsonl", str(data), "--out_root", str(out), *size, "--num_workers", "2"]
    return precompute.main([*arguments, "--output", "tar", "--shard_samples", "4"])


def _contents(out: Path) -> dict[str, bytes]:
    root = out / "assets"
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def _samples(out: Path) -> dict[str, dict[str, bytes]]:
    """Return the files of every sample, by key."""
    found: dict[str, dict[str, bytes]] = {}
    for tar in find_shards(out / "assets"):
        for key, names in read_shard_index(tar).samples.items():
            assert key not in found
            files = {name: open_file(sample_path(tar, key) / name) for name in names}
            found[key] = {name: file.read() for name, file in files.items()}
    return found


def test_a_disk_that_fills_up_keeps_what_is_finished(
    data: Path, whole: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Sizes that end in a worker, in the middle of a tar, and between tars."""
    sizes_kib, shards = (60, 100, 120, 140, 160, 180, 200, 220), set[int]()
    for size in sizes_kib:
        with small_disk(tmp_path / f"{size}", f"size={size}k") as disk:
            assert _precompute(data, disk / "out") == 1, size
            assert "No space left on device; make room" in capsys.readouterr().err
            found = find_shards(disk / "out" / "assets")
            shards.add(len(found))
            for tar in found:
                assert scan_tar(tar) == read_shard_index(tar)
            remount(disk, "size=8m")
            assert _precompute(data, disk / "out") == 0
            assert _contents(disk / "out") == whole, size
    assert len(shards) > 1


def test_a_read_only_target_starts_nothing(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with small_disk(tmp_path / "disk", "size=8m") as disk:
        assert _precompute(data, disk / "out") == 0
        before = _contents(disk / "out")
        remount(disk, "ro")
        for out in ("out", "other"):
            assert _precompute(data, disk / out) == 2
            assert "Read-only file system); choose another output" in capsys.readouterr().err
        assert _contents(disk / "out") == before
        assert validate.main([str(disk / "out"), "--num_workers", "1"]) == 0


@pytest.mark.parametrize("moment", ["before", "within", "after"])
def test_folders_that_are_packed_do_not_stay(
    data: Path,
    whole: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
) -> None:
    """A run ends while it removes the folders of the first shard."""
    settle, out = TarOutput._settle, tmp_path / "out"

    def stop(self: Any) -> None:
        if moment == "within":
            (self._folder / "k1" / "meta.json").unlink()
        if moment == "after":
            settle(self)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(TarOutput, "_settle", stop)
        assert _precompute(data, out) == 130
    assert shard_keys(out / "assets" / "shard_000000.tar") == set(KEYS[:4])
    assert (out / "assets" / "k1").exists() == (moment != "after")
    assert _precompute(data, out) == 0
    assert _contents(out) == whole


def test_a_cut_at_any_byte_is_found(whole: dict[str, bytes], tmp_path: Path) -> None:
    tar = tmp_path / "shard_000002.tar"
    tar.write_bytes(whole[tar.name])
    index_path(tar).write_bytes(whole[index_path(tar).name])
    index, size = read_shard_index(tar), tar.stat().st_size
    ends = [
        member.offset + member.size for files in index.samples.values() for member in files.values()
    ]
    last_block = -(-max(ends) // 512) * 512
    for length in range(size - 1, -1, -1):
        os.truncate(tar, length)
        with pytest.raises(OSError, match="cut or another one"):
            read_shard_index(tar)
        if length % 512 in (0, 1, 511):
            # Nor is an index made of a tar that has lost a byte of a sample, or its end.
            if length >= last_block + 512:
                assert scan_tar(tar).samples == index.samples
                continue
            with pytest.raises(AssetError, match="make the shard again"):
                scan_tar(tar)


def test_a_shard_that_is_cut_anywhere_is_made_again(
    data: Path, whole: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its samples go to the next number, as the other shards stay what they are."""
    out, chance = tmp_path / "out", random.Random(0)
    assert _precompute(data, out) == 0
    assert _contents(out) == whole
    before = _samples(out)
    assert len(before) == len(KEYS)
    for tar in find_shards(out / "assets"):
        size, first = tar.stat().st_size, min(shard_keys(tar))
        made = len(shard_keys(tar))
        for length in (0, chance.randrange(size), size - 1):
            os.truncate(tar, length)
            capsys.readouterr()
            assert _precompute(data, out) == 0
            shown = capsys.readouterr().err
            assert f"{tar}: the tar has {length} bytes" in shown
            assert f"{made} made, {9 - made} kept" in shown
            assert _samples(out) == before
            (tar,) = [t for t in find_shards(out / "assets") if first in shard_keys(t)]
