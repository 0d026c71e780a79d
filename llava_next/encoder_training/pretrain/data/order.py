"""The shuffled order of a set's samples: endless, seeded, the same on any number of ranks.

Position k of the order belongs to epoch k // N. An epoch goes through the shards in a random
order, a window of several at a time, and shuffles the samples of a window: memory and open files
stay bounded at any number of samples. Rank r of n reads positions start + r, start + r + n, ...;
after every rank has read m samples the next start is start + m * n; n may then change.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

_SHARDS, _SAMPLES = 0, 1


class SampleOrder:
    """Maps positions of the endless order to samples.

    Args:
        sizes: samples of each shard.
        seed: seed of the order.
        shuffle: without it, every epoch has the order of the files.
        window_shards: how many shards are shuffled together.
    """

    def __init__(
        self, sizes: Sequence[int], *, seed: int, shuffle: bool = True, window_shards: int = 8
    ) -> None:
        self._sizes = np.asarray(sizes, np.int64)
        self._seed, self._shuffle, self._window_shards = seed, shuffle, window_shards
        self.num_samples = int(self._sizes.sum())
        self._epoch = lru_cache(maxsize=2)(self._make_epoch)
        self._window = lru_cache(maxsize=4)(self._make_window)

    def __getitem__(self, position: int) -> tuple[int, int]:
        """Return shard and number within the shard of a position >= 0."""
        epoch, within = divmod(position, self.num_samples)
        ends = self._epoch(epoch)[1]
        window = int(np.searchsorted(ends, within, side="right"))
        start = int(ends[window - 1]) if window else 0
        members, starts, order = self._window(epoch, window)
        number = int(order[within - start])
        which = int(np.searchsorted(starts, number, side="right")) - 1
        return int(members[which]), number - int(starts[which])

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the caches, which do not travel to worker processes."""
        return {k: v for k, v in self.__dict__.items() if k not in ("_epoch", "_window")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._epoch = lru_cache(maxsize=2)(self._make_epoch)
        self._window = lru_cache(maxsize=4)(self._make_window)

    def _make_epoch(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the shards in order (N,), and the end of each window in samples."""
        shards = np.arange(len(self._sizes))
        if self._shuffle:
            shards = self._random(epoch, _SHARDS).permutation(shards)
        ends = np.cumsum(self._sizes[shards])
        last = np.arange(self._window_shards - 1, len(shards), self._window_shards)
        if not len(last) or last[-1] != len(shards) - 1:
            last = np.append(last, len(shards) - 1)
        return shards, ends[last]

    def _make_window(
        self, epoch: int, window: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Return the shards of a window, their first numbers in it, and its order."""
        first = window * self._window_shards
        members = self._epoch(epoch)[0][first : first + self._window_shards]
        starts = np.concatenate(([0], np.cumsum(self._sizes[members])))
        order = np.arange(starts[-1])
        if self._shuffle:
            order = self._random(epoch, _SAMPLES, window).permutation(order)
        return members, starts[:-1], order

    def _random(self, *key: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, *key])
