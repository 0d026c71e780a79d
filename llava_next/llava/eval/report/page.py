"""Write a page about evaluations: scores, codec input against frames, what was run, samples.

Run: ``python -m llava.eval.report RESULTS... [-o page.html]``, RESULTS being output folders of
``scripts/eval/eval_ov_encoder.sh``. Runs of one checkpoint with codec input and with frames are
compared sample by sample.

Exit codes: 0 done; 2 a folder holds no results.
"""

import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path

from llava.eval.report.comparison import common_tasks, comparison_section
from llava.eval.report.results import ResultsError, RunResult, read_evaluations
from llava.eval.report.samples import samples_section
from llava.eval.report.tables import runs_section, scores_section
from run_kit.arguments import command_parser
from run_kit.exits import OK, USAGE, say
from run_kit.files import write_text
from run_kit.pages.page import page


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = command_parser("llava.eval.report", "Write a page about evaluations.")
    parser.add_argument(
        "results", nargs="+", type=Path, metavar="RESULTS", help="output folder of an evaluation"
    )
    parser.add_argument(
        "-o",
        "--out",
        metavar="PAGE",
        type=Path,
        help="HTML file to write (default: report.html in the first RESULTS)",
    )
    parser.add_argument(
        "--samples", type=int, default=6, help="number of samples shown of each task"
    )
    args = parser.parse_args(argv)
    try:
        runs = read_evaluations(args.results)
    except ResultsError as error:
        say(f"error: {error}")
        return USAGE
    out = args.out or args.results[0] / "report.html"
    write_text(out, build_page(runs, args.samples))
    sys.stdout.write(f"{out}\n")
    return OK


def build_page(runs: Sequence[RunResult], num_samples: int) -> str:
    """Return the whole page as HTML."""
    return page("Evaluation report", build_body(runs, num_samples))


def build_body(runs: Sequence[RunResult], num_samples: int) -> str:
    """Return the sections of the page as HTML, also for other pages to include."""
    pairs = [
        (codec, frames)
        for codec, frames in product(runs, runs)
        if (codec.video_input, frames.video_input) == ("codec", "frames")
        and codec.model == frames.model
        and common_tasks(codec, frames)
    ]
    comparisons = [comparison_section(codec, frames) for codec, frames in pairs] or [
        '<p class="note">No two runs of one checkpoint with codec input and with frames on the '
        "same task: nothing to compare.</p>"
    ]
    samples = samples_section(runs, num_samples)
    return "\n".join([scores_section(runs), *comparisons, runs_section(runs), samples])


if __name__ == "__main__":
    sys.exit(main())
