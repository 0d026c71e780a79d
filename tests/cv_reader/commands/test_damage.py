"""Damaged output is made again and counted; bad rows and foreign files cost themselves."""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cv_reader.assets.contract import read_asset
from cv_reader.commands import extract, precompute, stage1, stage2, validate
from cv_reader.exits import run_command, shortened
from support.corpus import Corpus

SMALL = ["--square_size", "64", "--num_images", "2", "--sequence_length", "8"]

ABSURD = {
    "empty": b"",
    "cut": b'{"schema_version": 1, "key": "go',
    "list": b"[]",
    "number": b"7",
    "no keys": b"{}",
    "nested without end": b"[" * 200_000,
    "nested objects": b'{"a":' * 100_000,
    "not text": bytes(range(256)) * 4,
    "zeros": b"\0" * 3000,
}
CHANGES = {
    "cfg of another type": {"cfg": []},
    "files of another type": {"files": [1]},
    "file facts of another type": {"files": {"mosaic_000.jpg": 3}},
    "a name that leads elsewhere": {"files": {"../../x": {"size_bytes": 1, "sha256": ""}}},
    "absurd counts": {"cfg": {"num_images": 10**12, "sequence_length": 10**15}},
    "settings of other types": {"cfg": {"square_size": "64", "mv_pct": [1]}},
    "a huge number": {"cfg": {"w_mv": 10**400}},
    "no fingerprint": {"fingerprint": None},
    "source of another type": {"source": 5},
    "source with other types": {"source": {"size_bytes": "big", "mtime_ns": [], "sha256": 1}},
    "exactness of another type": {"exactness": "exact"},
    "a true version": {"schema_version": True},
    "a version as text": {"schema_version": "1"},
    "a version that none can have": {"schema_version": 0},
    "a source without its time": {"source": {"mtime_ns": None}},
    "a count that is not the rows'": {"padding_patch_filtered": 10**6},
    "ranges of other types": {"valid_ranges": {"S_valid": "x"}},
}


def _precompute(data: Path, out: Path, *extra: str) -> int:
    return precompute.main(["--jsonl", str(data), "--out_root", str(out), *SMALL, *extra])


def _damages() -> Iterator[tuple[str, Callable[[Path], None]]]:
    yield from (
        (name, lambda path, c=content: path.write_bytes(c)) for name, content in ABSURD.items()
    )
    for name, changes in CHANGES.items():

        def change(path: Path, changes: dict[str, Any] = changes) -> None:
            meta = json.loads(path.read_text())
            for key, value in changes.items():
                is_part = isinstance(value, dict) and key in ("cfg", "source")
                meta[key] = meta[key] | value if is_part else value
            path.write_text(json.dumps(meta))

        yield name, change


DAMAGES = dict(_damages())


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_metadata_is_made_again(
    corpus: Corpus, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    videos = [{"video": str(corpus.root / f"{stem}.mp4")} for stem in ("short", "good")]
    data = corpus.write(tmp_path / "v.jsonl", *videos)
    assert _precompute(data, tmp_path / "out") == 0
    meta_path = tmp_path / "out" / "assets" / "short" / "meta.json"
    before = meta_path.read_bytes()
    DAMAGES[name](meta_path)
    assert validate.main([str(tmp_path / "out"), "--num_workers", "1"]) == 1
    capsys.readouterr()
    assert _precompute(data, tmp_path / "out") == 0
    shown = capsys.readouterr().err
    assert "1 made, 1 kept" in shown
    assert "1 of these replaced damaged or outdated output" in shown
    assert meta_path.read_bytes() == before
    summary = json.loads((tmp_path / "out" / "summary.shard00of01.json").read_text())
    assert (summary["made"], summary["remade"], summary["kept"]) == (1, 1, 1)


def _zero_tail(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:300] + b"\0" * (len(content) - 300))


