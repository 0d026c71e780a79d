"""``cv_reader stats``: draw which patches a folder of assets keeps, over time and space.

Writes one page that needs no other file. Exit code 1 where some assets could not be read.
"""

import argparse
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from cv_reader.assets.files import new_file
from cv_reader.assets.validation import ASSET, Target, find_targets
from cv_reader.commands.arguments import add_worker_arguments
from cv_reader.commands.arguments.parser import new_parser
from cv_reader.commands.progress import check_writable, run_samples
from cv_reader.errors import SettingsError
from cv_reader.exits import FAILED_SAMPLES, OK, run_command, say
from cv_reader.views.charts import bars, cells
from cv_reader.views.page import document, facts_table
from cv_reader.views.statistics import Kept, Totals, new_totals, read_kept
from cv_reader.views.visualize import heat


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run_command(_run, _parser().parse_args(argv))


def _parser() -> argparse.ArgumentParser:
    parser = new_parser("cv_reader stats", __doc__)
    parser.add_argument("root", type=Path, help="folder with assets at any depth")
    parser.add_argument(
        "-o", "--output", metavar="FILE", type=Path, required=True, help="HTML file to write"
    )
    parser.add_argument(
        "--video_root",
        metavar="FOLDER",
        type=Path,
        help="folder that video paths start from; also measures what the assets show of "
        "their videos",
    )
    add_worker_arguments(parser, num_workers=2, timeout_seconds=600.0)
    return parser


def _run(args: argparse.Namespace) -> int:
    if not args.root.is_dir():
        raise SettingsError(f"{args.root}: no such folder")
    check_writable(args.output.parent)
    shapes: dict[tuple[int, bytes], Totals] = {}
    failed = 0
    targets = (target for target in find_targets(args.root) if target.kind == ASSET)
    for outcome in run_samples(partial(_read, args.video_root), targets, args):
        if outcome.failure:
            failed += 1
            say(f"stats: left out: {outcome.failure.reason}")
            continue
        kept = cast(Kept, outcome.value)
        shape = (len(kept.per_cell), kept.free_slots.tobytes())
        shapes.setdefault(shape, new_totals(kept)).add(kept)
    if not shapes:
        raise SettingsError(f"{args.root}: holds no asset that can be read")
    body = "".join(_section(totals) for totals in shapes.values())
    with new_file(args.output) as path:
        page = document(f"Kept patches in {args.root}", body)
        path.write_text(page, encoding="utf-8", errors="backslashreplace")
    videos = sum(totals.num_videos for totals in shapes.values())
    say(f"stats: {args.output}: {videos} assets, {failed} left out")
    return FAILED_SAMPLES if failed else OK


def _read(video_root: Path | None, target: Target) -> Kept:
    return read_kept(Path(target.where), video_root)


def _section(totals: Totals) -> str:
    slots, grid = len(totals.free_slots), len(totals.per_cell)
    counts = np.array(totals.per_slot)
    free = np.flatnonzero(totals.free_slots)
    low, high = np.percentile(counts, (10, 90), axis=0)
    facts = {
        "assets": str(totals.num_videos),
        "slots, cells": f"{slots} slots of {grid} x {grid} cells",
        "read by": ", ".join(f"{name} ({count})" for name, count in totals.makers.most_common()),
        "settings": ", ".join(f"{k} ({n})" for k, n in totals.fingerprints.most_common(8)),
        "mosaics": ", ".join(f"{k} ({n})" for k, n in sorted(totals.num_images.items())),
        "patches in whole slots": f"{int(counts[:, ~totals.free_slots].mean(axis=0).sum())}",
        "patches that competed": f"{int(counts[:, free].sum(axis=1).mean())} on average",
    }
    if totals.nearest_db:
        facts["rebuilt from what is kept"] = _measured(totals)
    numbers = free.tolist()
    over_time = bars(
        counts[:, free].mean(axis=0).tolist(),
        [str(number) for number in numbers],
        title="Patches kept per slot",
        axis="slot",
        band=list(zip(low[free].tolist(), high[free].tolist(), strict=True)),
    )
    halves = np.bincount(totals.half_slots(), minlength=2)[1:]
    concentration = bars(
        halves.tolist(),
        [str(number + 1) for number in range(len(halves))],
        title="Slots that hold half of the patches",
        axis="slots that hold half of what competed",
    )
    shares = np.histogram(totals.padding_shares, bins=20, range=(0, 1))[0]
    padding = bars(
        shares.tolist(),
        [f"{5 * number} %" for number in range(20)],
        title="Share of padding",
        axis="share of padding among what competed, from",
    )
    return (
        facts_table(facts)
        + "<h2>Over time</h2><p>Patches kept per slot, mean over videos; lines reach from the 10th "
        "to the 90th percentile. Slots that are kept whole are left out.</p>" + over_time + ""
        "<h2>Over space</h2><p>How often each cell of the square is kept where it had to compete: "
        "dark never, yellow most.</p>"
        f'<div class="map">{_map(totals.per_cell, totals.num_videos * len(numbers))}</div>'
        "<h2>How concentrated</h2><p>Videos by the number of slots that hold half of their "
        "patches: to the left one event, to the right motion all along.</p>" + concentration + ""
        "<h2>Padding</h2><p>Videos by the share of kept cells outside the picture: these had too "
        "little content for the budget.</p>" + padding
    )


def _measured(totals: Totals) -> str:
    low, middle, high = np.percentile(totals.nearest_db, (10, 50, 90)).tolist()
    text = f"{middle:.1f} dB (nearest; 10th to 90th percentile {low:.1f} to {high:.1f})"
    if totals.nothing_new:
        text += f", {100 * float(np.mean(totals.nothing_new)):.1f} % show nothing new"
    return text


def _map(per_cell: NDArray[np.int64], chances: int) -> str:
    values = (per_cell / max(int(per_cell.max()), 1)).astype(np.float32)
    colours = [["#" + bytes(pixel).hex() for pixel in line] for line in heat(values)]
    titles = [
        [f"row {r}, column {c}: kept {100 * n / max(chances, 1):.3g} %" for c, n in enumerate(line)]
        for r, line in enumerate(per_cell.tolist())
    ]
    return cells(colours, titles, title="Patches kept per cell")
