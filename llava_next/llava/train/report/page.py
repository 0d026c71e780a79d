"""A page about training runs: curves, settings, data, interruptions, samples that were left out.

Run: ``python -m llava.train.report RUN... [-o PAGE]``, where each RUN is an output folder of
training; the run may still be in progress. Several runs share each chart. All figures come from
``train_log.jsonl``, ``validation_log.jsonl``, ``run_config.json`` and ``bad_samples.jsonl`` in the
folder; the page itself needs no other file.

Exit codes: 0 done; 2 a folder holds no run.
"""

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from llava.train.report.runs import Row, Run, read_runs
from llava.train.report.tables import run_sections, summary_table
from run_kit.arguments import command_parser
from run_kit.exits import OK, USAGE, say
from run_kit.files import write_text
from run_kit.pages.charts import Curve, line_chart
from run_kit.pages.page import page

_ONE_AXIS = 20
"""Largest ratio of the maxima of two curves that share an axis."""
_MEMORY = {"device": "peak_memory_bytes", "first process": "peak_host_memory_bytes"}


def build_page(runs: Sequence[Run]) -> str:
    """Return the whole page as HTML."""
    return page("Training report", build_body(runs))


def build_body(runs: Sequence[Run]) -> str:
    """Return the sections of the page as HTML."""
    body = [
        summary_table(runs),
        "<h2>Curves</h2>",
        '<p class="note">Faint lines show every logged step, bold ones the running mean over 2 % '
        "of the steps; every second line is dashed, so that lines on top of each other can be "
        "seen. A dashed vertical line marks where a run was resumed from a checkpoint. Point at a "
        "line or a mark for its name.</p>",
        f'<div class="charts">{"".join(_charts(runs))}</div>',
        *run_sections(runs),
    ]
    return "\n".join(body)


def _charts(runs: Sequence[Run]) -> list[str]:
    marks = [
        (float(start["first_step"]), f"{run.name}: resumed at step {start['first_step']}")
        for run in runs
        for start in run.resumes
    ]

    def by_run(
        title: str,
        value: Callable[[Row], float | None],
        scale: float = 1.0,
        *,
        smooth: bool = True,
    ) -> str:
        lines = [_line(run.name, run.rows, value, number, scale) for number, run in enumerate(runs)]
        return line_chart(title, lines, marks=marks, smooth=smooth)

    return [
        by_run("Loss", _of_field("loss")),
        *_held_out_charts(runs),
        *_charts_by_key(runs, "loss_by_dataset", "Loss by data set", marks),
        *_charts_by_key(runs, "lr_by_part", "Learning rate", marks, smooth=False),
        by_run("Gradient norm, before clipping", _of_field("grad_norm")),
        by_run("Tokens per second, all ranks", _of_field("tokens_per_second")),
        by_run("Visual tokens per second, all ranks", _of_field("visual_tokens_per_second")),
        by_run("Share of the peak speed (MFU), %", _of_field("mfu"), 100),
        by_run("Waiting for data, % of the time", _waiting_share, 100),
        by_run("Seconds per step", lambda row: row["seconds"] / row["steps"]),
        *(
            by_run(f"Memory of the {name}, peak, GB", _of_field(field), 1e-9, smooth=False)
            for name, field in _MEMORY.items()
        ),
    ]


def _held_out_charts(runs: Sequence[Run]) -> list[str]:
    """Return the loss on held-out data: one line per run, or per data set of a single run."""
    lines = [_line(run.name, run.validations, _of_field("loss"), i) for i, run in enumerate(runs)]
    if len(runs) == 1:
        rows = runs[0].validations
        names = list(dict.fromkeys(name for row in rows for name in row["loss_by_dataset"]))
        if len(names) > 1:
            lines = [_line("all", rows, _of_field("loss"), 0)]
            lines += [
                _line(name, rows, _of_key("loss_by_dataset", name), number)
                for number, name in enumerate(names, start=1)
            ]
    return [line_chart("Loss on held-out data", lines, smooth=False)]


def _of_key(field: str, key: str) -> Callable[[Row], float | None]:
    return lambda row: row.get(field, {}).get(key)


def _of_field(name: str) -> Callable[[Row], float | None]:
    return lambda row: row.get(name)


def _waiting_share(row: Row) -> float:
    return row["data_wait_seconds"] / row["seconds"]


def _charts_by_key(
    runs: Sequence[Run],
    field: str,
    title: str,
    marks: Sequence[tuple[float, str]],
    *,
    smooth: bool = True,
) -> list[str]:
    """Return charts of a field that is a mapping: one for a single run, else one per key.

    Curves of a single run whose sizes differ too much for one axis have charts of their own too.
    """
    found = dict.fromkeys(key for run in runs for row in run.rows for key in row.get(field, {}))
    known = [name for run in runs for name in run.set_names]
    keys = [key for key in dict.fromkeys(known) if key in found]
    keys += [key for key in found if key not in keys]

    if len(runs) == 1:
        rows = runs[0].rows
        lines = [_line(key, rows, _of_key(field, key), number) for number, key in enumerate(keys)]
        lines = _merge_equal(lines)
        tops = [top for line in lines if (top := max(map(abs, line.values), default=0.0))]
        if max(tops, default=1.0) <= _ONE_AXIS * min(tops, default=1.0):
            return [line_chart(title, lines, marks=marks, smooth=smooth)]
        return [
            line_chart(f"{title}: {line.name}", [line], marks=marks, smooth=smooth)
            for line in lines
        ]
    return [
        line_chart(
            f"{title}: {key}",
            [
                _line(run.name, run.rows, _of_key(field, key), number)
                for number, run in enumerate(runs)
            ],
            marks=marks,
            smooth=smooth,
        )
        for key in keys
    ]


def _merge_equal(lines: Sequence[Curve]) -> list[Curve]:
    """Return the lines with equal ones joined under both names, since only one would be seen."""
    merged: dict[tuple[tuple[float, ...], tuple[float, ...]], Curve] = {}
    for line in lines:
        key = tuple(line.steps), tuple(line.values)
        earlier = merged.get(key)
        name = line.name if earlier is None else f"{earlier.name} = {line.name}"
        merged[key] = replace(earlier or line, name=name)
    return list(merged.values())


def _line(
    name: str,
    rows: Sequence[Row],
    value: Callable[[Row], float | None],
    colour: int,
    scale: float = 1.0,
) -> Curve:
    found = [(row["step"], value(row)) for row in rows]
    points = [(step, number) for step, number in found if number is not None]
    points = [(step, number * scale) for step, number in points if math.isfinite(number)]
    return Curve(name, [step for step, _ in points], [number for _, number in points], colour)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = command_parser("llava.train.report", "Write a page about training runs.")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="output folder of a run")
    parser.add_argument(
        "-o",
        "--out",
        type=Path,
        metavar="PAGE",
        help="HTML file to write (default: report.html in the first RUN)",
    )
    args = parser.parse_args(argv)
    try:
        text = build_page(read_runs(args.runs))
        out: Path = args.out or args.runs[0] / "report.html"
        write_text(out, text)
    except (ValueError, OSError) as error:
        say(f"error: {error}")
        return USAGE
    sys.stdout.write(f"{out}\n")
    return OK


if __name__ == "__main__":
    sys.exit(main())
