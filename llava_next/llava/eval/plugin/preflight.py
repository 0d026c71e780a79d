"""Check before the first sample that the videos of a run have assets that may be used.

All ranks check their own videos and wait for each other, so that no rank starts to answer where
another has to stop.
"""

import os
import shlex
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path

from cv_reader.assets import AssetConfig
from llava.eval.benchmarks.table import root_of_video
from llava.eval.environment import hf_home
from llava.eval.plugin.asset_index import AssetIndex
from llava.eval.plugin.visuals import BlocksError, VisualLoader, out_root_of
from llava.eval.settings import SIZE_FLAGS, EvalSettings
from run_kit.exits import USAGE, say
from run_kit.files import write_json_lines
from run_kit.ranks import gather, rank_and_size

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
    blocks: tuple[str, AssetConfig, Path] | None = None
    try:
        missing = loader.missing(videos)
    except BlocksError as error:
        missing, blocks = [], (str(error), error.config, error.out_root)
    gathered = gather((missing, videos, blocks))
    missing = list(dict.fromkeys(chain.from_iterable(part for part, _, _ in gathered)))
    blocks = next((found for _, _, found in gathered if found is not None), None)
    if blocks is None and (not missing or settings.codec_miss != "error"):
        return
    if rank_and_size()[0] == 0:
        every = list(dict.fromkeys(chain.from_iterable(part for _, part, _ in gathered)))
        listing = (folder or Path.cwd()) / LISTING_NAME
        if blocks is None:
            keys = write_missing(missing, every, loader.index, listing)
            named = dict(zip(missing, keys, strict=True))
            # Assets of one run have one fingerprint: those that are there decide.
            config = loader.index.config or loader.config
            text = missing_message(named, len(every), listing, settings, config)
        else:
            reason, config, out_root = blocks
            write_missing(every, every, loader.index, listing)
            command = tool_command(listing, out_root, config)
            text = f"{reason}. Make the assets again:\n  {command} --overwrite"
        say(f"error: {text}")
    gather(None)  # an early exit would make the launcher kill ranks that are still printing
    raise SystemExit(USAGE)


def tool_command(listing: Path, out_root: Path, config: AssetConfig) -> str:
    """Return the command that makes the assets of listed videos."""
    command = ["python", TOOL, "--jsonl", str(listing), "--out_root", str(out_root)]
    for name, flag in SIZE_FLAGS.values():
        command += [flag, str(getattr(config, name))]
    names = [name for name, _ in SIZE_FLAGS.values()]
    return shlex.join([*command, *config.to_flags(leave_out=names)])


def write_missing(
    videos: Sequence[str], run_videos: Sequence[str], index: AssetIndex, path: Path
) -> list[str]:
    """Write the asset tool's input: a line with ``video`` and ``key`` for each video.

    Args:
        videos: the videos whose assets are to be made, or made again.
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
        asset = index.find(video)
        key = index.key_of(video, str(root)) if asset is None else asset.key
        rows.append({"video": video, "key": key})
    write_json_lines(path, rows)
    return [row["key"] for row in rows]


def missing_message(
    videos: Mapping[str, str],
    num_videos: int,
    listing: Path,
    settings: EvalSettings,
    config: AssetConfig,
) -> str:
    """Say which of the run's videos have no asset, and the command that makes the assets.

    Args:
        videos: path to key of the videos without an asset.
        num_videos: number of videos of the run.
        listing: file with these videos, the command's input.
        settings: settings of the run.
        config: settings of the assets that the run wants.
    """
    shown = [f"  {key}: {video}" for video, key in list(videos.items())[:MISSING_LINES]]
    if len(videos) > MISSING_LINES:
        shown.append(f"  ... and {len(videos) - MISSING_LINES} more, all in {listing}")
    root = settings.codec_root[0] if settings.codec_root else Path("OUT_ROOT/assets")
    out_root = out_root_of(root)
    command = tool_command(listing, out_root, config)
    searched = ", ".join(str(root) for root in settings.codec_root) or "no codec_root was given"
    return "\n".join(
        [
            f"{len(videos)} of {num_videos} videos of this run have no codec asset ({searched}):",
            *shown,
            f"Make them:\n  {command}",
            f"then pass codec_root={out_root / 'assets'}. Or choose codec_miss=online (compute "
            "them in the run) or codec_miss=frames (uniform frames instead, recorded).",
        ]
    )