@pytest.mark.parametrize("file", ["mosaic_001.jpg", "positions_thw.npy", "visible_indices.npy"])
def test_content_lost_to_a_power_cut_is_found(
    corpus: Corpus, tmp_path: Path, file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data = corpus.write(tmp_path / "v.jsonl", {"video": str(corpus.root / "short.mp4")})
    assert _precompute(data, tmp_path / "out") == 0
    path = tmp_path / "out" / "assets" / "short" / file
    before = path.read_bytes()
    _zero_tail(path)
    assert _precompute(data, tmp_path / "out") == 0
    assert "1 made, 0 kept" in capsys.readouterr().err
    assert path.read_bytes() == before


def _stages(data: Path, out: Path) -> list[str]:
    roots = ["--visidx_root", str(out / "first"), "--out_image_root", str(out / "images")]
    lines = ["--out_jsonl", str(out / "train.jsonl"), "--write_positions"]
    return ["--dataset_path", str(data), *roots, *lines, *SMALL]


@pytest.mark.parametrize("damaged", ["first/*short*.meta.json", "images/*short*/meta.json"])
@pytest.mark.parametrize("name", ["cut", "nested without end", "absurd counts", "no fingerprint"])
def test_damaged_training_output_is_made_again(
    corpus: Corpus, tmp_path: Path, damaged: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [corpus.row(str(corpus.root / f"{stem}.mp4")) for stem in ("short", "good")]
    args = _stages(corpus.write(tmp_path / "d.json", *rows), tmp_path)
    assert stage2.main_of_both(args) == 0
    (path,) = tmp_path.glob(damaged)
    before = path.read_bytes()
    DAMAGES[name](path)
    first = ["--dataset_path", str(tmp_path / "d.json"), "--out_root", str(tmp_path / "first")]
    if damaged.startswith("first"):
        # Stage 2 alone cannot repair stage 1's output: one sample fails, the other is kept.
        assert stage2.main(args) == 1
        assert "1 kept, 0 skipped, 1 failed" in capsys.readouterr().err
        assert stage1.main([*first, *SMALL]) == 0
        assert "1 made, 1 kept" in capsys.readouterr().err
    assert stage2.main(args) == 0
    assert path.read_bytes() == before
    assert len((tmp_path / "train.jsonl").read_text().splitlines()) == 2


def test_output_named_after_another_sample_is_made_again(
    corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = _stages(corpus.write(tmp_path / "d.json", corpus.row("short.mp4")), tmp_path)
    args += ["--video_root", str(corpus.root)]
    assert stage2.main_of_both(args) == 0
    paths = [*tmp_path.glob("first/*.meta.json"), *tmp_path.glob("images/*/meta.json")]
    before = [path.read_bytes() for path in paths]
    for path in paths:
        path.write_text(json.dumps(json.loads(path.read_text()) | {"key": "x"}))
    capsys.readouterr()
    assert stage2.main_of_both(args) == 0
    assert "1 made, 0 kept" in capsys.readouterr().err
    assert [path.read_bytes() for path in paths] == before


def test_output_of_another_version_is_refused(
    corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = corpus.write(tmp_path / "v.jsonl", {"video": str(corpus.root / "short.mp4")})
    folder = tmp_path / "out" / "assets" / "short"
    folder.mkdir(parents=True)
    for meta in ({"schema_version": 2}, {"sample_key": "a", "T": 64}):
        (folder / "meta.json").write_text(json.dumps(meta))
        assert _precompute(data, tmp_path / "out") == 2
        assert "pass --overwrite to replace it" in capsys.readouterr().err
    assert _precompute(data, tmp_path / "out", "--overwrite") == 0


def test_a_users_files_survive(
    corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video = str(corpus.root / "short.mp4")
    data = corpus.write(tmp_path / "v.jsonl", {"video": video})
    out = tmp_path / "out"
    own = [
        out / "probe",
        out / "summary.txt",
        out / ".tmp-mine",
        out / "assets" / "short" / "my.txt",
    ]
    for path in own:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    assert _precompute(data, out, "--overwrite") == 1
    assert "holds 'my.txt'" in capsys.readouterr().err
    assert [path.read_text() for path in own] == ["mine"] * 4
    assert extract.main([video, "-o", str(out)]) == 2
    assert [path.read_text() for path in own] == ["mine"] * 4
    assert extract.main([video, "-o", str(tmp_path / "new")]) == 0
    assert extract.main([video, "-o", str(tmp_path / "new"), "--frames", "0"]) == 0
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["000000.npz", "index.json"]


def test_a_clean_run_leaves_output_alone(corpus: Corpus, tmp_path: Path) -> None:
    data = corpus.write(tmp_path / "v.jsonl", {"video": str(corpus.root / "short.mp4")})
    assert _precompute(data, tmp_path / "out") == 0
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    ledger = ".cv_reader.ledger.shard00of01.sqlite"
    assert names == [ledger, "assets", "summary.shard00of01.json"]


def test_numbers_may_be_keys(corpus: Corpus, tmp_path: Path) -> None:
    data = corpus.write(tmp_path / "v.jsonl", {"video": str(corpus.root / "short.mp4"), "key": 7})
    assert _precompute(data, tmp_path / "out") == 0
    assert read_asset(tmp_path / "out" / "assets" / "7").meta["key"] == "7"


def test_bad_rows_of_evaluation_cost_themselves(
    corpus: Corpus,
    tmp_path: Path,
    failures: Callable[[Path], list[dict[str, Any]]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    good = str(corpus.root / "short.mp4")
    bad = [
        {"video": "."},
        {"video": "/"},
        {"video": ".."},
        {"video": "a/.."},
        {"video": "a\0b"},
        {"video": "\ud83d.mp4"},
        {"video": "x.mp4", "key": True},
        {"video": "x.mp4", "key": [1]},
        {"video": "x" * 5000 + ".mp4"},
        {"video": "y.mp4", "key": "k" * 10_000_000},
    ]
    data = corpus.write(tmp_path / "v.jsonl", *bad, {"video": good})
    assert _precompute(data, tmp_path / "out", "--video_root", str(corpus.root)) == 1
    failed = failures(tmp_path / "out" / "precompute_failed.shard00of01.txt")
    assert [record["where"] for record in failed] == [f"{data}:{n}" for n in range(1, 11)]
    assert "1 made, 0 kept, 0 skipped, 10 failed" in capsys.readouterr().err


def test_samples_with_huge_ids_are_kept_and_packed(
    corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = corpus.row("short.mp4", id="i" * 3_000_000), corpus.row("short.mp4", id="j")
    args = _stages(corpus.write(tmp_path / "d.jsonl", *rows), tmp_path)
    args += ["--video_root", str(corpus.root)]
    assert stage2.main_of_both(args) == 0
    assert stage2.main_of_both(args) == 0
    assert "0 made, 2 kept" in capsys.readouterr().err
    assert max(path.stat().st_size for path in tmp_path.glob("*/*/meta.json")) < 50_000


def test_huge_ids_are_shortened(
    corpus: Corpus,
    tmp_path: Path,
    failures: Callable[[Path], list[dict[str, Any]]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    row = corpus.row("missing.mp4", id="i" * 10_000_000)
    nested = (
        json.dumps(corpus.row("missing.mp4", id="deep"))[:-1] + ', "x":' + "[" * 900 + "]" * 900
    )
    data = corpus.write(tmp_path / "d.jsonl", row, nested + "}", corpus.row("short.mp4"))
    out = tmp_path / "out"
    args = ["--dataset_path", str(data), "--out_root", str(out), *SMALL]
    assert stage1.main([*args, "--video_root", str(corpus.root)]) == 1
    shown = capsys.readouterr().err
    assert len(shown) < 20_000
    assert "(10000000 characters)" in shown
    assert "1 made, 0 kept, 0 skipped, 2 failed" in shown
    failed = failures(out / "stage1_failed.shard00of01.txt")
    assert len(failed[0]["id"]) < 1000


@pytest.mark.parametrize(
    "name",
    [
        signal.SIGTERM,
        *(pytest.param(one, marks=pytest.mark.slow) for one in (signal.SIGINT, signal.SIGHUP)),
    ],
)
def test_a_signal_ends_a_run_in_one_line_and_it_can_continue(
    corpus: Corpus, tmp_path: Path, name: str
) -> None:
    lines = [{"video": "short.mp4", "key": f"k{n}"} for n in range(400)]
    data = corpus.write(tmp_path / "v.jsonl", *lines)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "cv_reader.commands.main", "precompute", "--jsonl", str(data)]
    command += ["--out_root", str(out), "--video_root", str(corpus.root), *SMALL]
    command += ["--num_workers", "1"]
    run = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while not list(out.glob("assets/k?")):
        time.sleep(0.02)
        assert run.poll() is None
    os.killpg(run.pid, name)
    _, shown = run.communicate(timeout=30)
    assert run.returncode == 130
    assert shown.splitlines()[-1] == (
        "interrupted; finished output is kept, run the same command to continue"
    )
    assert "Traceback" not in shown
    assert len(shown.splitlines()) == 2  # the other says what was begun
    assert not list(out.glob("*lock*"))
    made = sorted(path for path in out.glob("assets/*") if path.name[0] != ".")
    for folder in made:
        read_asset(folder)


def test_an_interrupt_during_imports_ends_with_the_exit_code(tmp_path: Path) -> None:
    """Python remembers an interrupt inside ``exec``, as ``dataclass`` and ``namedtuple`` use it."""
    (tmp_path / "stopped.py").write_text(
        "from cv_reader.exits import interrupted\n"
        "try:\n    exec('raise KeyboardInterrupt')\n"
        "except KeyboardInterrupt:\n    raise SystemExit(interrupted())\n"
    )
    command = [sys.executable, "-m", "stopped"]
    assert subprocess.run(command, cwd=tmp_path, check=False).returncode == 130


def test_nohup_keeps_a_run_from_hanging_up() -> None:
    code = (
        "import os, signal, types\n"
        "from cv_reader.exits import run_command\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "body = lambda _: os.kill(os.getpid(), signal.SIGHUP) or 5\n"
        "raise SystemExit(run_command(body, None))\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 5


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (OSError(5, "Input/output error", "/x"), 1, "/x: cannot be written: Input/output error"),
        (OSError(116, "Stale file handle"), 1, "check the disk or the network file system"),
        (OSError(13, "Permission denied", "/x"), 1, "Permission denied"),
        (KeyError("x"), 1, "stopped by a fault of cv_reader: KeyError: 'x' (test_damage.py:"),
        (RecursionError("deep"), 1, "RecursionError: deep"),
    ],
)
def test_nothing_ends_in_a_traceback(
    error: Any, code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def body(_args: argparse.Namespace) -> int:
        raise error

    assert run_command(body, None) == code
    shown = capsys.readouterr().err
    assert words in shown
    assert len(shown.splitlines()) == 1


def test_texts_are_shortened_in_the_middle() -> None:
    assert shortened("abc", 3) == "abc"
    text = shortened("a" * 500 + "b" * 500, 100)
    assert len(text) <= 100
    assert text.startswith("aaa")
    assert text.endswith("bbb")
    assert "(1000 characters)" in text
