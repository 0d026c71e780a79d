"""What all parts share: cases with results that survive a crash, timing, memory, operations."""

import gc
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from gpu_parts.results import (
    CUT_OFF,
    DONE,
    FAILED,
    LATER,
    LEFT_OUT,
    MEMORY,
    RUNNING,
    Figures,
    Results,
)
from run_kit.speed import peak_flops

if TYPE_CHECKING:
    from onevision_encoder import OneVisionEncoderConfig

FIRST, THEN, COMPILED, LAST = STAGES = (1, 2, 3, 4)
"""The most telling cases of all parts, the others; what compiles, the most telling cases first."""
LIMIT_SECONDS, LIMIT_FACTOR = 30, 3
"""A case is ended after this many seconds, and this many times what it is expected to take."""
LEFTOVER_BYTES = 1 << 30


class LeftOutError(Exception):
    """A case cannot run here; the message says why."""


class DeviceLostError(Exception):
    """A case left the device unusable for this process, or memory that cannot be freed."""


@dataclass
class Bench:
    """One part of the run.

    Attributes:
        part: its name.
        device: ``cuda``, ``cpu``, or ``meta``, on which nothing is computed.
        tiny: whether models are those of a trial run.
        out: folder of results.
        work: folder of what is not kept: a checkpoint, the run that is trained.
        assets: folder that ``gpu_parts/assets.py`` wrote, with codec assets and data.
        deadline: ``time.time()`` after which no case starts.
        results: where figures go.
        peak: operations per second of the device by its data sheet, None if not known.
        chosen: parts of names; only cases whose ``part: name`` has one of them run. Empty: all.
        stage: only cases of this stage run. None: all.
        parent: the process that watches this one; no case starts after it has ended.
    """

    part: str
    device: torch.device
    tiny: bool
    out: Path
    work: Path
    assets: Path
    deadline: float
    results: Results
    peak: float | None = None
    chosen: Sequence[str] = ()
    stage: int | None = None
    parent: int | None = None

    @property
    def dtype(self) -> torch.dtype:
        """float32 on the CPU, bfloat16 elsewhere."""
        return torch.float32 if self.device.type == "cpu" else torch.bfloat16

    def case(
        self, name: str, run: Callable[[], Figures], *, seconds: float = 5.0, stage: int = THEN
    ) -> None:
        """Run a case unless it has been run, or the time is up; write what came of it.

        Args:
            name: its name within the part.
            run: returns the figures.
            seconds: about how long it takes on a GPU.
            stage: one of ``STAGES``.

        Raises:
            DeviceLostError: if this process cannot go on to another case.
        """
        key = f"{self.part}: {name}"
        if self.stage not in (None, stage) or not is_chosen(key, self.chosen):
            return
        before = self.results.cases.get(key, {}).get("status")
        if self.results.is_finished(key) or before == FAILED:
            return
        if before == RUNNING:  # the process ended within it
            self._write(key, {"status": FAILED, "why": "the process ended within this case"})
            return
        if self.parent not in (None, os.getppid()):
            raise SystemExit("the process that watches this one has ended")
        now = time.time()
        if now + seconds > self.deadline:
            self._write(key, {"status": LATER, "why": f"needs about {seconds:.0f} s"})
            return
        limit = LIMIT_SECONDS + LIMIT_FACTOR * seconds
        until = now + limit * (1 if self.device.type == "cuda" else 10)
        running = {"status": RUNNING, "started": now, "expected": seconds, "until": until}
        self._write(key, running | ({CUT_OFF: True} if before == CUT_OFF else {}))
        held = self._held_bytes()
        started = time.perf_counter()
        try:
            found = {"status": DONE, **run()}
        except LeftOutError as error:
            found = {"status": LEFT_OUT, "why": str(error)}
        except torch.cuda.OutOfMemoryError as error:
            found = {"status": MEMORY, "why": str(error).splitlines()[0]}
        except Exception as error:  # noqa: BLE001  a case must not end those after it
            found = {"status": FAILED, "why": f"{type(error).__name__}: {error}"[:600]}
        found["took_seconds"] = round(time.perf_counter() - started, 2)
        self._write(key, found)
        self._free(key, held, ended_well=found["status"] == DONE)

    def _held_bytes(self) -> int:
        return torch.cuda.memory_allocated() if self.device.type == "cuda" else 0

    def _free(self, key: str, held: int, *, ended_well: bool) -> None:
        """Free what a case held. What it keeps by intent, such as a model, it keeps by success."""
        gc.collect()
        try:
            self._wait()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
        except RuntimeError as error:  # an error of a kernel stays until the process ends
            raise DeviceLostError(f"{key}: {str(error).splitlines()[0]}") from error
        left = self._held_bytes() - held
        if not ended_well and left > LEFTOVER_BYTES:
            raise DeviceLostError(f"{key}: {left / 1e9:.1f} GB cannot be freed")

    def _write(self, key: str, found: Figures) -> None:
        self.results.cases[key] = found
        self.results.write()
        if found["status"] != RUNNING:
            shown = {name: value for name, value in found.items() if not isinstance(value, list)}
            print(f"{key}: {json.dumps(shown)}", flush=True)

    def seconds(self, step: Callable[[], object], *, most: int = 10, warm: int = 2) -> float | None:
        """Return the median seconds of a step; None where nothing is computed."""
        if self.device.type == "meta":
            step()
            return None
        if self.tiny:
            most, warm = 1, 1
        for _ in range(warm):
            step()
        self._wait()
        times: list[float] = []
        while len(times) < most and (sum(times) < 2.0 or len(times) < 3):
            started = time.perf_counter()
            step()
            self._wait()
            times.append(time.perf_counter() - started)
        return statistics.median(times)

    def peak_gigabytes(self, step: Callable[[], object]) -> float | None:
        """Return the most memory of the device during a step, 10^9 bytes; None elsewhere."""
        if self.device.type != "cuda":
            return None
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        step()
        torch.cuda.synchronize()
        return round(torch.cuda.max_memory_allocated() / 1e9, 2)

    def rates(self, seconds: float | None, tokens: int, operations: float) -> Figures:
        """Return time, tokens per second and the share of the peak (MFU).

        MFU = operations of forward and backward pass / seconds / peak of the data sheet; what is
        computed again for checkpointed gradients does not count.
        """
        if seconds is None:
            return {"seconds": None, "tokens": tokens, "tflop": round(operations / 1e12, 3)}
        share = None if self.peak is None else round(operations / seconds / self.peak, 4)
        return {
            "seconds": round(seconds, 5),
            "tokens_per_second": round(tokens / seconds),
            "tflops": round(operations / seconds / 1e12, 1),
            "mfu": share,
        }

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def is_chosen(key: str, chosen: Sequence[str]) -> bool:
    """Return whether the key of a case has one of these texts in it, or there are none."""
    return not chosen or any(text in key for text in chosen)


