"""Files are complete or absent; a cut last line does no harm to the lines around it."""

import json
import os
from multiprocessing import get_context
from pathlib import Path

import pytest

from run_kit.files import (
    append_json_lines,
    json_line,
    read_json_lines,
    replace_file,
    write_json,
    write_json_lines,
)


def test_a_file_is_replaced_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "new" / "values.npz"
    with replace_file(path) as temporary:
        assert temporary.parent == path.parent and temporary.suffix == ".npz"
        temporary.write_bytes(b"first")
        assert not path.exists()
    assert path.read_bytes() == b"first"
    assert os.listdir(path.parent) == ["values.npz"]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "values.json"
    write_json(path, {"old": 1})
    with pytest.raises(RuntimeError), replace_file(path) as temporary:
        temporary.write_bytes(b"half")
        raise RuntimeError
    assert json.loads(path.read_text()) == {"old": 1}
    assert os.listdir(tmp_path) == ["values.json"]


def test_numbers_that_json_lacks_become_null() -> None:
    row = {"loss": float("nan"), "by": {"a": float("inf"), "b": 1.5}, "list": (float("-inf"), 2)}
    assert json_line(row) == '{"loss": null, "by": {"a": null, "b": 1.5}, "list": [null, 2]}\n'


def test_lines_are_read_as_written(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [{"text": "one\u2028two\nthree\x85four \u00e9"}, {"n": 1}]
    write_json_lines(path, rows)
    append_json_lines(path, [[3]])
    assert read_json_lines(path) == [*rows, [3]]
    assert read_json_lines(tmp_path / "absent.jsonl") == []


@pytest.mark.parametrize("cut", ['{"n": 2', '{"n": ' + "9" * 200_000, "\u00e9"])
@pytest.mark.parametrize("before", ["", '{"n": 1}\n'])
def test_a_cut_last_line_is_dropped_by_reader_and_writer(
    tmp_path: Path, before: str, cut: str
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(before.encode() + cut.encode()[: len(cut.encode()) - (cut == "\u00e9")])
    kept = [json.loads(before)] if before else []
    assert read_json_lines(path) == kept
    append_json_lines(path, [{"n": 3}])
    assert read_json_lines(path) == [*kept, {"n": 3}]


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"n": 1}\n\n{"n": \n')
    with pytest.raises(ValueError, match=r"rows\.jsonl:3 must be JSON"):
        read_json_lines(path)


def _append_many(path: Path, writer: int) -> None:
    for number in range(100):
        append_json_lines(path, [{"writer": writer, "number": number, "fill": "x" * 5000}])


def test_processes_may_append_to_one_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    context = get_context("fork")
    processes = [context.Process(target=_append_many, args=(path, writer)) for writer in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    rows = read_json_lines(path)
    assert len(rows) == 300
    for writer in range(3):
        assert [row["number"] for row in rows if row["writer"] == writer] == list(range(100))
