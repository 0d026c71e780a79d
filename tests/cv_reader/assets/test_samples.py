"""Data sets: streaming, identity, shards."""

import hashlib
import json
import subprocess
import sys
import tracemalloc
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cv_reader.assets import rows as library
from cv_reader.assets.make import RunSettings
from cv_reader.assets.rows import read_rows
from cv_reader.assets.samples import BadRow, VideoSample, read_samples
from cv_reader.errors import SampleError, SettingsError
from cv_reader.reader import ReadOptions
from cv_reader.select.config import AssetConfig


def _row(number: int, **fields: Any) -> dict[str, Any]:
    return {"id": f"clip{number}", "video": f"videos/{number}.mp4", **fields}


def _write(path: Path, content: str) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def _lines(rows: Sequence[object]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.mark.parametrize("chunk", [1, 2, 7, 1 << 20])
def test_an_array_reads_the_same_in_any_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(library, "CHUNK_CHARS", chunk)
    rows = [_row(0, text='a "quoted" ] , [ \\ ä'), _row(1, nested=[{"a": [1.5, None]}]), {}]
    path = _write(tmp_path / "data.json", json.dumps(rows, indent=1))
    assert [row for _, row in read_rows(path)] == rows
    assert [row for _, row in read_rows(_write(tmp_path / "empty.json", " [ ] \n"))] == []


def test_array_and_lines_give_equal_samples(tmp_path: Path) -> None:
    rows = [_row(number) for number in range(5)]
    array = read_samples(_write(tmp_path / "data.json", rows))
    lines = read_samples(_write(tmp_path / "data.jsonl", "\n" + _lines(rows)))
    assert [sample.key for sample in array] == [sample.key for sample in lines]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"id": 1}', "must be one array"),
        ("", "must be one array"),
        ('[{"id": 1}\n, {"id" 2}]', r"data.json:2: Expecting ':'"),
        ('[{"id": 1} {"id": 2}]', "expected ',' or ']'"),
        ('[{"id": 1}', "expected ',' or ']'"),
        ('[{"id": "', "Unterminated string"),
        ('[{"id": 1},]', "Expecting value"),
        ("[" * 100_000, "recursion"),
    ],
)
def test_a_broken_array_is_named_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SampleError, match=message):
        list(read_rows(_write(tmp_path / "data.json", text)))


def test_an_endless_string_is_not_read_to_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "MAX_ELEMENT_CHARS", 1 << 16)
    monkeypatch.setattr(library, "CHUNK_CHARS", 1 << 10)
    path = _write(tmp_path / "data.json", '[{"id": "' + "x" * (1 << 22))
    tracemalloc.start()
    with pytest.raises(SampleError, match="Unterminated"):
        list(read_rows(path))
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_a_broken_line_costs_itself(tmp_path: Path) -> None:
    text = _lines([_row(0)]) + '{"id": \n' + "[1]\n" + _lines([_row(3)])
    found = list(read_samples(_write(tmp_path / "data.jsonl", text)))
    assert [type(sample) for sample in found] == [VideoSample, BadRow, BadRow, VideoSample]
    assert "data.jsonl:2: not valid JSON" in found[1].reason
    assert "data.jsonl:3: a sample must be a JSON object, got list" in found[2].reason
    assert found[3].row_index == 3


