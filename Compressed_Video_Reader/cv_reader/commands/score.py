"""``cv_reader score``: measure what kept patches show of a video, by rebuilding it from them.

Takes asset folders, selections of stage 1 or of the reference implementation (``*.meta.json``),
rows (``.npy`` with ``--video``), and choices to make on the spot (``--choose`` with ``--video``).
Prints a line each; with ``-o`` writes a page that lays those of one video side by side, as a film
of original, rebuilt and difference, or the film alone (``.gif``), or the figures (``.json``). Exit
code 1 where some could not be measured.
"""

import argparse
import html
import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cv_reader.assets.files import new_file
from cv_reader.assets.make import select_from_video
from cv_reader.commands.arguments import add_reading_arguments, add_size_arguments
from cv_reader.commands.arguments.parser import new_parser
from cv_reader.commands.progress import check_writable
from cv_reader.errors import AssetError, SettingsError, VideoError
from cv_reader.exits import FAILED_SAMPLES, OK, run_command, say
from cv_reader.reader import ReadOptions
from cv_reader.select.config import SELECTORS, SIGNALS, AssetConfig
from cv_reader.select.rate_distortion.clip import SmallClip
from cv_reader.select.rate_distortion.places import FollowedClip
from cv_reader.views.film import film_pictures
from cv_reader.views.page import document, figure, film, table
from cv_reader.views.rebuilt import VECTOR_WAYS, RebuiltScore, score_all
from cv_reader.views.selections import (
    ShownSelection,
    read_any,
    read_bare_rows,
    read_followed,
    read_pictures,
    video_path,
)


@dataclass(frozen=True)
class _Scored:
    """A selection with its score."""

    chosen: ShownSelection
    score: RebuiltScore


@dataclass(frozen=True)
class _Section:
    """A video with what is kept of it.

    Attributes:
        video: its path.
        clip: the picture of every slot.
        followed: the same turned to places, where it is rebuilt along the vectors.
        scored: the selections.
    """

    video: str
    clip: SmallClip
    followed: FollowedClip | None
    scored: list[_Scored]


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run_command(_run, _parser().parse_args(argv))


def _parser() -> argparse.ArgumentParser:
    parser = new_parser("cv_reader score", __doc__)
    parser.add_argument(
        "items",
        nargs="*",
        type=Path,
        help="selections to score: asset folders, *.meta.json files, or .npy files of rows "
        "(t, h, w)",
    )
    parser.add_argument(
        "--video", metavar="FILE", type=Path, help="video that .npy files and --choose refer to"
    )
    parser.add_argument(
        "--video_root",
        metavar="FOLDER",
        type=Path,
        help="folder that the video paths of assets start from",
    )
    parser.add_argument(
        "--choose",
        action="append",
        default=[],
        metavar="SETTINGS",
        help="selection to make and score: a selector, a signal, or settings such as "
        "select=rate_distortion,num_images=4; may be repeated",
    )
    parser.add_argument(
        "--frame_ids",
        metavar="FILE",
        type=Path,
        help=".npy file of the frame numbers of the slots of .npy rows (default: evenly spread)",
    )
    parser.add_argument(
        "--rebuild",
        choices=("search", "vectors"),
        default="search",
        help="way to follow motion: a small search, or also the codec's own vectors, which must be "
        "exact; reads every picture",
    )
    parser.add_argument(
        "-o", "--output", metavar="FILE", type=Path, help="file to write: .html, .gif or .json"
    )
    add_size_arguments(parser, "of .npy rows and of selections by --choose")
    add_reading_arguments(parser)
    return parser


