"""Show a pretraining run, or compare several: curves, speed, settings and data on one page.

    python -m encoder_training.pretrain.run_page RUN [RUN ...] [--out PAGE]

RUN is the folder of a run, finished or not. Exit codes: 0 done; 2 a folder holds no run.
"""

import sys
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from run_kit.arguments import command_parser
from run_kit.exits import OK, USAGE, ExitOnError, say
from run_kit.files import write_text
from run_kit.log import read_log, read_run_config
from run_kit.pages.charts import Curve, line_chart
from run_kit.pages.page import page, table
from run_kit.pages.text import duration_text, short_number

_CHARTS = (
    ("loss, all heads", "loss"),
    ("loss, images", "loss_image"),
    ("loss, text images", "loss_ocr"),
    ("loss, videos", "loss_video"),
    ("learning rate", "learning_rate"),
    ("gradient norm of the encoder", "grad_norm"),
    ("samples per second", "samples_per_second"),
    ("tokens per second", "tokens_per_second"),
    ("seconds without data, per line of the log", "data_wait_seconds"),
    ("share of the peak (MFU)", "mfu"),
)


class LoggedRun(NamedTuple):
    """A run: its folder's name, ``run_config.json`` and the lines of its log."""

    name: str
    config: dict[str, Any]
    rows: list[dict[str, Any]]


def read_run(folder: Path) -> LoggedRun:
    """Read a run's settings and log.

    Raises:
        ValueError: if the folder holds no run with a logged step.
    """
    config, rows = read_run_config(folder), read_log(folder)
    if config is None or not rows:
        raise ValueError(f"{folder} must be the folder of a pretraining run with a logged step")
    return LoggedRun(folder.name, config, rows)


def run_page(runs: Sequence[LoggedRun]) -> str:
    """Return the page of one or several runs."""
    parts = [table(_COLUMNS, [_summary(run) for run in runs], set(range(1, len(_COLUMNS))))]
    parts.append('<div class="charts">')
    for title, name in _CHARTS:
        curves = [
            Curve(run.name, *_points(run.rows, name), colour=number)
            for number, run in enumerate(runs)
        ]
        parts.append(line_chart(title, curves))
    parts.append("</div><h2>Data</h2>")
    parts.append(table(_DATA_COLUMNS, [row for run in runs for row in _data(run)], {2, 3, 4}))
    parts.append("<h2>Settings</h2>")
    parts.append(_settings(runs))
    return page("Pretraining: " + ", ".join(run.name for run in runs), "\n".join(parts))


def _points(rows: Sequence[dict[str, Any]], name: str) -> tuple[list[float], list[float]]:
    found = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
    return [step for step, _ in found], [value for _, value in found]


_COLUMNS = (
    "run", "steps", "of", "samples", "first loss", "last loss", "time", "samples/s",
    "without data", "bad",
)  # fmt: skip


def _summary(run: LoggedRun) -> list[str]:
    seconds = sum(row["seconds"] for row in run.rows)
    samples = sum(row["samples"] for row in run.rows)
    waited = sum(row["data_wait_seconds"] for row in run.rows)
    return [
        escape(run.name),
        f"{run.rows[-1]['step']:,}",
        f"{run.config['num_steps']:,}",
        short_number(samples),
        f"{run.rows[0]['loss']:.4f}",
        f"{run.rows[-1]['loss']:.4f}",
        duration_text(seconds),
        f"{samples / seconds:.1f}",
        f"{100 * waited / seconds:.1f} %",
        f"{run.rows[-1].get('bad_samples', 0):,}",
    ]


_DATA_COLUMNS = ("run", "data", "samples", "centres", "labels a sample", "bank")


def _data(run: LoggedRun) -> list[list[str]]:
    return [
        [
            escape(run.name),
            escape(kind),
            f"{row['num_samples']:,}",
            f"{row['num_centres']:,}",
            str(row["labels_per_sample"]),
            f"<code>{escape(row['bank_fingerprint'][:16])}</code>",
        ]
        for kind, row in run.config["data"].items()
    ]


def _settings(runs: Sequence[LoggedRun]) -> str:
    """Return a table of all settings; of several runs, those that differ come first."""
    names = list(dict.fromkeys(name for run in runs for name in run.config["settings"]))
    values = {name: [str(run.config["settings"].get(name)) for run in runs] for name in names}
    names.sort(key=lambda name: len(set(values[name])) == 1)
    rows = [[escape(name), *map(escape, values[name])] for name in names]
    return table(("setting", *(run.name for run in runs)), rows, set())


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = command_parser("encoder_training.pretrain.run_page", __doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a run")
    parser.add_argument(
        "-o",
        "--out",
        metavar="PAGE",
        type=Path,
        help="page to write (default: report.html in the first run)",
    )
    arguments = parser.parse_args(argv)
    with ExitOnError(USAGE):
        out = arguments.out or arguments.runs[0] / "report.html"
        write_text(out, run_page([read_run(folder) for folder in arguments.runs]))
        say(f"wrote {out}")
    return OK


if __name__ == "__main__":
    sys.exit(main())
