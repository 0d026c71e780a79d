"""Find the asset of a video: by the names of folders, then by the paths in ``meta.json``.

An asset is looked up by its key: the video's path below ``video_root``; without a root, every end
of the video's path, the longest first. Of several folders with such a name, the one made from
exactly this path wins, then the first whose recorded source size is the size of the file: videos
of the same name in two benchmarks so keep their own assets.

Custom keys are found by the recorded path. Where no folder has a fitting name, or its source is
another file that still exists, the ``meta.json`` of all assets are read once. A lookup therefore
costs the same among many assets as among few, and a start costs one listing of each root.
"""

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cv_reader.assets import AssetConfig, evaluation_key, read_meta
from cv_reader.shards import find_shards, folder_names, is_file, shard_keys
from llava.eval.settings import SIZE_FLAGS, EvalSettings

META_NAME = "meta.json"


@dataclass(frozen=True)
class AssetEntry:
    """One asset as its ``meta.json`` describes it.

    Attributes:
        folder: folder of the asset.
        key: name of the asset.
        video: path of the video, as it was written when the asset was made.
        source_size_bytes: size of the video then.
        config: settings of the asset.
        fingerprint: fingerprint of settings and algorithm version.
        backend: backend that read the video.
        exactness: exactness of each codec signal.
        files: size and hash of each file, by name.
    """

    folder: Path
    key: str
    video: str
    source_size_bytes: int
    config: dict[str, Any]
    fingerprint: str
    backend: str
    exactness: dict[str, str]
    files: dict[str, Any]


class AssetLookupError(ValueError):
    """An asset matches a video of the run, but must not be used for it."""


