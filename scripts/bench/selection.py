"""Compare what selections show with goals: quality, waste, brief events, key frames, time.

    python scripts/bench/selection.py [VIDEO or FOLDER ...] [--real FOLDER] [--made [NAME ...]]
        [--vectors] [--planted 100] [--key_frames] [--time VIDEO] [--hour]

Without arguments: the two real clips where they are present, the made clips, 60 planted ones, and
key frames. All figures by ``cv_reader score``'s measure, at 64 slots of 36 x 36 cells; 8, 4 and 2
mosaics are 10368, 5184 and 2592 tokens. "Goal" lines end with ``reached`` or ``MISSED``.
"""

import argparse
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from bounds import most_decibels
from cv_reader.assets.make import select_from_video
from cv_reader.errors import VideoError
from cv_reader.reader import ReadOptions
from cv_reader.select.config import AssetConfig
from cv_reader.select.rate_distortion.clip import SmallClip
from cv_reader.select.rate_distortion.places import FollowedClip
from cv_reader.select.rate_distortion.solver import decibels
from cv_reader.views.rebuilt import RebuiltScore, score_all
from cv_reader.views.selections import read_followed, read_pictures
from hour import show_hour
from planted import SCENES, coding_noise, made_scene
from selection_checks import (
    MEAN,
    MOVING,
    NO_FIRST,
    RATE,
    goal,
    show_key_frames,
    show_planted,
    show_time,
)

ROOT = Path(__file__).resolve().parents[2]
REAL = {"YVQwAEKZpaU": "YVQ", "XwB-dkS5BVM": "XwB"}
SUFFIXES = (".mp4", ".mkv", ".webm", ".mov", ".avi")

PLAIN = ("hold", "nearest")
ALONG = ("hold, along the vectors", "nearest, along the vectors")

CHOICES: dict[str, dict[str, object]] = {
    "uniform": {"select": "uniform"},
    "reference (default topk)": {},
    "mv_residual (exact)": {"signal": "mv_residual"},
    "residual": {"signal": "residual"},
    "bits": {"signal": "bits"},
    "framediff": {"signal": "framediff"},
    "textured": {"signal": "textured"},
    "intra_shown": {"signal": "intra_shown"},
    "bits_between": {"signal": "bits_between"},
    "residual_between": {"signal": "residual_between"},
    "rlt": {"signal": "rlt"},
    "evs": {"signal": "evs"},
    "rd sharp (default)": RATE,
    "rd sharp, hold": RATE | {"direction": "hold"},
    "rd sharp, no whole frame": RATE | NO_FIRST,
    "rd sharp, 2 x 2 blocks": RATE | {"block_cells": 2},
    "rd mean, hold, still": MEAN | {"direction": "hold", "predict": "still"},
    "rd mean, nearest, still": MEAN | {"predict": "still"},
    "rd mean, hold": MEAN | {"direction": "hold"},
    "rd mean, nearest": MEAN,
    "rd mean, hold, vectors": MEAN | {"direction": "hold", "predict": "vectors"},
    "rd mean, nearest, vectors": MEAN | {"predict": "vectors"},
    "rd sharp, vectors": RATE | {"predict": "vectors"},
    "rd mean, nearest, still, 4": MEAN | {"predict": "still", "num_images": 4},
    "rd mean, nearest, still, 3": MEAN | {"predict": "still", "num_images": 3},
    "rd mean, nearest, still, 2": MEAN | {"predict": "still", "num_images": 2},
    "rd mean, nearest, 2": MEAN | {"num_images": 2},
    "rd mean, nearest, 1": MEAN | {"num_images": 1},
    "rd mean, nearest, vectors, 1": MEAN | {"predict": "vectors", "num_images": 1},
    "rd 40 dB, still": MEAN | {"predict": "still", "quality_db": 40.0, "direction": "hold"},
}

VECTOR_CHOICES = (
    "uniform",
    "reference (default topk)",
    "rd sharp (default)",
    "rd mean, hold",
    "rd mean, nearest",
    "rd mean, hold, vectors",
    "rd mean, nearest, vectors",
    "rd sharp, vectors",
)

GOALS: tuple[tuple[str, str, str, float, float], ...] = (
    ("reference's signal, hold", "reference (default topk)", "hold", 20.9, 17.6),
    ("reference's signal, nearest", "reference (default topk)", "nearest", 26.0, 24.1),
    ("plain, hold", "rd mean, hold, still", "hold", 28.9, 26.7),
    ("plain, nearest", "rd mean, nearest, still", "nearest", 31.2, 28.8),
    ("with motion, hold", "rd mean, hold", MOVING[0], 35.2, 29.6),
    ("with motion, nearest", "rd mean, nearest", MOVING[1], 38.4, 32.0),
    ("sharp, nearest, with motion", "rd sharp, no whole frame", MOVING[1], 37.5, 31.2),
    ("sharp, nearest, plain", "rd sharp, no whole frame", "nearest", 29.8, 27.2),
)
"""What, choice, way to rebuild, goal in dB for the two real clips."""

