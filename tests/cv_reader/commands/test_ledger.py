"""A second run believes the ledger of the first one, and gives finished samples to no worker."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cv_reader.commands import precompute, stage1, stage2, validate
from cv_reader.ledger import ledger_path
from support.corpus import Corpus

SIZE = ["--square_size", "64", "--num_images", "2", "--sequence_length", "8"]
PART = "shard00of01"

Run = Callable[..., int]


def _broken(*_arguments: object) -> None:
    raise AssertionError("a finished sample was worked on")


def _precompute(data: Path, out: Path, *extra: str) -> int:
    return precompute.main(["--jsonl", str(data), "--out_root", str(out), *SIZE, *extra])


def _stage1(data: Path, out: Path, *extra: str) -> int:
    return stage1.main(["--dataset_path", str(data), "--out_root", str(out / "1"), *SIZE, *extra])


def _stage2(data: Path, out: Path, *extra: str) -> int:
    return stage2.main([
        "--dataset_path", str(data), "--visidx_root", str(out / "1"), *SIZE, *extra,
        "--out_image_root", str(out / "2"), "--out_jsonl", str(out / "t.jsonl"),
    ])  # fmt: skip


def _both(data: Path, out: Path, *extra: str) -> int:
    return stage2.main_of_both([
        "--dataset_path", str(data), "--visidx_root", str(out / "1"), *SIZE, *extra,
        "--out_image_root", str(out / "2"), "--out_jsonl", str(out / "t.jsonl"),
    ])  # fmt: skip


@pytest.fixture
def data(corpus: Corpus, tmp_path: Path) -> Path:
    """Two sound videos between broken ones."""
    names = ("text", "short", "empty", "good")
    rows = [corpus.row(str(corpus.root / f"{name}.mp4"), id=name) for name in names]
    return corpus.write(tmp_path / "data.jsonl", *rows)


@pytest.mark.parametrize(
    ("run", "module", "function", "failed"),
    [
        (_precompute, precompute, "make_evaluation_asset", 2),
        (_stage1, stage1, "make_selection", 2),
        (_both, stage2, "make_both", 2),
    ],
)
def test_finished_samples_reach_no_worker(
    run: Run,
    module: Any,
    function: str,
    failed: int,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    assert run(data, out) == 1
    first = capsys.readouterr().err
    assert f"2 made, 0 kept, 0 skipped, {failed} failed" in first
    made = {p: p.read_bytes() for p in out.rglob("*") if p.is_file() and "ledger" not in p.name}
    real = getattr(module, function)
    monkeypatch.setattr(module, function, _broken)
    assert run(data, out, "--max_tries", "1") == 1
    second = capsys.readouterr().err
    assert f"0 made, 2 kept, 0 skipped, {failed} failed" in second
    assert "not tried again: failed in 1 runs, --max_tries" in second
    same = {p: p.read_bytes() for p in made}
    changed = {p.name for p in made if made[p] != same[p]}
    assert all("summary" in name or "fail" in name for name in changed)
    monkeypatch.setattr(module, function, real)
    assert run(data, out) == 1  # tries those that failed again
    assert "--max_tries" not in capsys.readouterr().err


def test_stage2_also_looks_at_what_stage1_made(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert _stage1(data, out) == 1
    assert _stage2(data, out) == 1
    lines = (out / "t.jsonl").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("cv_reader.assets.stage2.is_packed", _broken)
        assert _stage2(data, out) == 1
    assert (out / "t.jsonl").read_bytes() == lines
    assert _stage1(data, out, "--overwrite") == 1
    capsys.readouterr()
    monkeypatch.setattr("cv_reader.assets.stage2.is_packed", lambda *_: False)
    assert _stage2(data, out) == 1
    assert "2 made, 0 kept" in capsys.readouterr().err


@pytest.mark.parametrize("run", [_precompute, _stage1])
def test_validate_writes_the_ledger_again(
    run: Run,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    assert run(data, out) == 1
    root = out if run is _precompute else out / "1"
    ledger_path(root, PART).unlink()
    assert validate.main([str(root), "--write_ledger"]) == 0
    assert ledger_path(root, PART).exists()
    module = "assets.make" if run is _precompute else "assets.stage1"
    target = f"cv_reader.{module}.{'is_up_to_date' if run is _precompute else 'is_selected'}"
    real_calls: list[str] = []
    monkeypatch.setattr(target, lambda *args: real_calls.append(str(args)) or False)
    capsys.readouterr()
    assert run(data, out) == 1
    assert "0 made, 2 kept" in capsys.readouterr().err
    assert not [call for call in real_calls if "short.mp4" in call or "good.mp4" in call]


def test_a_trusted_ledger_stands_in_for_the_files(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert _precompute(data, out) == 1
    positions = next(out.rglob("positions_thw.npy"))
    whole = positions.read_bytes()
    positions.write_bytes(whole[:-1])
    assert _precompute(data, out, "--trust_ledger") == 1
    assert "0 made, 2 kept" in capsys.readouterr().err.splitlines()[-2]
    assert positions.read_bytes() == whole[:-1]
    assert _precompute(data, out) == 1
    assert positions.read_bytes() == whole
