"""The table that a run prints."""

import io
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from llava.train.run.console import ConsoleTable

LOGS = {"loss": 1.23456, "learning_rate": 2e-5, "grad_norm": 0.5, "epoch": 0.25}
LOGS |= {"tokens_per_second": 51234.0, "visual_tokens_per_second": 40000.0, "bad_samples": 3}
LOGS |= {"data_wait_seconds": 0.5, "mfu": 0.417, "loss_clips": 2.0}


def _print(
    logs: Sequence[dict[str, Any]],
    *,
    sets: Sequence[str] = ("clips", "text"),
    steps: Sequence[int] = (1,),
    rank_0: bool = True,
) -> list[str]:
    stream = io.StringIO()
    table = ConsoleTable(sets, stream)
    state = SimpleNamespace(global_step=0, max_steps=100, is_world_process_zero=rank_0)
    args = SimpleNamespace(output_dir="runs/a")
    table.on_train_begin(args, state, None)
    for step in steps:
        state.global_step = step
        table.on_log(args, state, None, logs=logs)
    table.on_log(args, state, None, logs={"train_runtime": 3.0})
    table.on_train_end(args, state, None)
    return stream.getvalue().splitlines()


def test_every_figure_stands_below_its_title() -> None:
    head, line, end = _print(LOGS)
    assert len(head) == len(line)
    found = dict(zip(head.split()[:8], line.split(), strict=False))
    assert found["step"] == "1/100" and found["loss"] == "1.2346" and found["rate"] == "2.00e-05"
    assert found["tokens/s"] == "51.23k"
    for title, text in (("MFU %", "41.7"), ("clips", "2.0000"), ("text", "-"), ("bad", "3")):
        stop = head.index(title) + len(title)
        assert line[:stop].split()[-1] == text
    assert end == "1 steps in 0.0 s; plots: python -m llava.train.report runs/a"


def test_many_data_sets_and_a_single_one_have_no_columns_and_titles_come_again() -> None:
    for sets in (("clips",), tuple("abcdef")):
        assert "clips" not in _print(LOGS, sets=sets)[0]
    lines = _print(LOGS, steps=range(1, 27))
    assert [number for number, line in enumerate(lines) if "loss" in line] == [0, 26]
    assert len({len(line) for line in lines[:-1]}) == 1


def test_titles_of_long_names_differ_and_are_explained() -> None:
    names = ("0_30_s_academic", "0_30_s_academic_oe", "text")
    explained, head, line, _ = _print(LOGS | {"loss_0_30_s_academic_oe": 3.0}, sets=names)
    assert explained == (
        "losses of data sets: 0_30_s~1 = 0_30_s_academic, 0_30_s~2 = 0_30_s_academic_oe"
    )
    stop = head.index("0_30_s~2") + len("0_30_s~2")
    assert line[:stop].split()[-2:] == ["-", "3.0000"]


def test_other_ranks_are_silent() -> None:
    assert _print(LOGS, rank_0=False) == []
