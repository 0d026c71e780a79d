"""Stage 1 as users run it."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cv_reader.assets.samples import VideoSample, read_samples
from cv_reader.commands import stage1
from cv_reader.exits import run_command
from support.corpus import Corpus

ARGS = [
    "--square_size", "64", "--keep_frames_equiv", "2", "--sequence_length", "8",
    "--num_workers", "1", "--keep_first_full_frame",
]  # fmt: skip
STEM = "_T8_square64_p16_K32"
BAD = ["missing.mp4", "empty.mp4", "truncated.mp4", "text.mp4", "folder.mp4", "sound.wav"]


def _run(data: Path, out: Path, *extra: str) -> int:
    return stage1.main(["--dataset_path", str(data), "--out_root", str(out), *ARGS, *extra])


def _names(out: Path) -> list[str]:
    return sorted(path.name for path in out.iterdir())


def test_bad_rows_cost_themselves(
    corpus: Corpus, tmp_path: Path, failures: Callable[[Path], list[dict[str, Any]]]
) -> None:
    rows = [
        corpus.row("good.mp4"),
        "{broken",
        corpus.row("good.mp4", id=None),
        corpus.row("", id="x"),
        *(corpus.row(name) for name in BAD),
        corpus.row("short.mp4", id="../a/b"),
    ]
    data = corpus.write(tmp_path / "data.jsonl", *rows)
    out = tmp_path / "out"
    assert _run(data, out, "--video_root", str(corpus.root)) == 1
    failed = failures(out / "stage1_failed.shard00of01.txt")
    assert [record["video"] for record in failed] == [None, "good.mp4", "", *BAD]
    assert [record["where"] for record in failed] == [f"{data}:{n}" for n in range(2, 11)]
    assert all(record["reason"] for record in failed)
    metas = [name for name in _names(out) if name.endswith(".meta.json")]
    assert [name.split("__")[0] for name in metas] == ["sample_%2E.%2Fa%2Fb", "sample_good"]
    summary = json.loads((out / "stage1_summary.shard00of01.json").read_text())
    assert (summary["made"], summary["failed"]) == (2, 9)


def test_files_and_metadata(corpus: Corpus, tmp_path: Path) -> None:
    data = corpus.write(tmp_path / "data.json", corpus.row(str(corpus.root / "good.mp4")))
    assert _run(data, tmp_path / "out") == 0
    (sample,) = read_samples(data)
    assert isinstance(sample, VideoSample)
    (meta_path,) = (tmp_path / "out").glob(f"sample_good__good__*{STEM}.meta.json")
    meta = json.loads(meta_path.read_text())
    assert meta["sample_key"] == sample.key == f"{sample.video}|good|0"
    assert (meta["T"], meta["K"], meta["patch"], meta["preprocess"]) == (8, 32, 16, "square64")
    assert meta["keep_first_full_frame"] is True
    assert meta["valid_ranges"]["valid_h_start"] == 1
    rows = np.load(str(meta_path).replace("meta.json", "visidx_thw.npy"))
    assert (rows.dtype, rows.shape) == (np.int32, (32, 3))
    assert rows[:16].tolist() == [[0, h, w] for h in range(4) for w in range(4)]
    assert (rows[16:, 0] > 0).all()


def test_a_second_run_keeps_what_is_done_and_refuses_other_settings(
    corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = corpus.write(tmp_path / "data.json", corpus.row(str(corpus.root / "good.mp4")))
    out = tmp_path / "out"
    assert _run(data, out) == 0
    (meta,) = out.glob("*.meta.json")
    written = meta.stat().st_mtime_ns
    assert _run(data, out) == 0
    assert meta.stat().st_mtime_ns == written
    assert "1 kept" in capsys.readouterr().err
    assert _run(data, out, "--mv_pct", "90") == 2
    message = capsys.readouterr().err
    assert "mv_pct 95.0 where 90.0 is asked for" in message
    assert "--overwrite" in message
    assert meta.stat().st_mtime_ns == written
    assert _run(data, out, "--mv_pct", "90", "--overwrite") == 0
    assert json.loads(meta.read_text())["cfg"]["mv_pct"] == 90


def test_shards_split_the_file_and_keep_the_identity(corpus: Corpus, tmp_path: Path) -> None:
    rows = [corpus.row(f"{number}.mp4", extra=number) for number in range(9)]
    data = corpus.write(tmp_path / "data.json", *rows)
    args = ["--dataset_path", str(data), "--shard_dataset_out_dir", str(tmp_path / "shards")]
    assert stage1.main([*args, "--num_shards", "2"]) == 0
    for shard in range(2):
        path = tmp_path / "shards" / f"data.shard{shard:02d}of02.jsonl"
        split = [sample.key for sample in read_samples(path)]
        assert split == [s.key for s in read_samples(data, num_shards=2, shard_id=shard)]
        assert split
        row = json.loads(path.read_text().splitlines()[0])
        assert rows[row.pop("_row_idx")] == row


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        (["--fuse_mode", "max"], "only 'weighted'"),
        (["--res_use_grad"], "one residual energy"),
        (["--mv_compensate", "affine"], "invalid choice"),
        (["--mv_unit_div", "1"], "own percentile"),
        (["--unsupported_txt", "x"], "failure file"),
    ],
)
def test_flags_without_a_meaning_are_refused_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], extra: list[str], reason: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        _run(tmp_path / "data.json", tmp_path / "out", *extra)
    assert caught.value.code == 2
    assert reason in capsys.readouterr().err


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        (["--shard_id", "1"], "--shard_id must be in"),
        (["--square_size", "100"], "multiple of patch_size"),
        (["--dataset_path", "missing.json"], "cannot be read"),
    ],
)
def test_settings_that_cannot_work_start_nothing(
    corpus: Corpus,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    extra: list[str],
    reason: str,
) -> None:
    data = corpus.write(tmp_path / "data.json", corpus.row("good.mp4"))
    assert _run(data, tmp_path / "out", *extra) == 2
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_broken_array_starts_nothing(
    corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data.json"
    data.write_text(json.dumps([corpus.row("good.mp4")])[:-1] + ', {"id"]')
    assert _run(data, tmp_path / "out") == 2
    assert "data.json:1" in capsys.readouterr().err


def test_an_unwritable_output_starts_nothing(
    corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = corpus.write(tmp_path / "data.json", corpus.row("good.mp4"))
    (tmp_path / "file").touch()
    assert _run(data, tmp_path / "file" / "out") == 2
    assert "cannot be written" in capsys.readouterr().err


def test_ctrl_c_has_its_own_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    def body(_args: argparse.Namespace) -> int:
        raise KeyboardInterrupt

    assert run_command(body, None) == 130
    assert "run the same command to continue" in capsys.readouterr().err
