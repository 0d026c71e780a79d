"""Inputs of clips in a folder: what an encoder gets of them, read once for many encoders.

Decoding and selecting often take longer than a small encoder's pass. A file holds the pixels and
positions of the views of one batch, and is named by all that decides them: the input's settings and
each clip's path, size, time and line of the codec index. A batch with a broken clip is not kept.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from encoder_training.probe.clips import (
    BrokenClipError,
    ClipInput,
    ClipPixels,
    ClipView,
    index_digest,
)
from encoder_training.probe.datasets import ClipList
from run_kit.files import replace_file

_FORMAT = 1
FoundClips = list[ClipPixels | BrokenClipError]


class Key(NamedTuple):
    """One view of the clip with this number in its list."""

    clip: int
    view: ClipView


def input_settings(how: ClipInput, views: Sequence[ClipView]) -> dict[str, Any]:
    """Return what of an input decides the pixels of these views, to be hashed."""
    settings = dataclasses.asdict(how)
    settings["config"] = None if how.config is None else how.config.fingerprint
    if how.time_scale == 1:
        settings.pop("time_scale")
    settings["index"] = bool(how.index)  # each clip's own line is a fact of the clip
    if all(view.draw is None for view in views) and how.kind != "random":
        settings.pop("seed")
        settings.pop("augmentation")
    return settings


def clip_facts(clips: ClipList, how: ClipInput, number: int) -> list[Any]:
    """Return what tells whether a clip, or its line of the index, has changed."""
    path, video = clips.file(number), clips.clips[number].video
    status = path.stat() if path.is_file() else None
    size_and_time = None if status is None else [status.st_size, status.st_mtime_ns]
    return [video, size_and_time, index_digest(how, video)]


class KeptInputs:
    """A folder of inputs; several runs may use it at a time.

    Args:
        folder: of the files.
        clips: the list.
        how: the input.
    """

    def __init__(self, folder: Path, clips: ClipList, how: ClipInput) -> None:
        self._folder, self._clips, self._how = folder, clips, how

    def batch(self, keys: Sequence[Key], read: Callable[[Key], Any]) -> FoundClips:
        """Return the inputs of a batch, kept ones if there are any, and keep them.

        Args:
            keys: views of the batch.
            read: reads one view, or returns why it is broken.
        """
        path = self._path(keys)
        if path.is_file():
            try:
                kept = load_file(path)
                return [ClipPixels(kept[f"{n}.pixels"], kept[f"{n}.positions"])
                        for n in range(len(keys))]  # fmt: skip
            except (OSError, SafetensorError, KeyError):
                path.unlink(missing_ok=True)  # damaged: made again below
        found: FoundClips = [read(key) for key in keys]
        content = {
            f"{number}.{name}": value.contiguous()
            for number, clip in enumerate(found)
            if isinstance(clip, ClipPixels)
            for name, value in clip._asdict().items()
        }
        if len(content) == 2 * len(keys):
            with replace_file(path) as temporary:
                save_file(content, temporary)
        return found

    def _path(self, keys: Sequence[Key]) -> Path:
        content = {
            "format": _FORMAT,
            "input": input_settings(self._how, [key.view for key in keys]),
            "clips": [clip_facts(self._clips, self._how, key.clip) for key in keys],
            "views": [list(key.view) for key in keys],
        }
        name = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        return self._folder / name[:2] / f"{name}.safetensors"
