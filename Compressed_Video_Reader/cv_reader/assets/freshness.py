"""Decide whether existing output is up to date: its settings, its backend and its source file."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cv_reader.assets.contract import file_hash
from cv_reader.assets.metadata import check_settings, is_consistent, read_meta
from cv_reader.errors import AssetError, CvReaderError, SettingsError, StaleAssetError
from cv_reader.partial_files import file_status, find_partial
from cv_reader.reader import Video
from cv_reader.remote.addresses import is_address
from cv_reader.remote.videos import remote_status
from cv_reader.select.config import AssetConfig


def usable_meta(
    meta_path: Path, config: AssetConfig, *, backend: str = "auto", require_exact: bool = False
) -> dict[str, Any] | None:
    """Return the metadata of output made as asked for; None where it is missing or damaged.

    Damaged output is made again, so it counts as missing; what was made otherwise does not.

    Args:
        meta_path: its ``meta.json``.
        config: settings asked for.
        backend: backend asked for; ``auto`` accepts any.
        require_exact: whether estimates are refused.

    Raises:
        StaleAssetError: if it was made with other settings, by another version or program.
    """
    try:
        meta = read_meta(meta_path)
    except StaleAssetError as error:
        raise StaleAssetError(f"{error}, or pass --overwrite to replace it") from error
    except AssetError:
        return None
    if meta["fingerprint"] != config.fingerprint and not is_consistent(meta):
        return None
    check_settings(meta, config, meta_path)
    if meta["cfg"] != config.to_dict():
        return None
    if backend != "auto" and meta["backend"] != backend:
        raise StaleAssetError(
            f"{meta_path}: made with backend {meta['backend']!r} where {backend!r} is asked for; "
            "ask for that backend, or pass --overwrite to make it again"
        )
    inexact = {name: meta["exactness"].get(name) for name in ("motion", "residual_y")}
    inexact = {name: kind for name, kind in inexact.items() if kind != "exact"}
    if require_exact and inexact:
        raise StaleAssetError(
            f"{meta_path}: made with {inexact} where --require_exact is asked for; "
            "drop that flag, or pass --overwrite to make it again"
        )
    return meta


def asked_for(config: AssetConfig, backend: str = "auto", require_exact: bool = False) -> str:
    """Return a text that differs where ``usable_meta`` could answer differently."""
    return f"{config.fingerprint} {backend}{' exact' * require_exact}"


def refuse_other_settings(check: Callable[[], object]) -> None:
    """Run a check of existing output before a run; only what was made otherwise stops it.

    Anything else concerns one sample, and is reported when that sample is worked on.

    Raises:
        StaleAssetError, SettingsError: as the check raises them.
    """
    try:
        check()
    except (StaleAssetError, SettingsError):
        raise
    except (CvReaderError, OSError):
        return


def source_facts(path: Path) -> dict[str, Any]:
    """Return size, modification time and SHA-256 of a file.

    The hash of one of which this disk holds only parts is "": it would take the whole.

    Raises:
        OSError: if it cannot be read.
    """
    size_bytes, mtime_ns = file_status(path)
    is_whole = find_partial(path) is None
    return {
        "size_bytes": size_bytes,
        "mtime_ns": mtime_ns,
        "sha256": file_hash(path) if is_whole else "",
    }


def video_facts(video: Video, path: Path) -> dict[str, Any]:
    """Return what ``meta.json`` records of a video: the file, its frames, and what reads it."""
    index = video.index
    return {
        "source": source_facts(path),
        "backend": video.backend,
        "exactness": dict(video.exactness),
        "codec_name": index.codec_name,
        "num_frames": index.num_frames,
        "frame_rate": index.frame_rate,
        "duration_seconds": index.duration_seconds,
        "rotation_degrees": index.rotation_degrees,
        "shown": index.shown,
    }


def same_source(recorded: dict[str, Any], path: Path) -> bool:
    """Return whether a file is the recorded one: equal size, and equal time or else content.

    Of a remote file that changed its time the content is not fetched: it counts as another one.
    """
    found = remote_status(path)
    if found is None or found.size_bytes != recorded.get("size_bytes"):
        return False
    if found.mtime_ns == recorded.get("mtime_ns"):
        return True
    return not is_address(path) and same_content(recorded, path)


def same_content(recorded: dict[str, Any], path: Path) -> bool:
    """Return whether a file has the recorded content; its time is ignored."""
    is_equally_long = path.stat().st_size == recorded.get("size_bytes")
    return is_equally_long and file_hash(path) == recorded.get("sha256")


def selection_hash(rows: NDArray[np.int32], frame_ids: NDArray[np.int32]) -> str:
    """Return 16 hexadecimal digits over what was selected; they tie stage 2 to stage 1."""
    digest = hashlib.sha256(np.ascontiguousarray(rows, "<i4").tobytes())
    digest.update(np.ascontiguousarray(frame_ids, "<i4").tobytes())
    return digest.hexdigest()[:16]
