"""``cv_reader convert``: turn assets into other layouts, and back.

``onevision2`` and ``cv_reader`` write folders of canvases of LLaVA-OneVision-2, and assets from
them. ``tar`` packs the asset folders of a folder into WebDataset shards with an index, ``folder``
unpacks shards, and ``index`` writes the index of shards that have none.

Takes an asset, a folder of canvases, a shard, or a folder of many. Exit code 0: all are there;
1: some could not be converted, and are named; 2: there is nothing to convert.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

from cv_reader.assets.contract import META
from cv_reader.commands.arguments.parser import new_parser
from cv_reader.commands.convert.canvases import CANVAS_POSITIONS, read_canvases, write_canvases
from cv_reader.commands.convert.shards import (
    add_shard_arguments,
    pack_folders,
    unpack_shards,
    write_indexes,
)
from cv_reader.errors import AssetError, SettingsError
from cv_reader.exits import FAILED_SAMPLES, OK, run_command, say

_LAYOUTS: dict[str, tuple[str, Callable[[Path, Path, bool], str]]] = {
    "onevision2": (META, write_canvases),
    "cv_reader": (CANVAS_POSITIONS, read_canvases),
}
"""Layout to the file by which its input is recognised, and what converts a folder."""

_SHARD_LAYOUTS = {"tar": pack_folders, "folder": unpack_shards, "index": write_indexes}
"""Layout to what converts all."""


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = new_parser("cv_reader convert", __doc__)
    parser.add_argument("place", type=Path, help="folder to convert, or folder of such folders")
    layouts = (*_LAYOUTS, *_SHARD_LAYOUTS)
    parser.add_argument("--to", choices=layouts, required=True, help="layout to write")
    parser.add_argument(
        "--out", metavar="FOLDER", type=Path, required=True, help="folder for the new folders"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="make folders and shards again that exist"
    )
    add_shard_arguments(parser)
    return run_command(_run, parser.parse_args(argv))


def _run(args: argparse.Namespace) -> int:
    if args.to in _SHARD_LAYOUTS:
        return _SHARD_LAYOUTS[args.to](args)
    mark, convert = _LAYOUTS[args.to]
    folders = _folders(args.place, mark, args.to)
    counts = {"made": 0, "kept": 0, "failed": 0}
    for folder in folders:
        try:
            counts[convert(folder, args.out, args.overwrite)] += 1
        except AssetError as error:
            counts["failed"] += 1
            say(f"convert: failed: {error}")
    say(f"convert: {', '.join(f'{count} {what}' for what, count in counts.items())} in {args.out}")
    return FAILED_SAMPLES if counts["failed"] else OK


def _folders(place: Path, mark: str, layout: str) -> list[Path]:
    """Return the folders that hold a file of the name ``mark``: ``place`` or those below it."""
    if (place / mark).is_file():
        return [place]
    found = sorted(path.parent for path in place.glob(f"*/{mark}"))
    found = found or sorted(path.parent for path in place.glob(f"assets/*/{mark}"))
    if not found:
        raise SettingsError(
            f"{place}: holds no folder with {mark}, which --to {layout} reads; check the path"
        )
    return found
