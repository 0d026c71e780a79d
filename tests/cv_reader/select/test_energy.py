"""Energy against closed forms and numpy's own percentile."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cv_reader.errors import UnsupportedVideoError
from cv_reader.select.config import PIXEL_SIGNALS, SIGNALS, AssetConfig
from cv_reader.select.energy import SCORES, CellScorer, textured_blocks
from cv_reader.select.geometry import letterbox
from cv_reader.select.motion import (
    coarse_motion,
    frame_velocity,
    motion_energy,
    whole_pixel_motion,
)
from cv_reader.select.percentiles import float_percentile, integer_percentile

SIZE = 64


def _tiny_config(**settings: Any) -> AssetConfig:
    return AssetConfig(square_size=SIZE, patch_size=16, num_images=1, **settings)


def _tiny_frame(**fields: Any) -> SimpleNamespace:
    """A 64 x 64 frame without motion or residual, so that square and source pixels agree."""
    blocks = SIZE // 4
    content = {
        "index": 0,
        "motion": np.zeros((2, blocks, blocks, 2), np.int16),
        "motion_ref": np.zeros((2, blocks, blocks), np.int16),
        "residual_y": np.zeros((SIZE, SIZE), np.int16),
        "bits": None,
        "residual_blocks": None,
        **fields,
    }
    return SimpleNamespace(**content)


def _scorer(**settings: Any) -> CellScorer:
    box = letterbox(SIZE, SIZE, square_px=SIZE, patch_px=16)
    return CellScorer(box, _tiny_config(**settings))


def test_every_signal_has_its_scores() -> None:
    assert {*SCORES, *PIXEL_SIGNALS} == set(SIGNALS)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16])
@pytest.mark.parametrize("percentile", [1, 50, 90, 95, 99.5, 100])
def test_integer_percentile_is_numpys_to_the_bit(dtype: type, percentile: float) -> None:
    random = np.random.default_rng(0)
    for scale in (0, 0.3, 2, 40):
        values = np.minimum(random.exponential(scale, (37, 53)), 250).astype(dtype)
        expected = float(np.percentile(values, percentile))
        for guess in (0, 1, 7, 200):
            assert integer_percentile(values, percentile, guess) == expected


def test_integer_percentile_interpolates_over_a_gap() -> None:
    values = np.array([0, 0, 0, 100], np.int16)
    assert integer_percentile(values, 95) == float(np.percentile(values, 95))


def test_float_percentile_agrees_with_numpy() -> None:
    values = np.random.default_rng(1).normal(size=(13, 17)).astype(np.float32)
    for percentile in (50, 95, 100):
        assert float_percentile(values, percentile) == pytest.approx(
            float(np.percentile(values.astype(np.float64), percentile)), rel=1e-12
        )


def test_velocity_divides_by_the_signed_distance_and_averages_used_lists() -> None:
    motion = np.zeros((2, 1, 4, 2), np.int16)
    reference = np.zeros((2, 1, 4), np.int16)
    motion[0, 0, 0], reference[0, 0, 0] = (8, -4), -1
    motion[1, 0, 1], reference[1, 0, 1] = (8, -4), 2
    motion[:, 0, 2], reference[:, 0, 2] = [(8, 0), (-16, 0)], [-1, 1]
    motion[0, 0, 3] = (99, 99)  # without a reference a vector is no vector
    velocity = frame_velocity(motion, reference)
    np.testing.assert_array_equal(velocity[0, 0], [-2, 1, -3, 0])
    np.testing.assert_array_equal(velocity[1, 0], [1, -0.5, 0, 0])


def test_distance_does_not_scale_where_only_the_direction_is_known() -> None:
    motion = np.random.default_rng(2).integers(-40, 40, (2, 8, 8, 2)).astype(np.int16)
    reference = np.ones((2, 8, 8), np.int16)
    np.testing.assert_allclose(
        frame_velocity(motion, reference),
        motion.astype(np.float64).mean(axis=0).transpose(2, 0, 1) / 4,
        rtol=1e-6,
    )


def test_blocks_of_8_pixels_are_scored_as_one() -> None:
    random = np.random.default_rng(4)
    small = random.integers(-40, 40, (2, 8, 8, 2)).astype(np.int16)
    motion = small.repeat(2, axis=1).repeat(2, axis=2)
    reference = random.integers(-2, 3, (2, 8, 8)).astype(np.int16).repeat(2, 1).repeat(2, 2)
    motion[reference == 0] = 0
    step = coarse_motion(motion, reference)[2]
    assert step == 8
    scores = _scorer(signal="mv").score(_tiny_frame(motion=motion, motion_ref=reference))
    energy = motion_energy(frame_velocity(motion, reference), "median", 95)
    expected = 16 * energy.reshape(4, 4, 4, 4).sum(axis=(1, 3))
    np.testing.assert_allclose(scores, expected, rtol=1e-5)
    reference[0, 3, 5] *= -1
    motion[0, 3, 5] += 1  # one cell of 4 x 4 pixels differs, and all are looked at
    assert coarse_motion(motion, reference)[2] == 4


def test_median_takes_out_a_panning_camera() -> None:
    velocity = np.full((2, 10, 10), 3, np.float32)
    velocity[:, 0, :6] += 2
    energy = motion_energy(velocity, "median", 95)
    assert energy[0, :6].tolist() == [1.0] * 6
    assert not energy[1:].any()
    assert motion_energy(velocity, "none", 95).min() > 0.5


def test_residual_is_divided_by_at_least_one_and_clipped() -> None:
    residual = np.zeros((SIZE, SIZE), np.int16)
    residual[0, 0], residual[20, 40] = -7, 300
    scores = _scorer(signal="residual").score(_tiny_frame(residual_y=residual))
    expected = np.zeros((4, 4))
    expected[0, 0] = expected[1, 2] = 1
    np.testing.assert_array_equal(scores, expected)


def test_residual_is_relative_to_its_percentile() -> None:
    residual = np.full((SIZE, SIZE), 10, np.int16)
    residual[:16, :16] = -5
    scores = _scorer(signal="residual").score(_tiny_frame(residual_y=residual))
    assert scores[0, 0] == 128
    assert scores[3, 3] == 256


def test_motion_and_residual_are_mixed_by_weight() -> None:
    frame = _tiny_frame(residual_y=np.full((SIZE, SIZE), 10, np.int16))
    frame.motion_ref[0] = -1
    frame.motion[0, :4, :4] = (-8, 0)
    equal = _scorer().score(frame)
    assert (equal[0, 0], equal[3, 3]) == (256, 128)
    skewed = _scorer(w_mv=3.0, w_res=1.0).score(frame)
    assert (skewed[0, 0], skewed[3, 3]) == (256, 64)


def test_framediff_needs_no_signals_and_starts_at_zero() -> None:
    first = SimpleNamespace(index=0, luma=lambda: np.full((SIZE, SIZE), 200, np.uint8))
    changed = np.full((SIZE, SIZE), 200, np.uint8)
    changed[:16, :16] = 10
    second = SimpleNamespace(index=9, luma=lambda: changed)
    scorer = _scorer(signal="framediff")
    assert not scorer.score(first).any()
    scores = scorer.score(second)
    assert scores[0, 0] == 256
    assert scores.sum() == 256


@pytest.mark.parametrize(("signal", "field"), [("bits", "bits"), ("mv", "motion_ref")])
def test_a_missing_signal_is_refused_by_name(signal: str, field: str) -> None:
    with pytest.raises(UnsupportedVideoError, match=signal[:2] if signal == "bits" else "motion"):
        _scorer(signal=signal).score(_tiny_frame(**{field: None}))


def test_bits_spread_over_their_blocks() -> None:
    bits = np.zeros((4, 4), np.float32)
    bits[2, 1] = 50
    scores = _scorer(signal="bits").score(_tiny_frame(bits=bits))
    assert np.unravel_index(scores.argmax(), (4, 4)) == (2, 1)
    assert scores[0, 3] == 0


def test_a_frame_without_vectors_has_no_motion_energy() -> None:
    assert not _scorer(signal="mv").score(_tiny_frame()).any()


def test_the_reference_sees_whole_pixels_of_list_0_alone() -> None:
    motion = np.zeros((2, 1, 4, 2), np.int16)
    motion[0, 0, :, 0] = (-1, -4, -7, 9)
    motion[1] = 40
    reference = np.array([[[-2, -1, 0, 3]], [[1, 1, 1, 1]]], np.int16)
    whole, used = whole_pixel_motion(motion, reference)
    # Cut towards 0; without a vector in list 0 nothing moves, even if list 1 has one.
    assert whole.tolist() == [[[[0, 0], [-4, 0], [0, 0], [8, 0]]]]
    assert used.tolist() == [[[1, 1, 0, 1]]]


def test_flat_blocks_that_nothing_is_coded_in_do_not_move() -> None:
    luma = np.full((SIZE, SIZE), 90, np.uint8)
    luma[:16, 16:32:2] = 120
    frame = _tiny_frame(luma=lambda: luma)
    frame.motion_ref[0] = -1
    frame.motion[0, :8] = (-8, 0)
    frame.residual_y[20, 50] = 9
    scores = _scorer(signal="textured", mv_compensate="none").score(frame)
    assert np.argwhere(scores > 0).tolist() == [[0, 1], [1, 3]]
    assert textured_blocks(luma).sum() == 1


def test_intra_pictures_count_by_what_changed() -> None:
    luma = np.full((SIZE, SIZE), 90, np.uint8)
    noisy = np.full((SIZE, SIZE), 50, np.int16)
    first = _tiny_frame(luma=lambda: luma, pict_type="P")
    changed = luma.copy()
    changed[:16, :16] = 200
    second = _tiny_frame(luma=lambda: changed, pict_type="I", residual_y=noisy)
    scorer = _scorer(signal="intra_shown")
    scorer.score(first)
    assert np.argwhere(scorer.score(second) > 0).tolist() == [[0, 0]]


@pytest.mark.parametrize("signal", ["bits_between", "residual_between"])
def test_what_happens_between_slots_is_summed(signal: str) -> None:
    scorer = _scorer(signal=signal)
    shapes = [("P", 1, 3), ("I", 2, 100), ("B", 3, 5), ("P", 0, 7)]
    frames = []
    for pict_type, cell, value in shapes:
        frame = _tiny_frame(pict_type=pict_type, bits=np.zeros((4, 4), np.float32))
        frame.bits[cell, cell] = value
        frame.residual_y[16 * cell : 16 * cell + 16, 16 * cell : 16 * cell + 16] = value
        frames.append(frame)
    for frame in frames[:3]:
        scorer.pass_by(frame)
    scores = scorer.score(frames[3])
    assert (scores.diagonal() / 256).tolist() == [7, 3, 0, 5]
    assert not scorer.score(_tiny_frame(pict_type="P", bits=np.zeros((4, 4), np.float32))).any()
