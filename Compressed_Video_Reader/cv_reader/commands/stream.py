"""``cv_reader stream``: follow a stream, and print one JSON line per window of kept patches."""

import argparse
import json
from pathlib import Path
from typing import Any

from cv_reader.errors import VideoError
from cv_reader.exits import FAILED_SAMPLES, OK, run_command, say
from cv_reader.select.config import DISTORTIONS, PREDICTIONS
from cv_reader.streams.gate import EventGate
from cv_reader.streams.live import stream
from cv_reader.streams.output import SegmentWriter
from cv_reader.streams.settings import TOKEN_PRICE, StreamSettings, live_config
from cv_reader.streams.windows import StreamWindow

_PURPOSE = """Follow a stream: choose patches of each half second as soon as it has come, and print
one JSON line per window. A URL that is lost is opened again. Exit code 1: it could not be opened,
or was lost."""

_CONFIG = (
    "sequence_length",
    "num_images",
    "square_size",
    "patch_size",
    "block_cells",
    "token_price",
    "distortion",
    "predict",
    "jpg_quality",
)
_READING = (
    "slots_per_second",
    "window_seconds",
    "open_seconds",
    "read_seconds",
    "max_reconnects",
    "container_format",
)


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code: 1 where the stream cannot be opened or is lost."""
    options = _parser().parse_args(argv)
    try:
        return run_command(_run, options)
    except VideoError as error:
        say(f"failed: {error}")
        return FAILED_SAMPLES


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="cv_reader stream", description=_PURPOSE)
    parser.add_argument("source", help="file, named pipe, - for standard input, or a URL")
    parser.add_argument("--out", metavar="DIR", type=Path, help="write each segment as an asset")
    parser.add_argument("--rows", action="store_true", help="print the rows (t, h, w) too")
    parser.add_argument("--max_windows", type=int, default=0, help="end after so many; 0 = never")
    group = parser.add_argument_group("selection")
    group.add_argument("--sequence_length", type=int, default=64, help="slots of a segment")
    group.add_argument("--num_images", type=int, default=8, help="mosaics: a segment's budget")
    group.add_argument("--square_size", type=int, default=576, help="side of the square, pixels")
    group.add_argument("--patch_size", type=int, default=16, help="side of a cell, pixels")
    group.add_argument("--block_cells", type=int, default=1, help="2 = keep blocks of 2 x 2 cells")
    group.add_argument(
        "--token_price", type=float, default=TOKEN_PRICE, help="least distortion a cell must spare"
    )
    group.add_argument("--distortion", choices=DISTORTIONS, default="sharp")
    group.add_argument(
        "--predict",
        choices=PREDICTIONS,
        default="still",
        help="search follows motion, and costs about three times as much",
    )
    group.add_argument("--jpg_quality", type=int, default=95, help="of --out, 1..100")
    group = parser.add_argument_group("reading")
    group.add_argument(
        "--slots_per_second", type=float, default=4.0, help="pictures looked at; 0 = all"
    )
    group.add_argument("--window_seconds", type=float, default=0.5, help="0 = a group of pictures")
    group.add_argument("--open_seconds", type=float, default=10.0, help="limit on opening a URL")
    group.add_argument("--read_seconds", type=float, default=15.0, help="limit on waiting")
    group.add_argument("--max_reconnects", type=int, default=10, help="attempts in a row")
    group.add_argument(
        "--container_format", metavar="NAME", help="FFmpeg's name of a pipe's format"
    )
    group.add_argument(
        "--gate", type=float, default=1.5, help="multiple of the usual that is an event"
    )
    return parser


def _run(options: argparse.Namespace) -> int:
    config = live_config(**{name: getattr(options, name) for name in _CONFIG})
    reading = {name: getattr(options, name) for name in _READING}
    with stream(
        options.source, StreamSettings(config=config, **reading), gate=EventGate(options.gate)
    ) as live:
        writer = None if options.out is None else SegmentWriter(options.out, config, live.name)
        try:
            for window in live:
                print(json.dumps(_line(window, with_rows=options.rows)), flush=True)
                if writer is not None:
                    writer.add(window)
                if window.number + 1 == options.max_windows:
                    break
        finally:
            if writer is not None:
                writer.finish()
        counters = live.counters
    say(f"{counters.windows} windows, {counters.patches} patches of {counters.pictures} pictures")
    if not counters.windows:
        say(f"failed: {live.name}: no sound picture came; check what is sent")
        return FAILED_SAMPLES
    return OK


def _line(window: StreamWindow, *, with_rows: bool) -> dict[str, Any]:
    line: dict[str, Any] = {
        "window": window.number,
        "segment": window.segment,
        "break_before": window.break_before,
        "patches": len(window.rows),
        "slots": window.slots.tolist(),
        "frame_ids": window.frame_ids.tolist(),
        "times_seconds": window.times_seconds.round(6).tolist(),
        "end_seconds": round(window.end_seconds, 6),
        "price": window.price,
        "bits_per_second": round(window.bits_per_second, 1),
        "patches_per_second": round(window.patches_per_second, 2),
        "gate": round(window.gate, 4),
        "is_event": window.is_event,
        "counters": window.counters.to_dict(),
    }
    return line | {"rows": window.rows.tolist()} if with_rows else line
