"""``cv_reader stream``: follow a stream, and print one JSON line per window of kept patches."""

import argparse
import json
from pathlib import Path
from typing import Any

from cv_reader.commands.arguments import add_setting, add_size_arguments
from cv_reader.commands.arguments.parser import new_parser
from cv_reader.commands.progress import check_writable
from cv_reader.errors import SettingsError
from cv_reader.exits import FAILED_SAMPLES, OK, run_command, say
from cv_reader.select.config import DISTORTIONS
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
    return run_command(_run, _parser().parse_args(argv))


def _parser() -> argparse.ArgumentParser:
    parser = new_parser("cv_reader stream", _PURPOSE)
    parser.add_argument("source", help="file, named pipe, URL, or - for standard input")
    parser.add_argument(
        "--out", metavar="DIR", type=Path, help="folder to write each segment to, as an asset"
    )
    parser.add_argument(
        "--rows", action="store_true", help="also print the rows (t, h, w) of each window"
    )
    parser.add_argument(
        "--max_windows",
        type=int,
        default=0,
        help="number of windows after which the command ends; 0 = never",
    )
    add_size_arguments(parser, "of a segment, which counts as a video")
    group = parser.add_argument_group("selection")
    add_setting(group, "block_cells", "side of the blocks of cells that are kept together: 1 or 2")
    group.add_argument(
        "--token_price",
        type=float,
        default=TOKEN_PRICE,
        help="smallest distortion that keeping a cell must avoid",
    )
    group.add_argument(
        "--distortion",
        choices=DISTORTIONS,
        default=live_config().distortion,
        help="measure of the difference between a cell and what is shown in its place",
    )
    group.add_argument(
        "--predict",
        choices=("still", "search"),
        default="still",
        help="let a kept cell shift along the motion to show another slot (search, about three "
        "times the cost), or not (still)",
    )
    add_setting(group, "jpg_quality", "JPEG quality of the mosaics of --out, 1 to 100; 0 = PPM")
    group = parser.add_argument_group("reading")
    group.add_argument(
        "--slots_per_second",
        type=float,
        default=4.0,
        help="pictures per second that selection looks at; 0 = all",
    )
    group.add_argument(
        "--window_seconds",
        type=float,
        default=0.5,
        help="length of a window, in seconds; 0 = a group of pictures",
    )
    group.add_argument(
        "--open_seconds", type=float, default=10.0, help="time limit for opening a URL, in seconds"
    )
    group.add_argument(
        "--read_seconds",
        type=float,
        default=15.0,
        help="time limit for waiting for data, in seconds",
    )
    group.add_argument(
        "--max_reconnects",
        type=int,
        default=10,
        help="number of attempts in a row to connect again",
    )
    group.add_argument(
        "--container_format",
        metavar="NAME",
        help="name by which FFmpeg knows the format of a pipe, such as mpegts",
    )
    group.add_argument(
        "--gate",
        type=float,
        default=1.5,
        help="multiple of the usual activity from which a window counts as an event",
    )
    return parser


def _run(options: argparse.Namespace) -> int:
    if options.max_windows < 0:
        raise SettingsError(f"--max_windows must be at least 0, got {options.max_windows}")
    if options.out is not None:
        check_writable(options.out)
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