MIN_VECTORS_DB = 2.0
"""What the codec's vectors must add to the small search where the camera sways (the first clip)."""

MAX_LOSS_DB = 1.0
MAX_NOTHING_NEW = 0.01


@dataclass(frozen=True)
class Measured:
    """Scores of all choices of one video, and its reduced pictures."""

    path: Path
    scores: dict[str, RebuiltScore]
    clip: SmallClip
    frame_ids: np.ndarray
    prices: dict[str, float]
    followed: FollowedClip | None

    def db(self, choice: str, way: str) -> float:
        """PSNR of a choice rebuilt in a way."""
        return self.scores[choice].rebuilt[way].psnr_db

    def bound(self, choice: str, *, along: bool = False) -> str:
        """Return what no choice of as many tokens exceeds (nearest, plain or along vectors)."""
        clip = self.followed if along and self.followed is not None else self.clip
        most = most_decibels(clip, self.scores[choice].num_tokens, self.prices[choice])
        return f"no choice of as many tokens can show more than {most:.2f} dB"


def measured(path: Path, names: Iterable[str] = tuple(CHOICES)) -> Measured:
    """Make choices of a video and score them on the same pictures."""
    rows, prices, base = {}, {}, AssetConfig()
    for name, settings in ((name, CHOICES[name]) for name in names):
        try:
            selection = select_from_video(path, AssetConfig(**settings), ReadOptions())
        except VideoError as error:
            print(f"  {name}: left out: {error}")
            continue
        rows[name] = selection.rows
        prices[name] = selection.facts.get("token_price", 0.0)
        frame_ids = selection.frame_ids
    clip, _, seconds = read_pictures(path, frame_ids, base, ReadOptions())
    followed = None
    try:
        followed = read_followed(path, frame_ids, clip, base, ReadOptions())
    except VideoError as error:
        print(f"  along the vectors: left out: {error}")
    scores = score_all(clip, list(rows.values()), seconds, followed=followed)
    return Measured(path, dict(zip(rows, scores, strict=True)), clip, frame_ids, prices, followed)


def show(video: Measured) -> None:
    """Print the table of a video."""
    print(f"\n{video.path.name}")
    print(
        f"  {'choice':28s} {'tokens':>6s}  {'plain: hold / nearest':>21s}  "
        f"{'with motion':>13s}  {'vectors':>13s}  {'SSIM':>6s}  nothing new  unseen"
    )
    for name, score in video.scores.items():
        plain, moving, along = (
            " / ".join(f"{score.rebuilt[way].psnr_db:.1f}" for way in ways if way in score.rebuilt)
            for ways in (PLAIN, MOVING, ALONG)
        )
        waste = "-" if np.isnan(score.nothing_new) else f"{100 * score.nothing_new:.0f} %"
        print(
            f"  {name:28s} {score.num_tokens:6d}  {plain:>21s}  {moving:>13s}  {along:>13s}  "
            f"{score.rebuilt['nearest'].ssim:6.3f}  {waste:>11s}  {score.unseen_seconds:.1f} s",
            flush=True,
        )


