"""The ledger: what is finished is known by a few system calls, and nothing else is believed."""

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from cv_reader import ledger as ledger_module
from cv_reader.ledger import FAILED, FINISHED, Ledger, Place, ledger_path


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """One finished sample of two files."""
    (tmp_path / "video.mp4").write_bytes(b"video")
    (tmp_path / "asset").mkdir()
    for name in ("a", "b"):
        (tmp_path / "asset" / name).write_bytes(b"content")
    return Place("asset", [f"{tmp_path}/video.mp4"], [f"{tmp_path}/asset/"])


def _state(path: Path, settings: str, place: Place) -> str | None:
    with Ledger(path, settings) as ledger:
        record = ledger.find(place)
    return None if record is None else record.state


def _touch(path: Path) -> None:
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))


def test_any_change_of_files_or_settings_makes_a_sample_unknown(
    tmp_path: Path, place: Place
) -> None:
    path = ledger_path(tmp_path, "shard00of01")
    folder, video = Path(place.outputs[0]), Path(place.inputs[0])
    assert _state(path, "s", place) is None
    changes = [
        lambda: _touch(video),
        lambda: video.write_bytes(b"longer video"),
        lambda: _touch(folder / "a"),
        lambda: (folder / "a").unlink(),
        lambda: (folder / "c").touch(),
        lambda: (folder / "c").rename(folder / "d"),
    ]
    for change in changes:
        with Ledger(path, "s") as ledger:
            ledger.finish(place)
        assert (_state(path, "s", place), _state(path, "other", place)) == (FINISHED, None)
        change()
        assert _state(path, "s", place) is None


def test_failures_are_counted_until_the_video_changes(tmp_path: Path, place: Place) -> None:
    path = ledger_path(tmp_path, "x")
    with Ledger(path, "s") as ledger:
        for tries in (1, 2, 3):
            ledger.fail(place, "VideoError", "it is broken")
            record = ledger.find(place)
            assert (record.state, record.tries, record.reason) == (FAILED, tries, "it is broken")
        _touch(Path(place.inputs[0]))
        assert ledger.find(place) is None
        ledger.fail(place, "VideoError", "still broken")
        assert ledger.find(place).tries == 1


def test_a_killed_run_leaves_what_was_committed(tmp_path: Path, place: Place) -> None:
    path = ledger_path(tmp_path, "x")
    program = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from cv_reader import ledger as rooms\n"
        "path, video, asset = sys.argv[1:]\n"
        "rooms._COMMIT_RECORDS = 100\n"
        "ledger = rooms.Ledger(Path(path), 's')\n"
        "for number in range(250):\n"
        "    ledger.finish(rooms.Place(f'k{number}', [video], [asset]))\n"
        "os._exit(9)\n"
    )
    arguments = [str(path), *place.inputs, *place.outputs]
    assert subprocess.run([sys.executable, "-c", program, *arguments]).returncode == 9
    with Ledger(path, "s") as ledger:
        known = [ledger.is_known(f"k{number}") for number in range(250)]
    assert known == [True] * 200 + [False] * 50


@pytest.mark.parametrize("content", [b"no database " * 1000, b"SQLite format 3\0" + b"\xff" * 8000])
def test_a_damaged_ledger_is_begun_again(
    tmp_path: Path, place: Place, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    path = ledger_path(tmp_path, "x")
    path.write_bytes(content)
    assert not Ledger(path, "s", is_read_only=True).is_known("asset")
    with Ledger(path, "s") as ledger:
        assert "damaged" in capsys.readouterr().err
        ledger.finish(place)
    assert _state(path, "s", place) == FINISHED


def test_reading_before_a_run_makes_nothing(tmp_path: Path, place: Place) -> None:
    path = ledger_path(tmp_path, "x")
    assert not Ledger(path, "s", is_read_only=True).is_known("asset")
    assert not path.exists()
    with Ledger(path, "s") as ledger:
        ledger.finish(place)
    with Ledger(path, "s", is_read_only=True) as ledger:
        assert ledger.is_known("asset") and not ledger.is_known("other")
        with pytest.raises(sqlite3.OperationalError):
            ledger.finish(place)


@pytest.mark.parametrize(
    ("num_processes", "alone"), [(1, 0), pytest.param(2, 3, marks=pytest.mark.slow)]
)
def test_many_samples_are_looked_up_in_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_processes: int, alone: int
) -> None:
    monkeypatch.setattr(ledger_module, "_BATCH_SAMPLES", 3)
    monkeypatch.setattr(ledger_module, "_ALONE_SAMPLES", alone)
    states = ["finished", "touched", "failed", "unknown", "no place", "added to"] * 3
    tasks = [f"{number} {state}" for number, state in enumerate(states)]
    places: dict[str, Place | None] = {}
    with Ledger(ledger_path(tmp_path, "x"), "s") as ledger:
        for task in tasks:
            folder = tmp_path / task
            folder.mkdir()
            (folder / "a").touch()
            (tmp_path / f"{task}.mp4").touch()
            place = Place(task, [f"{folder}.mp4"], [f"{folder}/"])
            places[task] = None if "no place" in task else place
            if "failed" in task:
                ledger.fail(place, "VideoError", "it is broken")
            elif "unknown" not in task:
                ledger.finish(place)
            if "touched" in task:
                _touch(tmp_path / f"{task}.mp4")
            if "added to" in task:
                (folder / "b").touch()
        found = list(
            ledger.find_all(
                iter(tasks), places.__getitem__, is_trusted=False, num_processes=num_processes
            )
        )
        trusted = ledger.find_all(tasks, places.__getitem__, is_trusted=True, num_processes=1)
        known_trusted = [task for task, _, record in trusted if record]
    assert [(task, place) for task, place, _ in found] == list(places.items())
    known = {task: record.state for task, _, record in found if record}
    assert known == {
        task: task.split()[1] for task in tasks if task.split()[1] in (FINISHED, FAILED)
    }
    assert known_trusted == [t for t in tasks if t.split()[1] in ("finished", "failed", "added")]
    with Ledger(ledger_path(tmp_path, "x"), "s", is_read_only=True) as before:
        marked = list(before.marked(tasks, str))
        assert marked == [(task, before.is_known(task)) for task in tasks]
    assert {task.split()[1] for task, is_known in marked if is_known} == {
        "finished",
        "touched",
        "added",
        "no",
    }
