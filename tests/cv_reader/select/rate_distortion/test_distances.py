"""Distances against plain loops over shifted windows, and the native kernel against numpy."""

from typing import Any

import numpy as np
import pytest

from cv_reader.select.rate_distortion import distances
from cv_reader.select.rate_distortion.clip import SmallClip
from cv_reader.select.rate_distortion.distances import (
    MEASURES,
    Measure,
    distortions,
    grey_distances,
    level_distortion,
    quarters_and_cells,
    squared_distances,
)

SLOTS, HEIGHT, WIDTH = 3, 2, 3


@pytest.fixture(scope="module")
def clip() -> SmallClip:
    generator = np.random.default_rng(5)
    return SmallClip(
        luma=generator.integers(0, 256, (SLOTS, 8 * HEIGHT, 8 * WIDTH)).astype(np.uint8),
        chroma=generator.integers(0, 256, (SLOTS, 2, 4 * HEIGHT, 4 * WIDTH)).astype(np.uint8),
        rows=slice(1, 1 + HEIGHT),
        columns=slice(0, WIDTH),
        grid=4,
    )


def _window(plane: np.ndarray, top: int, left: int, side: int) -> np.ndarray:
    rows = np.clip(np.arange(top, top + side), 0, plane.shape[0] - 1)
    columns = np.clip(np.arange(left, left + side), 0, plane.shape[1] - 1)
    return plane[np.ix_(rows, columns)].astype(np.int64)


def _expected(
    clip: SmallClip,
    row: int,
    column: int,
    source: int,
    target: int,
    parts: int,
    follow: int,
    half: bool,
) -> list[int]:
    """Per part the least sum of squared differences over all shifts."""
    found = []
    side = 8 // parts
    for part in range(parts**2):
        top, left = row * 8 + part // parts * side, column * 8 + part % parts * side
        sums = []
        for down in range(-follow, follow + 1):
            for right in range(-follow, follow + 1):
                if half and (down + right) % 2:
                    continue
                shown = _window(clip.luma[source], top + down, left + right, side)
                total = ((shown - _window(clip.luma[target], top, left, side)) ** 2).sum()
                for plane in range(2):
                    shown = _window(
                        clip.chroma[source, plane],
                        top // 2 + int(down / 2),
                        left // 2 + int(right / 2),
                        side // 2,
                    )
                    there = _window(clip.chroma[target, plane], top // 2, left // 2, side // 2)
                    total += 4 * ((shown - there) ** 2).sum()
                sums.append(total)
        found.append(min(sums))
    return found


@pytest.mark.parametrize(
    ("follow", "half", "parts"),
    [
        *((0, False, 1), (0, False, 2), (2, False, 2), (3, True, 1)),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in ((2, False, 1), (3, True, 2))),
    ],
)
def test_distances_are_those_of_plain_loops(
    clip: SmallClip, parts: int, follow: int, half: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distances, "native", None)
    carried = np.array([[2, 0, 1], [0, 1, 1]])
    for row in range(HEIGHT):
        found = squared_distances(
            clip, row, slice(1, 3), parts=parts, follow=follow, half=half, carried=carried
        )
        assert found.shape == (WIDTH * parts**2, 4, 2)
        for column in range(WIDTH):
            own = found[column * parts**2 : (column + 1) * parts**2]
            for number, source in enumerate([*carried[:, column].tolist(), 1, 2]):
                for target in (1, 2):
                    expected = _expected(clip, row, column, source, target, parts, follow, half)
                    assert own[:, number, target - 1].tolist() == expected


@pytest.fixture(scope="module")
def kernel() -> Any:
    found = pytest.importorskip(
        "cv_reader_native.distances", reason="no native reader, or an old one"
    )
    return found if found.IS_FAST else pytest.skip("this processor lacks AVX-512 VNNI")


