"""Which frames are sampled, and which of their cells are kept.

Rows are (t, h, w): t a slot 0..T-1, h and w cells of the padded square. Exactly
``config.num_rows`` rows are kept. Cells compete in tiers: content cells by energy first; then what
``padding_policy`` allows. A slot that repeats the frame of the slot before it holds nothing new, so
its cells rank like padding. Ties go to the lowest flat index ``t * g^2 + h * g + w``, but for cells
that score 0: nothing is new in them, and what they are worth is that they show their time. They are
taken slot by slot in an order of which every beginning is spread evenly over time (0, T/2, T/4,
3T/4, ...), so that a still video is kept as whole frames, as uniform sampling would keep it.

- ``zero``: cells of padding and of repeated slots, by index.
- ``exclude``: content cells of repeated slots first, padding only when those are used up.
- ``repeat``: neither; leftover rows repeat the last row in (t, h, w) order.

Where clips need not have equally many mosaics (``AssetConfig.has_free_length``), content that shows
nothing new is kept behind padding by ``zero``, and not at all by ``repeat``.

A frame that is kept whole is kept with its padding under every policy.

Axis letters: T slots, g cells along a side, K rows.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cv_reader.errors import AssetError
from cv_reader.select.config import AssetConfig

_REPEATED, _PADDING, _NEVER = np.float32(-1), np.float32(-2), np.float32(-3)
_NOTHING_NEW = np.float32(-2.25)
"""Content that shows nothing new, where a clip need not fill a budget: behind padding."""
_HARMFUL = np.float32(-1.5)
"""Content that would show less if it were held: behind repeated slots, before padding."""
_CONTENT_FLOOR = np.nextafter(_REPEATED, np.float32(0))
"""Content ranks above -1: by its score, or between -1 and 0 where that is 0."""


def sample_frame_ids(num_frames: int, sequence_length: int, start: int = 0) -> NDArray[np.int32]:
    """Spread T slots over frames [start, num_frames): floor(linspace(start, num_frames - 1, T)).

    Whole-number arithmetic: where the exact value is a whole number, floating-point evaluations of
    the same formula sometimes fall one below. With fewer frames than slots, frames repeat. A start
    behind the last frame counts as 0.

    Returns:
        int32 (T,), never decreasing.

    Raises:
        ValueError: if there are no frames or no slots.
    """
    if num_frames < 1 or sequence_length < 1:
        raise ValueError(
            "frames and slots must be at least 1, "
            f"got {num_frames} frames for {sequence_length} slots"
        )
    start = start if 0 <= start < num_frames else 0
    steps = np.arange(sequence_length, dtype=np.int64) * (num_frames - 1 - start)
    return (start + steps // max(sequence_length - 1, 1)).astype(np.int32)


def choose_frame_ids(packet_bytes: NDArray[np.int32], config: AssetConfig) -> NDArray[np.int32]:
    """Frames behind the slots, inside the window that the settings ask for.

    Args:
        packet_bytes: (N,) coded size of every frame, presentation order.
        config: length, offset and window.

    Returns:
        int32 (T,).

    Raises:
        ValueError: if there are no frames.
    """
    num_frames, window = len(packet_bytes), config.window_len
    begin = 0
    if 0 < window < num_frames:
        begin = _window_start(packet_bytes, window, config.window_pick)
        packet_bytes = packet_bytes[begin : begin + window]
    slots, offset = config.sequence_length, config.sample_start_offset
    if config.frames == "bitcost":
        return sample_by_bytes(packet_bytes, slots, offset) + np.int32(begin)
    return sample_frame_ids(len(packet_bytes), slots, offset) + np.int32(begin)


def sample_by_bytes(
    packet_bytes: NDArray[np.int32], sequence_length: int, start: int = 0
) -> NDArray[np.int32]:
    """Spread T slots so that about equally many coded bytes are between neighbours.

    The bytes of every packet between two samples count, whichever frames are sampled. Slot k is the
    first frame by which k / (T - 1) of the bytes behind frame ``start`` are spent; slots that would
    share a frame (a large key frame) move on to the next ones while there are frames enough.

    Args:
        packet_bytes: (N,) coded size of every frame, presentation order.
        sequence_length: T.
        start: first frame; behind the last it counts as 0.

    Returns:
        int32 (T,), never decreasing; strictly increasing where N - start >= T.

    Raises:
        ValueError: if there are no frames or no slots.
    """
    ids = sample_frame_ids(len(packet_bytes), sequence_length, start)
    start, last = int(ids[0]), len(packet_bytes) - 1
    spent = np.cumsum(packet_bytes[start + 1 :], dtype=np.int64)
    if len(spent) < sequence_length or not spent[-1]:
        return ids
    slots = np.arange(sequence_length, dtype=np.int64)
    steps = max(sequence_length - 1, 1)
    ids = np.full(sequence_length, start)
    ids[1:] += 1 + np.searchsorted(spent * steps, spent[-1] * slots[1:])
    ids = np.maximum.accumulate(ids - slots) + slots
    return np.minimum(ids, last - slots[::-1]).astype(np.int32)


def _window_start(packet_bytes: NDArray[np.int32], window: int, pick: str) -> int:
    last = len(packet_bytes) - window
    starts = {"none": 0, "begin": 0, "mid": last // 2, "end": last}
    if pick in starts:
        return starts[pick]
    return max(
        (0, last // 2, last), key=lambda start: int(packet_bytes[start : start + window].sum())
    )


def repeated_slots(frame_ids: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Slots whose frame is the one of the slot before: bool (T,)."""
    return np.diff(frame_ids, prepend=frame_ids[0] - 1) == 0


