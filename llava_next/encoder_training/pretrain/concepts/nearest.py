"""Nearest centres by cosine, the inner loop of everything here, by torch, faiss or flash-kmeans.

All backends compute every product (no index that skips some), in float32, and take the smaller
number where two centres are equally near; they differ where two centres are as near as rounding.

Axis letters: N rows, k centres, d features.
"""

import os
from collections.abc import Callable
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

Floats = NDArray[np.float32]

BACKENDS = ("auto", "torch", "faiss", "flash")
_BLOCK_BYTES = 4 << 20  # of products; larger blocks are given back to the system after each use
_GPU_BLOCK_BYTES = 4 << 30


class Nearest(NamedTuple):
    """Nearest centres of rows.

    Attributes:
        numbers: int64 (N, n), nearest first.
        cosines: float32 (N, n).
    """

    numbers: NDArray[np.int64]
    cosines: Floats


Search = Callable[[Floats, int], Nearest]
"""From rows (N, d) of length one and a count n to the n nearest centres of each."""


def search_by(backend: str, centres: Floats, device: str = "cpu") -> Search:
    """Return a search for the centres (k, d), which have length one.

    Args:
        backend: ``torch``, ``faiss`` (on the CPU; its GPU build where that is installed and
            ``device`` is a GPU), ``flash`` (flash-kmeans, on a GPU), or ``auto``: faiss on the CPU
            where it is installed, else torch.
        centres: float32 (k, d).
        device: where products are computed.

    Raises:
        ValueError: if the backend is unknown or not installed.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
    has_faiss = find_spec("faiss") is not None
    if backend == "faiss" and not has_faiss:
        raise ValueError("backend faiss is not installed: pip install -e '.[pretrain]'")
    if backend == "flash":
        return _flash_search(centres, device)
    if backend == "faiss" or (backend == "auto" and has_faiss and device == "cpu"):
        return _faiss_search(centres, device)
    return _torch_search(centres, device)


def _faiss_search(centres: Floats, device: str) -> Search:
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    index = faiss.IndexFlatIP(centres.shape[1])
    if device != "cpu" and hasattr(faiss, "StandardGpuResources"):
        number = torch.device(device).index or 0
        index = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), number, index)
    index.add(np.ascontiguousarray(centres, np.float32))

    def search(rows: Floats, count: int) -> Nearest:
        cosines, numbers = index.search(np.ascontiguousarray(rows, np.float32), count)
        return Nearest(numbers.astype(np.int64), cosines)

    return search


def _torch_search(centres: Floats, device: str) -> Search:
    columns = torch.from_numpy(np.ascontiguousarray(centres, np.float32)).to(device).T.contiguous()
    block_bytes = _BLOCK_BYTES if device == "cpu" else _GPU_BLOCK_BYTES
    step = max(block_bytes // (4 * columns.shape[1]), 16)

    def search(rows: Floats, count: int) -> Nearest:
        numbers, cosines = [], []
        for start in range(0, max(len(rows), 1), step):  # no rows are one empty block
            block = torch.from_numpy(np.ascontiguousarray(rows[start : start + step])).to(device)
            products = block @ columns
            if count == 1:
                best, where = products.max(dim=1, keepdim=True)
            else:
                best, where = products.topk(count, dim=1)
            numbers.append(where.cpu())
            cosines.append(best.cpu())
        return Nearest(torch.cat(numbers).numpy(), torch.cat(cosines).numpy())

    return search


def _flash_search(centres: Floats, device: str) -> Search:
    if device == "cpu":
        raise ValueError("backend flash must have a GPU as --device, got cpu; use torch or faiss")
    # Else its products would have 10 bits, and another centre would win for a few rows.
    os.environ.setdefault("TRITON_F32_DEFAULT", "tf32x3")
    try:
        from flash_kmeans.assign_euclid_triton import (  # pyright: ignore[reportMissingImports]
            cosine_assign_triton,
        )
    except ImportError as error:
        raise ValueError("backend flash is not installed: pip install flash-kmeans") from error
    columns = torch.from_numpy(np.ascontiguousarray(centres, np.float32)).to(device)
    several = _torch_search(centres, device)  # flash-kmeans finds the nearest centre alone

    def search(rows: Floats, count: int) -> Nearest:
        if count > 1 or not len(rows):
            return several(rows, count)
        block = torch.from_numpy(np.ascontiguousarray(rows, np.float32)).to(device)
        numbers = cosine_assign_triton(block[None], columns[None])[0].long()
        cosines = (block * columns[numbers]).sum(dim=1)
        return Nearest(numbers[:, None].cpu().numpy(), cosines[:, None].cpu().numpy())

    return search


def unit_rows(rows: Floats) -> Floats:
    """Return rows scaled to length one; rows of zeros stay."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows / np.maximum(lengths, 1e-12)).astype(np.float32, copy=False)
