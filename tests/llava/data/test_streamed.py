"""Data that is read in passing: parts of readers, order, and the very next sample after a stop."""

import json
from collections import Counter
from collections.abc import Generator
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llava.data import streamed
from llava.data.records import RecordError
from llava.data.sources.entry_index import FileKey
from llava.data.sources.passes import NumberedPasses, Reader, StreamPasses
from llava.data.sources.streams import RowStream, StreamError
from llava.data.stream_states import read_states, write_states
from llava.data.streamed import StreamBatches, StreamedDataset, StreamPlan
from llava.model.tiny import tiny_tokenizer
from llava.visual.config import VisualConfig


class _Rows(RowStream):
    """A stream of rows in memory."""

    def rows(self, shard: int, start: int = 0) -> Generator[dict[str, Any], None, None]:
        yield from self.dataset[shard][start:]


@cache
def _tokenizer() -> Any:
    return tiny_tokenizer()


def _stream(sizes: list[int]) -> _Rows:
    starts = [sum(sizes[:number]) for number in range(len(sizes))]
    rows = [
        [_row(start + number) for number in range(size)]
        for start, size in zip(starts, sizes, strict=True)
    ]
    return _Rows(Path("lab/made"), rows, len(sizes), FileKey(0, 0, 0))


def _row(number: int) -> dict[str, Any]:
    said = [
        {"from": "human", "value": "Q"},
        {"from": "gpt", "value": "word " * (1 + number * 7 % 5)},
    ]
    return {"id": f"s{number}", "image": None, "conversations": said}


def _passes(
    stream: RowStream,
    reader: int,
    count: int,
    block_rows: int = 4,
    state: dict[str, int] | None = None,
) -> StreamPasses:
    return StreamPasses(stream, Reader(reader, count, (5,)), block_rows=block_rows, state=state)


def _ids(passes: StreamPasses, count: int) -> list[str]:
    return [passes.next_row().read()["id"] for _ in range(count)]


@pytest.mark.parametrize(("sizes", "readers"), [([3, 5, 4, 6], 2), ([6, 6], 3), ([5], 2), ([9], 1)])
def test_readers_read_disjoint_parts_and_together_all_pass_after_pass(
    sizes: list[int], readers: int
) -> None:
    stream = _stream(sizes)
    read = Counter[tuple[int, str]]()
    for reader in range(readers):
        passes = _passes(stream, reader, readers)
        for _ in range(3 * sum(sizes)):
            [name] = _ids(passes, 1)
            read[passes.state()["pass"], name] += 1
    names = [f"s{number}" for number in range(sum(sizes))]
    assert all(read[number, name] == 1 for number in (0, 1, 2) for name in names)


@pytest.mark.parametrize(("sizes", "readers"), [([3, 5, 4], 1), ([7, 6], 2), ([8], 3)])
def test_a_reader_continues_with_the_very_next_row(sizes: list[int], readers: int) -> None:
    stream = _stream(sizes)
    for reader in range(readers):
        whole = _ids(_passes(stream, reader, readers), 40)
        for taken in (0, 1, 3, 4, 9, 17, 29):
            passes = _passes(stream, reader, readers)
            assert _ids(passes, taken) == whole[:taken]
            state = json.loads(json.dumps(passes.state()))
            assert _ids(_passes(stream, reader, readers, state=state), 40 - taken) == whole[taken:]


