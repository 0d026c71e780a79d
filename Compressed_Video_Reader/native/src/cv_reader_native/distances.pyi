"""Types of the kernel that compares cells. Axis letters: T slots, S sources, W targets."""

from typing_extensions import Buffer

IS_FAST: bool
"""Whether this processor has the instructions (AVX-512 VNNI); there is no other way."""

BOTH: int
"""Value of ``parts``: the quarters of a cell, and the cell; builds of before lack it."""

def least_distances(
    luma: Buffer,
    chroma: Buffer,
    sources: Buffer,
    shifts: Buffer,
    out: Buffer,
    size: tuple[int, ...],
    place: tuple[int, int, int],
    num_targets: int,
    parts: int,
    still: float,
    /,
) -> None:
    """Write sums of squared differences between slots, the least over some shifts of the source.

    All buffers are contiguous. Whole numbers below 2^24, colours counting four times.

    Args:
        luma: uint8 (T, 8 h, 8 w), ``size``.
        chroma: uint8 (T, 2, 4 h, 4 w).
        sources: int32 (columns, S), slots that are shown; the last W of them are the targets.
        shifts: int8 (m, 2), samples down and right, none first; at most 7 each.
        out: float32 (columns * units, S, W), written; with ``BOTH`` all quarters, then all cells.
        size: (T, 8 h, 8 w).
        place: row of cells, first column, number of columns.
        num_targets: W.
        parts: 1 for whole cells, 2 for their quarters, ``BOTH`` for four quarters and the cell.
        still: a unit is shifted where it differs by more than this between any two slots; with
            ``BOTH`` a quarter where it differs by more than a fourth of this.

    Raises:
        ValueError: sizes do not fit, or ``IS_FAST`` is false.
        MemoryError: out of memory.
    """

def sum_gains(
    between: Buffer,
    best: Buffer,
    units: Buffer,
    floors: Buffer,
    gains: Buffer,
    num_slots: int,
    /,
) -> None:
    """Write what keeping each slot too would spare of some units, on every processor.

    Sums are numpy's, to the bit: the same order, for up to 128 slots.

    Args:
        between: float32 (n, W, W), [i, s, t] of showing slot s at slot t.
        best: float32 (n, W), of what is shown.
        units: int64 (m,), those to write.
        floors: float32 (m,), the least that counts in one slot.
        gains: float32 (n, W), of which the rows of ``units`` are written.
        num_slots: W.

    Raises:
        ValueError: sizes do not fit, or a unit is none of the n.
    """

def best_swaps(
    between: Buffer,
    best: Buffer,
    second: Buffer,
    source: Buffer,
    kept: Buffer,
    units: Buffer,
    keeping: Buffer,
    may_drop: Buffer,
    add: Buffer,
    drop: Buffer,
    spared: Buffer,
    num_slots: int,
    /,
) -> None:
    """Find the slot that some units best keep instead of one that they keep, on every processor.

    Sums are float64 over the slots in their order; at most 128 slots.

    Args:
        between: float32 (n, W, W), [i, s, t] of showing slot s at slot t.
        best: float32 (n, W), of what is shown.
        second: float32 (n, W), of the best kept slot but one.
        source: int64 (n, W), the kept slot that is shown, 0 to W - 1.
        kept: bool (n, W).
        units: int64 (m,), those of interest.
        keeping: float64 (W,), what it costs to keep a slot.
        may_drop: bool (W,), slots that need not stay kept.
        add: int64 (m,), written: the slot to keep.
        drop: int64 (m,), written: the slot to drop.
        spared: float64 (m,), written: what that spares; minus infinity where none can be dropped.
        num_slots: W.

    Raises:
        ValueError: sizes do not fit, or a unit or source is out of range.
    """
