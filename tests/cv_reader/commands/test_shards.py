"""Shards: the same bytes as folders, read by WebDataset, and no damage goes unnoticed."""

import io
import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cv_reader.assets import read_asset
from cv_reader.assets.make import make_evaluation_asset, write_evaluation_asset
from cv_reader.commands import convert, precompute, stage2, validate
from cv_reader.errors import AssetError
from cv_reader.select.config import AssetConfig
from cv_reader.shards import (
    find_shards,
    index_path,
    is_file,
    member_name,
    open_file,
    read_shard_index,
    sample_path,
    scan_tar,
    split_path,
)
from support.corpus import Corpus
from support.media import moving_square, write_video

CONFIG = AssetConfig(square_size=64, num_images=2, sequence_length=8)
KEYS = ["a", "b.c%2E.d", "%2Ehidden", "e" * 120]


def _tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def assets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of four assets, with keys that a tar or WebDataset could trip over."""
    root = tmp_path_factory.mktemp("made")
    video = write_video(root / "v.mp4", moving_square(10, 48, 64))
    for key in KEYS:
        write_evaluation_asset(video, key=key, out_root=root, config=CONFIG)
    return root / "assets"


@pytest.fixture
def tars(assets: Path, tmp_path: Path) -> Path:
    """Shards of three samples at most."""
    out = tmp_path / "tars"
    assert (
        convert.main([str(assets), "--to", "tar", "--out", str(out), "--shard_samples", "3"]) == 0
    )
    return out


def test_there_and_back_is_the_same(assets: Path, tars: Path, tmp_path: Path) -> None:
    names = sorted(path.name for path in tars.iterdir())
    assert names == [
        "shard_000000.index.json", "shard_000000.tar",
        "shard_000001.index.json", "shard_000001.tar",
    ]  # fmt: skip
    assert [len(read_shard_index(tar).samples) for tar in find_shards(tars)] == [3, 1]
    back = tmp_path / "back"
    assert convert.main([str(tars), "--to", "folder", "--out", str(back)]) == 0
    assert _tree(back) == _tree(assets)
    again = tmp_path / "again"
    arguments = ["--to", "tar", "--out", str(again), "--shard_samples", "3"]
    assert convert.main([str(back), *arguments]) == 0
    assert _tree(again) == _tree(tars)
    assert convert.main([str(back), *arguments]) == 2  # nothing is replaced unasked


def test_an_asset_of_a_shard_is_read_as_a_folder(assets: Path, tars: Path) -> None:
    for key in KEYS:
        (tar,) = [tar for tar in find_shards(tars) if key in read_shard_index(tar).samples]
        inside = read_asset(sample_path(tar, key), expected=CONFIG)
        outside = read_asset(assets / key)
        assert inside.meta == outside.meta
        assert np.array_equal(inside.positions, outside.positions)
        for one, other in zip(inside.images, outside.images, strict=True):
            assert open_file(one).read() == other.read_bytes()


def test_webdataset_sees_the_same_samples(assets: Path, tars: Path) -> None:
    import webdataset

    found: dict[str, dict[str, Any]] = {}
    for tar in find_shards(tars):
        for sample in webdataset.WebDataset(str(tar), shardshuffle=False, empty_check=False):
            found[sample["__key__"]] = sample
    assert len(found) == len(KEYS)
    for key in KEYS:
        sample = found[member_name(key, "")[:-1]]
        assert sample["positions_thw.npy"] == (assets / key / "positions_thw.npy").read_bytes()
        assert sample["mosaic_001.jpg"] == (assets / key / "mosaic_001.jpg").read_bytes()
        assert json.loads(sample["meta.json"])["key"] == key


def test_validate_looks_into_shards(tars: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert validate.main([str(tars), "--deep", "--num_workers", "1"]) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[1].split() == ["shard", "2", "0", "0"] or table[2].split() == [
        "shard",
        "2",
        "0",
        "0",
    ]
    assert any(line.split() == ["asset", "4", "0", "0"] for line in table)
    tar = tars / "shard_000000.tar"
    member = read_shard_index(tar).samples["a"]["mosaic_000.jpg"]
    content = bytearray(tar.read_bytes())
    content[member.offset + member.size // 2] ^= 1
    tar.write_bytes(content)
    assert validate.main([str(tars), "--deep", "--num_workers", "1"]) == 1
    assert "mosaic_000.jpg: its content is not what was written" in capsys.readouterr().err


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 0.999])
def test_a_cut_shard_is_found(tars: Path, share: float) -> None:
    tar = tars / "shard_000000.tar"
    whole = tar.read_bytes()
    tar.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(AssetError, match="it is cut or another one"):
        read_asset(sample_path(tar, "a"))
    assert validate.main([str(tars), "--num_workers", "1"]) == 1


def test_a_shard_without_index_is_refused_and_gets_one(
    tars: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tar = tars / "shard_000000.tar"
    before = index_path(tar).read_bytes()
    index_path(tar).unlink()
    with pytest.raises(AssetError, match="has no index shard_000000.index.json.*--to index"):
        find_shards(tars)
    with pytest.raises(AssetError, match="no index"):
        read_asset(sample_path(tar, "a"))
    assert convert.main([str(tars), "--to", "folder", "--out", str(tmp_path / "back")]) == 2
    assert "refused: " in (shown := capsys.readouterr().err) and "--to index --out" in shown
    assert not (tmp_path / "back").exists()
    assert convert.main([str(tars), "--to", "index", "--out", str(tars)]) == 0
    assert index_path(tar).read_bytes() == before
    assert "1 made, 1 kept" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c | {"schema_version": 9}, "schema_version must be 1"),
        (lambda c: c | {"samples": {"a": {"x": [0, 10]}}}, "not inside the tar"),
        (lambda c: c | {"samples": {"a": {"x": [512, 1 << 60]}}}, "not inside the tar"),
        (lambda c: c | {"samples": [1]}, "damaged"),
        (lambda c: {"samples": c["samples"]}, "damaged"),
        (lambda _: [], "damaged"),
    ],
)
def test_a_hostile_index_is_refused(tars: Path, change: Any, message: str) -> None:
    path = index_path(tars / "shard_000000.tar")
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(AssetError, match=message):
        read_asset(sample_path(tars / "shard_000000.tar", "a"))


def test_one_sample_is_found_without_the_rest_of_the_index(tmp_path: Path) -> None:
    tar = tmp_path / "shard_000000.tar"
    keys = ["first", 'y"first', "x,first", "samples", "{", "}", "é", "last"]
    with tarfile.open(tar, "w") as stream:
        for number, key in enumerate(keys):
            member = tarfile.TarInfo(f"{key}.name{number}")
            member.size = 1
            stream.addfile(member, io.BytesIO(str(number).encode()))
    assert convert.main([str(tar), "--to", "index", "--out", str(tmp_path)]) == 0
    text = index_path(tar).read_bytes()
    spaced = json.dumps(json.loads(text), indent=1).encode()
    for content in (text, text.replace(b'"schema', b' "schema'), spaced):
        index_path(tar).write_bytes(content)
        for number, key in enumerate(keys):
            assert open_file(f"{tar}#{key}/name{number}").read() == str(number).encode()
            assert not is_file(f"{tar}#{key}/name")
        tar.touch()  # what is remembered is of the earlier index


def test_paths_that_name_no_file_are_none(tars: Path) -> None:
    tar = tars / "shard_000000.tar"
    assert split_path(f"{tar}#/k/f") == (tar, "k", "f")
    for path in ("", "a/../../x", "a#b/meta.json", "unknown/meta.json", "a/unknown"):
        assert not is_file(f"{tar}#{path}")
    assert is_file(f"{tar}#a/meta.json")


def test_unpacking_writes_no_foreign_name(tmp_path: Path) -> None:
    tar = tmp_path / "shard_000000.tar"
    (tmp_path / "evil").write_bytes(b"x")
    with tarfile.open(tar, "w") as stream:
        stream.add(tmp_path / "evil", "key./../../evil")
    assert convert.main([str(tar), "--to", "index", "--out", str(tmp_path)]) == 0
    assert convert.main([str(tar), "--to", "folder", "--out", str(tmp_path / "out")]) == 1
    assert not [p for p in (tmp_path / "out").rglob("*") if p.is_file() and "lock" not in p.name]
    assert scan_tar(tar).samples


def test_a_key_with_a_number_sign_is_refused_before_work(
    assets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(assets / "a", tmp_path / "assets" / "a")
    shutil.copytree(assets / "a", tmp_path / "assets" / "b#1")
    out = ["--out", str(tmp_path / "out")]
    assert convert.main([str(tmp_path / "assets"), "--to", "tar", *out]) == 2
    assert "no # as it begins a key in paths; got 'b#1'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    with pytest.raises(AssetError, match="no # in KEY, got .*b#1"):
        read_asset(f"{tmp_path}/shard_000000.tar#b#1")
    data = tmp_path / "v.jsonl"
    data.write_text('{"video": "v.mp4", "key": "b#1"}\n')
    assert _precompute(data, tmp_path / "x.tar#y") == 2
    assert ".tar# leads into a shard; choose another output" in capsys.readouterr().err
    assert _precompute(data, tmp_path / "out", "--dry_run") == 0  # it becomes b%231


SIZE = ["--square_size", "64", "--num_images", "2", "--seq_len_frames", "8"]


def _precompute(data: Path, out: Path | str, *extra: str) -> int:
    arguments = ["--jsonl", str(data), "--out_root", str(out), *SIZE, "--output", "tar"]
    return precompute.main([*arguments, "--shard_samples", "3", *extra])


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Seven videos, the fourth of them broken."""
    lines = []
    for number in range(7):
        write_video(tmp_path / f"{number}.mp4", moving_square(9, 48, 64, seed=number))
        lines.append(json.dumps({"video": f"{number}.mp4", "key": f"k.{number}"}) + "\n")
    (tmp_path / "3.mp4").write_bytes(b"no video")
    path = tmp_path / "v.jsonl"
    path.write_text("".join(lines))
    return path


