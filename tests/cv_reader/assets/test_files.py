"""Atomic writing."""

import json

import pytest

from cv_reader.assets.files import (
    claimed_file,
    claimed_output,
    new_file,
    new_folder,
    shared_output,
    write_json,
)
from cv_reader.errors import SettingsError


def test_a_failed_write_leaves_nothing_and_keeps_the_old(tmp_path):
    target = tmp_path / "asset"
    with new_folder(target) as folder:
        (folder / "old").touch()
    with pytest.raises(KeyError), new_folder(target) as folder:
        (folder / "new").touch()
        raise KeyError
    with pytest.raises(KeyError), new_file(tmp_path / "file") as path:
        path.touch()
        raise KeyError
    assert [path.name for path in tmp_path.iterdir()] == ["asset"]
    assert [path.name for path in target.iterdir()] == ["old"]


def test_a_folder_is_replaced_whole(tmp_path):
    for name in ("old", "new"):
        with new_folder(tmp_path / "asset") as folder:
            (folder / name).touch()
    assert [path.name for path in (tmp_path / "asset").iterdir()] == ["new"]
    assert len(list(tmp_path.iterdir())) == 1


def test_json_keeps_any_string(tmp_path):
    content = {"video": "ä \ud800 \n"}
    write_json(tmp_path / "meta.json", content)
    assert json.loads((tmp_path / "meta.json").read_text(encoding="utf-8")) == content


def _leave(folder):
    """What a killed process leaves: an unfinished folder and an unfinished file."""
    left = folder / f".tmp-{'0' * 32}"
    left.mkdir(parents=True)
    (left / "mosaic_000.jpg").touch()
    (folder / f".tmp-{'1' * 32}").touch()


def _names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_run_that_is_alone_removes_leftovers_and_nothing_else(tmp_path):
    _leave(tmp_path)
    (tmp_path / ".tmp-mine").touch()
    with claimed_output(tmp_path, "a", tmp_path, tmp_path / "missing"):
        assert _names(tmp_path) == [".lock", ".lock.a", ".tmp-mine"]


def test_what_other_runs_are_writing_stays(tmp_path):
    with claimed_output(tmp_path, "a", tmp_path):
        _leave(tmp_path)
        with claimed_output(tmp_path, "b", tmp_path):
            assert len(list(tmp_path.glob(".tmp-*"))) == 2
    with shared_output(tmp_path), claimed_output(tmp_path, "a", tmp_path):
        assert len(list(tmp_path.glob(".tmp-*"))) == 2


def test_one_part_has_one_run(tmp_path):
    with (
        claimed_output(tmp_path, "a"),
        pytest.raises(SettingsError, match="another run is at work on its a"),
        claimed_output(tmp_path, "a"),
    ):
        pass
    with claimed_output(tmp_path, "a"):
        pass


def test_a_file_has_one_writer_and_appears_whole(tmp_path):
    target = tmp_path / "train.jsonl"
    (tmp_path / ".train.jsonl.partial").write_text("from a killed run\n")
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
