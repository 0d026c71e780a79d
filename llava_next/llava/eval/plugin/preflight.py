"""Before the first sample: whether the videos of a run have assets, and whether these may be used.

All ranks check their own videos and wait for each other, so that none begins where another would
have to stop.
"""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from llava.eval.plugin.asset_index import missing_message, write_listing
from llava.eval.plugin.visuals import VisualLoader
from llava.eval.settings import EvalSettings
from llava.exits import USAGE, say
from llava.ranks import gather, rank_and_size

LISTING_NAME = "missing_codec_assets.jsonl"


def check_assets(
    videos: Sequence[str], loader: VisualLoader, settings: EvalSettings, folder: Path | None
) -> None:
    """Stop where an asset must not be used, or (``codec_miss=error``) some are missing.

    Args:
        videos: of this rank's requests.
        loader: that will read their assets.
        settings: of the run.
        folder: of the results, for the list of what is missing; None takes the current one.

    Raises:
        ValueError: for an asset that does not fit the run or its video, or is damaged.
        SystemExit: 2, on every rank, where assets are missing; rank 0 names those of all.
    """
    gathered = gather((loader.missing(videos), videos))
    missing = list(dict.fromkeys(chain.from_iterable(part for part, _ in gathered)))
    if not missing or settings.codec_miss != "error":
        return
    if rank_and_size()[0] == 0:
        every = list(dict.fromkeys(chain.from_iterable(part for _, part in gathered)))
        listing = (folder or Path.cwd()) / LISTING_NAME
        keys = write_listing(missing, every, loader.index, listing)
        named = dict(zip(missing, keys, strict=True))
        say(f"error: {missing_message(named, len(every), listing, settings)}")
    gather(None)  # a rank that ends first would have the others ended in mid-sentence
    raise SystemExit(USAGE)
