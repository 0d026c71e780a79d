"""Which asset belongs to which video: names of folders first, ``meta.json`` only where one fits.

A video's asset is looked for by its key: the video's path below ``video_root``; without a root,
any end of its path, the longest first. Among the folders of these names the one made from exactly
this path wins, then the first whose recorded source size is the file's size, so that equal file
names in two benchmarks do not meet. Keys of a user's own are found by the recorded path: once no
folder's name answers (or one does whose own source is another file that is still there), the
``meta.json`` of all assets are read, once. So a lookup costs the same among many assets as among
few, and a start costs one listing of each root.
"""

import json
import os
import shlex
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cv_reader.assets import AssetConfig, evaluation_key, read_meta
from llava.eval.benchmarks.table import root_of_video
from llava.eval.environment import hf_home
from llava.eval.settings import EvalSettings

META_NAME = "meta.json"
TOOL = "Compressed_Video_Reader/tool/offline_precompute_llava_codec_assets.py"
MISSING_LINES = 20

_FLAGS = {
    "codec_seq_len_frames": ("sequence_length", "--seq_len_frames"),
    "codec_num_images": ("num_images", "--num_images"),
    "codec_square_size": ("square_size", "--square_size"),
    "codec_patch_size": ("patch_size", "--patch_size"),
}
"""Argument of the plug-in: name of the setting in an asset, flag of the tool."""


@dataclass(frozen=True)
class AssetEntry:
    """What the index knows of one asset.

    Attributes:
        folder: where it lies.
        key: its name.
        video: the path it was made from, as written then.
        source_size_bytes: size of that file.
        config: the settings it was made with.
        fingerprint: of these.
        backend: what read the video.
        exactness: of each field that the backend gave.
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
    """All assets below some roots; those that the run uses are checked against its settings."""

    def __init__(self, settings: EvalSettings, roots: Sequence[Path]) -> None:
        """List the roots; one that does not exist yet is empty."""
        self._settings = settings
        self._names: dict[Path, set[str]] = {root: _folders(root) for root in roots}
        self._read: dict[Path, AssetEntry] = {}
        self._by_video: dict[str, list[AssetEntry]] | None = None
        self._used_by: dict[Path, str] = {}
        self._fingerprint: str | None = None

    def add(self, folder: Path) -> AssetEntry:
        """Index one asset."""
        entry = self._entry(folder)
        self._names.setdefault(folder.parent, set()).add(folder.name)
        if self._by_video is not None:
            self._by_video[os.path.abspath(entry.video)].append(entry)
        return entry

    @property
    def fingerprint(self) -> str | None:
        """Of the assets that this run uses; None before the first."""
        return self._fingerprint

    def find(self, video: str) -> AssetEntry | None:
        """The asset of a video, or None.

        Raises:
            AssetError: for a ``meta.json`` that is no asset's.
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
            f"{video} has {size}; make it again with --overwrite, or give video_root if it "
            "belongs to another video of that name"
        )

    def key_of(self, video: str, root: str) -> str:
        """The key that a new asset of this video gets: its path below ``video_root``, or where
        the run has none below ``root``."""
        return evaluation_key(
            os.path.abspath(video), os.path.abspath(self._settings.video_root or root)
        )

    def _matches(self, path: str, size: int | None) -> list[AssetEntry]:
        """Assets that may be the video's, most telling first."""
        named = [self._entry(folder) for folder in self._folders_named_like(path)]
        exact = [entry for entry in named if _is_same(entry.video, path)]
        fitting = next((e for e in named if size is None or e.source_size_bytes == size), None)
        if not exact and (fitting is None or os.path.exists(fitting.video)):
            exact = self._made_from(path)
        return [*exact, *named]

    def _folders_named_like(self, path: str) -> Iterator[Path]:
        """Folders whose name is a key of the path, the longest key first."""
        root = self._settings.video_root
        parents = reversed(Path(path).parents) if root is None else [os.path.abspath(root)]
        for key in (evaluation_key(path, parent) for parent in parents):
            for folder, names in self._names.items():
                if key in names and (folder / key / META_NAME).is_file():
                    yield folder / key

    def _made_from(self, path: str) -> list[AssetEntry]:
        """Assets whose recorded path is this one; the first call reads every ``meta.json``."""
        if self._by_video is None:
            self._by_video = defaultdict(list)
            folders = (root / name for root, names in self._names.items() for name in sorted(names))
            for folder in folders:
                if (folder / META_NAME).is_file():
                    entry = self._entry(folder)
                    self._by_video[os.path.abspath(entry.video)].append(entry)
        return self._by_video.get(path, [])

    def _entry(self, folder: Path) -> AssetEntry:
        if folder not in self._read:
            self._read[folder] = _read_entry(folder)
        return self._read[folder]

    def _claim(self, entry: AssetEntry, path: str) -> None:
        """One asset serves one file: two that share it are told apart only by a root."""
        real = os.path.realpath(path)
        first = self._used_by.setdefault(entry.folder, real)
        if first != real:
            raise AssetLookupError(
                f"{entry.folder}: matches two videos, {first} and {real}; make the assets with "
                "--video_root and pass the same folder as model_args video_root="
            )

    def _require_settings(self, entry: AssetEntry) -> None:
        """The run's own settings, this version's algorithm, and the same of all assets."""
        for argument, (name, flag) in _FLAGS.items():
            asked, found = getattr(self._settings, argument), entry.config.get(name)
            if asked != found:
                variable = f"LLAVA_CODEC_{argument.removeprefix('codec_').upper()}"
                raise AssetLookupError(
                    f"{entry.folder}: made with {name}={found}, but this run asks for "
                    f"{argument}={asked}; set {variable} or model_args {argument}= to the asset's "
                    f"value, or make the assets again with {flag} {asked} --overwrite"
                )
        config = AssetConfig.from_dict(entry.config, entry.folder / META_NAME)
        if entry.fingerprint != config.fingerprint:
            raise AssetLookupError(
                f"{entry.folder}: has fingerprint {entry.fingerprint}, but this version makes "
                f"{config.fingerprint} of its settings: it was made by another version (or its "
                "meta.json was changed); make the assets again with --overwrite"
            )
        self._fingerprint = self._fingerprint or entry.fingerprint
        if entry.fingerprint != self._fingerprint:
            raise AssetLookupError(
                f"{entry.folder}: has fingerprint {entry.fingerprint}, other assets of this run "
                f"have {self._fingerprint}; make all of them with the same settings (--overwrite)"
            )


