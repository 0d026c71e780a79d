"""``cv_reader compare``: compare selections made elsewhere with those made here, with pictures.

Reads a folder as stage 1 or the reference implementation writes it (``*.visidx_thw.npy``,
``*.frame_ids.npy``, ``*.meta.json``), selects from the same videos by the same settings, and writes
one page that needs no other file; with ``-o X.png`` its pictures alone. Exit code 1 where some
selections could not be compared.
"""

import argparse
import html
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from cv_reader.assets.files import new_file
from cv_reader.commands.arguments import add_reading_arguments
from cv_reader.commands.arguments.parser import new_parser
from cv_reader.commands.progress import check_writable
from cv_reader.errors import AssetError, SettingsError, VideoError
from cv_reader.exits import FAILED_SAMPLES, OK, run_command, say
from cv_reader.reader import ReadOptions
from cv_reader.select.percentiles import float_percentile
from cv_reader.views.agreement import Agreement, compare
from cv_reader.views.charts import stacks
from cv_reader.views.page import document, picture_figure, table
from cv_reader.views.selections import find_chosen, read_chosen
from cv_reader.views.visualize import heat, label_font

BOTH, OURS, THEIRS = (70, 160, 90), (26, 115, 200), (226, 110, 40)
"""Colours of cells that both keep, that are kept here alone, and there alone."""

_NAMES = ("both keep", "kept here alone", "kept there alone")
_TILE_WIDTH_PX, _TILE_HEIGHT_PX, _GAP_PX, _LABEL_PX = 200, 300, 6, 20
_GROUND, _INK = (250, 250, 248), (40, 40, 44)
_TINT = 0.62
_BRIGHT_PERCENTILE = 99.0
_MIN_BRIGHTEST = 4.0


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run_command(_run, _parser().parse_args(argv))


def _parser() -> argparse.ArgumentParser:
    parser = new_parser("cv_reader compare", __doc__)
    parser.add_argument("folder", type=Path, help="folder with *.meta.json files and their arrays")
    parser.add_argument(
        "--video_root",
        metavar="FOLDER",
        type=Path,
        required=True,
        help="folder that the paths of videos start from",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        type=Path,
        required=True,
        help="file to write: .html, .png or .jpg",
    )
    parser.add_argument(
        "--slots", type=int, default=6, help="number of slots to show of each video"
    )
    add_reading_arguments(parser)
    return parser


def _run(args: argparse.Namespace) -> int:
    suffix = args.output.suffix.lower()
    if suffix not in (".html", ".png", ".jpg"):
        raise SettingsError(f"-o must end in .html, .png or .jpg, got {args.output}")
    check_writable(args.output.parent)
    found = find_chosen(args.folder)
    if not found:
        raise SettingsError(f"{args.folder}: holds no *.meta.json of a selection")
    options = ReadOptions(backend=args.backend, num_threads=args.num_threads)
    done: list[Agreement] = []
    for meta_path in found:
        try:
            chosen = read_chosen(meta_path)
            done.append(compare(chosen, _video_path(args.video_root, chosen.video), options))
        except (VideoError, AssetError) as error:
            say(f"compare: left out: {error}")
            continue
        say(f"compare: {done[-1].video}: {_verdict(done[-1])}")
    if not done:
        raise SettingsError(f"{args.folder}: no selection could be compared")
    with new_file(args.output) as path:
        if suffix == ".html":
            path.write_text(_page(done, args.slots), encoding="utf-8")
        else:
            picture = _stacked([agreement_sheet(one, shown_slots(one, args.slots)) for one in done])
            picture.save(path, "PNG" if suffix == ".png" else "JPEG", quality=85)
    return OK if len(done) == len(found) else FAILED_SAMPLES


def _video_path(root: Path, video: str) -> Path:
    """Below the root, by its path or by its name alone."""
    whole = root / video
    return whole if whole.exists() else root / Path(video).name


def shown_slots(agreement: Agreement, count: int) -> list[int]:
    """Return slots from the least to the most agreement, evenly by rank; without any kept there are
    none."""
    values = agreement.slot_jaccard()
    ranked = [int(slot) for slot in np.argsort(values, kind="stable") if not np.isnan(values[slot])]
    places = np.unique(np.linspace(0, len(ranked) - 1, min(count, len(ranked))).round().astype(int))
    return [ranked[place] for place in places.tolist()]


def agreement_sheet(agreement: Agreement, slots: list[int]) -> Image.Image:
    """Draw a row per slot: frame, kept here, kept there, where they differ, true residual."""
    rows = [(slot, _row(agreement, slot)) for slot in slots]
    if not rows:
        return Image.new("RGB", (_TILE_WIDTH_PX, _LABEL_PX), _GROUND)
    width, height = rows[0][1][0][1].size
    step_x, step_y = width + _GAP_PX, height + 2 * _LABEL_PX + _GAP_PX
    canvas = Image.new("RGB", (5 * step_x + _GAP_PX, len(rows) * step_y + _GAP_PX), _GROUND)
    draw = ImageDraw.Draw(canvas)
    for number, (slot, tiles) in enumerate(rows):
        top = number * step_y + _GAP_PX
        draw.text((_GAP_PX, top), _slot_title(agreement, slot), fill=_INK, font=label_font(13))
        for column, (title, tile) in enumerate(tiles):
            left = column * step_x + _GAP_PX
            draw.text((left, top + _LABEL_PX), title, fill=(110, 110, 118), font=label_font(12))
            canvas.paste(tile, (left, top + 2 * _LABEL_PX))
    return canvas


