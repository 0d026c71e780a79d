"""Entries found by byte offsets equal those of a whole parse, and keep their line numbers."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llava.data.mixture import Mixture
from llava.data.records import RecordError
from llava.data.sources import entry_index
from llava.data.sources.opening import select_rows

ENTRIES = [{"id": index, "text": "ä\u2028日本" * index, "list": [1, [2]]} for index in range(5)]


def _read_all(path: Path) -> tuple[list[Any], list[str]]:
    mixture = Mixture(path)
    pairs = [mixture.read(index) for index in range(len(mixture))]
    return [entry for entry, _ in pairs], [where for _, where in pairs]


def _write_lines(path: Path, lines: list[str], end: str = "\n") -> Path:
    path.write_bytes("".join(line + end for line in lines).encode())
    return path


def _dump(entry: Any) -> str:
    return json.dumps(entry, ensure_ascii=False)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("scan_bytes", [7, 1 << 24])
def test_lines_are_found_whatever_the_block_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str, scan_bytes: int
) -> None:
    monkeypatch.setattr(entry_index, "_SCAN_BYTES", scan_bytes)
    lines = ["", _dump(ENTRIES[0]), "  ", *map(_dump, ENTRIES[1:]), ""]
    path = _write_lines(tmp_path / "a.jsonl", lines, end)
    entries, where = _read_all(path)
    assert entries == ENTRIES
    assert where == [f"{path}:{line}" for line in (2, 4, 5, 6, 7)]


def test_the_last_line_needs_no_newline(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(map(_dump, ENTRIES)), "utf-8")
    assert _read_all(path)[0] == ENTRIES


def test_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(_dump(ENTRIES[1]), "utf-8-sig")
    (tmp_path / "a.json").write_text(_dump(ENTRIES), "utf-8-sig")
    assert _read_all(tmp_path / "a.jsonl")[0] == ENTRIES[1:2]
    assert _read_all(tmp_path / "a.json")[0] == ENTRIES


@pytest.mark.parametrize("indent", [None, 2])
def test_arrays_are_read_element_by_element(tmp_path: Path, indent: int | None) -> None:
    path = tmp_path / "a.json"
    path.write_text("\n" + json.dumps(ENTRIES, ensure_ascii=False, indent=indent) + "\n", "utf-8")
    entries, where = _read_all(path)
    assert entries == ENTRIES
    # Each indented entry takes 10 lines, behind the blank line and the bracket.
    starts = [2] * 5 if indent is None else [3 + 10 * index for index in range(5)]
    assert where == [f"{path}:{line}" for line in starts]


def test_a_broken_line_is_named_when_it_is_read(tmp_path: Path) -> None:
    path = _write_lines(tmp_path / "a.jsonl", ['{"id": 1}', '{"id": ', '{"id": 3}'])
    mixture = Mixture(path)
    assert mixture.read(2)[0] == {"id": 3}
    with pytest.raises(RecordError, match=r"a.jsonl:2: not valid JSON"):
        mixture.read(1)


def test_bytes_that_are_no_utf8_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"id": "\xff"}\n')
    with pytest.raises(RecordError, match=r"a.jsonl:1: not valid JSON"):
        Mixture(tmp_path / "a.jsonl").read(0)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('[{"id": 1},\n{"id": ]', 2),
        ('{"id": 1}', 1),
        ('[{"id": 1}\n{"id": 2}]', 2),
        ('[{"id": 1},\n]', 2),
        ('[{"id": 1}', 1),
        ("[1]\nmore", 1),
    ],
)
def test_a_broken_array_is_named_at_once(tmp_path: Path, text: str, line: int) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=f"a.json:{line}: not a valid JSON array"):
        Mixture(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.jsonl", "", "holds no entries"),
        ("a.jsonl", "\n \n", "holds no entries"),
        ("a.json", "[]", "holds no entries"),
        ("a.csv", "x", "must be .jsonl"),
        ("a.jsonl", None, "does not exist"),
        ("a.yaml", None, "does not exist"),
    ],
)
def test_files_without_entries_are_refused(
    tmp_path: Path, name: str, text: str | None, message: str
) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=f"{name}.*{message}|{message}.*{name}"):
        Mixture(tmp_path / name)


@pytest.mark.parametrize("index", [-1, 5])
def test_entries_outside_the_range_are_refused(tmp_path: Path, index: int) -> None:
    path = _write_lines(tmp_path / "a.jsonl", list(map(_dump, ENTRIES)))
    with pytest.raises(IndexError, match="0..4"):
        Mixture(path).read(index)


@pytest.mark.parametrize(
    ("strategy", "rows"),
    [
        ("all", list(range(10))),
        ("first:3", [0, 1, 2]),
        ("end:3", [7, 8, 9]),
        ("first:25%", [0, 1, 2]),
        ("end:100%", list(range(10))),
        ("random:10", list(range(10))),
    ],
)
def test_sampling_strategies(strategy: str, rows: list[int]) -> None:
    assert list(select_rows(10, strategy, [0])) == rows


def test_random_rows_follow_the_seed() -> None:
    first = select_rows(1000, "random:10%", [0, 0])
    assert len(set(first.tolist())) == 100
    assert np.array_equal(first, select_rows(1000, "random:10%", [0, 0]))
    assert not np.array_equal(first, select_rows(1000, "random:10%", [1, 0]))
    assert not np.array_equal(first, select_rows(1000, "random:10%", [0, 1]))


@pytest.mark.parametrize("strategy", ["first", "last:3", "first:-1", "first:1.5", "random:"])
def test_unknown_strategies_are_refused(strategy: str) -> None:
    with pytest.raises(ValueError, match="must be all, first:N"):
        select_rows(10, strategy, [0])


@pytest.mark.parametrize(("strategy", "count"), [("first:11", 11), ("end:0", 0), ("end:101%", 11)])
def test_more_than_there_is_is_refused(strategy: str, count: int) -> None:
    with pytest.raises(ValueError, match=f"takes {count} of 10"):
        select_rows(10, strategy, [0])


def _write_mixture(folder: Path, text: str) -> Path:
    _write_lines(folder / "a.jsonl", list(map(_dump, ENTRIES)))
    (folder / "b.json").write_text(_dump([{"id": "x"}, {"id": "y"}]), "utf-8")
    (folder / "mix.yaml").write_text(text)
    return folder / "mix.yaml"


def test_a_mixture_joins_its_files(tmp_path: Path) -> None:
    path = _write_mixture(
        tmp_path,
        "datasets:\n"
        "  - {json_path: a.jsonl, sampling_strategy: 'end:2'}\n"
        "  - {json_path: b.json}\n"
        "  - {json_path: a.jsonl, sampling_strategy: 'first:20%'}\n",
    )
    entries, where = _read_all(path)
    assert [entry["id"] for entry in entries] == [3, 4, "x", "y", 0]
    assert where[0] == f"{tmp_path / 'a.jsonl'}:4"


def test_an_index_can_be_sent_to_a_worker(tmp_path: Path) -> None:
    path = _write_lines(tmp_path / "a.jsonl", list(map(_dump, ENTRIES)))
    assert pickle.loads(pickle.dumps(Mixture(path))).read(4)[0] == ENTRIES[4]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1", "not valid YAML"),
        ("- a.jsonl", "must be a mapping"),
        ("datasets: []", "needs a list of datasets"),
        ("datasets: [{json_path: a.jsonl}]\nseeds: 3", "must be a mapping of datasets and"),
        ("datasets: [{json_path: a.jsonl}]\nseed: x", "a seed >= 0"),
        ("datasets: [{json_path: b.json}, {path: a.jsonl}]", "data set 2 must have json_path"),
        ("datasets: [{json_path: a.jsonl, weight: 2}]", "a: weight is for mixtures of which a"),
        ("datasets: [{json_path: a.jsonl, share: 2}]", "data set 1 must have json_path"),
        ("datasets: [{json_path: a.jsonl, sampling_strategy: 'first:6'}]", "a.jsonl: .*6 of 5"),
    ],
)
def test_mixtures_that_cannot_work_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"mix.yaml.*{message}"):
        Mixture(_write_mixture(tmp_path, text))
