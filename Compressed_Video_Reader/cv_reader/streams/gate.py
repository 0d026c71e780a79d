"""When to ask a model: windows in which more happens than the stream usually shows."""

from collections import deque

import numpy as np

from cv_reader.errors import SettingsError

_HISTORY_WINDOWS = 240
_WARM_UP_WINDOWS = 8
_PERCENTILE = 90.0
_LEAST = (2000.0, 2.0)
"""Bits and new patches per second that count as nothing: codecs and noise need some."""


class EventGate:
    """Compares bits and new patches per second with a running percentile of both.

    Args:
        factor: how many times the percentile a rate must reach to be an event, above 0.

    Raises:
        SettingsError: the factor is not above 0.
    """

    def __init__(self, factor: float = 1.5) -> None:
        if not factor > 0:
            raise SettingsError(f"gate must be above 0, got {factor!r}")
        self._factor = factor
        self._history: deque[tuple[float, float]] = deque(maxlen=_HISTORY_WINDOWS)

    def value(self, bits_per_second: float, patches_per_second: float) -> float:
        """Return the larger of both rates, as a multiple of its percentile so far; then learn it.

        1 while too few windows are known. Bits are those of pictures between key frames: a key
        frame is no news.
        """
        rates, known = (bits_per_second, patches_per_second), np.array(self._history)
        self._history.append(rates)
        if len(known) < _WARM_UP_WINDOWS:
            return 1.0
        usual = np.maximum(np.percentile(known, _PERCENTILE, axis=0), _LEAST)
        return float((np.array(rates) / usual).max())

    def is_event(self, value: float) -> bool:
        """Return whether a model is worth asking."""
        return value >= self._factor
