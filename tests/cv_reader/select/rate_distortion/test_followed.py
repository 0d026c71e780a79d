"""Cells shown along vectors against plain loops, brute force over choices, and what places are."""

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest

from cv_reader.errors import AssetError
from cv_reader.select.config import AssetConfig
from cv_reader.select.rate_distortion import places
from cv_reader.select.rate_distortion.chains import CELL_UNITS, STEPS, UNIT_STEPS, Links
from cv_reader.select.rate_distortion.choice import choose_units
from cv_reader.select.rate_distortion.clip import SmallClip
from cv_reader.select.rate_distortion.distances import MEASURES
from cv_reader.select.rate_distortion.followed import REACH, follow_vectors, shown_along
from cv_reader.select.rate_distortion.places import follow_motion
from cv_reader.select.rate_distortion.shortest_path import best_choice, segments
from cv_reader.select.rate_distortion.windows import Units, Window, cell_window

GRID, SLOTS, HEIGHT = 6, 7, 4
SHAPE = (CELL_UNITS * HEIGHT, CELL_UNITS * GRID)
LUMA, CHROMA = 8 // CELL_UNITS, 4 // CELL_UNITS  # samples along a side of a unit


def _clip(luma: np.ndarray, chroma: np.ndarray | None = None) -> SmallClip:
    """Content is rows 1 to 4 of 6."""
    if chroma is None:
        chroma = np.full((len(luma), 2, 16, 24), 128)
    return SmallClip(
        luma=luma.astype(np.uint8),
        chroma=chroma.astype(np.uint8),
        rows=slice(1, 5),
        columns=slice(0, GRID),
        grid=GRID,
    )


def _links(steps: Any) -> Any:
    """Links of whole slots that are known, (T, 2) or (T, a, b, 2) in sixteenths of a sample."""
    steps = np.asarray(steps)
    full = steps if steps.ndim == 4 else np.broadcast_to(steps[:, None, None], (SLOTS, *SHAPE, 2))
    is_known = np.ones(full.shape[:3], bool)
    return Links(full.astype(np.int16), is_known, 60)


@pytest.fixture(scope="module")
def clip() -> SmallClip:
    """Noise, and a motion that differs from unit to unit."""
    generator = np.random.default_rng(3)
    steps = generator.integers(-40, 41, (SLOTS, *SHAPE, 2)) + np.array([30, -70])
    luma = generator.integers(0, 256, (SLOTS, 32, 48))
    chroma = generator.integers(0, 256, (SLOTS, 2, 16, 24))
    return follow_motion(_clip(luma, chroma), _links(steps), 1)


@pytest.fixture(scope="module")
def before(clip: SmallClip) -> Any:
    """The same pictures before they were turned."""
    pairs = list(enumerate((-clip.turns).tolist()))
    luma = np.stack([np.roll(clip.luma[t], (8 * y, 8 * x), (0, 1)) for t, (y, x) in pairs])
    chroma = np.stack([np.roll(clip.chroma[t], (4 * y, 4 * x), (1, 2)) for t, (y, x) in pairs])
    return luma, chroma


