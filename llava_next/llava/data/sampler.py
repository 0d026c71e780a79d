"""Which samples are in which batch: a plan that follows from seed and epoch alone.

A batch of a rank is looked up by its number, so a resumed run continues with the batch that the
interrupted one would have read next, and nothing is read on the way there.

Axis letters: N samples, R rows (a row is one sample, or the samples of one pack).
"""

from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch.utils.data import Sampler

_PACK_WINDOW = 4096
_BALANCE_WINDOW_STEPS = 64


@dataclass(frozen=True)
class Rows:
    """Samples grouped into rows, the units of a batch.

    Attributes:
        samples: int64 (N,), row after row.
        starts: int64 (R + 1,): row r is samples starts[r]..starts[r + 1].
    """

    samples: np.ndarray
    starts: np.ndarray

    def __len__(self) -> int:
        return len(self.starts) - 1

    def samples_of(self, rows: np.ndarray) -> list[int]:
        """Return the samples of some rows, in order."""
        parts = [self.samples[self.starts[row] : self.starts[row + 1]] for row in rows]
        return np.concatenate(parts).tolist()

    def sums(self, values: np.ndarray) -> np.ndarray:
        """Return per row the sum of a value of its samples, int64 (R,)."""
        return np.add.reduceat(values[self.samples].astype(np.int64), self.starts[:-1])


def single_rows(samples: np.ndarray) -> Rows:
    """Return one sample per row."""
    return Rows(samples, np.arange(len(samples) + 1))


def packed_rows(samples: np.ndarray, lengths: np.ndarray, max_tokens: int, seed: int) -> Rows:
    """Fill rows of at most ``max_tokens`` with samples: shuffled, then best fit, longest first.

    Args:
        samples: int64, the samples to pack.
        lengths: int (N,), tokens of every sample of the data path.
        max_tokens: most tokens of a row; a sample above it has a row of its own.
        seed: decides which samples meet; the same rows come in every epoch.
    """
    shuffled = np.random.default_rng([seed]).permutation(samples)
    packs: list[list[int]] = []
    for start in range(0, len(shuffled), _PACK_WINDOW):
        window = shuffled[start : start + _PACK_WINDOW]
        packs += _best_fit(window[np.argsort(-lengths[window], kind="stable")], lengths, max_tokens)
    sizes = np.array([0] + [len(pack) for pack in packs])
    return Rows(np.array([sample for pack in packs for sample in pack]), sizes.cumsum())


def _best_fit(samples: np.ndarray, lengths: np.ndarray, max_tokens: int) -> list[list[int]]:
    packs: list[list[int]] = []
    space: list[tuple[int, int]] = []  # (tokens left, pack), ascending
    for sample, length in zip(samples.tolist(), lengths[samples].tolist(), strict=True):
        place = bisect_left(space, (length, 0))
        if place < len(space):
            left, pack = space.pop(place)
        else:
            left, pack = max_tokens, len(packs)
            packs.append([])
        packs[pack].append(sample)
        insort(space, (max(0, left - length), pack))
    return packs


class RankBatches(Sampler[list[int]]):
    """Batch sampler of one rank: yields lists of samples.

    Batches of all ranks at one time are one step's rows. A last step that is not full is shared out
    evenly, and every rank gets at least one row (of the epoch's first, again).
    """

    def __init__(
        self,
        rows: Rows,
        *,
        batch_rows: int,
        world_size: int = 1,
        rank: int = 0,
        seed: int = 0,
        costs: np.ndarray | None = None,
        drop_last: bool = False,
    ) -> None:
        """Plan nothing yet.

        Args:
            rows: rows of the whole data path.
            batch_rows: rows of a batch of one rank.
            world_size: ranks.
            rank: this one.
            seed: seed of the order.
            costs: int64 (R,): rows of similar cost share a step, and each step's cost is shared
                out evenly over the ranks; None for a random order.
            drop_last: leave out a last step that is not full.

        Raises:
            ValueError: if there is not one batch.
        """
        self._rows, self._costs = rows, costs
        self._batch_rows, self._world_size, self._rank = batch_rows, world_size, rank
        self._seed, self._drop_last = seed, drop_last
        self._order: tuple[int, np.ndarray] | None = None
        self.epoch, self._skipped = 0, 0
        if not len(self):
            raise ValueError(
                f"{len(rows)} rows of data do not fill one step of {self._step_rows} rows; lower "
                "--per_device_train_batch_size or set --dataloader_drop_last False"
            )

    @property
    def _step_rows(self) -> int:
        return self._batch_rows * self._world_size

    def __len__(self) -> int:
        full, rest = divmod(len(self._rows), self._step_rows)
        return full + int(rest > 0 and not self._drop_last)

    def set_epoch(self, epoch: int, skipped: int = 0) -> None:
        """Set the next epoch, and how many of its first batches are skipped."""
        self.epoch, self._skipped = epoch, skipped

    def __iter__(self) -> Iterator[list[int]]:
        for _ in range(self._skipped):
            yield []  # the library counts them off one by one
        for number in range(self._skipped, len(self)):
            yield self.batch(self.epoch, number)

    def batch(self, epoch: int, number: int) -> list[int]:
        """Return the samples of this rank's batch ``number`` of an epoch."""
        order = self._epoch_order(epoch)
        step = order[number * self._step_rows : (number + 1) * self._step_rows]
        if len(step) == self._step_rows:
            mine = step[self._rank * self._batch_rows : (self._rank + 1) * self._batch_rows]
        else:
            missing = max(0, self._world_size - len(step))
            filled = np.concatenate((step, np.resize(order, missing)))
            mine = np.array_split(filled, self._world_size)[self._rank]
        return self._rows.samples_of(mine)

    def _epoch_order(self, epoch: int) -> np.ndarray:
        """Return the rows in the order of the epoch, int64 (R,)."""
        if self._order is None or self._order[0] != epoch:
            random = np.random.default_rng([self._seed, epoch])
            order = random.permutation(len(self._rows))
            if self._costs is not None:
                order = self._balanced(order, self._costs, random)
            self._order = (epoch, order)
        return self._order[1]

    def _balanced(
        self, order: np.ndarray, costs: np.ndarray, random: np.random.Generator
    ) -> np.ndarray:
        """Return steps of rows of similar cost, in random order; a rest stays last."""
        full = len(order) // self._step_rows * self._step_rows
        window = _BALANCE_WINDOW_STEPS * self._step_rows
        steps: list[np.ndarray] = []
        for start in range(0, full, window):
            rows = order[start : min(start + window, full)]
            rows = rows[np.argsort(-costs[rows], kind="stable")].reshape(-1, self._step_rows)
            steps.append(random.permutation(rows)[:, self._deal()])
        return np.concatenate([*(rows.ravel() for rows in steps), order[full:]])

    def _deal(self) -> np.ndarray:
        """Deal rows sorted by cost to the ranks, there and back: int64 (step rows,)."""
        numbers = np.arange(self._step_rows).reshape(self._batch_rows, self._world_size)
        numbers[1::2] = numbers[1::2, ::-1]
        return numbers.T.ravel()