def _row(agreement: Agreement, slot: int) -> list[tuple[str, Image.Image]]:
    rows, columns = agreement.content
    frame = agreement.squares[slot][rows, columns]
    ours, theirs = (
        _pixels(agreement, cells[slot])[rows, columns]
        for cells in (agreement.ours, agreement.theirs)
    )
    mixed = frame.copy()
    for mask, colour in ((ours & theirs, BOTH), (ours & ~theirs, OURS), (theirs & ~ours, THEIRS)):
        tinted = frame * (1 - _TINT) + np.array(colour) * _TINT
        mixed[mask] = tinted.astype(np.uint8)[mask]
    residual = agreement.residuals[slot][rows, columns].astype(np.float32)
    brightest = max(float_percentile(residual, _BRIGHT_PERCENTILE), _MIN_BRIGHTEST)
    return [
        ("frame", _fitted(frame)),
        ("kept here", _fitted(_washed(frame, ours))),
        ("kept there", _fitted(_washed(frame, theirs))),
        ("both, here, there", _fitted(mixed)),
        ("true residual", _fitted(heat(residual / np.float32(brightest)))),
    ]


def _slot_title(agreement: Agreement, slot: int) -> str:
    ours, theirs = agreement.ours[slot], agreement.theirs[slot]
    counts = [int(cells.sum()) for cells in (ours & theirs, ours & ~theirs, theirs & ~ours)]
    listed = ", ".join(f"{count} {name}" for count, name in zip(counts, _NAMES, strict=True))
    return (
        f"slot {slot}, frame {agreement.frame_ids[slot]} ({agreement.pict_types[slot]}): {listed}"
    )


def _pixels(agreement: Agreement, cells: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return cells.repeat(agreement.patch_px, 0).repeat(agreement.patch_px, 1)


def _washed(frame: NDArray[np.uint8], kept: NDArray[np.bool_]) -> NDArray[np.uint8]:
    pale = (frame.mean(axis=2, keepdims=True) * 0.12 + 214).astype(np.uint8)
    return np.where(kept[..., None], frame, pale)


def _fitted(pixels: NDArray[np.uint8]) -> Image.Image:
    height, width = pixels.shape[:2]
    scale = min(_TILE_WIDTH_PX / width, _TILE_HEIGHT_PX / height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return Image.fromarray(np.ascontiguousarray(pixels)).resize(size, Image.Resampling.BICUBIC)


def _stacked(pictures: list[Image.Image]) -> Image.Image:
    width = max(picture.width for picture in pictures)
    canvas = Image.new("RGB", (width, sum(picture.height for picture in pictures)), _GROUND)
    top = 0
    for picture in pictures:
        canvas.paste(picture, (0, top))
        top += picture.height
    return canvas


def _verdict(agreement: Agreement) -> str:
    if not agreement.theirs.any():
        return f"none of their cells had to compete, read by {agreement.backend}"
    return (
        f"{100 * agreement.shared:.1f} % of their cells are kept here too (expected by chance "
        f"{100 * agreement.chance:.1f} %), Jaccard {agreement.jaccard:.3f}, read by "
        f"{agreement.backend}"
    )


def _page(agreements: list[Agreement], count: int) -> str:
    body = "".join(_section(one, shown_slots(one, count)) for one in agreements)
    about = (
        "<p>Compared are the cells that compete: content of the slots that are not kept whole by "
        "rule. Here: chosen by this reader from the same frames, by scores (--select topk), with "
        f"the same budget. There: the selections that were given. {_key()}</p>"
    )
    return document("Agreement of selections", about + body)


def _key() -> str:
    entries = "".join(
        f'<span style="background:{_css(colour)}"></span>{name}'
        for colour, name in zip((BOTH, OURS, THEIRS), _NAMES, strict=True)
    )
    return f'<span class="key">{entries}</span>'


def _section(agreement: Agreement, slots: list[int]) -> str:
    ours, theirs = agreement.ours, agreement.theirs
    per_slot = [
        cells.sum((1, 2)).tolist() for cells in (ours & theirs, ours & ~theirs, theirs & ~ours)
    ]
    chart = stacks(
        per_slot,
        [_css(colour) for colour in (BOTH, OURS, THEIRS)],
        [str(slot) for slot in range(len(agreement.frame_ids))],
        title="Cells kept per slot",
        axis="slot",
    )
    return (
        f"<h2>{html.escape(agreement.video)}</h2><p>{_verdict(agreement)}.</p>"
        f"<h3>Where: cells per slot</h3>{chart}"
        "<h3>Why: what the bitstream says of the cells</h3>"
        + table(
            ["share of the cells that", *_NAMES],
            [[name, *map(_percent, values)] for name, values in agreement.shares().items()],
        )
        + "<h3>Why: whose rules</h3>"
        + table(
            ["cells chosen here by", "share of theirs among them"],
            [
                *([name, _percent(value)] for name, value in agreement.shared_by.items()),
                ["chance", _percent(agreement.chance)],
            ],
        )
        + picture_figure(
            "Frames, from the least to the most agreement", agreement_sheet(agreement, slots), 85
        )
    )


def _percent(share: float) -> str:
    return "-" if np.isnan(share) else f"{100 * share:.1f} %"


def _css(colour: tuple[int, int, int]) -> str:
    return "#" + bytes(colour).hex()
