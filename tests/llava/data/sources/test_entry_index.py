"""The index next to a data file: used if it fits, else made again; never incomplete."""

import json
import multiprocessing
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from llava.data.mixture import Mixture
from llava.data.sources import entry_index
from llava.data.sources.entry_index import file_key, load_spans


def _write(path: Path, count: int, first: int = 0) -> Path:
    entries = [{"id": first + number, "text": "ä" * number} for number in range(count)]
    if path.suffix == ".json":
        path.write_text(json.dumps(entries, indent=1, ensure_ascii=False), "utf-8")
    else:
        path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return path


def _ids(path: Path) -> list[int]:
    mixture = Mixture(path)
    return [mixture.read(index)[0]["id"] for index in range(len(mixture))]


def _index_of(path: Path) -> Path:
    return path.with_name(path.name + ".index")


@pytest.fixture
def no_scan(monkeypatch: pytest.MonkeyPatch) -> None:
    def scanned(path: Path) -> np.ndarray:
        raise AssertionError(f"{path} was scanned")

    monkeypatch.setattr(entry_index, "_index_lines", scanned)
    monkeypatch.setattr(entry_index, "_index_array", scanned)


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_a_second_start_reads_nothing_but_the_index(
    tmp_path: Path, name: str, request: pytest.FixtureRequest
) -> None:
    path = _write(tmp_path / name, 5)
    spans = load_spans(path)
    raw = path.read_bytes()
    assert [json.loads(raw[start:end])["id"] for start, end, _ in spans] == list(range(5))
    request.getfixturevalue("no_scan")
    again = load_spans(path)
    assert np.array_equal(again, spans) and not again.flags.owndata
    assert _ids(path) == list(range(5))


@pytest.mark.parametrize("change", ["longer", "same size", "same size and time", "other file"])
def test_an_index_of_another_state_is_made_again(tmp_path: Path, change: str) -> None:
    path = _write(tmp_path / "a.jsonl", 5)
    Mixture(path)
    before = path.stat()
    if change == "longer":
        _write(path, 6)
    elif change == "other file":
        _write(tmp_path / "b.jsonl", 3).replace(path)
    else:
        _write(path, 5, first=4)
    if change == "same size and time":
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    expected = {"longer": range(6), "other file": range(3)}.get(change, range(4, 9))
    assert _ids(path) == list(expected)
    assert len(np.load(_index_of(path))) == len(expected) + 1


@pytest.mark.parametrize("damage", ["empty", "cut", "text", "other array", "no rows"])
def test_a_damaged_index_is_made_again(tmp_path: Path, damage: str) -> None:
    path = _write(tmp_path / "a.jsonl", 5)
    Mixture(path)
    index = _index_of(path)
    whole = index.read_bytes()
    if damage in ("other array", "no rows"):
        with index.open("wb") as file:
            np.save(file, np.zeros((0, 3), np.int64) if damage == "no rows" else np.zeros(4))
    else:
        index.write_bytes({"empty": b"", "cut": whole[:-7], "text": b"not an array"}[damage])
    assert _ids(path) == list(range(5))
    assert index.read_bytes() == whole


def test_pickles_in_an_index_are_never_read(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.jsonl", 2)
    np.save(tmp_path / "evil.npy", np.array([object()]), allow_pickle=True)
    (tmp_path / "evil.npy").replace(_index_of(path))
    assert _ids(path) == [0, 1]


def test_a_folder_that_cannot_be_written_to_costs_a_scan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _write(tmp_path / "a.jsonl", 5)

    def refuses(*_: object) -> None:
        raise OSError("read-only")

    monkeypatch.setattr(np, "save", refuses)
    assert _ids(path) == list(range(5))
    assert [file.name for file in tmp_path.iterdir()] == ["a.jsonl"]


def test_a_file_that_changes_while_it_is_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _write(tmp_path / "a.jsonl", 5)
    scan = entry_index._index_lines

    def grows(name: Path) -> np.ndarray:
        spans = scan(name)
        _write(path, 6)
        return spans

    monkeypatch.setattr(entry_index, "_index_lines", grows)
    with pytest.raises(ValueError, match="a.jsonl changed while it was read"):
        Mixture(path)
    assert not _index_of(path).exists()


def _load_at(path: Path, barrier: "multiprocessing.synchronize.Barrier") -> None:
    barrier.wait()
    if _ids(path) != list(range(2000)):
        raise AssertionError("wrong entries")


def test_several_processes_may_make_it_at_once(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.jsonl", 2000)
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(4)
    workers = [context.Process(target=_load_at, args=(path, barrier)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert {file.name for file in tmp_path.iterdir()} == {"a.jsonl", "a.jsonl.index"}


def test_a_mapped_index_can_be_sent_to_a_worker(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.jsonl", 5)
    Mixture(path)
    again = pickle.loads(pickle.dumps(Mixture(path)))
    assert again.read(4)[0]["id"] == 4


def test_the_key_follows_both_ends_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    keys = set()
    for at in (None, 0, 199_999):
        data = bytearray(200_000)
        if at is not None:
            data[at] = 1
        path.write_bytes(data)
        os.utime(path, ns=(0, 0))
        keys.add(file_key(path))
    assert len(keys) == 3