def test_shuffling_mixes_shards_within_a_block_and_differs_from_pass_to_pass() -> None:
    ids = _ids(_passes(_stream([4, 4, 4]), 0, 1, block_rows=12), 36)
    passes = [ids[:12], ids[12:24], ids[24:]]
    assert all(sorted(part) == sorted(passes[0]) for part in passes)
    assert len({tuple(part) for part in passes}) == 3
    assert {int(name[1:]) // 4 for name in ids[:6]} == {0, 1, 2}
    one = _ids(_passes(_stream([6]), 0, 1, block_rows=1), 6)
    assert one == [f"s{number}" for number in range(6)]


def test_a_reader_without_rows_says_so() -> None:
    with pytest.raises(StreamError, match=r"lab/made has no rows for reader 3 of 3; use fewer"):
        _passes(_stream([2]), 2, 3).next_row()


def _dataset(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *, settings: dict[str, Any], **plan: Any
) -> StreamedDataset:
    (folder / "more.jsonl").write_text(
        "".join(json.dumps(_row(number)) + "\n" for number in range(100, 109))
    )
    (folder / "mix.yaml").write_text(
        "datasets:\n"
        "  - {hf_path: lab/made, streaming: true, weight: 3}\n"
        "  - {json_path: more.jsonl, sampling_strategy: 'first:6'}\n"
    )
    stream = _stream([4, 5, 6])
    for shard in stream.dataset:
        shard[2]["conversations"] = None
    monkeypatch.setattr(streamed, "open_row_stream", lambda path, name, readers: stream)
    defaults: dict[str, Any] = {
        "seed": 1, "shuffle_rows": 4, "world_size": 2, "rank": 1, "readers": 2, "batch_rows": 2,
        "packed": False,
    }  # fmt: skip
    return StreamedDataset(
        folder / "mix.yaml",
        _tokenizer(),
        VisualConfig(),
        plan=StreamPlan(**{**defaults, **plan}),
        max_length=200,
        **settings,
    )


def _samples(items: list[Any]) -> list[tuple[str, int]]:
    return [(item["sample_id"], len(item["bad_samples"])) for item in items]


@pytest.mark.parametrize("packed", [False, True])
def test_batches_resume_anywhere_also_packed_mixed_and_with_bad_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: bool
) -> None:
    def opened() -> StreamedDataset:
        settings = {"on_bad_sample": "skip"}
        return _dataset(tmp_path, monkeypatch, settings=settings, packed=packed)

    whole_set = opened()
    whole = [whole_set.__getitems__([number]) for number in range(10)]
    names = [_samples(items) for items in whole]
    seen = {name for items in names for name, _ in items}
    assert {"s2", "s6", "s11"}.isdisjoint(seen) and any(bad for items in names for _, bad in items)
    assert {f"s{number}" for number in range(106, 109)}.isdisjoint(seen)
    assert {item["set_index"] for items in whole for item in items} == {0, 1}
    if packed:
        lengths = [sum(len(item["input_ids"]) for item in items) for items in whole]
        assert max(lengths) <= 2 * 200 and min(map(len, whole)) > 2
    for stopped in (1, 4, 7):
        first = opened()
        batches = StreamBatches(first)
        for number in range(stopped + 1):  # the last one is read ahead, but not trained on
            items = first.__getitems__([number])
            if number < stopped:
                batches.trained_on(items[-1].get("stream", {}))
        batches.write(tmp_path)
        again = opened()
        again.continue_from(tmp_path)
        rest = [_samples(again.__getitems__([number])) for number in range(stopped, 10)]
        again.close()
        assert rest == names[stopped:]


def test_ranks_and_readers_are_other_parts_and_are_compared_at_a_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = _dataset(tmp_path, monkeypatch, settings={"on_bad_sample": "skip"})
    rows = dataset.entries.describe()
    assert [row["streaming"] for row in rows] == [True, False]
    assert rows[0]["readers"] == 2 and rows[0]["shuffle_buffer"] == 4 and rows[0]["weight"] == 3
    assert dataset.entries.names == ("made", "more")
    StreamBatches(dataset).write(tmp_path)
    other = _dataset(tmp_path, monkeypatch, settings={}, readers=1)
    with pytest.raises(ValueError, match=r"2 readers per rank, and these are 1: resume with as"):
        other.continue_from(tmp_path)
    with pytest.raises(ValueError, match=r"stream_state_1.json cannot be read"):
        other.continue_from(tmp_path / "nowhere")


def test_a_bad_row_stops_a_run_by_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = _dataset(tmp_path, monkeypatch, settings={}, world_size=1, rank=0, readers=1)
    with pytest.raises(RecordError, match=r"sample 's(2|6|11)' \(lab/made, shard [123]:3\)"):
        list(chain.from_iterable(dataset.__getitems__([number]) for number in range(40)))


