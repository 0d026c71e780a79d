"""One explicit record type per data-set entry; the fields decide, never a count.

| fields | record | visuals |
|---|---|---|
| ``positions_thw`` and ``image`` (list) | CodecRecord | all mosaics of a clip, one segment |
| ``image`` (string or list) | ImageRecord | each image its own segment |
| ``image`` (list) and ``"type": "frames"`` | FramesRecord | uniform frames, one segment |
| ``video`` (and ``num_frames``, default 8) | VideoRecord | uniform frames, one segment |
| none | TextRecord | none |

``images`` may be written for ``image``, and ``videos`` with a list of one for ``video``; a field
that is null, and ``images`` or ``videos`` with an empty list, count as absent. ``type``, where
present, is codec, image, frames, video or text and must agree with the fields. With ``video``,
``frame_sampling`` may say cheap: each frame then moves to a near one that costs little to decode.
``llava.data.turns`` has the rules for turns and placeholders.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cv_reader.remote.addresses import joined
from llava.conversation import Turn
from llava.data.turns import Conversation, TurnError, place_visuals, read_conversation, shown
from llava.visual.pictures import Picture, PictureBytes

DEFAULT_NUM_FRAMES = 8
FRAME_SAMPLINGS = ("uniform", "cheap")
RECORD_TYPES = ("codec", "image", "frames", "video", "text")


class RecordError(ValueError):
    """An entry of a data set cannot be used; the message names its file, line and id."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """The part that all records have.

    Attributes:
        sample_id: the entry's id, or ``where`` if it has none.
        where: ``file:line`` of the entry.
        turns: the conversation, ``<video>`` already written as one ``<image>`` per frame.
        notes: what is read differently from how it is written.
    """

    sample_id: str
    where: str
    turns: tuple[Turn, ...]
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The name of this sample in messages."""
        return _name(self.sample_id, self.where)


def _name(sample_id: str, where: str) -> str:
    return f"sample {shown(sample_id)} ({where})"


@dataclass(frozen=True, kw_only=True)
class CodecRecord(Record):
    """The mosaics of a codec clip and the file that holds their positions."""

    images: tuple[Picture, ...]
    positions: Path


@dataclass(frozen=True, kw_only=True)
class ImageRecord(Record):
    """Images that are independent of each other."""

    images: tuple[Picture, ...]


@dataclass(frozen=True, kw_only=True)
class FramesRecord(Record):
    """Uniformly sampled frames of one video, in order, as image files."""

    images: tuple[Picture, ...]


@dataclass(frozen=True, kw_only=True)
class VideoRecord(Record):
    """A raw video, of which ``num_frames`` frames are read, evenly spread.

    Attributes:
        frame_sampling: ``cheap`` moves them to near ones that cost little to decode.
    """

    video: Path
    num_frames: int
    frame_sampling: str = "uniform"


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
        RecordError: if fields are missing, of a wrong type, or contradict each other.
    """
    if not isinstance(entry, Mapping):
        raise RecordError(f"{where}: an entry must be a JSON object, got {type(entry).__name__}")
    fields = {key: value for key, value in entry.items() if value is not None}
    sample_id = str(fields.get("id", where))
    name = _name(sample_id, where)
    try:
        said = read_conversation(fields)
        fields = _with_files_of_parts(_plain_fields(fields), said)
        kind = _kind(fields)
        base: dict[str, Any] = {"sample_id": sample_id, "where": where}
        if kind == "video":
            return _video_record(fields, said, base, video_folder)
        images = _images(fields, image_folder, as_list=kind in ("codec", "frames"))
        turns, notes = place_visuals(
            said.turns, len(images), is_one_video=kind in ("codec", "frames")
        )
        base |= {"turns": turns, "notes": said.notes + notes}
        if kind == "codec":
            path = _text(fields["positions_thw"], "positions_thw must be one path")
            return CodecRecord(**base, images=images, positions=joined(image_folder, path))
        if kind == "text":
            return TextRecord(**base)
        return (FramesRecord if kind == "frames" else ImageRecord)(**base, images=images)
    except TurnError as error:
        raise RecordError(f"{name}: {error}") from error


def _plain_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields with ``videos`` of one as ``video``, and without empty lists."""
    plain = {
        key: value
        for key, value in fields.items()
        if key not in ("images", "videos") or value != []
    }
    videos = plain.get("videos")
    if isinstance(videos, list) and len(videos) == 1 and "video" not in plain:
        del plain["videos"]
        plain["video"] = videos[0]
    return plain


