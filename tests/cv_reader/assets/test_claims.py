"""One run at a time, and what killed runs left."""

import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cv_reader.assets import claims, files
from cv_reader.assets.claims import claimed_file, claimed_output, shared_output
from cv_reader.assets.files import machine_and_boot, temporary_path
from cv_reader.errors import SettingsError


def _leave(folder: Path) -> None:
    """Leave what a killed process leaves: an unfinished folder and an unfinished file."""
    left = temporary_path(folder)
    left.mkdir(parents=True)
    (left / "mosaic_000.jpg").touch()
    temporary_path(folder).touch()


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_run_that_is_alone_removes_leftovers_and_nothing_else(tmp_path: Path) -> None:
    _leave(tmp_path)
    (tmp_path / ".tmp-mine").touch()
    with claimed_output(tmp_path, "a", tmp_path, tmp_path / "missing"):
        assert _names(tmp_path) == [".cv_reader.lock", ".cv_reader.lock.a", ".tmp-mine"]
    assert _names(tmp_path) == [".tmp-mine"]


def test_what_other_runs_are_writing_stays(tmp_path: Path) -> None:
    with claimed_output(tmp_path, "a", tmp_path):
        _leave(tmp_path)
        with claimed_output(tmp_path, "b", tmp_path):
            assert len(list(tmp_path.glob(".tmp-*"))) == 2
    with shared_output(tmp_path), claimed_output(tmp_path, "a", tmp_path):
        assert len(list(tmp_path.glob(".tmp-*"))) == 2


def test_one_part_has_one_run(tmp_path: Path) -> None:
    with (
        claimed_output(tmp_path, "a"),
        pytest.raises(SettingsError, match="another run is at work on its a"),
        claimed_output(tmp_path, "a"),
    ):
        pass
    with claimed_output(tmp_path, "a"):
        pass


def test_a_file_has_one_writer_and_appears_whole(tmp_path: Path) -> None:
    target = tmp_path / "train.jsonl"
    partial = f".train.jsonl.partial-{machine_and_boot()}"
    (tmp_path / partial).write_text("from a killed run\n")
    with claimed_file(target) as lines:
        lines.write("one\n")
        with pytest.raises(SettingsError, match="another run"), claimed_file(target):
            pass
        assert not target.exists()
    assert target.read_text() == "one\n"
    with pytest.raises(KeyError), claimed_file(target):
        raise KeyError
    assert _names(tmp_path) == ["train.jsonl"]
    assert target.read_text() == "one\n"


def _age(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


@pytest.mark.parametrize(
    ("machine", "boot", "age_seconds", "stays"),
    [
        ("own", "own", 0, False),
        ("own", "other", 10, True),
        ("own", "other", 7200, False),
        ("other", "own", 0, False),  # another container of this kernel
        ("other", "other", 10, True),
        ("other", "other", 10**7, True),
        ("unknown", "", 10**7, True),
    ],
)
def test_only_what_is_old_and_of_this_machine_is_removed(
    tmp_path: Path, machine: str, boot: str, age_seconds: int, stays: bool
) -> None:
    own_machine, own_boot = machine_and_boot().split("-")
    maker = f"{own_machine if machine == 'own' else '0' * 8}-"
    maker += own_boot if boot == "own" else "1" * 8
    left = tmp_path / f".tmp-{maker if machine != 'unknown' else ''}{'-' * bool(boot)}{'a' * 32}"
    left.mkdir()
    _age(left, age_seconds)
    with claimed_output(tmp_path, "a", tmp_path):
        assert left.exists() == stays


def test_a_lock_that_every_machine_gets_removes_nothing_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As with Lustre's localflock: both hold the lock, neither sees the other.
    with claimed_output(tmp_path, "a", tmp_path):
        _leave(tmp_path)
        monkeypatch.setattr(claims, "machine_and_boot", lambda: "12345678-12345678")
        monkeypatch.setattr(fcntl, "flock", lambda *_: None)
        with claimed_output(tmp_path, "a", tmp_path):
            assert len(list(tmp_path.glob(".tmp-*"))) == 2


def test_temporary_names_tell_machine_and_boot(tmp_path: Path) -> None:
    code = "from cv_reader.assets.files import machine_and_boot as m; print(m())"
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    name = temporary_path(tmp_path).name
    assert files.maker_of(name) == shown.stdout.strip() == machine_and_boot()
    assert files.is_temporary(name)
    assert files.is_temporary(f".tmp-{'0' * 32}")
    assert not files.is_temporary(".tmp-mine")


def test_a_users_file_of_the_locks_name_stays(tmp_path: Path) -> None:
    (tmp_path / claims.LOCK).write_text("mine")
    with claimed_output(tmp_path, "a"):
        pass
    assert (tmp_path / claims.LOCK).read_text() == "mine"


_CLAIM = """
import sys, time
from pathlib import Path
from cv_reader.assets.claims import claimed_output
from cv_reader.errors import SettingsError
folder, held = Path(sys.argv[1]), 0
marker = folder / "inside"
for _ in range(300):
    try:
        with claimed_output(folder, "a", folder):
            marker.touch(exist_ok=False)  # fails where two are inside
            held += 1
            marker.unlink()
    except SettingsError:
        time.sleep(0.0005)
print(held)
"""


def test_locks_that_come_and_go_let_one_in(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _CLAIM, str(tmp_path)]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    held = [int(run.communicate()[0]) for run in runs]
    assert [run.returncode for run in runs] == [0, 0]
    assert all(held)
    assert list(tmp_path.iterdir()) == []
