"""One explicit record type per data-set entry; the fields decide, never a count.

| fields | record | visuals |
|---|---|---|
| ``positions_thw`` and ``image`` (list) | CodecRecord | all mosaics of a clip, one segment |
| ``image`` (string or list) | ImageRecord | each image its own segment |
| ``image`` (list) and ``"type": "frames"`` | FramesRecord | uniform frames, one segment |
| ``video`` (and ``num_frames``, default 8) | VideoRecord | uniform frames, one segment |
| none | TextRecord | none |

``images`` may stand for ``image``; a field that is null counts as absent. ``type``, where present,
is codec, image, frames, video or text and must agree with the fields. In frames and video records
the human text holds one ``<video>`` (or one ``<image>`` per frame), elsewhere one ``<image>`` per
image.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava.conversation import VIDEO_PLACEHOLDER, Turn, expand_video_placeholder

DEFAULT_NUM_FRAMES = 8
RECORD_TYPES = ("codec", "image", "frames", "video", "text")


class SampleError(ValueError):
    """An entry of a data set cannot be used; the message names its file, line and id."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """What every entry has.

    Attributes:
        sample_id: the entry's id, or ``where`` if it has none.
        where: ``file:line`` of the entry.
        turns: the conversation, ``<video>`` already written as one ``<image>`` per frame.
    """

    sample_id: str
    where: str
    turns: tuple[Turn, ...]

    @property
    def name(self) -> str:
        """How messages call this sample."""
        return f"sample {self.sample_id!r} ({self.where})"


@dataclass(frozen=True, kw_only=True)
class CodecRecord(Record):
    """The mosaics of a codec clip and the file that holds their positions."""

    images: tuple[Path, ...]
    positions: Path


@dataclass(frozen=True, kw_only=True)
class ImageRecord(Record):
    """Images that have nothing to do with each other."""

    images: tuple[Path, ...]


@dataclass(frozen=True, kw_only=True)
class FramesRecord(Record):
    """Uniformly sampled frames of one video, in order, as image files."""

    images: tuple[Path, ...]


@dataclass(frozen=True, kw_only=True)
class VideoRecord(Record):
    """A raw video, of which ``num_frames`` uniform frames are read."""

    video: Path
    num_frames: int


@dataclass(frozen=True, kw_only=True)
class TextRecord(Record):
    """A conversation without visuals."""


AnyRecord = CodecRecord | ImageRecord | FramesRecord | VideoRecord | TextRecord


def parse_record(entry: Any, *, where: str, image_folder: Path, video_folder: Path) -> AnyRecord:
    """Turn a decoded JSON entry into its record.

    Args:
        entry: the JSON value.
        where: ``file:line``, for ids and messages.
        image_folder: relative image and positions paths are below it.
        video_folder: relative video paths are below it.

    Raises:
        SampleError: if fields are missing, of a wrong type, or contradict each other.
    """
    if not isinstance(entry, Mapping):
        raise SampleError(f"{where}: an entry must be a JSON object, got {type(entry).__name__}")
    fields = {key: value for key, value in entry.items() if value is not None}
    sample_id = str(fields.get("id", where))
    name = f"sample {sample_id!r} ({where})"
    base = {"sample_id": sample_id, "where": where}
    turns = _turns(fields, name)
    kind = _kind(fields, name)

    if kind == "video":
        video, count = fields["video"], fields.get("num_frames", DEFAULT_NUM_FRAMES)
        if not isinstance(video, str) or not video:
            raise SampleError(f"{name}: video must be one path, got {video!r}")
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise SampleError(f"{name}: num_frames must be an integer >= 1, got {count!r}")
        turns = tuple(expand_video_placeholder(turns, count))
        return VideoRecord(**base, turns=turns, video=video_folder / video, num_frames=count)
    images = _images(fields, name, image_folder, as_list=kind in ("codec", "frames"))
    if kind == "frames":
        turns = tuple(expand_video_placeholder(turns, len(images)))
        return FramesRecord(**base, turns=turns, images=images)
    if any(turn["from"] == "human" and VIDEO_PLACEHOLDER in turn["value"] for turn in turns):
        raise SampleError(
            f"{name}: {VIDEO_PLACEHOLDER} needs a raw video or type frames, but this is a {kind} "
            "record; write one <image> per image"
        )
    if kind == "codec":
        path = fields["positions_thw"]
        if not isinstance(path, str) or not path:
            raise SampleError(f"{name}: positions_thw must be one path, got {path!r}")
        return CodecRecord(**base, turns=turns, images=images, positions=image_folder / path)
    if kind == "image":
        return ImageRecord(**base, turns=turns, images=images)
    return TextRecord(**base, turns=turns)


def _kind(fields: Mapping[str, Any], name: str) -> str:
    """The record type that the fields spell; refuses what contradicts itself."""
    visuals = [key for key in ("image", "images", "video", "videos") if key in fields]
    if "videos" in visuals or len(visuals) > 1:
        raise SampleError(
            f"{name}: an entry has image (or images) or video, got {' and '.join(visuals)}; "
            "split it into one entry per visual source"
        )
    has_images, has_video = bool(visuals) and visuals != ["video"], visuals == ["video"]
    if "positions_thw" in fields and not has_images:
        raise SampleError(f"{name}: positions_thw needs the list of mosaics in image, got none")
    spelled = "video" if has_video else "image" if has_images else "text"
    if "positions_thw" in fields:
        spelled = "codec"
    declared = fields.get("type", spelled)
    if declared == "frames" and spelled == "image":
        return "frames"
    if declared != spelled:
        raise SampleError(
            f"{name}: type says {declared!r}, but the fields make it a {spelled} record; types are "
            f"{', '.join(RECORD_TYPES)}"
        )
    return spelled


def _images(
    fields: Mapping[str, Any], name: str, folder: Path, *, as_list: bool
) -> tuple[Path, ...]:
    value = fields.get("image", fields.get("images", []))
    absent = "image" not in fields and "images" not in fields
    if as_list and not isinstance(value, list):
        raise SampleError(f"{name}: image must be a list of paths here, got {value!r}")
    paths = [value] if isinstance(value, str) else value
    valid = isinstance(paths, list) and all(isinstance(path, str) and path for path in paths)
    if not valid or not (paths or absent):
        raise SampleError(f"{name}: image must be a path or a list of paths, got {value!r}")
    return tuple(folder / path for path in paths)


def _turns(fields: Mapping[str, Any], name: str) -> tuple[Turn, ...]:
    """The conversation's turns; their roles are checked where they are rendered."""
    turns = fields.get("conversations")
    if not isinstance(turns, list) or not turns:
        raise SampleError(f"{name}: conversations must be a list of turns, got {turns!r}")
    for number, turn in enumerate(turns, start=1):
        if not isinstance(turn, Mapping) or not {"from", "value"} <= turn.keys():
            raise SampleError(f"{name}: turn {number} must have from and value, got {turn!r}")
        if not isinstance(turn["value"], str):
            raise SampleError(
                f"{name}: the value of turn {number} must be a string, got {turn['value']!r}"
            )
    return tuple({"from": turn["from"], "value": turn["value"]} for turn in turns)
