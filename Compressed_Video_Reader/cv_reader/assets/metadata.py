"""What ``meta.json`` of assets and selections holds: build, read and compare it.

A file that is read may be damaged or written by anybody: its size, types and names are checked
before they are used.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Any, cast

from cv_reader.errors import AssetError, SettingsError, StaleAssetError
from cv_reader.select.config import ALGORITHM_VERSION, AssetConfig
from cv_reader.shards import file_bytes, open_file

SCHEMA_VERSION = 1
META = "meta.json"
MAX_META_BYTES = 1 << 22
_VERSIONS = range(1, 1000)
"""Numbers that a version may have; any other is damage."""

_REQUIRED: dict[str, type] = {
    "key": str,
    "video": str,
    "cfg": dict,
    "fingerprint": str,
    "algorithm_version": int,
    "source": dict,
    "backend": str,
    "exactness": dict,
}
_REQUIRED_OF_FOLDERS: dict[str, type] = {"files": dict, "image_stem": str}
_OTHER_PROGRAMS = ("sample_key", "keep_frames_equiv", "doc_id", "created_at", "stats")
"""Keys by which the reference implementation's files are recognised."""

_RULES = ("cheap_reach_steps", "rate_distortion_version")
"""Names of ``AssetConfig.rules``."""

_PLAIN_NAME = re.compile(r"[^/\0]{1,255}")


def read_meta(path: Path) -> dict[str, Any]:
    """Read a ``meta.json`` and check its version and the types of its required keys.

    Raises:
        AssetError: if it is missing, unreadable or damaged.
        StaleAssetError: if another version or another program wrote it.
    """
    found = _read_object(path)
    version = found.get("schema_version")
    if type(version) is not int or version != SCHEMA_VERSION:
        message = (
            f"{path}: schema_version must be {SCHEMA_VERSION}, got {str(version)[:40]!r}; another "
            "version or program made the asset, make it again"
        )
        is_other = (type(version) is int and version in _VERSIONS) or (
            version is None
            and "fingerprint" not in found
            and any(name in found for name in _OTHER_PROGRAMS)
        )
        raise (StaleAssetError if is_other else AssetError)(message)
    required = _REQUIRED | (_REQUIRED_OF_FOLDERS if path.name == META else {})
    missing = [name for name in required if name not in found]
    if missing:
        raise AssetError(f"{path}: lacks {missing}; make the asset again")
    wrong = [name for name, kind in required.items() if type(found[name]) is not kind]
    if wrong:
        raise AssetError(f"{path}: values of {wrong} have the wrong type; make the asset again")
    if path.name == META:
        _check_names(path, found)
    return found


def _read_object(path: Path) -> dict[str, Any]:
    try:
        if file_bytes(path) > MAX_META_BYTES:
            raise ValueError(f"must be a file of at most {MAX_META_BYTES} bytes")
        with open_file(path) as stream:
            content: Any = json.loads(stream.read(MAX_META_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise AssetError(f"{path}: cannot be read ({error}); make the asset again") from error
    return cast("dict[str, Any]", content) if isinstance(content, dict) else {}


def _check_names(path: Path, meta: dict[str, Any]) -> None:
    """Check that the names in a folder's metadata lead to files of that folder."""
    for name, recorded in cast("dict[str, Any]", meta["files"]).items():
        is_named = _PLAIN_NAME.fullmatch(name) and name not in (".", "..")
        facts = cast("dict[str, Any]", recorded) if isinstance(recorded, dict) else {}
        if not is_named or type(facts.get("size_bytes")) is not int or "sha256" not in facts:
            raise AssetError(f"{path}: files has a bad entry {name[:80]!r}; make the asset again")
    if not _PLAIN_NAME.fullmatch(meta["image_stem"]):
        raise AssetError(f"{path}: image_stem must be a file name; make the asset again")


def config_of(meta: dict[str, Any], where: object) -> AssetConfig:
    """Return the settings that an output was made with.

    Raises:
        AssetError: if they are damaged, or not those of this version.
    """
    defaults, cfg = AssetConfig().to_dict(), meta["cfg"]
    for name, value in cast("dict[str, Any]", cfg).items():
        default = defaults.get(name)
        is_number = isinstance(default, float) and type(value) is int
        if name in defaults and type(value) is not type(default) and not is_number:  # pyright: ignore[reportUnknownArgumentType]
            raise AssetError(f"{where}: cfg has a bad value of {name}; make the asset again")
    try:
        return AssetConfig.from_dict(cfg, where)
    except (SettingsError, OverflowError) as error:
        raise AssetError(f"{where}: cfg is damaged ({error}); make the asset again") from error


def check_settings(meta: dict[str, Any], expected: AssetConfig, where: object) -> None:
    """Compare an asset's settings with those asked for.

    Raises:
        StaleAssetError: naming the settings that differ, both values, and the remedy.
    """
    if meta["fingerprint"] == expected.fingerprint:
        return
    stored = _decisive(meta)
    asked = {"algorithm_version": ALGORITHM_VERSION, **expected.rules, **expected.to_dict()}
    differing = [
        f"{name} {stored.get(name)!r} where {asked.get(name)!r} is asked for"
        for name in sorted(stored.keys() | asked.keys())
        if stored.get(name) != asked.get(name)
    ]
    way_out = "ask for the settings it was made with, or pass --overwrite"
    if meta["cfg"] == expected.to_dict():  # no setting asks for an earlier rule
        way_out = "this version makes it otherwise; pass --overwrite"
    raise StaleAssetError(
        f"{where}: made with {', '.join(differing) or 'settings unlike its recorded ones'}; "
        f"{way_out} to make it again"
    )


def is_consistent(meta: dict[str, Any]) -> bool:
    """Return whether the fingerprint is that of the recorded settings and version.

    A damaged file fails this; one that another version made with other settings does not.
    """
    canonical = json.dumps(_decisive(meta), sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()
    return digest[:16] == meta["fingerprint"]


def _decisive(meta: dict[str, Any]) -> dict[str, Any]:
    """Return what the fingerprint is over, as it is recorded."""
    rules = {name: meta[name] for name in _RULES if name in meta}
    return {"algorithm_version": meta["algorithm_version"], **rules, **meta["cfg"]}


def build_meta(
    config: AssetConfig, facts: dict[str, Any], *, key: str, video: str
) -> dict[str, Any]:
    """Return what every ``meta.json`` holds: no clock values, so equal input gives equal bytes."""
    return {
        "schema_version": SCHEMA_VERSION,
        "key": key,
        "video": video,
        "fingerprint": config.fingerprint,
        "algorithm_version": ALGORITHM_VERSION,
        "cfg": config.to_dict(),
        **config.rules,
        "order": config.order,
        "T": config.sequence_length,
        "K": config.num_rows,
        "num_images": config.num_images,
        "square_size": config.square_size,
        "patch": config.patch_size,
        **facts,
    }
