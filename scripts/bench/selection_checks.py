"""Checks of selections besides what they show: brief events, other key frames, and time."""

import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cv_reader.assets.make import select_from_video
from cv_reader.media.frames import CodecFrame
from cv_reader.reader import ReadOptions, Video
from cv_reader.select.config import AssetConfig
from cv_reader.views.rebuilt import score_rows
from cv_reader.views.selections import read_pictures
from planted import CRF, EVENT_SIDE_PX, EVENT_SLOTS, SCENES, made_scene, planted_clip

MOVING = ("hold, motion followed", "nearest, motion followed")
NO_FIRST = {"keep_first_full_frame": False}
RATE = {"select": "rate_distortion"}
MEAN = RATE | NO_FIRST | {"distortion": "mean"}

MIN_EVENTS = 0.97
MAX_CHANGED = 0.05
MAX_TIME = 0.15
OFTEN, SELDOM = 12, 250
"""Intervals of key frames."""
OTHER_CRF = CRF + 0.5


def goal(what: str, wanted: str, found: str, *, is_reached: bool) -> None:
    """Print a goal next to what was reached."""
    print(f"  goal {what}: {wanted}; {found}: {'reached' if is_reached else 'MISSED'}", flush=True)


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
        "rd worst_3": RATE | NO_FIRST | {"distortion": "worst_3"},
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
    """Print how much of a choice changes where the same pictures have other key frames.

    Two more figures tell key frames from coding noise: what changes with the same key frames and
    a slightly lower quality, and with other key frames and no loss.
    """
    print(f"\nThe same pictures, encoded with key frames every {SELDOM} and every {OFTEN}")
    for name in [name for name, (_, interval) in SCENES.items() if interval == SELDOM]:
        path, other_keys = (
            made_scene(folder, name, key_interval=interval) for interval in (SELDOM, OFTEN)
        )
        other_quality = made_scene(folder, name, OTHER_CRF, SELDOM)
        lossless = [made_scene(folder, name, 0, interval) for interval in (SELDOM, OFTEN)]
        for label, settings in (("reference", {}), ("rd sharp (default)", RATE)):
            config = AssetConfig(**settings)
            own, other, control, *exact = (
                select_from_video(one, config, ReadOptions())
                for one in (path, other_keys, other_quality, *lossless)
            )
            changed = _changed(own.rows, other.rows)
            clip, _, seconds = read_pictures(path, own.frame_ids, config, ReadOptions())
            shown, shown_by_other = (
                score_rows(clip, choice.rows, seconds).rebuilt[MOVING[1]].psnr_db
                for choice in (own, other)
            )
            text = (
                f"{changed:.1%} changed, {shown:.2f} dB, by the other choice {shown_by_other:.2f}; "
                f"same key frames at CRF {OTHER_CRF}: {_changed(own.rows, control.rows):.1%}; "
                f"other key frames without loss: {_changed(*(one.rows for one in exact)):.1%}"
            )
            wanted = f"< {MAX_CHANGED:.0%} changed"
            goal(f"{name}, {label}", wanted, text, is_reached=changed < MAX_CHANGED)


def _changed(rows: NDArray[np.int32], others: NDArray[np.int32]) -> float:
    """Share of the rows (N, 3) that are not among the others."""
    kept = set(map(tuple, rows.tolist()))
    return 1 - len(kept & set(map(tuple, others.tolist()))) / len(kept)


@dataclass(frozen=True)
class _TimedOptions(ReadOptions):
    """Options that note the processor seconds of opening a video and of decoding its frames."""

    spent: list[float] = field(default_factory=list)

    def open(self, path: str | os.PathLike[str]) -> Video:
        started = time.process_time()
        video = super().open(path)
        self.spent.append(time.process_time() - started)
        return video

    def watched(self, frames: Iterable[CodecFrame], wanted_frames: int) -> Iterator[CodecFrame]:
        decoded = super().watched(frames, wanted_frames)
        while True:
            started = time.process_time()
            frame = next(decoded, None)
            self.spent.append(time.process_time() - started)
            if frame is None:
                return
            yield frame


def show_time(path: Path, repeats: int = 3) -> None:
    """Print processor seconds of choosing next to those of decoding, within the same run: the run
    of the least share, because other programs on the machine slow both down, one after the other.
    """
    print(f"\n{path.name}: 64 slots, the best of {repeats} runs")
    for name, settings in (
        ("reference", {}),
        ("rd mean, still", MEAN | {"predict": "still"}),
        ("rd mean", MEAN),
        ("rd sharp (default)", RATE),
    ):
        found: list[tuple[float, float, float]] = []
        for _ in range(repeats):
            options = _TimedOptions()
            started = time.process_time()
            select_from_video(path, AssetConfig(**settings), options, keep_pictures=True)
            decoding = sum(options.spent)
            rest = time.process_time() - started - decoding
            found.append((rest / decoding, rest, decoding))
        ratio, rest, decoding = min(found)
        goal(
            f"{name}: all but decoding, relative to decoding",
            f"<= {MAX_TIME}",
            f"{ratio:.2f} ({rest:.2f} s, decoding {decoding:.2f} s; "
            f"all runs {', '.join(f'{one:.2f}' for one, *_ in found)})",
            is_reached=ratio <= MAX_TIME,
        )
