"""Compare what selections show with goals: quality, waste, brief events, key frames, time.

    python scripts/bench/selection.py [VIDEO or FOLDER ...] [--real FOLDER] [--made [NAME ...]]
        [--vectors] [--planted 100] [--key_frames] [--time VIDEO]

Without arguments: the two real clips where they are present, the made clips, 60 planted ones, and
key frames. All figures by ``cv_reader score``'s measure, at 64 slots of 36 x 36 cells; 8, 4 and 2
mosaics are 10368, 5184 and 2592 tokens. "Goal" lines end with ``reached`` or ``MISSED``.
"""

import argparse
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from cv_reader.assets.make import select_from_video
from cv_reader.errors import VideoError
from cv_reader.reader import ReadOptions, open_video
from cv_reader.select.config import AssetConfig
from cv_reader.select.rate_distortion.clip import SmallClip
from cv_reader.select.rate_distortion.solver import decibels
from cv_reader.views.rebuilt import RebuiltScore, score_all, score_rows
from cv_reader.views.selections import read_followed, read_pictures
from planted import EVENT_SIDE_PX, EVENT_SLOTS, SCENES, coding_noise, made_scene, planted_clip

ROOT = Path(__file__).resolve().parents[2]
REAL = {"YVQwAEKZpaU": "YVQ", "XwB-dkS5BVM": "XwB"}
SUFFIXES = (".mp4", ".mkv", ".webm", ".mov", ".avi")

PLAIN = ("hold", "nearest")
MOVING = ("hold, motion followed", "nearest, motion followed")
ALONG = ("hold, along the vectors", "nearest, along the vectors")
NO_FIRST = {"keep_first_full_frame": False}
RATE = {"select": "rate_distortion"}
MEAN = RATE | NO_FIRST | {"distortion": "mean"}

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
MIN_EVENTS = 0.97
MAX_NOTHING_NEW = 0.01
MAX_CHANGED = 0.05
MAX_TIME = 0.15


@dataclass(frozen=True)
class Measured:
    """Scores of all choices of one video, and its reduced pictures."""

    path: Path
    scores: dict[str, RebuiltScore]
    clip: SmallClip
    frame_ids: np.ndarray

    def db(self, choice: str, way: str) -> float:
        """PSNR of a choice rebuilt in a way."""
        return self.scores[choice].rebuilt[way].psnr_db


def measured(path: Path, names: Iterable[str] = tuple(CHOICES)) -> Measured:
    """Make choices of a video and score them on the same pictures."""
    rows, base = {}, AssetConfig()
    for name, settings in ((name, CHOICES[name]) for name in names):
        try:
            selection = select_from_video(path, AssetConfig(**settings), ReadOptions())
        except VideoError as error:
            print(f"  {name}: left out: {error}")
            continue
        rows[name] = selection.rows
        frame_ids = selection.frame_ids
    clip, _, seconds = read_pictures(path, frame_ids, base, ReadOptions())
    followed = None
    try:
        followed = read_followed(path, frame_ids, clip, base, ReadOptions())
    except VideoError as error:
        print(f"  along the vectors: left out: {error}")
    scores = score_all(clip, list(rows.values()), seconds, followed=followed)
    return Measured(path, dict(zip(rows, scores, strict=True)), clip, frame_ids)


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


def goal(what: str, wanted: str, found: str, *, is_reached: bool) -> None:
    """Print a goal next to what was reached."""
    print(f"  goal {what}: {wanted}; {found}: {'reached' if is_reached else 'MISSED'}", flush=True)


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
    found = video.db(f"rd mean, nearest, still, {count}", "nearest")
    goal(
        f"plain, {count}/8 of the tokens",
        f"nearest of 8 whole frames, {frames:.2f} dB",
        f"{found:.2f}",
        is_reached=found >= frames,
    )
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


