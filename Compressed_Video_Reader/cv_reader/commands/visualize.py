"""``cv_reader visualize``: show what is kept of a video, next to what other ways would keep.

The suffix of ``-o`` chooses: ``.gif`` runs through all slots, ``.png`` (or ``.jpg``) lays some of
them side by side, ``.html`` is a page with both that needs no other file.
"""

import argparse
from pathlib import Path

import numpy as np

from cv_reader.assets.files import new_file
from cv_reader.commands.arguments import (
    add_budget_arguments,
    add_packing_arguments,
    add_reading_arguments,
    add_scoring_arguments,
    add_size_arguments,
    config_from,
    refuse_mean_argument,
)
from cv_reader.commands.arguments.parser import new_parser
from cv_reader.commands.progress import check_writable
from cv_reader.errors import SettingsError
from cv_reader.exits import OK, run_command, say
from cv_reader.reader import ReadOptions
from cv_reader.select.selection import select_whole_frames
from cv_reader.views.page import document, facts_table, figure, film, picture_figure, table
from cv_reader.views.rebuilt import score_all
from cv_reader.views.selections import read_pictures
from cv_reader.views.visualize import ShownVideo, animation, sheet, show_video, strips

_LISTED = 64
"""Numbers that a page lists of many."""


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code: 1 where the video cannot be read."""
    return run_command(_run, _parser().parse_args(argv))


def _parser() -> argparse.ArgumentParser:
    parser = new_parser("cv_reader visualize", __doc__)
    parser.add_argument("video", type=Path, help="video file to read")
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        type=Path,
        required=True,
        help="file to write: .gif, .png, .jpg or .html",
    )
    add_size_arguments(parser)
    add_budget_arguments(parser, is_first_frame_whole=True)
    add_reading_arguments(parser)
    add_packing_arguments(parser)
    add_scoring_arguments(parser)
    refuse_mean_argument(parser)
    return parser


def _run(args: argparse.Namespace) -> int:
    suffix = args.output.suffix.lower()
    if suffix not in (".gif", ".png", ".jpg", ".html"):
        raise SettingsError(f"-o must end in .gif, .png, .jpg or .html, got {args.output}")
    config = config_from(args)
    check_writable(args.output.parent)
    options = ReadOptions(backend=args.backend, num_threads=args.num_threads)
    shown = show_video(args.video, config, options)
    with new_file(args.output) as path:
        if suffix == ".html":
            path.write_text(_page(args.video, shown, options), encoding="utf-8")
        elif suffix == ".gif":
            path.write_bytes(film(animation(shown)))
        else:
            kind = "PNG" if suffix == ".png" else "JPEG"
            sheet(shown).save(path, kind, quality=90)
    say(
        f"visualize: {args.output}: {100 * shown.kept_share:.3g} % of the patches of "
        f"{config.sequence_length} frames, read by {shown.facts['backend']}"
    )
    return OK


def _page(video: Path, shown: ShownVideo, options: ReadOptions) -> str:
    facts = {
        "video": f"{shown.facts['W0']} x {shown.facts['H0']} pixels, "
        f"{shown.facts['num_frames']} frames, {shown.facts['codec_name']}",
        "read by": f"{shown.facts['backend']} (motion {shown.facts['exactness']['motion']}, "
        f"residual {shown.facts['exactness']['residual_y']})",
        "settings": " ".join(shown.config.to_flags()) or "defaults",
        "patches kept": f"{int(shown.kept.sum())} of {shown.kept.size} "
        f"({100 * shown.kept_share:.3g} %)",
        "frame numbers": _numbers(shown.frame_ids.tolist()),
        "fingerprint": shown.config.fingerprint,
    }
    pictures = animation(shown)
    which = "All" if len(pictures) == len(shown.tiles) else f"{len(pictures)} of the"
    figures = [figure(f"{which} slots in turn", "image/gif", film(pictures))]
    figures += [picture_figure(caption, picture) for caption, picture in strips(shown)]
    return document(
        video.name, facts_table(facts) + _score(video, shown, options) + "".join(figures)
    )


def _numbers(values: list[int]) -> str:
    """Return numbers as a list, of many the first ones and the last."""
    text = [str(value) for value in values]
    return ", ".join(text if len(text) <= 2 * _LISTED else [*text[:_LISTED], "...", text[-1]])


def _score(video: Path, shown: ShownVideo, options: ReadOptions) -> str:
    """Return how well the video can be rebuilt from what is kept, and from whole frames."""
    kept = np.argwhere(shown.kept).astype(np.int32)
    uniform = select_whole_frames(shown.config)
    clip, _, seconds = read_pictures(video, shown.frame_ids, shown.config, options)
    if not clip.luma.size:
        return (
            "<p>No cell is entirely picture: what is kept shows nothing that can be measured.</p>"
        )
    scores = score_all(clip, [kept, uniform], seconds)
    names = {"kept patches": shown.facts["K"], "whole frames": len(uniform)}
    lines = [
        [name, str(tokens), *(f"{one.psnr_db:.1f} dB" for one in score.rebuilt.values())]
        for (name, tokens), score in zip(names.items(), scores, strict=True)
    ]
    return table(["rebuilt from", "tokens", *scores[0].rebuilt], lines)