def _run(args: argparse.Namespace) -> int:
    suffix = args.output.suffix.lower() if args.output else ""
    if suffix not in ("", ".html", ".gif", ".json"):
        raise SettingsError(f"-o must end in .html, .gif or .json, got {args.output}")
    if not args.items and not args.choose:
        raise SettingsError("nothing to measure; name assets, selections or rows, or use --choose")
    rows = any(item.suffix == ".npy" for item in args.items)
    if args.video is None and (rows or args.choose):
        raise SettingsError("rows (.npy) and --choose need --video")
    if args.output:
        check_writable(args.output.parent)
    options = ReadOptions(backend=args.backend, num_threads=args.num_threads)
    base = _base(args)
    choices = [_choice(text, base) for text in args.choose]
    groups: dict[tuple[str, bytes, int, int], list[ShownSelection]] = defaultdict(list)
    failed = 0
    for found in _selections(args, base, choices, options):
        if isinstance(found, Exception):
            failed += 1
            say(f"score: left out: {found}")
            continue
        path, chosen = found
        config = chosen.config
        key = (str(path), chosen.frame_ids.tobytes(), config.square_size, config.patch_size)
        groups[key].append(chosen)
    sections: list[_Section] = []
    for (path, *_), group in groups.items():
        try:
            section = _scored(Path(path), group, options, along=args.rebuild == "vectors")
        except (VideoError, AssetError) as error:
            failed += len(group)
            say(f"score: left out: {error}")
            continue
        sections.append(section)
        print(_text(section), flush=True)
    if not sections:
        raise SettingsError("nothing could be measured")
    if args.output:
        _write(args.output, sections)
        others = f", the first of {len(sections)} videos" if len(sections) > 1 else ""
        say(f"score: {args.output}{others if suffix == '.gif' else ''}")
    return FAILED_SAMPLES if failed else OK


def _base(args: argparse.Namespace) -> dict[str, Any]:
    names = ("sequence_length", "num_images", "square_size", "patch_size")
    return {name: getattr(args, name) for name in names}


def _choice(text: str, base: dict[str, Any]) -> tuple[str, AssetConfig]:
    """Return the settings that a text names: a selector, a signal, or ``name=value,...``."""
    settings: dict[str, Any] = {}
    names = {field.name for field in fields(AssetConfig)}
    for part in text.split(","):
        name, has_value, value = part.partition("=")
        if not has_value and name in SELECTORS:
            settings["select"] = name
        elif not has_value and name in SIGNALS:
            settings["signal"] = name
        elif has_value and name in names:
            try:
                settings[name] = AssetConfig.parse(name, value)
            except SettingsError as error:
                raise SettingsError(f"--choose {text!r}: {error}") from error
        else:
            raise SettingsError(
                f"--choose {text!r}: {part!r} is no selector {SELECTORS}, no signal {SIGNALS} and "
                "no setting=value"
            )
    return text, AssetConfig(**{**base, **settings})


def _selections(
    args: argparse.Namespace,
    base: dict[str, Any],
    choices: list[tuple[str, AssetConfig]],
    options: ReadOptions,
) -> Iterator[tuple[Path, ShownSelection] | Exception]:
    """Yield videos with what is kept of them, or why that cannot be read."""
    for item in args.items:
        try:
            if item.suffix == ".npy":
                with options.open(args.video) as video:
                    index = video.index
                config = AssetConfig(**base)
                yield args.video, read_bare_rows(item, args.video, index, args.frame_ids, config)
            else:
                chosen = read_any(item)
                yield args.video or video_path(args.video_root, chosen.video), chosen
        except (VideoError, AssetError) as error:
            yield error
    for name, config in choices:
        try:
            selection = select_from_video(args.video, config, options)
        except (VideoError, AssetError) as error:
            yield AssetError(f"--choose {name!r}: {error}")
            continue
        yield (
            args.video,
            ShownSelection(
                name=name,
                video=str(args.video),
                rows=selection.rows,
                frame_ids=selection.frame_ids,
                config=config,
            ),
        )


def _scored(
    path: Path, group: list[ShownSelection], options: ReadOptions, *, along: bool
) -> _Section:
    first = group[0]
    clip, _, seconds = read_pictures(path, first.frame_ids, first.config, options)
    if not clip.luma.size:
        square_px, patch_px = first.config.square_size, first.config.patch_size
        raise AssetError(
            f"{path}: no cell of {patch_px} pixels is entirely picture, nothing can be measured; "
            f"use a larger square than {square_px} pixels, or smaller cells"
        )
    followed = None
    if along:
        followed = read_followed(path, first.frame_ids, clip, first.config, options)
    scores = score_all(clip, [one.rows for one in group], seconds, followed=followed)
    scored = [_Scored(one, score) for one, score in zip(group, scores, strict=True)]
    return _Section(str(path), clip, followed, scored)