@pytest.fixture(scope="module")
def moving() -> SmallClip:
    """More slots than the kernel compares at once, of which some cells move and some do not."""
    generator, slots, width = np.random.default_rng(2), 19, 5
    luma = generator.integers(0, 256, (1, 8, 8 * width)).repeat(slots, 0)
    luma[:, :, 12:] = generator.integers(0, 256, luma[:, :, 12:].shape)
    chroma = generator.integers(0, 256, (1, 2, 4, 4 * width)).repeat(slots, 0)
    chroma[9:] = 255 - chroma[9:]
    return SmallClip(
        luma=luma.astype(np.uint8),
        chroma=chroma.astype(np.uint8),
        rows=slice(0, 1),
        columns=slice(0, width),
        grid=width,
    )


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize(("follow", "half"), [(0, False), (1, False), (3, True), (7, True)])
@pytest.mark.parametrize("parts", [1, 2])
def test_the_kernel_gives_the_numbers_of_numpy(
    moving: SmallClip, follow: int, half: bool, parts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    slots, generator = moving.num_slots, np.random.default_rng(3)
    carried = generator.integers(0, slots, (3, moving.width))

    def compare() -> list[np.ndarray]:
        ways = ({}, {"columns": slice(1, 3)}, {"carried": carried})
        fixed = {"parts": parts, "follow": follow, "half": half}
        return [squared_distances(moving, 0, slice(1, slots), **fixed, **way) for way in ways]

    found = compare()
    monkeypatch.setattr(distances, "native", None)
    for one, expected in zip(found, compare(), strict=True):
        assert np.array_equal(one, expected)


@pytest.mark.parametrize(("follow", "half"), [(0, False), (3, True)])
@pytest.mark.parametrize("is_later", [False, True])
def test_quarters_and_cells_are_compared_together(
    moving: SmallClip, follow: int, half: bool, is_later: bool
) -> None:
    """The kernel's common pass against one pass for each; without a kernel they are the same."""
    carried = np.random.default_rng(3).integers(0, moving.num_slots, (3, moving.width))
    fixed: dict[str, Any] = {"follow": follow, "half": half}
    fixed["carried"] = carried if is_later else None
    found = quarters_and_cells(moving, 0, slice(1, 19), **fixed)
    for one, parts in zip(found, (2, 1), strict=True):
        assert np.array_equal(one, squared_distances(moving, 0, slice(1, 19), parts=parts, **fixed))


def test_the_kernel_refuses_what_it_could_not_read(clip: SmallClip, kernel: Any) -> None:
    shifts, sources = np.zeros((1, 2), np.int8), np.zeros((WIDTH, SLOTS), np.int32)
    out = np.empty((WIDTH, SLOTS, SLOTS), np.float32)

    def refused(reason: str, **changed: Any) -> None:
        values = {
            "luma": clip.luma,
            "chroma": clip.chroma,
            "sources": sources,
            "shifts": shifts,
            "out": out,
            "size": clip.luma.shape,
            "place": (0, 0, WIDTH),
            "num_targets": SLOTS,
            "parts": 1,
            "still": 0.0,
        }
        with pytest.raises(ValueError, match=reason):
            kernel.least_distances(*(values | changed).values())

    refused("is no slot", sources=sources + SLOTS)
    refused("is no slot", sources=sources - 1)
    refused("outside", place=(HEIGHT, 0, WIDTH))
    refused("outside", place=(0, 1, WIDTH))
    refused("fit together", size=(SLOTS + 1, *clip.luma.shape[1:]))
    refused("fit together", chroma=clip.luma)
    refused("whole cells", size=(SLOTS, 4, 12 * WIDTH))
    refused("do not fit", sources=sources[:, :1].repeat(5, 1)[:2].copy())
    refused("output", out=out[:1].copy())
    refused("as many sources", num_targets=SLOTS + 1)
    refused("outside", place=(0, 0, 0), sources=sources[:0])
    refused("output", parts=3)
    refused("parts", parts=4)
    refused("too large", shifts=np.array([[0, 0], [8, 0]], np.int8))
    refused("none", shifts=np.array([[1, 0]], np.int8))


def test_grey_is_the_middle_of_all_planes(clip: SmallClip) -> None:
    luma = clip.luma[1, :8, :8].astype(int) - 128
    chroma = clip.chroma[1, :, :4, :4].astype(int) - 128
    expected = (luma**2).sum() + 4 * (chroma**2).sum()
    assert grey_distances(clip, 0, slice(1, 2))[0, 0] == expected


def test_measures_agree_at_ten_grey_levels_and_part_above() -> None:
    ten, forty = np.full((4, 1, 1), 48 * 100.0, np.float32), np.full((4, 1, 1), 48 * 1600.0, "f4")
    for measure in MEASURES.values():
        if measure.adds_mean:
            continue
        parts = measure.parts**2
        scale = 4 / parts
        assert distortions(ten[:parts] * scale, measure).tolist() == [[[100.0]]]
        assert level_distortion(100.0, measure) == 100.0
        assert distortions(forty[:parts] * scale, measure)[0, 0, 0] == pytest.approx(
            100 * 16**measure.power
        )


def test_the_worst_quarter_counts() -> None:
    quarters = np.array([0, 48, 96, 480], np.float32).reshape(4, 1, 1)
    assert distortions(quarters, Measure(2, 1.0)).tolist() == [[[10.0]]]


def test_sharp_adds_the_mean_and_the_worst_quarter_to_the_third_power() -> None:
    """The unit of the power is 20 grey levels; the whole cell may fit better moved as one, or worse
    than its quarters moved alone: it is compared by itself."""
    quarters = 48 * np.array([0, 100, 800, 400], np.float32).reshape(4, 1, 1)
    whole = np.full((1, 1, 1), 192 * 350.0, np.float32)
    found = distortions(quarters, MEASURES["sharp"], whole)
    assert found.tolist() == [[[350.0 + 800 * (800 / 400) ** 2]]]
    assert level_distortion(400.0, MEASURES["sharp"]) == 800.0
