"""Peak speeds of devices, and the time that a run waits for its data."""

import time
from collections.abc import Iterator
from typing import Any

import torch

PEAK_TFLOPS = {
    "B200": 2250.0,
    "H200": 989.0,
    "H100": 989.0,
    "H800": 989.0,
    "A100": 312.0,
    "A800": 312.0,
    "L40S": 362.0,
}
"""Peak speed in dense bfloat16 by the device's name, from the makers' data sheets."""


def peak_flops(device: torch.device, given_tflops: float | None) -> float | None:
    """Return a device's operations per second: as given, else by its name, else None."""
    if given_tflops is not None:
        return given_tflops * 1e12
    if device.type != "cuda":
        return None
    words = torch.cuda.get_device_name(device).replace("-", " ").split()
    found = [tflops for name, tflops in PEAK_TFLOPS.items() if name in words]
    return found[0] * 1e12 if found else None


class TimedIterator:
    """Passes batches on, and adds up the seconds spent waiting for them."""

    def __init__(self, batches: Iterator[Any]) -> None:
        self._batches = batches
        self.seconds = 0.0

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        started = time.perf_counter()
        try:
            return next(self._batches)
        finally:
            self.seconds += time.perf_counter() - started
