"""Check before the first sample that the videos of a run have assets that may be used.

All ranks check their own videos and wait for each other, so that no rank starts to answer where
another has to stop.
"""

import os
import shlex
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path

from llava.eval.benchmarks.table import root_of_video
from llava.eval.environment import hf_home
from llava.eval.plugin.asset_index import ASSET_FLAGS, AssetIndex
from llava.eval.plugin.visuals import VisualLoader
from llava.eval.settings import EvalSettings
from llava.exits import USAGE, say
from llava.files import write_json_lines
from llava.ranks import gather, rank_and_size

TOOL = "Compressed_Video_Reader/tool/offline_precompute_llava_codec_assets.py"
MISSING_LINES = 20
LISTING_NAME = "missing_codec_assets.jsonl"


def check_assets(
    videos: Sequence[str], loader: VisualLoader, settings: EvalSettings, folder: Path | None
) -> None:
    """Stop the run where an asset must not be used, or (``codec_miss=error``) is missing.

    Args:
        videos: paths of the videos that this rank's requests show.
        loader: loader that will read their assets.
        settings: settings of the run.
        folder: folder of the results, for the list of missing assets; None takes the current one.

    Raises:
        ValueError: if an asset does not fit the run or its video, or is damaged.
        SystemExit: 2, on every rank, if assets are missing; rank 0 names those of all ranks.
    """
    gathered = gather((loader.missing(videos), videos))
    missing = list(dict.fromkeys(chain.from_iterable(part for part, _ in gathered)))
    if not missing or settings.codec_miss != "error":
        return
    if rank_and_size()[0] == 0:
        every = list(dict.fromkeys(chain.from_iterable(part for _, part in gathered)))
        listing = (folder or Path.cwd()) / LISTING_NAME
        keys = write_missing(missing, every, loader.index, listing)
        named = dict(zip(missing, keys, strict=True))
        cells = loader.config.block_cells
        say(f"error: {missing_message(named, len(every), listing, settings, cells)}")
    gather(None)  # an early exit would make the launcher kill ranks that are still printing
    raise SystemExit(USAGE)


def write_missing(
    videos: Sequence[str], run_videos: Sequence[str], index: AssetIndex, path: Path
) -> list[str]:
    """Write the asset tool's input: a line with ``video`` and ``key`` for each video.

    Args:
        videos: the videos without an asset.
        run_videos: all videos of the run; outside known benchmarks, keys are relative to the
            folder that these share.
        index: makes keys from the run's own root.
        path: file to write.

    Returns:
        The keys, in order of ``videos``.
    """
    shared = os.path.commonpath([os.path.dirname(os.path.abspath(video)) for video in run_videos])
    rows: list[dict[str, str]] = []
    for video in map(os.path.abspath, videos):
        root = root_of_video(Path(video), hf_home()) or shared
        rows.append({"video": video, "key": index.key_of(video, str(root))})
    write_json_lines(path, rows)
    return [row["key"] for row in rows]


def missing_message(
    videos: Mapping[str, str],
    num_videos: int,
    listing: Path,
    settings: EvalSettings,
    block_cells: int = 1,
) -> str:
    """Say which of the run's videos have no asset, and the command that makes the assets.

    Args:
        videos: path to key of the videos without an asset.
        num_videos: number of videos of the run.
        listing: file with these videos, the command's input.
        settings: settings of the run.
        block_cells: as in ``asset_config``.
    """
    shown = [f"  {key}: {video}" for video, key in list(videos.items())[:MISSING_LINES]]
    if len(videos) > MISSING_LINES:
        shown.append(f"  ... and {len(videos) - MISSING_LINES} more, all in {listing}")
    root = settings.codec_root[0] if settings.codec_root else Path("OUT_ROOT/assets")
    out_root = root.parent if root.name == "assets" else root
    command = ["python", TOOL, "--jsonl", str(listing), "--out_root", str(out_root)]
    for argument, (_, flag) in ASSET_FLAGS.items():
        command += [flag, str(getattr(settings, argument))]
    if block_cells > 1:
        command += ["--block_cells", str(block_cells)]
    searched = ", ".join(str(root) for root in settings.codec_root) or "no codec_root was given"
    return "\n".join(
        [
            f"{len(videos)} of {num_videos} videos of this run have no codec asset ({searched}):",
            *shown,
            f"Make them:\n  {shlex.join(command)}",
            f"then pass codec_root={out_root / 'assets'}. Or choose codec_miss=online (compute "
            "them in the run) or codec_miss=frames (uniform frames instead, recorded).",
        ]
    )
