"""Both stages in one decode pass, through ``precompute --stage``."""

import json
from pathlib import Path

import pytest

from cv_reader.commands import precompute
from cv_reader.commands.convert import main as convert
from cv_reader.commands.validate import main as validate
from support.corpus import Corpus

SELECTION = ["--square_size", "64", "--keep_frames_equiv", "2", "--sequence_length", "8"]
PACKING = ["--write_positions", "--order", "zigzag", "--jpg_quality", "90"]


@pytest.fixture
def data(corpus: Corpus, tmp_path: Path) -> Path:
    names = ("short", "good", "text")
    return corpus.write(tmp_path / "d.json", *(corpus.row(f"{n}.mp4") for n in names))


def _both(data: Path, corpus: Corpus, *extra: str) -> int:
    return precompute.main([
        "--stage", "1,2", "--dataset_path", str(data), "--video_root", str(corpus.root),
        "--visidx_root", "first", "--out_image_root", "images", "--out_jsonl", "train.jsonl",
        *SELECTION, *PACKING, *extra,
    ])  # fmt: skip


def _two(data: Path, corpus: Corpus) -> tuple[int, int]:
    roots = ["--video_root", str(corpus.root)]
    first = ["--dataset_path", str(data), "--out_root", "first", *SELECTION, *roots]
    second = [
        "--input_dataset", str(data), "--visidx_root", "first", "--out_image_root", "images",
        "--out_jsonl", "train.jsonl", "--square_size", "64", "--num_images", "2", "--T", "8",
        *PACKING, *roots,
    ]  # fmt: skip
    return precompute.main(["--stage", "1", *first]), precompute.main(["--stage=2", *second])


def _tree(folder: Path) -> dict[str, bytes]:
    """Contents of all files but those that hold times and failures."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not any(word in path.name for word in ("summary", "fail", "ledger"))
    }


def test_one_pass_leaves_what_two_stages_leave(
    data: Path, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trees = []
    for name, run, code in (("one", _both, 1), ("two", _two, (1, 1))):
        folder = tmp_path / name
        folder.mkdir()
        monkeypatch.chdir(folder)
        assert run(data, corpus) == code
        trees.append(_tree(folder))
    assert trees[0] == trees[1]
    assert len(trees[0]) == 2 * 3 + 2 * 5 + 1


def test_uncompressed_mosaics_are_named_kept_packed_and_checked(
    data: Path, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _both(data, corpus, "--jpg_quality", "0")
    lines = Path("train.jsonl").read_text().splitlines()
    images = [Path(name) for line in lines for name in json.loads(line)["image"]]
    assert [image.suffix for image in images] == [".ppm"] * 4
    assert {image.stat().st_size for image in images} == {13 + 3 * 64**2}
    before = _tree(tmp_path)
    _both(data, corpus, "--jpg_quality", "0")
    assert _tree(tmp_path) == before
    assert convert(["images", "--to", "tar", "--out", "shards"]) == 0
    assert validate(["shards", "--deep", "--num_workers", "1"]) == 0
    assert validate(["train.jsonl", "--num_workers", "1"]) == 0
    images[0].write_bytes(images[0].read_bytes()[:-1])
    assert validate(["train.jsonl", "--num_workers", "1"]) == 1


def test_each_part_resumes_by_itself(
    data: Path,
    corpus: Corpus,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    _both(data, corpus)
    before = _tree(tmp_path)
    next((tmp_path / "images").glob("sample_good*/good_000.jpg")).write_bytes(b"damaged")
    next((tmp_path / "first").glob("sample_short*.visidx_thw.npy")).unlink()
    capsys.readouterr()
    assert _both(data, corpus) == 1
    assert "2 made, 0 kept" in capsys.readouterr().err
    assert _tree(tmp_path) == before
    assert _both(data, corpus) == 1
    assert "0 made, 2 kept" in capsys.readouterr().err


def test_folders_may_lie_below_their_shard(
    data: Path, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for shard in range(2):
        shards = ["--num_shards", "2", "--shard_id", str(shard)]
        assert _both(data, corpus, "--shard_dirs", *shards) in (0, 1)
        for line in (tmp_path / f"train.jsonl.shard0{shard}of02.jsonl").read_text().splitlines():
            record = json.loads(line)
            assert record["positions_thw"].startswith(f"images/shard0{shard}/sample_")
            assert (tmp_path / record["positions_thw"]).exists()
    assert len(list(tmp_path.glob("images/shard0?/sample_*/meta.json"))) == 2


@pytest.mark.parametrize("stage", ["1", "2", "1,2", "evaluation"])
def test_a_dry_run_counts_measures_and_writes_nothing(
    data: Path,
    corpus: Corpus,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    stage: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    roots = ["--dry_run", "--video_root", str(corpus.root)]
    if stage == "2":
        _two(data, corpus)
        args = ["--input_dataset", str(data), "--visidx_root", "first", "--num_images", "2",
                "--square_size", "64", "--T", "8", "--out_image_root", "other",
                "--out_jsonl", "other.jsonl"]  # fmt: skip
    elif stage == "evaluation":
        lines = ({"video": f"{name}.mp4"} for name in ("short", "good", "missing"))
        args = ["--jsonl", str(corpus.write(tmp_path / "v.jsonl", *lines)), "--out_root", "out",
                "--square_size", "64", "--num_images", "2", "--seq_len_frames", "8"]  # fmt: skip
    else:
        args = ["--dataset_path", str(data), *SELECTION]
        args += ["--out_root" if stage == "1" else "--visidx_root", "new"]
    if stage == "1,2":
        args += ["--out_image_root", "images", "--out_jsonl", "train.jsonl"]
    before = sorted(tmp_path.rglob("*"))
    capsys.readouterr()
    chosen = [] if stage == "evaluation" else ["--stage", stage]
    assert precompute.main([*chosen, *args, *roots]) == 0
    shown = capsys.readouterr().err
    assert "to make, 0 up to date" in shown
    assert "MiB of disk, measured on 2 of them" in shown
    assert sorted(tmp_path.rglob("*")) == before
