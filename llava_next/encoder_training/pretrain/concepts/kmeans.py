"""Spherical k-means over rows that need not fit into memory.

Every iteration streams the rows in blocks: memory holds the centres, their sums and a block.
``fraction`` below 1 takes another random part of the rows in each iteration (mini-batch: 50 to
1000 rows a centre suffice). ``hierarchical`` first makes about sqrt(k) coarse clusters and then
divides each on its own, in proportion to its size: N (sqrt(k) + sqrt(k)) products instead of N k.

A centre without rows takes half of the largest cluster. The same seed, rows and backend give the
same centres; the state after every iteration can be saved and continued.

Axis letters: N rows, k centres, d features.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from encoder_training.pretrain.concepts.nearest import Floats, search_by, unit_rows

BLOCK_ROWS = 1 << 16


class FeatureRows:
    """Rows of several arrays as one matrix (N, d), read block by block.

    Args:
        parts: arrays (n, d), memory-mapped or not; rows with NaN are bad samples and are
            left out.
        prepare: applied to each block as float32; scaling to length one follows.
    """

    def __init__(
        self,
        parts: Sequence[NDArray[np.floating]],
        prepare: Callable[[Floats], Floats] | None = None,
    ) -> None:
        self._parts, self._prepare = parts, prepare
        self.num_rows = sum(len(part) for part in parts)

    def blocks(
        self, fraction: float = 1.0, random: np.random.Generator | None = None
    ) -> Iterator[Floats]:
        """Yield unit rows; of each block a random part where ``fraction`` is below 1."""
        for part in self._parts:
            for start in range(0, len(part), BLOCK_ROWS):
                block: NDArray[np.floating] = part[start : start + BLOCK_ROWS]
                if fraction < 1 and random is not None:
                    chosen = random.random(len(block)) < fraction
                    block = block[np.flatnonzero(chosen)]
                yield self.prepared(block)

    def prepared(self, block: NDArray[np.floating], *, keep_bad: bool = False) -> Floats:
        """Return rows as unit float32, without those that are not finite."""
        rows = np.asarray(block, np.float32)
        is_good = np.isfinite(rows).all(axis=1)
        if not keep_bad and not is_good.all():
            rows = rows[is_good]
        if self._prepare is not None:
            rows = self._prepare(rows)
        return unit_rows(rows)

    def sample(self, count: int, random: np.random.Generator) -> Floats:
        """Return about ``count`` rows, at most, spread over all parts."""
        found = np.concatenate(list(self.blocks(min(1.0, 1.2 * count / self.num_rows), random)))
        return found[random.permutation(len(found))[:count]]


@dataclass
class KMeansState:
    """The state of k-means: the centres so far, and what led to them.

    Attributes:
        centres: float32 (k, d), of length one.
        iteration: how many are done.
        history: mean cosine to the nearest centre, and centres without rows, of each iteration.
    """

    centres: Floats
    iteration: int = 0
    history: list[dict[str, float]] = field(default_factory=list)


def drawn_centres(rows: FeatureRows, count: int, seed: int) -> Floats:
    """Return ``count`` different rows, drawn at random.

    Raises:
        ValueError: if there are fewer rows than centres.
    """
    random = np.random.default_rng([seed, 0])
    found = rows.sample(count, random)
    if len(found) < count:
        found = np.concatenate(list(rows.blocks()))
        found = found[random.permutation(len(found))[:count]]
    if len(found) < count:
        raise ValueError(
            f"k-means needs at least as many good rows as centres, got {len(found)} for {count}"
        )
    return found


def lloyd(
    rows: FeatureRows,
    state: KMeansState,
    *,
    iterations: int,
    seed: int = 0,
    fraction: float = 1.0,
    backend: str = "auto",
    device: str = "cpu",
    save: Callable[[KMeansState], None] = lambda state: None,
) -> KMeansState:
    """Run the iterations that are left.

    Args:
        rows: the data.
        state: where to begin; changed and returned.
        iterations: how many in all.
        seed: seed of mini-batches and of splits.
        fraction: part of the rows that an iteration sees.
        backend, device: see ``search_by``.
        save: called after each iteration.
    """
    while state.iteration < iterations:
        random = np.random.default_rng([seed, 1, state.iteration])
        search = search_by(backend, state.centres, device)
        sums = np.zeros(state.centres.shape, np.float64)
        counts = np.zeros(len(state.centres), np.int64)
        total = 0.0
        for block in rows.blocks(fraction, random):
            nearest = search(block, 1)
            total += float(nearest.cosines.sum(dtype=np.float64))
            add_by_cluster(sums, counts, block, nearest.numbers[:, 0])
        num_rows = int(counts.sum())
        empty = np.flatnonzero(counts == 0)
        state.centres = _moved(state.centres, sums, counts, random)
        state.iteration += 1
        state.history.append(
            {"mean_cosine": total / max(num_rows, 1), "empty": float(len(empty)), "rows": num_rows}
        )
        save(state)
    return state


def add_by_cluster(
    sums: NDArray[np.float64], counts: NDArray[np.int64], rows: Floats, numbers: NDArray[np.int64]
) -> None:
    """Add each row to the sum of its cluster, in place."""
    order = np.argsort(numbers, kind="stable")
    ordered = numbers[order]
    starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    if len(ordered):
        sums[ordered[starts]] += np.add.reduceat(rows[order], starts, axis=0, dtype=np.float64)
        counts[ordered[starts]] += np.diff(np.append(starts, len(ordered)))


def _moved(
    centres: Floats,
    sums: NDArray[np.float64],
    counts: NDArray[np.int64],
    random: np.random.Generator,
) -> Floats:
    """Return the means as unit vectors; centres without rows split the largest clusters."""
    filled = np.flatnonzero(counts)
    moved = centres.copy()
    moved[filled] = unit_rows(sums[filled].astype(np.float32))
    left = counts.astype(np.float64)
    for number in np.flatnonzero(counts == 0):
        largest = int(left.argmax())
        left[largest] /= 2
        left[number] = left[largest]
        change = random.normal(0, 1e-3, centres.shape[1]).astype(np.float32)
        moved[number] = moved[largest] + change
        moved[largest] = moved[largest] - change
        moved[[number, largest]] = unit_rows(moved[[number, largest]])
    return moved


def hierarchical(
    rows: FeatureRows,
    count: int,
    *,
    iterations: int,
    seed: int = 0,
    fraction: float = 1.0,
    backend: str = "auto",
    device: str = "cpu",
    coarse: int = 0,
    memory_bytes: int = 4 << 30,
    top: KMeansState | None = None,
    save: Callable[[KMeansState], None] = lambda state: None,
    divided: Mapping[int, Floats] | None = None,
    keep: Callable[[dict[int, Floats]], None] = lambda centres: None,
) -> KMeansState:
    """Make coarse clusters, then divide each.

    Args:
        rows: the data.
        count: k.
        iterations: number of iterations of each level.
        seed, fraction, backend, device: see ``lloyd``.
        coarse: number of coarse clusters; 0 means sqrt(k).
        memory_bytes: size of the rows held at a time: clusters are divided in groups of this size,
            with a pass over the data for each group. One cluster must fit.
        top: coarse clusters of a run that was stopped.
        save: called after each iteration of the coarse clusters.
        divided: centres inside of coarse clusters that such a run divided already.
        keep: called with the centres inside of the clusters of each group.
    """
    coarse = coarse or max(math.isqrt(count), 1)
    options = {"iterations": iterations, "backend": backend, "device": device}
    top = top or KMeansState(drawn_centres(rows, coarse, seed))
    top = lloyd(rows, top, seed=seed, fraction=fraction, save=save, **options)
    search = search_by(backend, top.centres, device)

    def blocks() -> Iterator[Floats]:
        return rows.blocks(fraction, np.random.default_rng([seed, 2]))

    owners = [search(block, 1).numbers[:, 0].astype(np.int32) for block in blocks()]
    sizes = np.bincount(np.concatenate(owners), minlength=coarse)
    shares = _shares(sizes, count)
    centres = dict(divided or {})
    for group in _groups(sizes * top.centres.shape[1] * 4, memory_bytes):
        if all(number in centres or not shares[number] for number in group):
            continue
        members: dict[int, list[Floats]] = {number: [] for number in group}
        for block, owner in zip(blocks(), owners, strict=True):
            for number in np.intersect1d(np.unique(owner), group):
                members[int(number)].append(block[owner == number])
        for number in group:
            if shares[number]:
                inner = FeatureRows(members.pop(number))
                state = KMeansState(drawn_centres(inner, int(shares[number]), seed + number))
                centres[number] = lloyd(inner, state, seed=seed + number, **options).centres
        keep({number: centres[number] for number in group if shares[number]})
    found = np.concatenate([centres[number] for number in sorted(centres)])
    return KMeansState(found, iterations, top.history)


def _groups(sizes_bytes: NDArray[np.int64], limit_bytes: int) -> Iterator[list[int]]:
    """Yield runs of clusters that fit into the limit together; a larger one comes alone."""
    group: list[int] = []
    total = 0
    for number, size in enumerate(sizes_bytes.tolist()):
        if group and total + size > limit_bytes:
            yield group
            group, total = [], 0
        group.append(number)
        total += size
    yield group


def _shares(sizes: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Divide ``count`` centres among clusters by size: none gets more centres than rows."""
    if sizes.sum() < count:
        raise ValueError(f"k-means needs at least {count} rows, got {sizes.sum()}")
    exact = sizes / sizes.sum() * count
    shares = np.minimum(np.floor(exact).astype(np.int64), sizes)
    order = np.argsort(shares - exact, kind="stable")
    while (missing := count - int(shares.sum())) > 0:
        room = order[shares[order] < sizes[order]][:missing]
        shares[room] += 1
    return shares


def agreement(first: NDArray[np.int64], second: NDArray[np.int64]) -> float:
    """Return the share of rows that two assignments give the same centre."""
    return float((first == second).mean())