class AssetIndex:
    """The assets below some roots; those that the run uses are checked against its settings."""

    def __init__(self, settings: EvalSettings, roots: Sequence[Path]) -> None:
        """List the roots.

        Args:
            settings: settings of the run.
            roots: folders of assets, here or in a store; one that does not exist yet counts as
                empty.
        """
        self._settings = settings
        self._names: dict[Path, set[str]] = {root: _folders(root) for root in roots}
        for root in roots:
            self._names |= _shards(root)
        self._read: dict[Path, AssetEntry] = {}
        self._by_video: dict[str, list[AssetEntry]] | None = None
        self._used_by: dict[Path, str] = {}
        self._config: AssetConfig | None = None

    def add(self, folder: Path) -> AssetEntry:
        """Add one asset to the index and return its entry."""
        entry = self._entry(folder)
        self._names.setdefault(folder.parent, set()).add(folder.name)
        if self._by_video is not None:
            self._by_video[os.path.abspath(entry.video)].append(entry)
        return entry

    @property
    def fingerprint(self) -> str | None:
        """Return the fingerprint of the assets in use; None before the first was found."""
        return None if self._config is None else self._config.fingerprint

    @property
    def config(self) -> AssetConfig | None:
        """Return the settings of the assets in use; None before the first was found."""
        return self._config

    def find(self, video: str) -> AssetEntry | None:
        """Return the asset of a video, or None.

        Raises:
            AssetError: if a ``meta.json`` does not describe an asset.
            AssetLookupError: if the file's size differs from that of every matching asset's source,
                the asset was made with other settings than the run's, by another version or with
                other settings than other assets, or two different files match it.
        """
        path = os.path.abspath(video)
        size = os.path.getsize(path) if os.path.isfile(path) else None
        matches = self._matches(path, size)
        for entry in matches:
            if size is None or entry.source_size_bytes == size:
                self._claim(entry, path)
                self._require_settings(entry)
                return entry
        if not matches:
            return None
        raise AssetLookupError(
            f"{matches[0].folder}: made from a file of {matches[0].source_size_bytes} bytes, but "
            f"{video} has {size}; remake it with --overwrite, or give video_root if it "
            "belongs to another video of that name"
        )

    def key_of(self, video: str, root: str) -> str:
        """Return the key of a new asset: the video's path below ``video_root``, or ``root``."""
        return evaluation_key(
            os.path.abspath(video), os.path.abspath(self._settings.video_root or root)
        )

    def _matches(self, path: str, size: int | None) -> list[AssetEntry]:
        """Return the assets that may be the video's, the best match first."""
        named = [self._entry(folder) for folder in self._folders_named_like(path)]
        exact = [entry for entry in named if _is_same(entry.video, path)]
        fitting = next((e for e in named if size is None or e.source_size_bytes == size), None)
        if not exact and (fitting is None or os.path.exists(fitting.video)):
            exact = self._made_from(path)
        return [*exact, *named]

    def _folders_named_like(self, path: str) -> Iterator[Path]:
        """Yield the folders whose name is a key of the path, the longest key first."""
        root = self._settings.video_root
        parents = reversed(Path(path).parents) if root is None else [os.path.abspath(root)]
        for key in (evaluation_key(path, parent) for parent in parents):
            for folder, names in self._names.items():
                if key in names and is_file(folder / key / META_NAME):
                    yield folder / key

    def _made_from(self, path: str) -> list[AssetEntry]:
        """Return assets made from this path; the first call reads every ``meta.json``."""
        if self._by_video is None:
            self._by_video = defaultdict(list)
            folders = (root / name for root, names in self._names.items() for name in sorted(names))
            for folder in folders:
                if is_file(folder / META_NAME):
                    entry = self._entry(folder)
                    self._by_video[os.path.abspath(entry.video)].append(entry)
        return self._by_video.get(path, [])

    def _entry(self, folder: Path) -> AssetEntry:
        if folder not in self._read:
            self._read[folder] = _read_entry(folder)
        return self._read[folder]

    def _claim(self, entry: AssetEntry, path: str) -> None:
        """Refuse an asset for a second file; only ``video_root`` can separate the two."""
        real = os.path.realpath(path)
        first = self._used_by.setdefault(entry.folder, real)
        if first != real:
            raise AssetLookupError(
                f"{entry.folder}: matches two videos, {first} and {real}; make the assets with "
                "--video_root and pass the same folder as model_args video_root="
            )

    def _require_settings(self, entry: AssetEntry) -> None:
        """Refuse an asset of other settings, another algorithm version or another fingerprint."""
        asked_of = {name: argument for argument, (name, _) in SIZE_FLAGS.items()}
        asked_of |= {name: f"codec_{name}" for name in self._settings.codec_selection}
        config = self._settings.asset_config()
        for name, argument in asked_of.items():
            asked, found = getattr(config, name), entry.config.get(name)
            if asked != found:
                variable = f"LLAVA_{argument.upper()}"
                raise AssetLookupError(
                    f"{entry.folder}: made with {name}={found}, but this run asks for "
                    f"{argument}={asked}; set {variable} or model_args {argument}= to the asset's "
                    f"value, or make the assets again with {_flag(name, asked)} --overwrite"
                )
        recorded = AssetConfig.from_dict(entry.config, entry.folder / META_NAME)
        if entry.fingerprint != recorded.fingerprint:
            raise AssetLookupError(
                f"{entry.folder}: has fingerprint {entry.fingerprint}, but this version makes "
                f"{recorded.fingerprint} of its settings: it was made by another version (or its "
                "meta.json was changed); make the assets again with --overwrite"
            )
        self._config = self._config or recorded
        if entry.fingerprint != self._config.fingerprint:
            raise AssetLookupError(
                f"{entry.folder}: has fingerprint {entry.fingerprint}, other assets of this run "
                f"have {self._config.fingerprint}; make all of them with the same settings "
                "(--overwrite)"
            )


def _flag(name: str, value: object) -> str:
    """Return how the asset tool is given a setting, defaults included."""
    if isinstance(value, bool) and not value:
        return "--no_first_full_frame" if name == "keep_first_full_frame" else f"no --{name}"
    return f"--{name}" if value is True else f"--{name} {value}"


def _is_same(recorded: str, path: str) -> bool:
    """Return whether a recorded path is this one, or leads to the same file."""
    if os.path.abspath(recorded) == path:
        return True
    try:
        return os.path.samefile(recorded, path)
    except OSError:
        return False


def _folders(root: Path) -> set[str]:
    """Return the names of a root's folders; those that begin with a dot are unfinished."""
    return {name for name in folder_names(root) if not name.startswith(".")}


def _shards(root: Path) -> dict[Path, set[str]]:
    """Return the names in each shard of a root; a shard stands for a folder ``SHARD.tar#``."""
    return {Path(f"{tar}#"): shard_keys(tar) for tar in find_shards(root)}


def _read_entry(folder: Path) -> AssetEntry:
    meta = read_meta(folder / META_NAME)
    return AssetEntry(
        folder=folder,
        key=meta["key"],
        video=meta["video"],
        source_size_bytes=meta["source"]["size_bytes"],
        config=meta["cfg"],
        fingerprint=meta["fingerprint"],
        backend=meta["backend"],
        exactness=meta["exactness"],
        files=meta["files"],
    )