def select_cells(
    scores: NDArray[np.float32],
    valid: NDArray[np.bool_],
    repeated: NDArray[np.bool_],
    config: AssetConfig,
    *,
    chosen: NDArray[np.bool_] | None = None,
    num_images: int | None = None,
) -> NDArray[np.int32]:
    """Choose the cells that are kept, by score.

    With ``block_cells`` 2 blocks of 2 x 2 cells compete, by the sum of their scores; a block is
    content where one of its cells is.

    Args:
        scores: float32 (T, g, g), energies >= 0; with ``chosen``, gains of blocks.
        valid: bool (g, g), cells that are content.
        repeated: bool (T,), slots that repeat the frame before.
        config: budget and rules.
        chosen: bool (T, u, u), blocks (or cells) that are kept already; scores fill what is left.
        num_images: mosaics to fill; None = those of ``config``.

    Returns:
        int32 (K, 3), cells that must be kept in raster order, then the others from the best down.

    Raises:
        AssetError: if nothing may be kept at all.
    """
    block = config.block_cells
    slots, side = len(scores), len(valid) // block
    count = (num_images or config.num_images) * side**2
    in_blocks = np.logical_or.reduce(valid.reshape(side, block, side, block), axis=(1, 3))
    if chosen is None:
        scores = _block_sums(scores, block)
    kept = _kept_units(scores, in_blocks, repeated, config, chosen, count)
    units = np.stack(np.unravel_index(kept, (slots, side, side)), axis=1).astype(np.int32)
    return _expanded(units, block)


def _kept_units(
    scores: NDArray[np.float32],
    valid: NDArray[np.bool_],
    repeated: NDArray[np.bool_],
    config: AssetConfig,
    chosen: NDArray[np.bool_] | None,
    count: int,
) -> NDArray[np.intp]:
    """Return the flat indices of units that are kept, ``count`` of them."""
    ranks = _rank_scores(scores, valid, repeated, config)
    forced = _forced_cells(valid, config)
    if chosen is not None:
        forced = np.concatenate([forced, np.setdiff1d(np.flatnonzero(chosen), forced)])
    ranks[forced] = _NEVER
    if config.keep_uniform_first:
        # The padding of a frame whose content is kept goes behind all other padding.
        ranks[: valid.size][ranks[: valid.size] != _NEVER] = np.nextafter(_PADDING, _NEVER)
    budget = count - len(forced)
    floor = _CONTENT_FLOOR if config.padding_policy == "repeat" else np.float32(-2.5)
    if config.topk_mode == "time_bucket" and chosen is None:
        best = _bucket_cells(np.reshape(ranks, (len(scores), -1)), budget, config, floor)
    else:
        best = _best(ranks, budget, floor)
    kept = np.concatenate([forced, best])
    if not len(kept):
        raise AssetError(
            "no cell is content and none may be kept, got a picture thinner than one cell; "
            "use --padding_policy zero"
        )
    missing = count - len(kept)
    return np.concatenate([kept, np.full(missing, kept.max(), kept.dtype)])