def encoder_operations(
    config: "OneVisionEncoderConfig", lengths: Sequence[int], blocks: int
) -> float:
    """Return the operations of a forward pass; a multiply-add counts as two.

    2 x weights x tokens, and for attention 4 x blocks x D x sum of squared segment lengths.
    """
    width = config.hidden_size
    weights = blocks * (4 * width**2 + 2 * width * config.intermediate_size)
    weights += config.num_channels * config.patch_size**2 * width
    tokens = sum(lengths)
    return 2.0 * weights * tokens + 4.0 * blocks * width * sum(length**2 for length in lengths)


def need(package: str, what: str) -> None:
    """Leave a case out where a package is missing.

    Raises:
        LeftOutError: saying which.
    """
    if find_spec(package) is None:
        raise LeftOutError(f"{what} needs the package {package}, which is not installed")


def describe(device: torch.device, given_peak_tflops: float | None) -> Figures:
    """Return what a reader must know about the machine."""
    peak = peak_flops(device, given_peak_tflops)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    return {
        "device": name,
        "peak_tflops": None if peak is None else peak / 1e12,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "transformers": version("transformers"),
        "cores": len(os.sched_getaffinity(0)),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "packages": {
            package: find_spec(package) is not None
            for package in ("deepspeed", "flash_attn", "liger_kernel", "triton", "av")
        },
    }