def show_goals(video: Measured, number: int | None, lossless: Path | None = None) -> None:
    """Print the goals of a video.

    Args:
        video: measured.
        number: which of the two real ones it is.
        lossless: the same pictures before coding, where they are known.
    """
    for what, choice, way, *wanted in GOALS if number is not None else ():
        found = video.db(choice, way)
        bound = wanted[number]
        goal(what, f">= {bound} dB", f"{found:.2f}", is_reached=round(found, 1) >= bound)
    frames = video.db("uniform", "nearest")
    # Nine scenes need more than two frames' worth of patches.
    count = 3 if number == 1 else 2
    for part, choice, along in (
        (count, f"rd mean, nearest, still, {count}", False),
        (1, "rd mean, nearest, vectors, 1", True),
    ):
        if choice not in video.scores:
            continue
        found = video.db(choice, ALONG[1] if along else "nearest")
        goal(
            f"{'along the vectors' if along else 'plain'}, {part}/8 of the tokens",
            f"nearest of 8 whole frames, {frames:.2f} dB",
            f"{found:.2f}; {video.bound(choice, along=along)}",
            is_reached=found >= frames,
        )
    choice = "rd mean, nearest, still"
    print(f"  {choice}: {video.db(choice, 'nearest'):.2f} dB; {video.bound(choice)}")
    best = max(
        score.rebuilt["hold"].psnr_db
        for name, score in video.scores.items()
        if score.num_tokens <= 10368 and not name.startswith("rd")
    )
    found = video.db("rd mean, hold, still", "hold")
    wanted = f"hold of every other choice at equal tokens, {best:.2f} dB"
    goal("measure that is optimised", wanted, f"{found:.2f}", is_reached=found >= best)
    waste = video.scores["rd 40 dB, still"].nothing_new
    goal(
        "kept patches that show nothing new, at 40 dB",
        f"<= {100 * MAX_NOTHING_NEW:.0f} %",
        "none kept twice" if np.isnan(waste) else f"{100 * waste:.2f} %",
        is_reached=bool(np.isnan(waste) or waste <= MAX_NOTHING_NEW),
    )
    best, found = (
        video.db(choice, MOVING[1]) for choice in ("rd mean, nearest", "rd sharp, no whole frame")
    )
    goal(
        "loss of sharp against mean, nearest, with motion",
        f"<= {MAX_LOSS_DB} dB",
        f"{best - found:.2f} ({found:.2f} against {best:.2f})",
        is_reached=best - found <= MAX_LOSS_DB,
    )
    if lossless is None:
        return
    source = read_pictures(lossless, video.frame_ids, AssetConfig(), ReadOptions(backend="pyav"))[0]
    noise = coding_noise(source, video.clip)
    best, found = (decibels(10 ** (-db / 10) * 255**2 + noise) for db in (best, found))
    goal(
        f"the same against the pictures before coding, which costs {decibels(noise):.1f} dB itself",
        f"<= {MAX_LOSS_DB} dB",
        f"{best - found:.2f} ({found:.2f} against {best:.2f})",
        is_reached=best - found <= MAX_LOSS_DB,
    )


def show_vectors(video: Measured, number: int | None) -> None:
    """Print what following the codec's vectors adds to the small search, by their own measures."""
    for direction, along, moving in zip(PLAIN, ALONG, MOVING, strict=True):
        name = f"rd mean, {direction}, vectors"
        if name not in video.scores:
            continue
        found, searched = video.db(name, along), video.db(f"rd mean, {direction}", moving)
        text = f"{found:.2f} against {searched:.2f} dB"
        if number == 0:
            wanted = f">= {MIN_VECTORS_DB} dB more than the small search"
            goal(
                f"along the vectors, {direction}",
                wanted,
                text,
                is_reached=found >= searched + MIN_VECTORS_DB,
            )
        else:
            print(f"  along the vectors, {direction}: {text}, {found - searched:+.2f}")


def videos_in(places: Iterable[Path]) -> list[Path]:
    """Videos that are named, and those in folders that are."""
    found: list[Path] = []
    for place in places:
        inside = sorted(p for p in place.rglob("*") if p.suffix.lower() in SUFFIXES)
        found += inside if place.is_dir() else [place]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("videos", nargs="*", type=Path, help="videos to select from")
    parser.add_argument(
        "--real",
        type=Path,
        default=ROOT.parent / "shared/data/real_videos",
        help="folder of real videos",
    )
    parser.add_argument(
        "--made", nargs="*", metavar="NAME", help="use made clips: all, or those named"
    )
    parser.add_argument(
        "--vectors", action="store_true", help="measure only what vectors add to a small search"
    )
    parser.add_argument("--planted", type=int, default=0, help="number of clips")
    parser.add_argument("--key_frames", action="store_true", help="measure key frame intervals")
    parser.add_argument("--time", type=Path, help="video to select from")
    parser.add_argument("--hour", action="store_true", help="prepare an hour of 720p on two cores")
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path(tempfile.gettempdir()) / "bench_clips",
        help="folder for made clips",
    )
    args = parser.parse_args()
    others = (args.planted, args.key_frames, args.time, args.hour)
    is_bare = not (args.videos or args.made is not None or any(others))
    av.logging.set_level(None)
    paths = videos_in(args.videos)
    if is_bare and args.real.is_dir():
        paths = videos_in([args.real])
    scenes: list[str] = [] if args.made is None and not is_bare else args.made or list(SCENES)
    lossless = {
        made_scene(args.folder, name): made_scene(args.folder, name, crf=0) for name in scenes
    }
    paths += list(lossless)
    for path in paths:
        video = measured(path, VECTOR_CHOICES if args.vectors else tuple(CHOICES))
        show(video)
        real = [name for name in REAL if name in path.stem]
        number = list(REAL).index(real[0]) if real else None
        if not args.vectors:
            show_goals(video, number, lossless.get(path))
        show_vectors(video, number)
    if args.vectors:
        return
    if args.planted or is_bare:
        show_planted(args.folder, args.planted or 60)
    if args.key_frames or is_bare:
        show_key_frames(args.folder)
    if args.time:
        show_time(args.time)
    if args.hour:
        show_hour(args.folder)


if __name__ == "__main__":
    main()