def _between(plane: np.ndarray, down: Any, right: Any, phases: Any) -> Any:
    """A sample between samples: bilinear, rounded, the border repeated."""

    def at(row: int, column: int) -> Any:
        return int(plane[np.clip(row, 0, len(plane) - 1), np.clip(column, 0, plane.shape[1] - 1)])

    (row, below), (column, beside) = divmod(down, phases), divmod(right, phases)
    upper = at(row, column) * (phases - beside) + at(row, column + 1) * beside
    lower = at(row + 1, column) * (phases - beside) + at(row + 1, column + 1) * beside
    return (upper * (phases - below) + lower * below + phases**2 // 2) // phases**2


def _shown_unit(
    clip: SmallClip, before: Any, place: Any, unit: Any, source: int, target: int
) -> Any:
    """Luma and colours (2, ...) of a unit of a place, by following it alone."""
    at = [
        (place[axis] - clip.turns[:, axis]) % (HEIGHT, GRID)[axis] * CELL_UNITS + unit[axis]
        for axis in (0, 1)
    ]
    here = np.array([at[0][target], at[1][target]])
    kept = np.array([at[0][source], at[1][source]])
    steps, slot, way = np.zeros(2, int), target, int(source > target)
    while slot != source:
        led = here + (steps + UNIT_STEPS // 2) // UNIT_STEPS
        led = np.clip(led, 0, np.array(SHAPE) - 1)
        steps = steps + clip.links[way, slot, led[0], led[1]]
        slot += 1 if way else -1
    away = np.clip(UNIT_STEPS * (here - kept) + steps, -REACH * STEPS, REACH * STEPS)
    down, right = (UNIT_STEPS * kept + away).tolist()
    luma = [
        _between(before[0][source], (down + 2) // 4 + 4 * y, (right + 2) // 4 + 4 * x, 4)
        for y, x in product(range(LUMA), range(LUMA))
    ]
    colours = [
        [
            _between(plane, (down + 8) // 16 + 2 * y, (right + 8) // 16 + 2 * x, 2)
            for y, x in product(range(CHROMA), range(CHROMA))
        ]
        for plane in before[1][source]
    ]
    return np.reshape(luma, (LUMA, LUMA)), np.reshape(colours, (2, CHROMA, CHROMA))


def _cut(luma: Any, chroma: Any, place: Any, unit: Any) -> Any:
    """Luma and colours of a unit of a place in a picture that is turned to places."""
    row, column = (CELL_UNITS * place[axis] + unit[axis] for axis in (0, 1))
    rows, columns = (np.s_[LUMA * n : LUMA * (n + 1)] for n in (row, column))
    small = (np.s_[CHROMA * n : CHROMA * (n + 1)] for n in (row, column))
    return luma[rows, columns], chroma[(slice(None), *small)]


def _expected(
    clip: SmallClip, before: Any, place: Any, source: int, target: int, parts: int
) -> Any:
    """Squared differences of a place's parts, from upper left to lower right."""
    found = np.zeros((parts, parts), int)
    for unit in product(range(CELL_UNITS), range(CELL_UNITS)):
        luma, colours = _shown_unit(clip, before, place, unit, source, target)
        there = _cut(clip.luma[target], clip.chroma[target], place, unit)
        error = ((luma - there[0]) ** 2).sum() + 4 * ((colours - there[1]) ** 2).sum()
        found[unit[0] * parts // CELL_UNITS, unit[1] * parts // CELL_UNITS] += error
    return found.ravel()


def test_turns_follow_the_camera(clip: SmallClip) -> None:
    assert np.ptp(clip.turns, axis=0).max() >= 2  # the clip is worth the test
    median = np.median(clip.links[0, 1:].reshape(SLOTS - 1, -1, 2), axis=1)
    camera = np.concatenate([[[0, 0]], np.floor(median).cumsum(axis=0)])
    assert np.abs(clip.turns * 8 * STEPS - camera).max() <= 4 * STEPS


def test_pictures_may_be_turned_in_place() -> None:
    luma = np.random.default_rng(6).integers(0, 256, (SLOTS, 48, 48)).astype(np.uint8)
    links = _links(np.array([[0, 8 * STEPS]] * SLOTS) * (np.arange(SLOTS) > 0)[:, None])
    turned = follow_motion(_clip(luma), links, 1)
    clip = _clip(luma.copy())
    found = follow_motion(clip, links, 1, in_place=True)
    assert found.luma is clip.luma and (found.luma == turned.luma).all()
    assert (found.chroma == turned.chroma).all() and (turned.luma != luma).any()


@pytest.mark.parametrize("parts", [1, 2])
def test_distances_are_those_of_units_that_are_followed_one_by_one(
    clip: SmallClip, before: Any, parts: int
) -> None:
    row, worst = 2, 1e9
    least = np.full((GRID * parts**2, SLOTS, SLOTS), worst, np.float32)
    follow_vectors(clip, row, slice(0, SLOTS), least, parts=parts)
    by_cell = least.reshape(GRID, parts**2, SLOTS, SLOTS)
    # A slot itself is no motion to follow.
    assert (by_cell[:, :, range(SLOTS), range(SLOTS)] == worst).all()
    for column, source, target in [(0, 0, 1), (3, 2, 1), (5, 0, 6), (1, 6, 0), (4, 4, 2)]:
        expected = _expected(clip, before, (row, column), source, target, parts)
        assert by_cell[column, :, source, target].tolist() == expected.tolist()


def test_columns_and_windows_are_parts_of_the_whole(clip: SmallClip) -> None:
    whole = np.full((GRID, SLOTS, SLOTS), 1e9, np.float32)
    follow_vectors(clip, 1, slice(0, SLOTS), whole)
    some = np.full((2, SLOTS, SLOTS), 1e9, np.float32)
    follow_vectors(clip, 1, slice(0, SLOTS), some, columns=slice(2, 4))
    assert (some == whole[2:4]).all()
    window = np.full((GRID, 3, 3), 1e9, np.float32)
    follow_vectors(clip, 1, slice(2, 5), window)
    assert (window == whole[:, 2:5, 2:5]).all()


def test_distances_are_only_lowered_and_still_cells_left_alone(clip: SmallClip) -> None:
    least = np.zeros((GRID, SLOTS, SLOTS), np.float32)
    least[3] = 2e6
    follow_vectors(clip, 0, slice(0, SLOTS), least)
    assert not least[[0, 1, 2, 4, 5]].any()
    assert least[3].min() < 2e6 and least[3].max() == np.float32(2e6)


@pytest.mark.parametrize("parts", [1, 2])
def test_a_window_compares_its_slots_as_the_whole_clip_does(clip: SmallClip, parts: int) -> None:
    window, count = slice(2, 6), GRID * parts**2
    whole = np.full((count, SLOTS, SLOTS), 2e6, np.float32)
    # What a window carries in comes first, and no chain leads there: it stays as it is.
    part = np.full((count, 5, 4), 2e6, np.float32)
    follow_vectors(clip, 1, slice(0, SLOTS), whole, parts=parts)
    follow_vectors(clip, 1, window, part[:, 1:], parts=parts)
    assert (part[:, 0] == 2e6).all()
    np.testing.assert_array_equal(part[:, 1:], whole[:, window, window])
    assert part[:, 1:].min() < 2e6


def test_quarters_and_cells_are_followed_together(clip: SmallClip) -> None:
    """As one pass for each does; a cell stays where it is still as a whole, quarters likewise."""
    everything, generator = slice(0, SLOTS), np.random.default_rng(4)
    quarters = generator.integers(0, 400_000, (4 * GRID, SLOTS, SLOTS)).astype(np.float32)
    cells = generator.integers(0, 1_600_000, (GRID, SLOTS, SLOTS)).astype(np.float32)
    quarters[:4], cells[1], quarters[8:12], cells[2] = 192, 192, 192, 192
    apart = quarters.copy(), cells.copy()
    follow_vectors(clip, 1, everything, apart[0], parts=2)
    follow_vectors(clip, 1, everything, apart[1])
    assert (apart[0] < quarters).any() and (apart[1] < cells).any()
    follow_vectors(clip, 1, everything, quarters, parts=2, whole=cells)
    np.testing.assert_array_equal(quarters, apart[0])
    np.testing.assert_array_equal(cells, apart[1])


def test_pictures_shown_are_those_that_distances_are_of(clip: SmallClip, before: Any) -> None:
    generator = np.random.default_rng(5)
    for target in (0, 4):
        sources = generator.integers(0, SLOTS, (HEIGHT, GRID)).astype(np.int32)
        luma, chroma = shown_along(clip, target, sources)
        for place in [(0, 0), (1, 5), (3, 2)]:
            source = int(sources[place])
            for unit in product(range(CELL_UNITS), range(CELL_UNITS)):
                expected = _shown_unit(clip, before, place, unit, source, target)
                for found, wanted in zip(_cut(luma, chroma, place, unit), expected, strict=True):
                    assert found.tolist() == wanted.tolist()


def _shown_by_neighbours(window: Window, kept: list[int], direction: str) -> np.ndarray:
    """Return the distortion of all slots where each shows the kept slot before (or after) it."""
    total = np.zeros(window.between.shape[0])
    for slot in range(SLOTS):
        near = [one for one in kept if one <= slot][-1:]
        near += [one for one in kept if one > slot][:1] if direction == "nearest" else []
        shown = [window.between[:, one, slot] for one in near] or [window.before[0][:, slot]]
        total += np.min(shown, axis=0)
    return total


@pytest.mark.parametrize("direction", ["hold", "nearest"])
def test_no_choice_of_slots_is_cheaper(clip: SmallClip, direction: str) -> None:
    """Every subset of the slots of a place, by what it shows."""
    config = AssetConfig(
        sequence_length=SLOTS,
        num_images=1,
        square_size=16 * GRID,
        select="rate_distortion",
        predict="vectors",
        direction=direction,
    )
    units = Units.of(clip, 1)
    window = cell_window(clip, units, slice(0, SLOTS), config, measure=MEASURES["mean"])
    assert (window.between[:, range(SLOTS), range(SLOTS)] == 0).all()
    costs = segments(window.between, list(window.before), direction)[0]
    price = np.float32(np.median(window.before))
    found = best_choice(costs, float(price))
    least = np.full(units.num_inside, np.inf)
    for subset in product((False, True), repeat=SLOTS):
        shown = _shown_by_neighbours(window, np.flatnonzero(subset).tolist(), direction)
        least = np.minimum(least, shown + price * sum(subset))
    np.testing.assert_allclose(found.distortion + price * found.counts, least, rtol=1e-5)
    assert len(set(found.counts.tolist())) > 1


def test_content_that_moves_needs_to_be_kept_once() -> None:
    """A texture that moves by 5 of a cell's 8 samples a slot: beyond the small search."""
    world = np.random.default_rng(7).integers(0, 256, (32, 48 + 5 * SLOTS))
    luma = np.stack([world[:, 5 * t : 5 * t + 48] for t in range(SLOTS)])
    links = _links(np.array([[0, 5 * STEPS]] * SLOTS) * (np.arange(SLOTS) > 0)[:, None])
    config = AssetConfig(
        sequence_length=SLOTS,
        num_images=SLOTS,
        square_size=16 * GRID,
        select="rate_distortion",
        distortion="mean",
        direction="hold",
        token_price=400.0,
        keep_first_full_frame=False,
    )
    ones = np.ones(SLOTS, np.intp)
    counts = {}
    for predict in ("search", "vectors"):
        chosen = replace(config, predict=predict)
        clip = _clip(luma)
        clip = follow_motion(clip, links, 1) if predict == "vectors" else clip
        counts[predict] = choose_units(clip, ones, chosen).kept.sum(axis=(1, 2))
    assert counts["search"].tolist() == [24] * SLOTS
    # Then what comes in at the right is kept alone: 30 samples are four columns of cells, half of
    # each in the picture at first.
    assert counts["vectors"][0] == 24
    assert 16 <= counts["vectors"][1:].sum() <= 32


def test_kept_places_are_turned_back_to_cells(clip: SmallClip) -> None:
    cells = np.random.default_rng(9).random((SLOTS, GRID, GRID)) < 0.3
    places = clip.turned(cells)
    assert (clip.turned_back(places) == cells).all()
    slot = int(np.flatnonzero(clip.turns[:, 1])[0])
    down, right = clip.turns[slot]
    for row, column in np.argwhere(cells[slot, 1:5]).tolist():
        assert places[slot, 1 + (row + down) % HEIGHT, (column + right) % GRID]
    assert (places[:, [0, 5]] == cells[:, [0, 5]]).all()


def test_blocks_are_turned_as_a_whole_or_not_at_all() -> None:
    steps = [[0, 0], *[[0, 16 * STEPS]] * (SLOTS - 1)]
    noise = np.random.default_rng(0).integers(0, 256, (SLOTS, 32, 48))
    odd = _clip(noise)
    assert not follow_motion(odd, _links(steps), 2).turns.any()
    even = replace(odd, rows=slice(2, 6))
    assert follow_motion(even, _links(steps), 2).turns[:, 1].tolist() == [0, 2, 4, 6, 8, 10, 12]


def test_pixels_tell_the_camera_where_vectors_end() -> None:
    world = np.random.default_rng(1).integers(0, 256, (20, 40)).repeat(4, 0).repeat(4, 1)
    luma = np.stack([world[8 * t : 8 * t + 32, 4 * t : 4 * t + 48] for t in range(SLOTS)])
    links = Links(np.zeros((SLOTS, *SHAPE, 2), np.int16), np.zeros((SLOTS, *SHAPE), bool), 60)
    found = follow_motion(_clip(luma[:4]), Links(*(one[:4] for one in links[:2]), 60), 1)
    assert found.known_share == 0
    assert (found.links[0, 1:] == np.array([8, 4]) * STEPS).all()
    assert found.turns.tolist() == [[0, 0], [1, 1], [2, 1], [3, 2]]


def test_clips_that_need_too_much_memory_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "MAX_CLIP_BYTES", 32 * 48 * SLOTS * 16)
    with pytest.raises(
        AssetError, match="7 slots of 4 x 6 cells need .* to follow vectors, .* use fewer slots"
    ):
        follow_motion(_clip(np.zeros((SLOTS, 32, 48))), _links(np.zeros((SLOTS, 2), int)), 1)


def test_a_cut_does_not_move_the_camera() -> None:
    """Any shift of unlike pictures is a little better than none."""
    luma = np.random.default_rng(8).integers(0, 256, (SLOTS, 16, 24)).repeat(2, 1).repeat(2, 2)
    unknown = Links(np.zeros((SLOTS, *SHAPE, 2), np.int16), np.zeros((SLOTS, *SHAPE), bool), 60)
    assert not follow_motion(_clip(luma), unknown, 1).turns.any()
