"""Atomic writing."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cv_reader.assets import files
from cv_reader.assets.files import new_file, new_folder, replace_files, write_json
from cv_reader.errors import AssetError, OutputError


def _any(_name: str) -> bool:
    return True


def test_a_failed_write_leaves_nothing_and_keeps_the_old(tmp_path: Path) -> None:
    target = tmp_path / "asset"
    with new_folder(target, is_replaceable=_any) as folder:
        (folder / "old").touch()
    with pytest.raises(KeyError), new_folder(target, is_replaceable=_any) as folder:
        (folder / "new").touch()
        raise KeyError
    with pytest.raises(KeyError), new_file(tmp_path / "file") as path:
        path.touch()
        raise KeyError
    assert [path.name for path in tmp_path.iterdir()] == ["asset"]
    assert [path.name for path in target.iterdir()] == ["old"]


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    for name in ("old", "new"):
        with new_folder(tmp_path / "asset", is_replaceable=_any) as folder:
            (folder / name).touch()
    assert [path.name for path in (tmp_path / "asset").iterdir()] == ["new"]
    assert len(list(tmp_path.iterdir())) == 1


def test_json_keeps_any_string(tmp_path: Path) -> None:
    content = {"video": "ä \ud800 \n"}
    write_json(tmp_path / "meta.json", content)
    assert json.loads((tmp_path / "meta.json").read_text(encoding="utf-8")) == content


def test_a_folder_with_a_users_file_stays(tmp_path: Path) -> None:
    target = tmp_path / "asset"
    target.mkdir()
    (target / "thesis.txt").write_text("mine")
    with (
        pytest.raises(AssetError, match=r"thesis\.txt.*move it away"),
        new_folder(target, is_replaceable=lambda name: name == "ours") as folder,
    ):
        (folder / "ours").touch()
    assert [path.name for path in target.iterdir()] == ["thesis.txt"]
    assert [path.name for path in tmp_path.iterdir()] == ["asset"]


def test_a_file_in_place_of_a_folder_stays(tmp_path: Path) -> None:
    (tmp_path / "asset").write_text("mine")
    with (
        pytest.raises(AssetError, match="a file has this name"),
        new_folder(tmp_path / "asset", is_replaceable=_any),
    ):
        pass
    assert (tmp_path / "asset").read_text() == "mine"


def test_a_link_is_replaced_and_its_folder_stays(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "old").touch()
    (tmp_path / "asset").symlink_to("elsewhere")
    with new_folder(tmp_path / "asset", is_replaceable=_any) as folder:
        (folder / "new").touch()
    assert (tmp_path / "elsewhere" / "old").exists()
    assert [path.name for path in (tmp_path / "asset").iterdir()] == ["new"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["asset", "elsewhere"]


@pytest.mark.parametrize("can_exchange", [True, False])
def test_a_target_is_there_at_every_moment_of_its_exchange(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can_exchange: bool
) -> None:
    target = tmp_path / "asset"
    seen = []
    exchange = files._exchange

    def watched(one: Any, other: Any) -> Any:
        seen.append(target.exists())
        done = exchange(one, other) if can_exchange else False
        seen.append(target.exists())
        return done

    monkeypatch.setattr(files, "_exchange", watched)
    for name in ("old", "new"):
        with new_folder(target, is_replaceable=_any) as folder:
            (folder / name).touch()
    assert seen == [True, True]
    assert [path.name for path in target.iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["asset"]


def test_all_is_on_the_disk_before_it_is_renamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = []
    flush, rename, replace = files.flush, os.rename, os.replace
    monkeypatch.setattr(
        files, "flush", lambda path: (events.append(("flush", path.name)), flush(path))
    )
    monkeypatch.setattr(os, "rename", lambda *a: (events.append(("rename", "")), rename(*a)))
    monkeypatch.setattr(os, "replace", lambda *a: (events.append(("rename", "")), replace(*a)))
    with new_folder(tmp_path / "asset", is_replaceable=_any) as folder:
        (folder / "a").write_text("a")
        (folder / "b").write_text("b")
        temporary = folder.name
    assert events == [
        ("flush", "a"), ("flush", "b"), ("flush", temporary), ("rename", ""),
        ("flush", tmp_path.name),
    ]  # fmt: skip
    events.clear()
    replace_files({tmp_path / "one": b"1", tmp_path / "two": b"2"})
    assert [kind for kind, _ in events] == ["flush", "flush", "rename", "rename", "flush"]
    assert events[-1][1] == tmp_path.name


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        (errno.ENOSPC, "make room"),
        (errno.EDQUOT, "quota"),
        (errno.EROFS, "make the file system writable"),
        (errno.EFBIG, "ulimit"),
        (errno.EIO, "check the disk"),
        (errno.ESTALE, "check the disk"),
    ],
)
def test_faults_of_the_whole_output_are_told_from_those_of_one_path(
    tmp_path: Path, code: Any, remedy: str
) -> None:
    message = f"file: cannot be written: .*{remedy}"
    with pytest.raises(OutputError, match=message), new_file(tmp_path / "file"):
        raise OSError(code, "reason")
    with pytest.raises(PermissionError), new_file(tmp_path / "file"):
        raise PermissionError(errno.EACCES, "reason")
    assert list(tmp_path.iterdir()) == []


def test_a_limit_on_file_sizes_is_named(tmp_path: Path) -> None:
    # numpy's own writing reports this without a reason.
    code = (
        "import resource, sys\n"
        "import numpy as np\n"
        "from pathlib import Path\n"
        "from cv_reader.assets.files import array_bytes, replace_file\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "replace_file(Path(sys.argv[1]), array_bytes(np.zeros(4096)))\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "a.npy")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "OutputError" in ended.stderr
    assert "File too large; raise the limit on file sizes" in ended.stderr
    assert list(tmp_path.iterdir()) == []
