"""Peak speeds of devices, and the time that a run waits for its data."""

import logging
import time
from collections.abc import Iterator
from typing import Any

import torch

logger = logging.getLogger(__name__)

PEAK_TFLOPS = {
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H200 NVL": 835.0,
    "GB200": 2500.0,
    "B200": 2250.0,
    "GH200": 989.0,
    "H200": 989.0,
    "H100": 989.0,
    "H800": 989.0,
    "A100": 312.0,
    "A800": 312.0,
    "L40S": 362.0,
}
"""Peak speed in dense bfloat16 by words of the device's name; the first name that fits counts.

From the makers' data sheets, which print twice as much, "with sparsity"."""


def peak_flops(device: torch.device, given_tflops: float | None) -> float | None:
    """Return a device's operations per second: as given, else by its name, else None.

    A GPU whose peak is not known is named in a warning.
    """
    if given_tflops is not None:
        return given_tflops * 1e12
    if device.type != "cuda":
        return None
    full_name = torch.cuda.get_device_name(device)
    words = set(full_name.replace("-", " ").split())
    for name, tflops in PEAK_TFLOPS.items():
        if words.issuperset(name.split()):
            return tflops * 1e12
    logger.warning(
        "the peak speed of %s is not known, so no MFU is logged; give it in dense bfloat16 by "
        "--peak_tflops",
        full_name,
    )
    return None


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
