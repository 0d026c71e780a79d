"""Stage 2 as users run it, behind stage 1."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cv_reader.assets.contract import read_asset
from cv_reader.commands import stage1, stage2
from support.corpus import Corpus
from support.paths import ROOT

SHAPE = ["--square_size", "64", "--num_workers", "1"]
FIRST = [*SHAPE, "--keep_frames_equiv", "2", "--sequence_length", "8"]
SECOND = [*SHAPE, "--num_images", "2", "--T", "8"]


def _first(data: Path, out: Path, *extra: str) -> list[str]:
    return ["--dataset_path", str(data), "--out_root", str(out / "stage1"), *FIRST, *extra]


def _second(data: Path, out: Path, *extra: str) -> list[str]:
    return [
        "--input_dataset", str(data), "--visidx_root", str(out / "stage1"),
        "--out_image_root", str(out / "images"), "--out_jsonl", str(out / "train.jsonl"),
        *SECOND, *extra,
    ]  # fmt: skip


def _records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def chosen(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of three videos next to its stage 1 output (first frame kept whole)."""
    folder = tmp_path_factory.mktemp("chosen")
    rows = [corpus.row(str(corpus.root / f"{name}.mp4")) for name in ("short", "good", "other")]
    data = corpus.write(folder / "data.json", *rows)
    assert stage1.main(_first(data, folder, "--keep_first_full_frame")) == 0
    return data