def test_what_streams_cannot_do_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.yaml"
    path.write_text(
        "datasets:\n  - {hf_path: lab/x, streaming: true, sampling_strategy: 'first:3'}"
    )
    plan = StreamPlan(
        seed=0, shuffle_rows=1, world_size=1, rank=0, readers=1, batch_rows=1, packed=False
    )
    with pytest.raises(ValueError, match=r"x: sampling_strategy first:3 counts entries.*weight"):
        streamed.StreamedEntries(path, plan, streaming=False)
    path.write_text("datasets:\n  - {json_path: a.jsonl, weight: 0}")
    with pytest.raises(ValueError, match="weight must be a number above 0 and .*, got 0"):
        streamed.is_streamed(path, streaming=False)
    assert streamed.is_streamed("lab/some-data", streaming=True)
    assert not streamed.is_streamed(tmp_path / "a.jsonl", streaming=False)


PLACE = {"pass": 0, "shard": 1, "row": 2, "block": 3, "taken": 4}
LINES = {"pass": 1, "taken": 5}


def _read(folder: Path, streamed: dict[str, bool], **changes: int) -> list[Any]:
    known = {"rank": 0, "ranks": 2, "readers": 1, **changes}
    return read_states(folder, **known, streamed=streamed)


def test_places_are_found_by_name_and_those_of_other_ranks_are_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = {"batches": 4, "drawn": 9, "sets": [PLACE, LINES]}
    write_states(tmp_path, [state], ["far", "near"], rank=0, ranks=2)
    assert _read(tmp_path, {"far": True, "near": False}) == [state] and not caplog.text
    assert _read(tmp_path, {"near": False, "far": True})[0]["sets"] == [LINES, PLACE]
    assert _read(tmp_path, {"near": False})[0]["sets"] == [LINES] and not caplog.text
    assert _read(tmp_path, {"new": True, "far": False})[0]["sets"] == [None, None]
    assert "data set new begins at its start" in caplog.text and "set far begins" in caplog.text
    with pytest.raises(ValueError, match="state_0.json is of 2 ranks, and these are 1: resume wi"):
        _read(tmp_path, {"far": True, "near": False}, ranks=1)


@pytest.mark.parametrize(
    "states",
    [
        None,
        [{"x": 1}],
        [{"batches": "x", "drawn": 1, "sets": [None]}],
        [{"batches": 1, "drawn": 1, "sets": [None, None]}],
        [{"batches": 1, "drawn": 1, "sets": [{**PLACE, "row": -1}]}],
        [{"batches": 1, "drawn": 1, "sets": [{**PLACE, "pass": 1e300}]}],
        [{"batches": 1, "drawn": 1, "sets": [{"row": 1}]}],
        [{"batches": 1, "drawn": 1, "sets": ["x"]}],
        ["x"],
    ],
)
def test_a_damaged_state_is_refused_by_the_name_of_its_file(tmp_path: Path, states: Any) -> None:
    content = {"ranks": 2, "data_sets": ["far"], "readers": states}
    (tmp_path / "stream_state_0.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"stream_state_0.json cannot be read .*another checkpoin"):
        _read(tmp_path, {"far": True})


def test_a_reader_whose_rows_have_gone_since_the_checkpoint_reads_on() -> None:
    state = {"pass": 0, "shard": 0, "row": 0, "block": 0, "taken": 4}
    assert _ids(_passes(_stream([2]), 0, 1, state=state), 2) in (["s0", "s1"], ["s1", "s0"])
    entries: Any = [_row(number) for number in range(3)]
    numbered = NumberedPasses(entries, np.arange(3), Reader(0, 1, (5,)), state={**LINES})
    numbered._entries = type("E", (), {"where": str, "read": entries.__getitem__})()
    numbered.next_row()
    assert numbered.state() == {"pass": 2, "taken": 1}


def test_a_state_of_another_step_ends_the_run_by_a_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = _dataset(tmp_path, monkeypatch, settings={}, readers=1)
    with pytest.raises(StreamError, match="batch 4 is asked of reader 1 of 1, which has read 0"):
        dataset.__getitems__([3])


@pytest.mark.parametrize("weight", ["0", "abc", ".nan", "1.0e+10", "true"])
def test_a_weight_must_be_a_number_in_its_range(tmp_path: Path, weight: str) -> None:
    path = tmp_path / "m.yaml"
    path.write_text(f"datasets:\n  - {{json_path: a.jsonl, weight: {weight}}}")
    with pytest.raises(ValueError, match="data set 1: weight must be a number above 0 and below"):
        streamed.is_streamed(path, streaming=False)