@pytest.mark.parametrize(
    "line",
    [
        b'{"video": "a"}',
        b'{"video": "a"}\r',
        b' {"video": "a"} \t',
        b'\xef\xbb\xbf{"video": "a"}',
        b'{"video": "a"} {"video": "b"}',
        b'{"video": "a"},',
        b'{"video": ',
        b"[1]",
        b"{}x",
    ],
)
def test_a_line_reads_as_the_standard_library_reads_it(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(line + b"\n" + line)
    for number, (where, row) in enumerate(read_rows(path), 1):
        assert where == f"{path}:{number}"
        ended = line + b"\n" * (number == 1)
        try:
            expected = json.loads(ended.decode("utf-8-sig"))
        except ValueError as error:
            assert str(row) == f"{where}: not valid JSON ({error}); repair or remove the line"
        else:
            is_refused = isinstance(row, SampleError) and "must be a JSON object" in str(row)
            assert is_refused if expected == [1] else row == expected
    assert number == 2


def test_bytes_that_are_no_text_cost_their_line(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(b'{"id": "\xff"}\n' + _lines([_row(1)]).encode())
    assert [type(sample) for sample in read_samples(path)] == [BadRow, VideoSample]


@pytest.mark.parametrize(
    "row", [{"video": "a.mp4"}, {"id": "", "video": "a"}, {"id": True, "video": "a"},
            {"id": "a"}, {"id": "a", "video": ""}, {"id": "a", "video": 3}],
)  # fmt: skip
def test_rows_without_identity_are_bad(tmp_path: Path, row: dict[str, Any]) -> None:
    (found,) = read_samples(_write(tmp_path / "data.jsonl", _lines([row])))
    assert isinstance(found, BadRow)
    assert "data.jsonl:1" in found.reason


def test_the_key_uses_the_given_row_index(tmp_path: Path) -> None:
    rows = [_row(0, _row_idx=7), _row(1, _row_idx="x"), {"id": 12, "video": "a.mp4"}]
    found = list(read_samples(_write(tmp_path / "data.json", rows)))
    assert [sample.key for sample in found] == [
        "videos/0.mp4|clip0|7",
        "videos/1.mp4|clip1|1",
        "a.mp4|12|2",
    ]


def test_shards_follow_the_hash_of_the_key_and_cover_everything(tmp_path: Path) -> None:
    rows = [_row(number) for number in range(40)] + [{"id": None}]
    path = _write(tmp_path / "data.json", rows)
    shards = [list(read_samples(path, num_shards=3, shard_id=shard)) for shard in range(3)]
    for shard, found in enumerate(shards):
        for sample in found:
            if isinstance(sample, VideoSample):
                digest = hashlib.sha1(sample.key.encode()).hexdigest()
                assert int(digest[:8], 16) % 3 == shard
    places = sorted(sample.row_index for found in shards for sample in found)
    assert places == list(range(41))


def test_max_samples_counts_rows_of_the_file(tmp_path: Path) -> None:
    path = _write(tmp_path / "data.json", [_row(number) for number in range(9)])
    shards = [read_samples(path, num_shards=2, shard_id=s, max_samples=5) for s in range(2)]
    assert sorted(sample.row_index for found in shards for sample in found) == [0, 1, 2, 3, 4]


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=".json or .jsonl"):
        list(read_rows(tmp_path / "data.csv"))
    with pytest.raises(SettingsError, match="cannot be read"):
        list(read_rows(tmp_path / "missing.json"))


def test_relative_videos_join_the_root_else_the_data_sets_folder() -> None:
    data_file = Path("/data/set.json")
    settings = RunSettings(
        config=AssetConfig(),
        options=ReadOptions(),
        data_file=data_file,
        video_root=None,
        out_root=Path("/out"),
        overwrite=False,
    )
    rooted = replace(settings, video_root=Path("/r"))
    sample = VideoSample("a", "v/a.mp4", 0, {}, "a")
    assert settings.video(sample) == Path("/data/v/a.mp4")
    assert rooted.video(sample) == Path("/r/v/a.mp4")
    assert rooted.video(replace(sample, video="/x/a.mp4")) == Path("/x/a.mp4")


_MEASURE = """
import sys
from pathlib import Path
from cv_reader.assets.samples import read_samples

def peak_mib():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024

before = peak_mib()
count = sum(1 for _ in read_samples(Path(sys.argv[1])))
print(count, peak_mib() - before)
"""


@pytest.mark.parametrize("mib", [48, pytest.param(2048, marks=pytest.mark.slow)])
def test_an_array_is_read_in_constant_memory(tmp_path: Path, mib: int) -> None:
    row = json.dumps({"id": 1, "video": "a.mp4", "text": "ä" * 4000}, indent=1)
    count = mib * 2**20 // len(row)
    path = tmp_path / "data.json"
    with path.open("w") as stream:
        stream.write("[" + row)
        for _ in range(count - 1):
            stream.write(",\n" + row)
        stream.write("]")
    command = [sys.executable, "-c", _MEASURE, str(path)]
    found, grown = subprocess.run(
        command, check=True, capture_output=True, text=True
    ).stdout.split()
    path.unlink()
    assert int(found) == count
    assert float(grown) < 24


@pytest.mark.parametrize(
    ("field", "value", "word"),
    [
        ("video", ".", "name a file"),
        ("video", "/", "name a file"),
        ("video", "a/..", "name a file"),
        ("video", "a\0b.mp4", "name a file"),
        ("video", "\ud83d.mp4", "name a file"),
        ("video", "a/" + "ä" * 126 + ".mp4", "name a file"),
        ("video", 7, "must be a path"),
        ("id", float("inf"), "string or a number"),
        ("id", True, "string or a number"),
        ("_row_idx", float("inf"), "whole number"),
        ("_row_idx", float("nan"), "whole number"),
        ("_row_idx", 10**300, "whole number"),
        ("_row_idx", -1, "whole number"),
    ],
)
@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_a_bad_row_costs_itself(
    tmp_path: Path, field: str, value: Any, word: str, suffix: str
) -> None:
    rows = [{**_row(0), field: value}, _row(1)]
    path = tmp_path / f"data{suffix}"
    _write(path, rows if suffix == ".json" else _lines(rows))
    bad, good = read_samples(path)
    assert isinstance(bad, BadRow)
    assert word in bad.reason
    assert bad.reason.startswith(f"{path}{':1' if suffix == '.jsonl' else '[0]'}: ")
    assert isinstance(good, VideoSample)


def test_a_number_of_a_million_digits_costs_its_row(tmp_path: Path) -> None:
    digits = "9" * 1_000_000
    row = json.dumps(_row(1))
    path = _write(tmp_path / "data.json", f'[{{"id": {digits}, "video": "a.mp4"}}, {row}]')
    bad, good = read_samples(path)
    assert "id must be a string or a number" in bad.reason
    assert isinstance(good, VideoSample)


def test_a_line_that_never_ends_costs_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "MAX_ELEMENT_CHARS", 1000)
    path = _write(tmp_path / "d.jsonl", _lines([_row(0), _row(1, text="x" * 9000), _row(2)]))
    first, long, last = read_samples(path)
    assert isinstance(first, VideoSample)
    assert isinstance(last, VideoSample)
    assert f"{path}:2: a line must have fewer than 1000 bytes" in long.reason
    assert last.where == f"{path}:3"


@pytest.mark.slow
def test_a_huge_line_is_not_held(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    with path.open("wb") as stream:
        stream.truncate(1 << 28)  # sparse: zeros without a line break
        stream.seek(0, 2)
        stream.write(b"\n" + _lines([_row(1)]).encode())
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from cv_reader.assets.samples import read_samples\n"
        "print(sum(1 for _ in read_samples(Path(sys.argv[1]))))\n"
        # getrusage would begin with this process's own peak.
        "status = Path('/proc/self/status').read_text().split()\n"
        "print(int(status[status.index('VmHWM:') + 1]) // 1024)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, str(path)], check=True, capture_output=True, text=True
    )
    count, peak_mib = map(int, ended.stdout.split())
    assert count == 2
    assert peak_mib < 150
