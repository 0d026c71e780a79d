"""Budgets, prices and qualities on clips whose content is known."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cv_reader.errors import SettingsError
from cv_reader.select.config import AssetConfig
from cv_reader.select.rate_distortion import choice as choice_module
from cv_reader.select.rate_distortion.choice import choose_units
from cv_reader.select.rate_distortion.clip import SmallClip
from cv_reader.select.rate_distortion.distances import MEASURES
from cv_reader.select.rate_distortion.solver import Solver, decibels
from cv_reader.select.rate_distortion.windows import Units, cell_window, shown_errors

GRID, SLOTS = 6, 16
CONFIG = AssetConfig(
    sequence_length=SLOTS,
    num_images=3,
    square_size=16 * GRID,
    select="rate_distortion",
    distortion="mean",
    predict="still",
    direction="hold",
)
ONES = np.ones(SLOTS, np.intp)


def _clip(luma: np.ndarray, rows: slice = slice(1, 5)) -> SmallClip:
    """Grey colours; content rows 1..4 of 6."""
    slots, height, width = luma.shape
    return SmallClip(
        luma=luma.astype(np.uint8),
        chroma=np.full((slots, 2, height // 2, width // 2), 128, np.uint8),
        rows=rows,
        columns=slice(0, GRID),
        grid=GRID,
    )


def _noise(slots: int = SLOTS, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (slots, 32, 8 * GRID))


def _moving() -> np.ndarray:
    """A bright bar that moves over smooth ground."""
    luma = np.tile(np.linspace(60, 120, 8 * GRID), (SLOTS, 32, 1))
    for slot in range(SLOTS):
        luma[slot, 8:16, 3 * slot : 3 * slot + 6] = 250
    return luma


def _quality(
    clip: SmallClip, kept: np.ndarray, config: AssetConfig, measure: str = "mean"
) -> float:
    """PSNR of what is kept (T, g, g) by the measure that the configuration optimises."""
    units = Units.of(clip, 1)
    window = cell_window(clip, units, slice(0, clip.num_slots), config, measure=MEASURES[measure])
    inside = kept[:, clip.rows, clip.columns].reshape(len(kept), -1)
    return decibels(float(shown_errors(window, inside, config.direction).mean()))


def test_the_budget_is_met_to_the_cell_and_prices_fall_with_it() -> None:
    clip = _clip(_noise())
    prices = []
    for num_images in (1, 2, 3, 4):
        config = replace(CONFIG, num_images=num_images)
        found = choose_units(clip, ONES, config)
        # The first slot is kept whole: 12 cells of it are outside the picture. What no whole cell's
        # next step fits into is left to be filled by error.
        assert 0 <= num_images * GRID**2 - 12 - found.kept.sum() <= 3
        assert found.kept[0, 1:5].all()
        assert not found.kept[:, [0, 5]].any()
        prices.append(found.price)
    assert prices == sorted(prices, reverse=True)


@pytest.mark.parametrize("direction", ["hold", "nearest"])
@pytest.mark.parametrize("first", [{}, {"keep_first_full_frame": False}])
def test_a_whole_slot_near_the_beginning_takes_its_part_of_the_budget(
    direction: str, first: dict[str, Any]
) -> None:
    """What may be spared behind it is more than what is shown up to it."""
    config = replace(
        CONFIG, direction=direction, keep_mid_full_frame=True, mid_full_frame_index=1, **first
    )
    found = choose_units(_clip(_noise()), ONES, config)
    assert found.kept[1].sum() == 24
    budget = 3 * 36 - 12 * len(config.full_slots)
    # The last cell may cost more than two neighbouring prices are apart: the caller fills that.
    assert budget - 2 < found.kept.sum() <= budget


@pytest.mark.parametrize("direction", ["hold", "nearest"])
@pytest.mark.parametrize("predict", ["still", "search"])
@pytest.mark.parametrize("content", [_noise, _moving])
def test_no_other_choice_of_as_many_cells_shows_more(
    direction: str, predict: str, content: Any
) -> None:
    config = replace(CONFIG, direction=direction, predict=predict)
    clip = _clip(content())
    kept = choose_units(clip, ONES, config).kept
    best = _quality(clip, kept, config)
    count = int(kept.sum())
    generator = np.random.default_rng(1)
    candidates = np.argwhere(np.ones((SLOTS - 1, 4, GRID)))
    for _ in range(20):
        other = np.zeros_like(kept)
        other[0, 1:5] = True
        for slot, row, column in generator.permutation(candidates)[: count - 24]:
            other[slot + 1, row + 1, column] = True
        assert _quality(clip, other, config) <= best + 1e-4
    swapped = kept.copy()
    swapped[1:] = kept[1:][generator.permutation(SLOTS - 1)]
    assert _quality(clip, swapped, config) <= best + 1e-4


def test_a_still_clip_keeps_one_frame_where_quality_is_asked_for() -> None:
    luma = np.repeat(_noise(1), SLOTS, axis=0)
    found = choose_units(_clip(luma), ONES, replace(CONFIG, quality_db=60.0))
    assert found.kept.sum(axis=(1, 2)).tolist() == [24] + [0] * (SLOTS - 1)
    assert found.num_images == 1


def test_a_new_scene_is_kept_whole_and_once() -> None:
    luma = np.repeat(_noise(2), SLOTS // 2, axis=0)
    found = choose_units(_clip(luma), ONES, replace(CONFIG, num_images=2))
    per_slot = found.kept.sum(axis=(1, 2))
    assert per_slot[0] == per_slot[SLOTS // 2] == 24
    assert per_slot.sum() == 48


@pytest.mark.parametrize("quality_db", [22.0, 28.0])
def test_a_quality_is_reached_with_fewest_mosaics_that_do(quality_db: float) -> None:
    clip, config = _clip(_moving()), replace(CONFIG, num_images=8, quality_db=quality_db)
    found = choose_units(clip, ONES, config)
    assert _quality(clip, found.kept, config) >= quality_db
    assert found.num_images > 1
    fewer = replace(config, quality_db=0.0, num_images=found.num_images - 1)
    assert _quality(clip, choose_units(clip, ONES, fewer).kept, config) < quality_db


def test_a_quality_out_of_reach_takes_the_whole_budget() -> None:
    clip = _clip(_noise())
    config = replace(CONFIG, num_images=2, quality_db=60.0)
    found = choose_units(clip, ONES, config)
    assert found.kept.sum() == 2 * GRID**2 - 12
    assert found.num_images == 2
    assert _quality(clip, found.kept, config) < 60


def _noisy(seed: int, most: int = 3) -> np.ndarray:
    """A still picture, brighter by half in its last third, and other noise each time."""
    luma = np.repeat(_noise(1), SLOTS, axis=0) // 2 + 40
    luma[10:] += 30
    return luma + np.random.default_rng(seed).integers(-most, most + 1, luma.shape)


@pytest.mark.parametrize("quality_db", [40.0, 47.0])
def test_a_quality_is_met_without_repeats_where_that_is_possible(quality_db: float) -> None:
    """Pictures of the same thing differ by 2.8 (44 dB where each is kept once), noise alone."""
    config = replace(CONFIG, num_images=16, quality_db=quality_db)
    clip = _clip(_noisy(1))
    found = choose_units(clip, ONES, config)
    assert _quality(clip, found.kept, config) >= quality_db
    per_slot = found.kept.sum(axis=(1, 2))
    if quality_db == 40:
        assert per_slot[0] == per_slot[10:].sum() == 24
        assert per_slot.sum() == 48
        assert found.num_images == 2
    else:
        assert per_slot.sum() > 100
    assert not found.gains.any()


@pytest.mark.parametrize("distortion", ["sharp", "worst_3"])
@pytest.mark.parametrize("direction", ["hold", "nearest"])
def test_noise_does_not_decide(distortion: str, direction: str) -> None:
    config = replace(CONFIG, distortion=distortion, direction=direction, num_images=6)
    # What sharp must spare at least is a little less than what the others must.
    most = 2 if distortion == "sharp" else 3
    both = [choose_units(_clip(_noisy(seed, most)), ONES, config) for seed in (1, 2)]
    # Where later slots may show it, the fourth slots are preferred.
    second = {"hold": 10, "nearest": 12}[direction]
    expected = [24 * (slot in (0, second)) for slot in range(SLOTS)]
    for found in both:
        assert found.kept.sum(axis=(1, 2)).tolist() == expected
        assert not found.gains.any()


def test_a_price_below_what_the_budget_allows_is_raised() -> None:
    clip = _clip(_noise())
    cheap = choose_units(clip, ONES, replace(CONFIG, token_price=0.001))
    assert cheap.kept.sum() <= CONFIG.num_images * GRID**2 - 12
    assert cheap.price > 1


def test_a_price_does_not_pay_twice_for_pictures_that_come_again() -> None:
    luma = np.concatenate([_noise(1), _noise(1, 4)] * (SLOTS // 2))
    settings: dict[str, Any] = {"token_price": 200.0, "num_images": SLOTS}
    for direction, times in (("hold", SLOTS), ("nearest", 2)):
        config = replace(CONFIG, direction=direction, keep_first_full_frame=False, **settings)
        found = choose_units(_clip(luma), ONES, config)
        assert found.kept.sum() == times * 4 * GRID
        assert found.num_images == -(-int(found.kept.sum()) // GRID**2)


def test_slots_that_stand_for_more_frames_count_more() -> None:
    luma = np.full((3, 48, 8 * GRID), 200)
    luma[1] += 15
    luma[2] += 30
    config = replace(CONFIG, sequence_length=12, keep_first_full_frame=False, token_price=2e4)
    for heavy in range(3):
        weights = np.ones(3, np.intp)
        weights[heavy] = 10
        found = choose_units(
            _clip(luma, rows=slice(0, 6)), weights, replace(config, direction="nearest")
        )
        expected = [36 * (slot == heavy) for slot in range(3)]
        assert found.kept.sum(axis=(1, 2)).tolist() == expected


def test_blocks_are_kept_whole() -> None:
    config = replace(CONFIG, block_cells=2)
    found = choose_units(_clip(_noise(), rows=slice(1, 5)), ONES, config)
    assert found.kept.shape == (SLOTS, 3, 3)
    # Rows 1..4 touch all three rows of blocks, so nothing is outside.
    assert found.kept.sum() == 3 * 9
    assert found.kept[0].all()


def test_windows_of_a_long_clip_carry_what_was_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice_module, "EXACT_SLOTS", 8)
    monkeypatch.setattr("cv_reader.select.rate_distortion.windows.WINDOW_SLOTS", 8)
    luma = np.concatenate([np.repeat(_noise(1), 12, axis=0), np.repeat(_noise(1, 4), 4, axis=0)])
    for direction in ("hold", "nearest"):
        config = replace(CONFIG, direction=direction, token_price=50.0)
        found = choose_units(_clip(luma), ONES, config)
        # The border of windows at slot 8 shows nothing new; the cut at slot 12 does.
        assert np.flatnonzero(found.kept.any(axis=(1, 2))).tolist() == [0, 12]
        assert not (found.gains > 0).any()


def test_windows_keep_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice_module, "EXACT_SLOTS", 8)
    monkeypatch.setattr("cv_reader.select.rate_distortion.windows.WINDOW_SLOTS", 8)
    clip = _clip(_noise())
    for num_images in (1, 3):
        found = choose_units(clip, ONES, replace(CONFIG, num_images=num_images))
        assert 0.5 * num_images * GRID**2 <= found.kept.sum() <= num_images * GRID**2 - 12
        assert found.kept[0, 1:5].all()


@pytest.mark.parametrize("num_images", [1, 4])
def test_a_clip_that_begins_still_meets_its_budget_in_few_passes(
    monkeypatch: pytest.MonkeyPatch, num_images: int
) -> None:
    monkeypatch.setattr(choice_module, "EXACT_SLOTS", 8)
    monkeypatch.setattr("cv_reader.select.rate_distortion.windows.WINDOW_SLOTS", 8)
    walk, passes = Solver.walk, []

    def counted(solver: Any, prices: Any, units: Any) -> Any:
        passes.append(units.num_inside)
        return walk(solver, prices, units)

    monkeypatch.setattr(Solver, "walk", counted)
    luma = np.concatenate([np.repeat(_noise(1), 6, axis=0), _noise(SLOTS - 6, 4)])
    config = replace(CONFIG, num_images=num_images)
    found = choose_units(_clip(luma), ONES, config)
    budget = num_images * GRID**2 - 12
    assert budget - SLOTS <= found.kept.sum() <= budget
    assert len(passes) <= 4


def test_a_window_keeps_what_the_whole_clip_would(monkeypatch: pytest.MonkeyPatch) -> None:
    clip, config = _clip(_moving()), replace(CONFIG, token_price=200.0, num_images=16)
    whole = choose_units(clip, ONES, config).kept
    monkeypatch.setattr(choice_module, "EXACT_SLOTS", 8)
    monkeypatch.setattr("cv_reader.select.rate_distortion.windows.WINDOW_SLOTS", SLOTS)
    np.testing.assert_array_equal(choose_units(clip, ONES, config).kept, whole)


def test_a_picture_without_a_whole_cell_keeps_nothing() -> None:
    clip = SmallClip(
        luma=np.zeros((SLOTS, 0, 0), np.uint8),
        chroma=np.zeros((SLOTS, 2, 0, 0), np.uint8),
        rows=slice(0, 0),
        columns=slice(0, 0),
        grid=GRID,
    )
    assert not choose_units(clip, ONES, CONFIG).kept.any()


def test_what_fills_the_rest_never_makes_a_held_clip_worse() -> None:
    """A thing that passes: holding one cell of it longer would show it where it is not."""
    clip, config = _clip(_moving()), replace(CONFIG, num_images=1)
    found = choose_units(clip, ONES, config)
    before = _quality(clip, found.kept, config)
    for slot, row, column in np.argwhere(found.gains > 0).tolist():
        more = found.kept.copy()
        more[slot, row, column] = True
        assert _quality(clip, more, config) > before
    worse = np.argwhere((found.gains < 0) & ~found.kept)
    assert len(worse)
    for slot, row, column in worse[:20].tolist():
        more = found.kept.copy()
        more[slot, row, column] = True
        assert _quality(clip, more, config) < before


def test_a_quality_of_long_clips_is_refused() -> None:
    with pytest.raises(SettingsError, match="quality_db must be 0 where sequence_length"):
        replace(CONFIG, sequence_length=128, quality_db=30.0)


@pytest.mark.parametrize("is_later", [False, True])
def test_sharp_is_the_mean_and_a_part_of_the_worst_quarter(is_later: bool) -> None:
    """Cells that show grey, cells that were kept before, and slots of the window."""
    clip, config = _clip(_moving()), replace(CONFIG, predict="search")
    units, slots = Units.of(clip, 1), slice(4, 9)
    carried = np.arange(units.num_inside)[None] % 5 - 1 if is_later else None
    sharp, mean, worst = (
        cell_window(clip, units, slots, config, measure=MEASURES[name], carried=carried)
        for name in ("sharp", "mean", "worst_3")
    )
    for found, plain, steep in zip(sharp[:2], mean[:2], worst[:2], strict=True):
        assert np.allclose(found, plain + steep * (100 / 400) ** 2, rtol=1e-5)
        assert (steep > plain).any()
