"""A codec asset as one object for a request to vLLM: mosaics, positions and times.

Clients need nothing of vLLM here. In Python an asset is ``codec_item(folder)``; over HTTP it is the
bytes of ``pack_asset(folder)``, in the format safetensors, which holds arrays and nothing else.

Axis letters: G mosaics, N rows of positions, T slots.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load, save

from cv_reader.assets import read_asset
from llava.visual.pictures import load_image
from llava.visual.time_marks import slot_seconds

MEDIA_TYPE = "application/x-codec-asset"
"""What ``data:`` URLs of packed assets should name; vLLM itself does not look at it."""

_NAMES = frozenset({"mosaics", "positions", "seconds"})
_LENGTH_BYTES = 8


def codec_item(folder: str | Path) -> dict[str, np.ndarray]:
    """Read a codec asset as an entry of ``multi_modal_data["video"]``.

    Args:
        folder: the asset.

    Returns:
        ``mosaics`` uint8 (G, side, side, 3), ``positions`` int64 (N, 3) and, where the asset has
        time stamps, ``seconds`` float64 (T,), the time of each slot t.

    Raises:
        ValueError: if a file is missing, damaged or breaks the contract of assets.
    """
    asset = read_asset(folder)
    item = {
        "mosaics": np.stack([np.asarray(load_image(path)) for path in asset.images]),
        "positions": asset.positions.astype(np.int64),
    }
    try:
        item["seconds"] = np.array(list(slot_seconds(asset.folder).values()))
    except ValueError:  # only checkpoints with time marks need them, and say so
        return item
    return item


def pack_asset(folder: str | Path) -> bytes:
    """Write a codec asset as bytes that ``unpack_asset`` reads.

    Raises:
        ValueError: as ``codec_item``.
    """
    return save(codec_item(folder))


def is_packed_asset(data: bytes) -> bool:
    """Return whether bytes look like those of ``pack_asset``, and not like a video's."""
    length = int.from_bytes(data[:_LENGTH_BYTES], "little")
    return data[_LENGTH_BYTES : _LENGTH_BYTES + 1] == b"{" and 0 < length < len(data)


def unpack_asset(data: bytes) -> dict[str, np.ndarray]:
    """Read what ``pack_asset`` wrote. Nothing is unpickled, and no array exceeds ``data``.

    Raises:
        ValueError: if the bytes are damaged or hold something else.
    """
    try:
        arrays = load(data)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"a packed codec asset cannot be read ({error}); pack it again") from error
    return checked_item(arrays)


def checked_item(item: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return a codec asset in the one form of ``codec_item``, so that equal ones hash equally.

    Args:
        item: ``mosaics`` as one array or a list of pictures, ``positions``, and perhaps
            ``seconds``.

    Raises:
        ValueError: if an entry is missing, unknown or of another kind.
    """
    if item.keys() - _NAMES or not {"mosaics", "positions"} <= item.keys():
        raise ValueError(
            "a video that is a mapping must be a codec asset with mosaics, positions and, where "
            f"the checkpoint has time marks, seconds; got {', '.join(map(str, item)) or 'nothing'}"
        )
    mosaics = [picture_bytes(mosaic) for mosaic in item["mosaics"]]
    if len({mosaic.shape for mosaic in mosaics}) != 1:
        raise ValueError(f"mosaics must be at least one and of one size, got {len(mosaics)}")
    rows = np.asarray(item["positions"])
    if rows.dtype.kind not in "iu" or rows.ndim != 2 or rows.shape[1] != 3:
        raise ValueError(f"positions must be integers (N, 3), got {rows.dtype} {rows.shape}")
    made = {"mosaics": np.stack(mosaics), "positions": np.ascontiguousarray(rows, np.int64)}
    if item.get("seconds") is not None:
        made["seconds"] = np.asarray(item["seconds"], np.float64).reshape(-1)
        if not np.isfinite(made["seconds"]).all():
            raise ValueError("seconds must be the finite time of each slot")
    return made


def picture_bytes(picture: Any) -> np.ndarray:
    """Return a picture as uint8 (H, W, 3).

    Args:
        picture: RGB: a PIL image, or an array or tensor uint8 with its channels last or first.

    Raises:
        ValueError: if it is something else.
    """
    array = picture.cpu().numpy() if isinstance(picture, torch.Tensor) else np.asarray(picture)
    if array.ndim == 3 and array.shape[-1] != 3 and array.shape[0] == 3:
        array = array.transpose(1, 2, 0)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[-1] != 3:
        raise ValueError(
            f"pictures and frames must be uint8 (H, W, 3), got {array.dtype} {array.shape}"
        )
    return np.ascontiguousarray(array)