def _columns(scored: list[_Scored]) -> tuple[list[str], list[list[str]]]:
    ways = list(scored[0].score.rebuilt)
    header = ["kept by", "tokens", *(f"{way}, dB" for way in ways), "SSIM (nearest)"]
    header += ["nothing new", "change unseen", "tokens per slot"]
    lines: list[list[str]] = []
    for one in scored:
        score = one.score
        lines.append(
            [
                one.chosen.name,
                str(score.num_tokens),
                *(f"{score.rebuilt[way].psnr_db:.2f}" for way in ways),
                f"{score.rebuilt['nearest'].ssim:.4f}",
                "-" if np.isnan(score.nothing_new) else f"{100 * score.nothing_new:.1f} %",
                f"{score.unseen_seconds:.1f} s",
                _spread(score.per_slot),
            ]
        )
    return header, lines


def _spread(per_slot: NDArray[np.int64]) -> str:
    """Return least, median and most of the slots behind the first."""
    rest = per_slot[1:] if len(per_slot) > 1 else per_slot
    return f"{rest.min()} / {int(np.median(rest))} / {rest.max()}"


def _text(section: _Section) -> str:
    header, lines = _columns(section.scored)
    every = [header, *lines]
    widths = [max(len(line[column]) for line in every) for column in range(len(header))]
    shown = [
        "  ".join(
            text.ljust(width) if column == 0 else text.rjust(width)
            for column, (text, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in every
    ]
    return "\n".join([section.video, *shown])


def _write(output: Path, sections: list[_Section]) -> None:
    suffix = output.suffix.lower()
    with new_file(output) as path:
        if suffix == ".json":
            content = [_figures(section) for section in sections]
            path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        elif suffix == ".gif":
            path.write_bytes(film(_pictures(sections[0], "nearest")))
        else:
            body = "".join(_shown(section) for section in sections)
            path.write_text(document("What kept patches show", _ABOUT + body), encoding="utf-8")


_ABOUT = (
    "<p>Every slot is rebuilt from the kept patches. Hold: a place shows what was kept there last. "
    "Nearest: the best of all that was kept there, as an encoder that sees all times at once may. "
    "Motion followed: a patch may shift by up to 3/8 of its side. Along the vectors: places stay "
    "with the scene while the camera moves, and a patch may also move as the codec's vectors say, "
    "by up to 6/8 of its side from its place; what was chosen for places of the picture can show "
    "less this way. Nothing new: kept patches, but "
    "the first of each place, that differ by less than 3 grey levels from what the place showed. "
    "Change unseen: the longest time that a place differs by more from what was kept there. "
    "Tokens per slot: fewest, median and most of all slots but the first.</p>"
)


def _shown(section: _Section) -> str:
    header, lines = _columns(section.scored)
    lines = [[name.replace(",", ", "), *figures] for name, *figures in lines]  # may wrap there
    ways = ["hold", "nearest"]
    if section.followed is not None:
        ways += [way.name for way in VECTOR_WAYS if way.name in section.scored[0].score.rebuilt]
    films = [
        figure(
            f"{way}: original, rebuilt, difference in luma (brightest: 64 grey levels)",
            "image/webp",
            film(_pictures(section, way), kind="WEBP"),
        )
        for way in ways
    ]
    return (
        f"<h2>{html.escape(Path(section.video).name)}</h2>{table(header, lines)}"
        f'<div class="side">{"".join(films)}</div>'
    )


def _pictures(section: _Section, way: str) -> list[Image.Image]:
    scores = [(one.chosen.name, one.score) for one in section.scored]
    return film_pictures(section.clip, scores, way, section.followed)


def _figures(section: _Section) -> dict[str, Any]:
    followed = section.followed
    return {
        "video": section.video,
        "slots": section.clip.num_slots,
        "content_cells": section.clip.height * section.clip.width,
        "vectors": None if followed is None else followed.facts(),
        "selections": [
            {
                "name": one.chosen.name,
                "tokens": one.score.num_tokens,
                "psnr_db": {n: round(r.psnr_db, 4) for n, r in one.score.rebuilt.items()},
                "ssim": {
                    n: round(r.ssim, 6) for n, r in one.score.rebuilt.items() if not r.way.follow
                },
                "nothing_new": (
                    None if np.isnan(one.score.nothing_new) else round(one.score.nothing_new, 6)
                ),
                "unseen_slots": one.score.unseen_slots,
                "unseen_seconds": round(one.score.unseen_seconds, 6),
                "tokens_per_slot": one.score.per_slot.tolist(),
            }
            for one in section.scored
        ],
    }