def _contents(out: Path) -> dict[str, bytes]:
    return _tree(out / "assets")


@pytest.mark.usefixtures("own_cache")
def test_a_run_packs_what_it_finishes(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, folders = tmp_path / "out", tmp_path / "folders"
    assert _precompute(data, out) == 1
    keys = [list(read_shard_index(tar).samples) for tar in find_shards(out / "assets")]
    assert keys == [["k.0", "k.1", "k.2"], ["k.4", "k.5", "k.6"]]
    assert not [path for path in (out / "assets").iterdir() if path.is_dir()]
    assert precompute.main(["--jsonl", str(data), "--out_root", str(folders), *SIZE]) == 1
    for key in sum(keys, []):
        (tar,) = [t for t in find_shards(out / "assets") if key in read_shard_index(t).samples]
        for path in (folders / "assets" / key).iterdir():
            assert open_file(sample_path(tar, key) / path.name).read() == path.read_bytes()
    before = _contents(out)
    index = index_path(out / "assets" / "shard_000000.tar")
    index.rename(tmp_path / "index")
    capsys.readouterr()
    assert _precompute(data, out) == 2
    assert "has no index shard_000000.index.json" in capsys.readouterr().err
    (tmp_path / "index").rename(index)
    assert _precompute(data, out) == 1
    assert "0 made, 6 kept, 0 skipped, 1 failed" in capsys.readouterr().err
    assert _contents(out) == before
    assert _precompute(data, out, "--topk_mode", "time_bucket") == 2
    assert "topk_mode" in capsys.readouterr().err
    # Folders beside shards would be second assets of the same keys.
    for root in (out, f"file://{out}"):
        assert _precompute(data, root, "--output", "folder") == 2
        assert f"{root}/assets: holds shards (shard_00000" in capsys.readouterr().err
    assert _contents(out) == before


@pytest.mark.slow
def test_a_stopped_run_continues_with_the_same_shards(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _precompute(data, tmp_path / "whole") == 1
    for stop in (1, 3, 6):
        out, calls = tmp_path / f"out{stop}", []

        def until(run: Any, line: Any, calls: list[str] = calls, stop: int = stop) -> str:
            calls.append(line.key)
            if len(calls) > stop:
                raise KeyboardInterrupt
            return make_evaluation_asset(run, line)

        with monkeypatch.context() as patch:
            patch.setattr(precompute, "make_evaluation_asset", until)
            assert _precompute(data, out) == 130
        assert _precompute(data, out) == 1
        assert _contents(out) == _contents(tmp_path / "whole"), stop


def test_what_is_cut_or_outdated_is_made_again(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert _precompute(data, out) == 1
    before = _contents(out)
    tar = out / "assets" / "shard_000001.tar"
    tar.write_bytes(tar.read_bytes()[:-700])
    capsys.readouterr()
    assert _precompute(data, out) == 1
    shown = capsys.readouterr().err
    assert "cut or another one" in shown and "3 made, 3 kept" in shown
    assert _contents(out) == before
    write_video(tmp_path / "1.mp4", moving_square(12, 48, 64, seed=9))
    assert _precompute(data, out) == 1
    assert "k.1 is damaged or outdated" in (shown := capsys.readouterr().err)
    assert "1 made, 5 kept" in shown
    held = {key for tar in find_shards(out / "assets") for key in read_shard_index(tar).samples}
    assert held == {f"k.{number}" for number in (0, 1, 2, 4, 5, 6)}
    assert validate.main([str(out), "--deep", "--video_root", str(tmp_path)]) == 0


def _train(data: Path, out: Path, *extra: str) -> int:
    return stage2.main_of_both([
        "--dataset_path", str(data), "--visidx_root", str(out / "1"), "--square_size", "64",
        "--num_images", "2", "--sequence_length", "8", "--out_image_root", str(out / "2"),
        "--out_jsonl", str(out / "t.jsonl"), "--write_positions", *extra,
    ])  # fmt: skip


def test_training_lines_name_files_in_shards(
    tmp_path: Path, corpus: Corpus, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["good", "text", "short", "other", "good"]
    rows = [corpus.row(f"{name}.mp4", id=name) for name in names]
    data = corpus.write(tmp_path / "d.jsonl", *rows)
    root = ["--video_root", str(corpus.root)]
    out, folders = tmp_path / "out", tmp_path / "folders"
    tar = [*root, "--output", "tar", "--shard_samples", "2"]
    assert _train(data, out, *tar) == 1
    assert _train(data, folders, *root) == 1
    lines = [json.loads(line) for line in (out / "t.jsonl").open()]
    others = [json.loads(line) for line in (folders / "t.jsonl").open()]
    assert len(lines) == len(others) == 4
    for line, other in zip(lines, others, strict=True):
        for one, two in zip(
            [line["positions_thw"], *line["image"]], [other["positions_thw"], *other["image"]],
            strict=True,
        ):  # fmt: skip
            assert "/2/shard_00000" in one and ".tar#sample_" in one
            assert open_file(one).read() == Path(two).read_bytes()
    assert validate.main([str(out / "t.jsonl"), "--deep"]) == 0
    before = (out / "t.jsonl").read_bytes(), _tree(out / "2").keys()
    capsys.readouterr()
    assert _train(data, out, *tar) == 1
    assert "0 made, 4 kept, 0 skipped, 1 failed" in capsys.readouterr().err
    assert ((out / "t.jsonl").read_bytes(), _tree(out / "2").keys()) == before
