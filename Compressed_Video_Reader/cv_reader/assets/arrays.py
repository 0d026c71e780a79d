"""Read ``.npy`` files that anybody may have written: sizes are checked before memory is taken.

Axis letters: N rows, G mosaics.
"""

import re
from math import isqrt, prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from cv_reader.errors import AssetError
from cv_reader.shards import file_bytes, open_file

MAX_ARRAY_BYTES = 1 << 28
"""Far above the largest asset: 1,024 mosaics of 72 x 72 cells have 128 MB of positions."""

_MAGIC = b"\x93NUMPY"
_LENGTH_BYTES = {b"\x01": 2, b"\x02": 4}
"""Version to the bytes of the header's length."""
_PREFIX_BYTES = 12
_MAX_HEADER_BYTES = 1024  # numpy's own headers of simple arrays have 118
_HEADER = re.compile(
    r"\{\s*'descr':\s*'(?P<descr>[<>|=]?[a-zA-Z]\d+)',\s*'fortran_order':\s*(?P<order>True|False),"
    r"\s*'shape':\s*\((?P<shape>[\d, ]*)\),?\s*\}\s*"
)


def load_array(path: str | Path) -> NDArray[Any]:
    """Read one ``.npy`` file without pickles.

    Raises:
        AssetError: if the file is missing, unreadable, no array, larger than ``MAX_ARRAY_BYTES``,
            or shorter than its header says.
    """
    try:
        size_bytes = file_bytes(path)
        with open_file(path) as stream:
            return _read_array(stream, size_bytes)
    except AssetError as error:
        raise AssetError(f"{path}: {error}; make the asset again") from error
    except (OSError, ValueError, TypeError, OverflowError) as error:
        raise AssetError(f"{path}: cannot be read as an array ({error})") from error


def _read_array(stream: BinaryIO, size_bytes: int) -> NDArray[Any]:
    prefix = stream.read(_PREFIX_BYTES)
    if prefix.startswith(b"PK"):
        raise AssetError("must be one .npy array, got an archive")
    if not prefix.startswith(_MAGIC) or prefix[6:7] not in _LENGTH_BYTES:
        raise ValueError("not a .npy file of version 1 or 2")
    if size_bytes > MAX_ARRAY_BYTES:
        raise ValueError(f"{size_bytes} bytes, more than {MAX_ARRAY_BYTES}")
    header_start = len(_MAGIC) + 2 + _LENGTH_BYTES[prefix[6:7]]
    length = int.from_bytes(prefix[len(_MAGIC) + 2 : header_start], "little")
    if length > _MAX_HEADER_BYTES:
        raise ValueError(f"its header has more than {_MAX_HEADER_BYTES} bytes")
    stream.seek(header_start)
    # numpy's own parser fails on hostile headers in ways that differ between versions of Python.
    header = _HEADER.fullmatch(stream.read(length).decode("latin-1"))
    if header is None:
        raise ValueError("its header is not that of a simple array")
    dtype = np.dtype(header["descr"])
    if dtype.hasobject or dtype.itemsize == 0:
        raise ValueError(f"elements of type {dtype} are not supported")
    shape = tuple(int(side) for side in header["shape"].split(",") if side.strip())
    count, left = prod(shape), size_bytes - stream.tell()
    if count * dtype.itemsize > left:
        raise ValueError(f"shape {shape} of {dtype} needs more than the {left} bytes that follow")
    content = bytearray(stream.read(count * dtype.itemsize))
    if len(content) != count * dtype.itemsize:
        raise ValueError(f"ends after {len(content) // dtype.itemsize} of {count} elements")
    flat = np.frombuffer(content, dtype)
    if header["order"] == "True":
        return flat.reshape(shape[::-1]).T
    return flat.reshape(shape)


def read_positions(path: str | Path, *, num_images: int) -> NDArray[np.int32]:
    """Read ``positions_thw.npy`` of any maker and check its shape and ranges.

    Args:
        path: file to read.
        num_images: G, mosaics that the rows describe.

    Returns:
        int32 (N, 3), N = G * grid^2, rows (t, h, w) with t >= 0 and h, w in [0, grid). Rows need
        not be unique.

    Raises:
        AssetError: if the file cannot be read or breaks a rule above.
    """
    positions = load_array(path)
    if str(positions.dtype) not in ("int32", "int64"):
        raise AssetError(f"{path}: dtype must be int32 or int64, got {positions.dtype}")
    if positions.ndim != 2 or positions.shape[1] != 3:
        raise AssetError(f"{path}: shape must be (N, 3), got {positions.shape}")
    rows = positions.shape[0]
    per_image, rest = divmod(rows, num_images)
    grid = isqrt(per_image)
    if rest or grid < 1 or grid * grid != per_image:
        raise AssetError(
            f"{path}: rows must be num_images x grid x grid, got {rows} rows for {num_images} "
            "images; check that images and positions belong together"
        )
    low, high = positions.min(axis=0), positions.max(axis=0)
    if low.min() < 0 or high[1:].max() >= grid or high[0] > np.iinfo(np.int32).max:
        raise AssetError(
            f"{path}: t must be at least 0 and h, w in [0, {grid}), "
            f"got t {low[0]}..{high[0]}, h {low[1]}..{high[1]}, w {low[2]}..{high[2]}"
        )
    return positions.astype(np.int32, copy=False)