def asset_config(settings: EvalSettings) -> AssetConfig:
    """The settings of assets that this run computes itself."""
    return AssetConfig(
        **{name: getattr(settings, argument) for argument, (name, _) in _FLAGS.items()}
    )


def write_listing(
    videos: Sequence[str], run_videos: Sequence[str], index: AssetIndex, path: Path
) -> list[str]:
    """Write the offline command's input: a line with ``video`` and ``key`` for each video.

    Args:
        videos: those without an asset.
        run_videos: all of the run; outside known benchmarks, keys are relative to the folder that
            these share.
        index: knows the run's own root.
        path: the file to write.

    Returns:
        The keys.
    """
    shared = os.path.commonpath([os.path.dirname(os.path.abspath(video)) for video in run_videos])
    rows: list[dict[str, str]] = []
    for video in map(os.path.abspath, videos):
        root = root_of_video(Path(video), hf_home()) or shared
        rows.append({"video": video, "key": index.key_of(video, str(root))})
    lines = [json.dumps(row) for row in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return [row["key"] for row in rows]


def missing_message(
    videos: Mapping[str, str], num_videos: int, listing: Path, settings: EvalSettings
) -> str:
    """Which of the run's videos have no asset, and the command that makes them from ``listing``.

    Args:
        videos: path to key of those without one.
        num_videos: of the run.
        listing: the command's input.
        settings: of the run.
    """
    shown = [f"  {key}: {video}" for video, key in list(videos.items())[:MISSING_LINES]]
    if len(videos) > MISSING_LINES:
        shown.append(f"  ... and {len(videos) - MISSING_LINES} more, all in {listing}")
    root = settings.codec_root[0] if settings.codec_root else Path("OUT_ROOT/assets")
    out_root = root.parent if root.name == "assets" else root
    command = ["python", TOOL, "--jsonl", str(listing), "--out_root", str(out_root)]
    for argument, (_, flag) in _FLAGS.items():
        command += [flag, str(getattr(settings, argument))]
    searched = ", ".join(str(root) for root in settings.codec_root) or "no codec_root was given"
    return "\n".join(
        [
            f"{len(videos)} of {num_videos} videos of this run have no codec asset ({searched}):",
            *shown,
            f"Make them:\n  {shlex.join(command)}",
            f"then pass codec_root={out_root / 'assets'}. Or choose codec_miss=online (compute "
            "them in the run) or codec_miss=frames (uniform frames instead, recorded).",
        ]
    )


def _is_same(recorded: str, path: str) -> bool:
    """Whether a recorded path is this one, or leads to the same file."""
    if os.path.abspath(recorded) == path:
        return True
    try:
        return os.path.samefile(recorded, path)
    except OSError:
        return False


def _folders(root: Path) -> set[str]:
    """Names of the folders in a root; those that begin with a dot are unfinished."""
    try:
        with os.scandir(root) as items:
            return {item.name for item in items if item.name[0] != "." and item.is_dir()}
    except FileNotFoundError:
        return set()


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