def _with_files_of_parts(fields: dict[str, Any], said: Conversation) -> dict[str, Any]:
    """Return fields with the paths that messages name in their parts, where the entry has none."""
    if said.images and "image" not in fields and "images" not in fields:
        fields = {**fields, "image": list(said.images)}
    if said.videos and "video" not in fields and "videos" not in fields:
        name, video = (
            ("video", said.videos[0]) if len(said.videos) == 1 else ("videos", said.videos)
        )
        fields = {**fields, name: video}
    return fields


def _video_record(
    fields: Mapping[str, Any], said: Conversation, base: dict[str, Any], folder: Path
) -> VideoRecord:
    video = _text(fields["video"], "video must be one path")
    count = fields.get("num_frames", DEFAULT_NUM_FRAMES)
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise TurnError(f"num_frames must be an integer >= 1, got {shown(count)}")
    sampling = fields.get("frame_sampling", FRAME_SAMPLINGS[0])
    if sampling not in FRAME_SAMPLINGS:
        raise TurnError(
            f"frame_sampling must be one of {', '.join(FRAME_SAMPLINGS)}, got {shown(sampling)}"
        )
    turns, notes = place_visuals(said.turns, count, is_one_video=True, is_raw=True)
    base |= {"turns": turns, "notes": said.notes + notes}
    return VideoRecord(
        **base, video=joined(folder, video), num_frames=count, frame_sampling=sampling
    )


def _text(value: Any, rule: str) -> str:
    if not isinstance(value, str) or not value:
        raise TurnError(f"{rule}, got {shown(value)}")
    return value


def _kind(fields: Mapping[str, Any]) -> str:
    """Return the record type that the fields spell.

    Raises:
        TurnError: Fields contradict each other.
    """
    visuals = [key for key in ("image", "images", "video", "videos") if key in fields]
    if "videos" in visuals or len(visuals) > 1:
        raise TurnError(
            f"an entry has image (or images) or video, got {' and '.join(visuals)}; "
            "split it into one entry per visual source"
        )
    has_images, has_video = bool(visuals) and visuals != ["video"], visuals == ["video"]
    if "positions_thw" in fields and not has_images:
        raise TurnError("positions_thw needs the list of mosaics in image, got none")
    spelled = "video" if has_video else "image" if has_images else "text"
    if "positions_thw" in fields:
        spelled = "codec"
    declared = fields.get("type", spelled)
    if declared == "frames" and spelled == "image":
        return "frames"
    if declared != spelled:
        raise TurnError(
            f"type says {shown(declared)}, but the fields make it a {spelled} record; types are "
            f"{', '.join(RECORD_TYPES)}"
        )
    return spelled


def _images(fields: Mapping[str, Any], folder: Path, *, as_list: bool) -> tuple[Picture, ...]:
    value = fields.get("image", fields.get("images", []))
    absent = "image" not in fields and "images" not in fields
    if as_list and not isinstance(value, list):
        raise TurnError(f"image must be a list of paths here, got {shown(value)}")
    paths = [value] if isinstance(value, str | PictureBytes) else value
    valid = isinstance(paths, list) and all(
        isinstance(path, str | PictureBytes) and path for path in paths
    )
    if not valid or not (paths or absent):
        raise TurnError(f"image must be a path or a list of paths, got {shown(value)}")
    return tuple(p if isinstance(p, PictureBytes) else joined(folder, p) for p in paths)