@pytest.fixture
def work(chosen: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may change."""
    shutil.copytree(chosen.parent, tmp_path / "work")
    return tmp_path / "work" / "data.json"


def test_the_jsonl_keeps_the_order_and_names_complete_assets(work: Path) -> None:
    out = work.parent
    args = _second(work, out, "--first_full", "--write_positions", "--num_workers", "2")
    assert stage2.main(args) == 0
    records = _records(out / "train.jsonl")
    assert [record["id"] for record in records] == ["short", "good", "other"]
    for record in records:
        assert list(record) == ["id", "conversations", "image", "positions_thw"]
        assert record["conversations"][0]["value"] == "<image>\n<image>\nWhat moves?"
        folder = os.path.dirname(record["positions_thw"])
        asset = read_asset(folder)
        assert [str(image) for image in asset.images] == record["image"]
        assert os.path.basename(record["image"][0]) == f"{record['id']}_000.jpg"
        assert asset.positions[:16].tolist() == [[0, h, w] for h in range(4) for w in range(4)]
    assert not (out / "train.jsonl.fail.txt").exists()
    assert asset.meta["backend"] in ("estimated", "native")  # HEVC


def test_a_second_run_packs_nothing_again(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = _second(work, work.parent)
    assert stage2.main(args) == 0
    first = (work.parent / "train.jsonl").read_bytes()
    assert stage2.main(args) == 0
    assert "0 made, 3 kept" in capsys.readouterr().err
    assert (work.parent / "train.jsonl").read_bytes() == first
    assert "positions_thw" not in _records(work.parent / "train.jsonl")[0]


def test_other_settings_start_nothing(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert stage2.main(_second(work, work.parent)) == 0
    assert stage2.main(_second(work, work.parent, "--order", "zigzag")) == 2
    assert "order 'raster' where 'zigzag' is asked for" in capsys.readouterr().err


def test_samples_without_stage_1_fail_or_are_passed_over(
    work: Path,
    corpus: Corpus,
    failures: Callable[[Path], list[dict[str, Any]]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = [*json.loads(work.read_text()), corpus.row("new.mp4")]
    corpus.write(work, *rows)
    assert stage2.main(_second(work, work.parent)) == 1
    (failure,) = failures(work.parent / "train.jsonl.fail.txt")
    assert failure["id"] == "new"
    assert "stage 1 made nothing" in failure["reason"]
    assert len(_records(work.parent / "train.jsonl")) == 3
    assert stage2.main(_second(work, work.parent, "--skip_missing")) == 0
    assert "3 kept, 1 skipped" in capsys.readouterr().err


def test_rewrite_lists_what_is_complete_without_decoding(
    work: Path, failures: Callable[[Path], list[dict[str, Any]]]
) -> None:
    out = work.parent
    assert stage2.main(_second(work, out)) == 0
    packed = (out / "train.jsonl").read_bytes()
    shutil.rmtree(out / "stage1")
    rewrite = _second(work, out, "--mode", "rewrite")
    assert stage2.main(rewrite) == 0
    assert (out / "train.jsonl").read_bytes() == packed
    next((out / "images").glob("sample_good__*/good_001.jpg")).unlink()
    assert stage2.main(rewrite) == 1
    assert [record["id"] for record in _records(out / "train.jsonl")] == ["short", "other"]
    assert [failure["id"] for failure in failures(out / "train.jsonl.fail.txt")] == ["good"]


def test_damage_between_the_stages_is_named(
    work: Path, failures: Callable[[Path], list[dict[str, Any]]]
) -> None:
    out = work.parent
    for path in (out / "stage1").glob("sample_good__*.visidx_thw.npy"):
        rows = np.load(path)
        rows[5, 1] += 1
        np.save(path, rows)
    rows = json.loads(work.read_text())
    rows[2]["conversations"] = "none"
    work.write_text(json.dumps(rows))
    assert stage2.main(_second(work, out)) == 1
    reasons = {f["id"]: f["reason"] for f in failures(out / "train.jsonl.fail.txt")}
    assert "arrays are damaged" in reasons["good"]
    assert "list of turns" in reasons["other"]
    assert [record["id"] for record in _records(out / "train.jsonl")] == ["short"]


def test_first_full_needs_a_stage_1_that_kept_it(
    corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = corpus.write(tmp_path / "data.json", corpus.row(str(corpus.root / "short.mp4")))
    assert stage1.main(_first(data, tmp_path)) == 0
    assert stage2.main(_second(data, tmp_path, "--first_full")) == 2
    assert "--keep_first_full_frame" in capsys.readouterr().err
    assert not (tmp_path / "images").exists()


def test_a_video_that_changed_since_stage_1_fails(
    corpus: Corpus, tmp_path: Path, failures: Callable[[Path], list[dict[str, Any]]]
) -> None:
    video = tmp_path / "clip.mp4"
    shutil.copy(corpus.root / "good.mp4", video)
    data = corpus.write(tmp_path / "data.json", corpus.row("clip.mp4"))
    assert stage1.main(_first(data, tmp_path)) == 0
    shutil.copy(corpus.root / "short.mp4", video)
    assert stage2.main(_second(data, tmp_path)) == 1
    (failure,) = failures(tmp_path / "train.jsonl.fail.txt")
    assert "changed since stage 1" in failure["reason"]


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        (["--layout", "spatial"], "positions would not describe the images"),
        (["--mode", "rewrite", "--dry_run"], "drop --mode rewrite"),
        (["--num_images", "9"], "sequence_length must be at least num_images"),
        (["--out_image_root", "/dev/null/x"], "cannot be written"),
        (["--out_jsonl", "/dev/null/x.jsonl"], "cannot be written"),
        (["--visidx_root", "nowhere"], "nowhere: no such folder; run stage 1 first"),
    ],
)
def test_what_cannot_work_starts_nothing(
    chosen: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], extra: list[str], reason: str
) -> None:
    first = ["--visidx_root", str(chosen.parent / "stage1")]
    assert stage2.main(_second(chosen, tmp_path, *first, *extra)) == 2
    assert reason in capsys.readouterr().err


def test_single_patches_are_refused_with_the_reason(
    chosen: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        stage2.main(_second(chosen, tmp_path, "--export_patches"))
    assert caught.value.code == 2
    assert "no input of the model" in capsys.readouterr().err


def test_shards_name_their_own_jsonl(work: Path) -> None:
    for shard in range(2):
        args = _second(work, work.parent, "--num_shards", "2", "--shard_id", str(shard))
        assert stage2.main(args) == 0
    ids = [
        record["id"]
        for path in sorted(work.parent.glob("train.jsonl.shard0?of02.jsonl"))
        for record in _records(path)
    ]
    assert sorted(ids) == ["good", "other", "short"]


def test_the_promised_paths_run(corpus: Corpus, tmp_path: Path) -> None:
    data = corpus.write(tmp_path / "data.json", corpus.row(str(corpus.root / "short.mp4")))
    tool = ROOT / "Compressed_Video_Reader" / "tool"
    for name, args in (("stage1", _first(data, tmp_path)), ("stage2", _second(data, tmp_path))):
        command = [sys.executable, tool / f"{name}.py", *args]
        subprocess.run(command, check=True, cwd=tmp_path, capture_output=True)
    assert len(_records(tmp_path / "train.jsonl")) == 1


def test_choices_by_an_earlier_rule_are_not_packed_as_those_of_this_version(
    corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = corpus.write(tmp_path / "data.json", corpus.row(str(corpus.root / "good.mp4")))
    assert stage1.main(_first(data, tmp_path, "--select", "rate_distortion")) == 0
    [path] = (tmp_path / "stage1").glob("*.meta.json")
    meta = json.loads(path.read_text())
    assert meta.pop("rate_distortion_version") == 2
    content = {"algorithm_version": meta["algorithm_version"], **meta["cfg"]}
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    meta["fingerprint"] = hashlib.sha256(canonical.encode()).hexdigest()[:16]
    path.write_text(json.dumps(meta))
    assert stage1.main(_first(data, tmp_path, "--select", "rate_distortion")) == 1
    refused = "rate_distortion_version None where 2 is asked for; this version makes it otherwise"
    assert refused in capsys.readouterr().err
    assert stage2.main(_second(data, tmp_path)) == 2
    refused = (
        "earlier rule of its settings where this version has rate_distortion_version 2; run stage"
    )
    assert refused in capsys.readouterr().err
    assert not list((tmp_path / "images").rglob("meta.json"))
    again = _first(data, tmp_path, "--select", "rate_distortion", "--overwrite")
    assert stage1.main(again) == 0 and stage2.main(_second(data, tmp_path)) == 0
