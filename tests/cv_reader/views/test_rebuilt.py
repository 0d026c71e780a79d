"""What is measured on rebuilt videos against FFmpeg's filters and plain loops."""

import gc
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from cv_reader.select.rate_distortion.chains import Links
from cv_reader.select.rate_distortion.clip import SmallClip
from cv_reader.select.rate_distortion.places import follow_motion
from cv_reader.views.rebuilt import (
    VECTOR_WAYS,
    WAYS,
    RebuiltScore,
    rebuilt_slots,
    score_all,
    score_rows,
)

GRID, SLOTS = 6, 8
SECONDS = np.arange(SLOTS) / 4
ROWS = slice(1, 5)


@pytest.fixture(scope="module")
def clip() -> SmallClip:
    """Smooth random content that drifts; content is rows 1..4 of 6."""
    generator = np.random.default_rng(2)
    coarse = generator.integers(20, 230, (14, 20)).repeat(4, 0).repeat(4, 1)
    luma = np.stack([coarse[t : t + 32, 2 * t : 2 * t + 48] for t in range(SLOTS)])
    colour = generator.integers(60, 200, (2, 14, 20)).repeat(2, 1).repeat(2, 2)
    chroma = np.stack([colour[:, t // 2 : t // 2 + 16, t : t + 24] for t in range(SLOTS)])
    return SmallClip(
        luma=(luma + generator.integers(0, 9, luma.shape)).astype(np.uint8),
        chroma=chroma.astype(np.uint8),
        rows=ROWS,
        columns=slice(0, GRID),
        grid=GRID,
    )


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    kept = np.random.default_rng(4).random((SLOTS, GRID, GRID)) < 0.2
    kept[0, 1:4] = True  # row 4 begins grey
    return np.argwhere(kept).astype(np.int32)


@pytest.fixture(scope="module")
def followed(clip: SmallClip) -> Any:
    """The drift of the content, and units in which it is wrong or not known."""
    generator = np.random.default_rng(6)
    steps = np.zeros((SLOTS, 16, 24, 2), np.int16) + np.array([16, 32], np.int16)
    steps[:, 4:9] += generator.integers(-60, 61, (SLOTS, 5, 24, 2)).astype(np.int16)
    is_known = generator.random((SLOTS, 16, 24)) < 0.8
    return follow_motion(clip, Links(steps, is_known, 30), 1)


@pytest.fixture(scope="module")
def score(clip: SmallClip, rows: np.ndarray, followed: Any) -> RebuiltScore:
    return score_all(clip, [rows], SECONDS, followed=followed)[0]


def _yuv(luma: np.ndarray, chroma: np.ndarray, number: int) -> av.VideoFrame:
    frame = av.VideoFrame(luma.shape[1], luma.shape[0], "yuv420p")
    for plane, samples in zip(frame.planes, (luma, *chroma), strict=True):
        padded = np.zeros((plane.height, plane.line_size), np.uint8)
        padded[:, : plane.width] = samples
        plane.update(padded.tobytes())
    frame.pts, frame.time_base = number, Fraction(1, 25)
    return frame


def _filtered(name: str, originals: Any, others: Any, path: Path) -> list[dict[str, str]]:
    """What an FFmpeg filter of two videos writes of each frame."""
    graph = av.filter.Graph()
    height, width = originals[0][0].shape
    settings = {"width": width, "height": height, "format": "yuv420p", "time_base": Fraction(1, 25)}
    sources = [graph.add_buffer(**settings) for _ in range(2)]
    compare, sink = graph.add(name, f"stats_file={path}"), graph.add("buffersink")
    for number, source in enumerate(sources):
        source.link_to(compare, 0, number)
    compare.link_to(sink)
    graph.configure()
    for number, pair in enumerate(zip(originals, others, strict=True)):
        for source, picture in zip(sources, pair, strict=True):
            source.push(_yuv(*picture, number))
        sink.pull()
    del compare, sink, sources, source, graph  # the file is written when the filter is freed
    gc.collect()
    lines = path.read_text().splitlines()
    assert len(lines) == len(originals)
    pairs = [[part.split(":") for part in line.split() if ":" in part] for line in lines]
    return [dict(line) for line in pairs]


EVERY_WAY = (*WAYS, *VECTOR_WAYS)


@pytest.mark.parametrize("way", EVERY_WAY, ids=[way.name for way in EVERY_WAY])
def test_quality_is_what_ffmpeg_measures(
    clip: SmallClip, followed: Any, score: RebuiltScore, way: Any, tmp_path: Path
) -> None:
    rebuilt = score.rebuilt[way.name]
    pictures = list(rebuilt_slots(followed if way.along else clip, way, rebuilt.sources))
    originals = list(zip(clip.luma, clip.chroma, strict=True))
    try:
        psnr = _filtered("psnr", originals, pictures, tmp_path / "psnr")
        ssim = _filtered("ssim", originals, pictures, tmp_path / "ssim")
    except ValueError as error:
        pytest.skip(f"this FFmpeg has no such filter: {error}")
    planes = [[float(one[f"mse_{plane}"]) for plane in "yuv"] for one in psnr]
    # FFmpeg prints two decimals.
    np.testing.assert_allclose(rebuilt.errors, np.mean(planes, axis=1), atol=0.01)
    expected = 10 * np.log10(255**2 / np.mean(planes))
    assert rebuilt.psnr_db == pytest.approx(expected, abs=1e-3)
    if way.follow:
        return
    assert rebuilt.ssim == pytest.approx(np.mean([float(one["Y"]) for one in ssim]), abs=2e-4)


def test_cells_show_the_last_or_the_best_kept_picture(
    clip: SmallClip, rows: np.ndarray, score: RebuiltScore
) -> None:
    kept = set(map(tuple, rows.tolist()))
    for name in ("hold", "nearest"):
        sources = score.rebuilt[name].sources.reshape(SLOTS, 4, GRID)
        for slot, row, column in np.ndindex(sources.shape):
            own = [t for t in range(SLOTS) if (t, row + 1, column) in kept]
            shown = sources[slot, row, column]
            if name == "hold":
                assert shown == max((t for t in own if t <= slot), default=-1)
            elif own:
                errors = {t: _error(clip, t, slot, row, column) for t in own}
                assert errors[shown] == min(errors.values())
            else:
                assert shown == -1


def _error(clip: SmallClip, source: int, target: int, row: int, column: int) -> float:
    place = np.s_[row * 8 : row * 8 + 8, column * 8 : column * 8 + 8]
    small = np.s_[:, row * 4 : row * 4 + 4, column * 4 : column * 4 + 4]
    luma = clip.luma[source][place].astype(int) - clip.luma[target][place]
    chroma = clip.chroma[source][small].astype(int) - clip.chroma[target][small]
    return (luma**2).sum() + 4 * (chroma**2).sum()


def test_following_motion_and_looking_ahead_only_help(score: RebuiltScore) -> None:
    found = {name: rebuilt.psnr_db for name, rebuilt in score.rebuilt.items()}
    assert found["hold"] < found["nearest"] < found["nearest, motion followed"]
    assert found["hold"] < found["hold, motion followed"] < found["hold, along the vectors"]
    assert found["nearest, motion followed"] < found["nearest, along the vectors"]


def test_everything_kept_is_everything_shown(clip: SmallClip, followed: Any) -> None:
    every = np.argwhere(np.ones((SLOTS, GRID, GRID))).astype(np.int32)
    score = score_all(clip, [every], SECONDS, followed=followed)[0]
    assert len(score.rebuilt) == 6
    assert all(one.psnr_db == 100 for one in score.rebuilt.values())
    assert score.rebuilt["hold"].ssim == score.rebuilt["nearest"].ssim == 1
    assert score.unseen_slots == 0
    assert score.num_tokens == SLOTS * GRID**2
    assert score.nothing_new == 0


def test_what_shows_nothing_new_and_how_long_a_change_is_unseen() -> None:
    luma = np.full((SLOTS, 32, 48), 100, np.uint8)
    luma[3:6, :8, :8] = 160  # one cell changes for three slots
    clip = SmallClip(
        luma=luma,
        chroma=np.full((SLOTS, 2, 16, 24), 128, np.uint8),
        rows=ROWS,
        columns=slice(0, GRID),
        grid=GRID,
    )
    first = [(0, row, column) for row in range(GRID) for column in range(GRID)]
    late = score_rows(clip, np.array([*first, (5, 1, 0), (2, 2, 2)], np.int32), SECONDS)
    # Slots 3 and 4 are missed; then 6 and 7, when the cell is as before and the kept one shown.
    assert (late.unseen_slots, late.unseen_seconds) == (2, 0.5)
    assert late.nothing_new == 0.5
    assert late.per_slot.tolist() == [36, 0, 1, 0, 0, 1, 0, 0]
    never = score_rows(clip, np.array(first, np.int32), SECONDS)
    assert (never.unseen_slots, never.unseen_seconds) == (3, 0.75)
    assert np.isnan(never.nothing_new)
