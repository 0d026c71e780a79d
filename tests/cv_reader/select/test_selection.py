"""Selection against a naive second implementation and closed forms."""

from typing import Any

import numpy as np
import pytest

from cv_reader.select.config import AssetConfig
from cv_reader.select.selection import (
    choose_frame_ids,
    repeated_slots,
    sample_by_bytes,
    sample_frame_ids,
    select_cells,
)
from support.paths import require_shared_data

GRID = 4


def _config(**settings: Any) -> AssetConfig:
    defaults = {"square_size": 64, "patch_size": 16, "num_images": 3, "sequence_length": 8}
    return AssetConfig(**{**defaults, **settings})


def _inputs(
    seed: int, slots: int = 8, levels: int = 5
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores with many ties, a border of padding, and no repeated slot."""
    scores = np.random.default_rng(seed).integers(0, levels, (slots, GRID, GRID))
    valid = np.zeros((GRID, GRID), bool)
    valid[:, 1:3] = True
    return scores.astype(np.float32), valid, np.zeros(slots, bool)


def _naive(
    scores: np.ndarray, valid: np.ndarray, repeated: np.ndarray, config: AssetConfig
) -> list[int]:
    """The rules of the module's docstring, one cell at a time."""
    slots = range(len(scores))
    cells = [(t, h, w) for t in slots for h in range(GRID) for w in range(GRID)]
    forced = [c for c in cells if c[0] in config.full_slots]
    if config.keep_uniform_first and 0 not in config.full_slots:
        forced = [c for c in cells if c[0] == 0 and valid[c[1:]]] + forced
    rest = [c for c in cells if c not in forced]

    def tier(cell: tuple[int, ...]) -> int:
        if config.keep_uniform_first and cell[0] == 0:
            return 3
        if valid[cell[1:]] and not repeated[cell[0]]:
            return 0
        return 1 if valid[cell[1:]] and config.padding_policy == "exclude" else 2

    if config.padding_policy == "repeat":
        rest = [c for c in rest if tier(c) == 0]
    turns = [0, 4, 2, 6, 1, 5, 3, 7]  # of slots where nothing is new

    def key(cell: tuple[int, ...]) -> tuple[float, ...]:
        if tier(cell):
            return tier(cell), 0, 0, cell
        return 0, -scores[cell], 0 if scores[cell] else turns.index(cell[0]), cell

    ranked = sorted(rest, key=key)
    kept = forced + ranked[: config.num_rows - len(forced)]
    return kept + [max(kept)] * (config.num_rows - len(kept))


@pytest.mark.parametrize("policy", ["zero", "exclude", "repeat"])
@pytest.mark.parametrize(
    "flags",
    [
        {"keep_first_full_frame": False},
        {"keep_first_full_frame": True},
        {"keep_first_full_frame": False, "keep_uniform_first": True},
        {"keep_mid_full_frame": True},
        {"keep_mid_full_frame": True, "mid_full_frame_index": 2},
    ],
)
@pytest.mark.parametrize("num_images", [2, 6, 8])
def test_equals_the_naive_rules(policy: str, flags: dict[str, Any], num_images: int) -> None:
    config = _config(padding_policy=policy, num_images=num_images, **flags)
    for seed in range(3):
        scores, valid, repeated = _inputs(seed)
        repeated[[3, 6]] = seed > 0
        rows = select_cells(scores, valid, repeated, config)
        assert rows.dtype == np.int32
        assert [tuple(row) for row in rows.tolist()] == _naive(scores, valid, repeated, config)


def test_ties_go_to_the_lowest_index() -> None:
    scores, valid, repeated = np.ones((8, 4, 4), np.float32), np.ones((4, 4), bool), np.zeros(8)
    config = _config(keep_first_full_frame=False)
    rows = select_cells(scores, valid, repeated.astype(bool), config)
    assert (rows @ [16, 4, 1]).tolist() == list(range(48))


@pytest.mark.parametrize(("slots", "kept"), [(8, (0, 2, 4)), (64, (0, 16, 32)), (9, (0, 4, 8))])
def test_a_still_video_is_kept_as_frames_spread_over_time(
    slots: int, kept: tuple[int, int, int]
) -> None:
    scores, valid = np.zeros((slots, 4, 4), np.float32), np.ones((4, 4), bool)
    scores[5, 1, 1] = 1e-6  # news, however little, goes first
    config = _config(sequence_length=slots)
    rows = select_cells(scores, valid, np.zeros(slots, bool), config)
    assert (5, 1, 1) in map(tuple, rows.tolist())
    full = [slot for slot in range(slots) if (rows[:, 0] == slot).sum() >= 15]
    assert full == list(kept)


@pytest.mark.parametrize(
    ("policy", "new", "again", "black"),
    [("zero", 8, 0, 40), ("exclude", 8, 40, 0), ("repeat", 8, 0, 0)],
)
def test_what_shows_nothing_new_fills_no_mosaic_of_a_clip_of_free_length(
    policy: str, new: int, again: int, black: int
) -> None:
    scores, valid, repeated = _inputs(0)
    chosen = np.zeros(scores.shape, bool)
    chosen[3] = valid
    config = _config(
        select="rate_distortion",
        token_price=1.0,
        padding_policy=policy,
        keep_first_full_frame=False,
    )
    rows = select_cells(np.zeros_like(scores), valid, repeated, config, chosen=chosen)
    assert len(rows) == config.num_rows
    unique = np.unique(rows, axis=0)
    is_content = valid[tuple(unique[:, 1:].T)]
    is_chosen = chosen[tuple(unique.T)]
    assert is_chosen.sum() == new
    assert (is_content & ~is_chosen).sum() == again
    assert (~is_content).sum() == black


def test_buckets_take_equal_shares_of_time() -> None:
    scores, valid, repeated = _inputs(0, slots=9)
    valid[:] = True
    scores[1:4] += 100  # a global choice would take these only
    config = _config(sequence_length=9, num_images=5, topk_mode="time_bucket")
    rows = select_cells(scores, valid, repeated, config)
    per_bucket = np.bincount((rows[:, 0] + 1) // 2, minlength=5)
    assert per_bucket.tolist() == [16, 16, 16, 16, 16]
    best = np.sort(scores[1:3].ravel())[-16:]
    chosen = rows[np.isin(rows[:, 0], (1, 2))]
    np.testing.assert_array_equal(np.sort(scores[tuple(chosen.T)]), best)


def test_a_bucket_without_content_gives_its_share_to_the_best_cells_left() -> None:
    scores, valid, repeated = _inputs(1, slots=9)
    repeated[1:3] = True
    config = _config(sequence_length=9, num_images=3, topk_mode="time_bucket", time_bucket_count=4)
    rows = select_cells(scores, valid, repeated, config)
    assert len(np.unique(rows, axis=0)) == config.num_rows
    assert not np.isin(rows[:, 0], (1, 2)).any()
    assert valid[tuple(rows[rows[:, 0] > 0, 1:].T)].all()


def test_a_single_frame_fills_the_budget_under_every_policy() -> None:
    for policy in ("zero", "exclude", "repeat"):
        config = _config(padding_policy=policy)
        scores, valid, _ = _inputs(0)
        repeated = repeated_slots(sample_frame_ids(1, 8))
        rows = select_cells(scores, valid, repeated, config)
        assert rows.shape == (config.num_rows, 3)
        unique = len(np.unique(rows, axis=0))
        assert unique == (GRID**2 if policy == "repeat" else config.num_rows)


def test_slots_that_are_all_whole_leave_no_buckets() -> None:
    config = _config(
        sequence_length=2, num_images=2, topk_mode="time_bucket", keep_mid_full_frame=True
    )
    scores, valid, repeated = _inputs(0)
    rows = select_cells(scores[:2], valid, repeated[:2], config)
    assert len(np.unique(rows, axis=0)) == config.num_rows == 2 * GRID**2


@pytest.mark.parametrize("num_frames", [1, 2, 7, 63, 64, 65, 487, 737, 154])
def test_frame_ids_are_the_floor_of_the_exact_spread(num_frames: int) -> None:
    ids = sample_frame_ids(num_frames, 64)
    exact = [index * (num_frames - 1) // 63 for index in range(64)]
    assert ids.dtype == np.int32
    assert ids.tolist() == exact
    assert ids[-1] == num_frames - 1


def test_frame_ids_start_at_an_offset_inside_the_video_only() -> None:
    assert sample_frame_ids(10, 4, start=4).tolist() == [4, 5, 7, 9]
    assert sample_frame_ids(10, 4, start=10).tolist() == [0, 3, 6, 9]
    assert sample_frame_ids(10, 1, start=3).tolist() == [3]


def test_no_frames_are_refused() -> None:
    with pytest.raises(ValueError, match="0 frames"):
        sample_frame_ids(0, 64)


def test_repeats_are_found() -> None:
    assert repeated_slots(np.array([0, 0, 1, 1, 1, 2])).tolist() == [
        False,
        True,
        False,
        True,
        True,
        False,
    ]


@pytest.mark.parametrize(
    ("pick", "first"), [("none", 0), ("begin", 0), ("mid", 45), ("end", 90), ("energy3", 45)]
)
def test_windows(pick: str, first: int) -> None:
    packets = np.ones(100, np.int32)
    packets[50] = 1000
    config = _config(window_len=10, window_pick=pick, num_images=1, sequence_length=4)
    assert choose_frame_ids(packets, config).tolist() == [first, first + 3, first + 6, first + 9]


def test_a_short_video_ignores_the_window() -> None:
    config = _config(window_len=10, window_pick="end", num_images=1, sequence_length=4)
    assert choose_frame_ids(np.ones(10, np.int32), config).tolist() == [0, 3, 6, 9]


def test_frame_ids_of_recorded_assets() -> None:
    for path in sorted(require_shared_data("reference_outputs", "stage1").glob("*.frame_ids.npy")):
        recorded = np.load(path)
        np.testing.assert_array_equal(sample_frame_ids(int(recorded[-1]) + 1, 64), recorded)


def test_equal_packets_are_sampled_evenly() -> None:
    ids = sample_by_bytes(np.full(641, 100, np.int32), 65)
    assert ids.tolist() == list(range(0, 641, 10))


def test_frames_lie_where_the_bytes_are() -> None:
    sizes = np.full(300, 10, np.int32)
    sizes[100:150] = 1000  # a scene with much motion: 95 % of all bytes
    ids = sample_by_bytes(sizes, 32)
    assert ids[0] == 0
    assert ids[-1] == 299
    assert ((ids >= 100) & (ids < 150)).sum() >= 28


@pytest.mark.parametrize("seed", range(20))
def test_sampling_by_bytes_follows_its_definition(seed: int) -> None:
    generator = np.random.default_rng(seed)
    count, slots = int(generator.integers(1, 90)), int(generator.integers(1, 30))
    sizes = (generator.pareto(1, count) * 100).astype(np.int32)
    ids = sample_by_bytes(sizes, slots)
    assert len(ids) == slots
    assert 0 == ids[0] <= ids[-1] <= count - 1
    steps = np.diff(ids)
    assert (steps >= 1).all() if count >= slots else (steps >= 0).all()
    total = int(sizes[1:].sum())
    if count > slots > 1 and total:
        spent = [sum(sizes[1 : i + 1].tolist()) for i in range(count)]
        free = [
            next(i for i in range(count) if spent[i] * (slots - 1) >= total * k)
            for k in range(slots)
        ]
        if (np.diff(free) >= 1).all() and free[-1] == count - 1:
            assert ids.tolist() == free


def test_bytes_count_inside_the_window_alone() -> None:
    sizes = np.full(100, 10, np.int32)
    sizes[:50] = 1
    config = AssetConfig(sequence_length=8, frames="bitcost", window_len=20, window_pick="end")
    ids = choose_frame_ids(sizes, config)
    assert ids[0] == 80
    assert ids[-1] == 99