def whole_frame_slots(config: AssetConfig) -> list[int]:
    """Return the slots of as many evenly spread whole frames as the budget holds."""
    last, count = config.sequence_length - 1, config.num_images
    return [number * last // max(count - 1, 1) for number in range(count)]


def select_whole_frames(config: AssetConfig) -> NDArray[np.int32]:
    """Return all cells of evenly spread frames: int32 (K, 3), what uniform sampling keeps."""
    cells = np.ones((config.num_images, config.grid, config.grid), np.bool_)
    rows = np.argwhere(cells).astype(np.int32)
    rows[:, 0] = np.array(whole_frame_slots(config), np.int32)[rows[:, 0]]
    return rows


def _block_sums(scores: NDArray[np.float32], block: int) -> NDArray[np.float32]:
    if block == 1:
        return scores
    slots, side = len(scores), scores.shape[1] // block
    return scores.reshape(slots, side, block, side, block).sum(axis=(2, 4))


def _expanded(units: NDArray[np.int32], block: int) -> NDArray[np.int32]:
    """Return the cells of blocks (t, h, w): int32 (block^2 n, 3), raster order in each block."""
    if block == 1:
        return units
    down, right = np.divmod(np.arange(block**2, dtype=np.int32), block)
    rows = units.repeat(block**2, axis=0)
    rows[:, 1] = rows[:, 1] * block + np.tile(down, len(units))
    rows[:, 2] = rows[:, 2] * block + np.tile(right, len(units))
    return rows


def _rank_scores(
    scores: NDArray[np.float32],
    valid: NDArray[np.bool_],
    repeated: NDArray[np.bool_],
    config: AssetConfig,
) -> NDArray[np.float32]:
    """Scores with the tiers of the padding policy below 0: float32 (T * g^2,)."""
    still = -(_spread_turns(len(scores)) + 1) / np.float32(len(scores) + 1)
    ranks = np.where(scores > 0, scores, still[:, None, None])
    ranks = np.where(scores < 0, _HARMFUL, ranks)
    separate = config.padding_policy == "exclude"
    if config.has_free_length and not separate:
        ranks = np.where(ranks < 0, _NOTHING_NEW + ranks / 10, ranks)
    ranks = np.where(valid, ranks, _PADDING)
    ranks[repeated] = np.where(valid, _REPEATED if separate else _PADDING, _PADDING)
    return ranks.ravel()


def _spread_turns(slots: int) -> NDArray[np.float32]:
    """When each slot has its turn if every beginning is to be spread evenly: its bits reversed."""
    bits = max(slots - 1, 1).bit_length()
    mirrored = [int(f"{slot:0{bits}b}"[::-1], 2) for slot in range(slots)]
    return np.argsort(np.argsort(mirrored)).astype(np.float32)


def _forced_cells(valid: NDArray[np.bool_], config: AssetConfig) -> NDArray[np.intp]:
    cells = valid.size
    blocks = [np.arange(slot * cells, (slot + 1) * cells) for slot in config.full_slots]
    if config.keep_uniform_first and 0 not in config.full_slots:
        blocks.insert(0, np.flatnonzero(valid))
    return np.concatenate(blocks) if blocks else np.zeros(0, np.intp)


def _best(ranks: NDArray[np.float32], count: int, floor: np.float32) -> NDArray[np.intp]:
    """Return indices of the ``count`` highest ranks >= ``floor``, ties by lowest index."""
    able = np.arange(len(ranks))
    if 0 < count < len(ranks):
        # To sort what may be chosen alone is several times as fast.
        able = np.flatnonzero(ranks >= np.partition(ranks, -count)[-count])
    order = able[np.argsort(-ranks[able], kind="stable")[:count]]
    return order[ranks[order] >= floor]


def _bucket_cells(
    ranks: NDArray[np.float32], budget: int, config: AssetConfig, floor: np.float32
) -> NDArray[np.intp]:
    """Content cells by quota from contiguous spans of slots; what is left over by global rank."""
    slots, cells = ranks.shape
    free = [slot for slot in range(slots) if slot not in config.full_slots]
    wanted = config.time_bucket_count
    count = config.num_images - len(config.full_slots) if wanted < 0 else wanted
    count = min(max(count, 1), len(free))
    chosen: list[NDArray[np.intp]] = []
    flat = np.array(ranks.ravel())
    for bucket, quota in zip(_split(free, count), _quotas(budget, count), strict=True):
        first, last = bucket[0], bucket[-1] + 1
        picked = _best(ranks[first:last].ravel(), quota, _CONTENT_FLOOR) + first * cells
        chosen.append(picked)
        flat[picked] = _NEVER
    rest = budget - sum(len(part) for part in chosen)
    return np.concatenate([*chosen, _best(flat, rest, floor)])


def _quotas(budget: int, count: int) -> list[int]:
    return [budget // count + (index < budget % count) for index in range(count)]


def _split(slots: Sequence[int], count: int) -> list[Sequence[int]]:
    sizes = _quotas(len(slots), count)
    ends = np.cumsum(sizes).tolist()
    return [slots[end - size : end] for end, size in zip(ends, sizes, strict=True)]
