"""Atomic writing."""

import json

import pytest

from cv_reader.files import new_file, new_folder, write_json


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