def show_planted(folder: Path, count: int) -> None:
    """Print the share of planted brief events that a kept cell shows."""
    sizes = {"sequence_length": EVENT_SLOTS, "square_size": EVENT_SIDE_PX, "num_images": 2}
    choices = {
        "uniform": {"select": "uniform"},
        "reference": {},
        "mv_residual": {"signal": "mv_residual"},
        "bits": {"signal": "bits"},
        "framediff": {"signal": "framediff"},
        "rlt": {"signal": "rlt"},
        "evs": {"signal": "evs"},
        "rd mean": MEAN,
        "rd worst": RATE | NO_FIRST | {"distortion": "worst"},
        "rd power_3": RATE | NO_FIRST | {"distortion": "power_3"},
        "rd sharp": RATE | NO_FIRST,
        "rd sharp, hold": RATE | NO_FIRST | {"direction": "hold"},
        "rd sharp, first frame whole": RATE,
    }
    hits = dict.fromkeys(choices, 0)
    for seed in range(count):
        path, event = planted_clip(folder, seed)
        for name, settings in choices.items():
            config = AssetConfig(**{**sizes, **settings})
            rows = select_from_video(path, config, ReadOptions()).rows
            kept = np.zeros((EVENT_SLOTS, config.grid, config.grid), bool)
            kept[tuple(rows.T)] = True
            hits[name] += bool(kept[event.cells(config.patch_size)].any())
    print(f"\nPlanted events of 3 of 64 frames, 72 of 2304 cells, {count} clips")
    for name, found in hits.items():
        print(f"  {name:28s} {100 * found / count:5.1f} % kept")
    share, wanted = hits["rd sharp"] / count, f">= {100 * MIN_EVENTS:.0f} %"
    goal("sharp", wanted, f"{100 * share:.1f} %", is_reached=share >= MIN_EVENTS)


def show_key_frames(folder: Path) -> None:
    """Print how much of a choice changes where the same pictures have other key frames."""
    print("\nThe same pictures, encoded with key frames every 250 and every 12")
    for often, seldom in (
        ("key frames every 12", "static camera"),
        ("sway, key frames every 12", "sway"),
    ):
        for label, settings in (("reference", {}), ("rd sharp (default)", RATE)):
            path = made_scene(folder, seldom)
            config = AssetConfig(**settings)
            choices = [
                select_from_video(made_scene(folder, name), config, ReadOptions())
                for name in (often, seldom)
            ]
            kept = [set(map(tuple, choice.rows.tolist())) for choice in choices]
            changed = 1 - len(kept[0] & kept[1]) / len(kept[0])
            clip, _, seconds = read_pictures(path, choices[1].frame_ids, config, ReadOptions())
            scores = [score_rows(clip, choice.rows, seconds).rebuilt for choice in choices]
            other, own = (score[MOVING[1]].psnr_db for score in scores)
            text = f"{100 * changed:.1f} % changed, {own:.2f} dB, by the other choice {other:.2f}"
            wanted = f"< {100 * MAX_CHANGED:.0f} % changed"
            goal(f"{seldom}, {label}", wanted, text, is_reached=changed < MAX_CHANGED)


def show_time(path: Path) -> None:
    """Print processor seconds of choosing next to those of decoding the same frames."""
    seconds: list[float] = []
    for signals in (True, False):
        started = time.process_time()
        with open_video(path) as video:
            ids = np.unique(np.linspace(0, video.index.num_frames - 1, 64).astype(int)).tolist()
            for _ in video.frames(ids, signals=signals):
                pass
        seconds.append(time.process_time() - started)
    decoding, pixels = seconds
    print(f"\n{path.name}: decoding 64 frames {decoding:.2f} s cpu, pixels alone {pixels:.2f} s")
    for name, settings in (
        ("reference", {}),
        ("rd mean, still", MEAN | {"predict": "still"}),
        ("rd mean", MEAN),
        ("rd sharp (default)", RATE),
    ):
        started = time.process_time()
        select_from_video(path, AssetConfig(**settings), ReadOptions(), keep_pictures=True)
        spent = time.process_time() - started
        needed = decoding if name == "reference" else pixels
        ratio = (spent - needed) / decoding
        goal(
            f"{name}: all but decoding, relative to decoding",
            f"<= {MAX_TIME}",
            f"{ratio:.2f} ({spent:.2f} s in all)",
            is_reached=ratio <= MAX_TIME,
        )


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
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path(tempfile.gettempdir()) / "bench_clips",
        help="folder for made clips",
    )
    args = parser.parse_args()
    others = (args.planted, args.key_frames, args.time)
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


if __name__ == "__main__":
    main()
