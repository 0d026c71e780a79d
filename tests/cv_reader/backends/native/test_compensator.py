"""The motion compensator against a scalar one, and against closed forms of the standards."""

import numpy as np
import pytest

from support.native.compensator import Compensator, Weight, h264_phase, hevc_phase, implicit_weight

PHASES = [(x, y) for y in range(4) for x in range(4)]


def _picture(height: int = 20, width: int = 28, seed: int = 0, depth: int = 8) -> np.ndarray:
    """Noise of full contrast, so that clipping and rounding happen."""
    return np.random.default_rng(seed).integers(0, 1 << depth, (height, width), dtype=np.int32)


def _clamped(picture: np.ndarray, x: int, y: int) -> int:
    height, width = picture.shape
    return int(picture[min(max(y, 0), height - 1), min(max(x, 0), width - 1)])


def _six_taps(values: list[int]) -> int:
    e, f, g, h, i, j = values
    return e - 5 * f + 20 * g + 20 * h - 5 * i + j


def _scalar_h264(picture: np.ndarray, x_qpel: int, y_qpel: int, limit: int = 255) -> int:
    """One predicted sample at a position in quarter samples, formula by formula."""
    x, y, x_part, y_part = x_qpel >> 2, y_qpel >> 2, x_qpel & 3, y_qpel & 3

    def full(dx: int = 0, dy: int = 0) -> int:
        return _clamped(picture, x + dx, y + dy)

    def across(dy: int) -> int:
        return _six_taps([full(k, dy) for k in range(-2, 4)])

    def right_half(dy: int = 0) -> int:
        return min(max((across(dy) + 16) >> 5, 0), limit)

    def lower_half(dx: int = 0) -> int:
        return min(max((_six_taps([full(dx, k) for k in range(-2, 4)]) + 16) >> 5, 0), limit)

    def centre() -> int:
        return min(max((_six_taps([across(k) for k in range(-2, 4)]) + 512) >> 10, 0), limit)

    if x_part % 2 == 0 and y_part % 2 == 0:
        return [[full, right_half], [lower_half, centre]][y_part // 2][x_part // 2]()
    pairs = {
        y_part == 0: (lambda: full(x_part // 2), right_half),
        x_part == 0: (lambda: full(0, y_part // 2), lower_half),
        x_part == 2: (centre, lambda: right_half(y_part // 2)),
        y_part == 2: (centre, lambda: lower_half(x_part // 2)),
    }
    diagonal = (lambda: right_half(y_part // 2), lambda: lower_half(x_part // 2))
    first, second = pairs.get(True, diagonal)
    return (first() + second() + 1) >> 1


HEVC_TAPS = {
    1: [-1, 4, -10, 58, 17, -5, 1, 0],
    2: [-1, 4, -11, 40, 40, -11, 4, -1],
    3: [0, 1, -5, 17, 58, -10, 4, -1],
}


def _scalar_hevc(picture: np.ndarray, x_qpel: int, y_qpel: int, depth: int = 8) -> int:
    """One 14-bit value at a position in quarter samples."""
    x, y, x_part, y_part = x_qpel >> 2, y_qpel >> 2, x_qpel & 3, y_qpel & 3

    def row(dy: int) -> int:
        if not x_part:
            return _clamped(picture, x, y + dy)
        taps = HEVC_TAPS[x_part]
        return sum(tap * _clamped(picture, x + k - 3, y + dy) for k, tap in enumerate(taps))

    if not x_part and not y_part:
        return row(0) << (14 - depth)
    if not y_part:
        return row(0) >> (depth - 8)
    if not x_part:
        return sum(HEVC_TAPS[y_part][k] * row(k - 3) for k in range(8)) >> (depth - 8)
    return sum(HEVC_TAPS[y_part][k] * (row(k - 3) >> (depth - 8)) for k in range(8)) >> 6


@pytest.mark.parametrize("depth", [8, 10])
@pytest.mark.parametrize(("x", "y"), PHASES)
def test_h264_phases_equal_the_scalar_formulas(x: int, y: int, depth: int) -> None:
    picture = _picture(16, 16, depth=depth)
    plane = h264_phase(np.pad(picture, 8, mode="edge"), x, y, depth)[8:-8, 8:-8]
    expected = [
        [
            _scalar_h264(picture, 4 * column + x, 4 * row + y, (1 << depth) - 1)
            for column in range(16)
        ]
        for row in range(16)
    ]
    assert np.array_equal(plane, expected)


@pytest.mark.parametrize("depth", [8, 10])
@pytest.mark.parametrize(("x", "y"), PHASES)
def test_hevc_phases_equal_the_scalar_formulas(x: int, y: int, depth: int) -> None:
    picture = _picture(16, 16, depth=depth)
    plane = hevc_phase(np.pad(picture, 8, mode="edge"), x, y, depth)[8:-8, 8:-8]
    expected = [
        [_scalar_hevc(picture, 4 * column + x, 4 * row + y, depth) for column in range(16)]
        for row in range(16)
    ]
    assert np.array_equal(plane, expected)


def _random_motion(height: int, width: int, reach_qpel: int) -> tuple[np.ndarray, np.ndarray]:
    """Vectors that point far outside too, over references -1, -2 and +1, and intra cells."""
    generator = np.random.default_rng(1)
    grid = (2, -(-height // 4), -(-width // 4))
    motion = generator.integers(-reach_qpel, reach_qpel + 1, (*grid, 2)).astype(np.int16)
    distance = np.stack(
        [generator.choice([0, -1, -2], grid[1:]), generator.choice([0, 0, 1, -1], grid[1:])]
    ).astype(np.int16)
    return motion * (distance != 0)[..., None], distance


@pytest.mark.parametrize("codec", ["h264", "hevc"])
@pytest.mark.parametrize("reach_qpel", [13, 400])
def test_prediction_equals_the_scalar_one_at_every_pixel(codec: str, reach_qpel: int) -> None:
    height, width = 22, 26  # not multiples of four: the last cells are cut
    references = {index: _picture(height, width, index) for index in (3, 4, 6)}
    motion, distance = _random_motion(height, width, reach_qpel)
    predicted, inter = Compensator(codec=codec, references=references).predict(5, motion, distance)
    for row in range(height):
        for column in range(width):
            at = (row // 4, column // 4)
            used = [side for side in (0, 1) if distance[(side, *at)]]
            assert inter[row, column] == bool(used)
            values = []
            for side in used:
                x, y = (int(value) for value in motion[(side, *at)])
                reference = references[5 + int(distance[(side, *at)])]
                scalar = _scalar_h264 if codec == "h264" else _scalar_hevc
                values.append(scalar(reference, 4 * column + x, 4 * row + y))
            assert predicted[row, column] == _combined(codec, values)


def _combined(codec: str, values: list[int]) -> int:
    if not values:
        return 0
    if codec == "h264":
        return values[0] if len(values) == 1 else (sum(values) + 1) >> 1
    rounded = (values[0] + 32) >> 6 if len(values) == 1 else (sum(values) + 64) >> 7
    return min(max(rounded, 0), 255)


@pytest.mark.parametrize(
    ("first", "second", "weight"),
    [(-1, 1, 32), (-1, 2, 21), (-2, 1, 42), (-1, -2, -64), (-1, -1, 32), (-3, 1, 48)],
)
def test_implicit_weights_follow_the_distances(first: int, second: int, weight: int) -> None:
    assert implicit_weight(first, second) == weight


def test_explicit_weights_scale_round_offset_and_clip() -> None:
    references = {0: np.full((4, 4), 100), 2: np.full((4, 4), 201)}
    weights = {(0, 0): Weight(log2_denominator=5, scale=40, offset=-7)}
    compensator = Compensator(codec="h264", references=references, weights=weights)
    still = np.zeros((2, 1, 1, 2), np.int16)
    one = np.array([[[-1]], [[0]]], np.int16)
    both = np.array([[[-1]], [[1]]], np.int16)
    assert (compensator.predict(1, still, one)[0] == 118).all()  # 100 * 40 / 32 - 7
    # (100 * 40 + 201 * 32 + 32) >> 6 = 163, and half of -7 rounded up is -3.
    assert (compensator.predict(1, still, both)[0] == 160).all()


def test_the_scalar_compensators_keep_a_flat_picture_flat() -> None:
    flat = np.full((8, 8), 77)
    assert {_scalar_h264(flat, x, y) for x, y in PHASES} == {77}
    assert {_scalar_hevc(flat, x, y) for x, y in PHASES} == {77 << 6}
