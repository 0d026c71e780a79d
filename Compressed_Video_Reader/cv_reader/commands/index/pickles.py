"""Selections that the reference implementation cached as pickles, parsed without executing them.

A pickle names functions for its reader to call. Here each permitted name becomes a plain record of
what it was called with; every other name is refused. The array is then built from its bytes, after
its type and its shape were checked against them.
"""

import io
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cv_reader.errors import AssetError

_MAX_BYTES = 1 << 26
_TYPES = {f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)}


class _Type:
    """What a pickle says of a numpy type."""

    def __init__(self, name: object = "", *_rest: object) -> None:
        self.name, self.order = str(name), "<"

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) > 1 and isinstance(state[1], str):  # pyright: ignore[reportUnknownArgumentType]
            self.order = state[1]


class _Array:
    """What a pickle says of a numpy array."""

    def __init__(self, *_arguments: object) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


def _from_buffer(data: object, kind: object, shape: object, _order: object) -> _Array:
    """Return an array as protocol 5 describes it."""
    array = _Array()
    # A copy: at most as large as the file.
    array.state = (1, shape, kind, False, bytes(data) if isinstance(data, bytearray) else data)
    return array


class _Name:
    """A class that a pickle passes as an argument, never called."""


def _encoded(text: object, encoding: object = "latin1") -> bytes:
    """Return bytes that protocols 0 to 2 write as text."""
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError("only bytes written as latin1 text may be there")
    return text.encode("latin1")


_PERMITTED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Name,
    ("numpy", "dtype"): _Type,
    ("_codecs", "encode"): _encoded,
}
for _core in ("core", "_core"):
    _PERMITTED[(f"numpy.{_core}.multiarray", "_reconstruct")] = _Array
    _PERMITTED[(f"numpy.{_core}.numeric", "_frombuffer")] = _from_buffer


class _Reader(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str, /) -> Any:
        found = _PERMITTED.get((module_name, global_name))
        if found is None:
            raise pickle.UnpicklingError(f"it names {module_name}.{global_name}")
        return found

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it refers to objects outside of the file")


def read_pickle(path: Path) -> NDArray[np.int64]:
    """Return the patch indices in a pickle of the reference: int64 (K,).

    Args:
        path: a pickle of one array of whole numbers, or a dictionary with one under
            ``visible_indices``.

    Raises:
        AssetError: if it holds anything but plain arrays, or breaks off.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise AssetError(f"{path}: a pickle must have at most {_MAX_BYTES} bytes")
        content: Any = _Reader(io.BytesIO(path.read_bytes())).load()
        if isinstance(content, dict):
            content = content["visible_indices"]  # pyright: ignore[reportUnknownVariableType]
        array = _array(content)
    except OSError as error:
        raise AssetError(f"{path}: cannot be read ({error.strerror})") from error
    except AssetError:
        raise
    # The parser meets arbitrary bytes: any exception says that they are no such pickle.
    except Exception as error:  # noqa: BLE001
        raise AssetError(
            f"{path}: must be a pickle of one plain array of whole numbers ({error}); nothing in "
            "it was executed"
        ) from error
    return array


def _array(content: Any) -> NDArray[np.int64]:
    if isinstance(content, list):
        return _checked(np.array(content))  # pyright: ignore[reportUnknownArgumentType]
    if not isinstance(content, _Array):
        raise ValueError(f"got {type(content).__name__}")
    _version, shape, kind, _is_fortran, data = content.state
    if not isinstance(kind, _Type) or kind.name not in _TYPES or kind.order not in "<>|=":
        raise ValueError("the array must be of whole numbers")
    dtype = np.dtype(f"{'<' if kind.order in '|=' else kind.order}{kind.name}")
    sizes = [size for size in shape if isinstance(size, int) and size >= 0]  # pyright: ignore
    if not isinstance(data, bytes) or len(sizes) != len(shape):  # pyright: ignore
        raise ValueError("the array must be plain")
    if math.prod(sizes) * dtype.itemsize != len(data):
        raise ValueError(f"shape {tuple(sizes)} does not fit {len(data)} bytes")
    return _checked(np.frombuffer(data, dtype).ravel())


def _checked(values: NDArray[Any]) -> NDArray[np.int64]:
    if values.ndim != 1 or values.dtype.kind not in "iu" or not len(values):
        raise ValueError(f"got values of type {values.dtype} and shape {values.shape}")
    return values.astype(np.int64)
