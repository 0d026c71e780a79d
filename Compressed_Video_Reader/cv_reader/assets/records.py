"""Training records: the conversation that shows mosaics in place of a video, and its check.

The rule, which training shares: placeholders count in human turns only, in any of them; in an
answer or a system prompt ``<video>`` and ``<image>`` are plain text. A sample has one ``<video>``,
or one ``<image>`` that means the same (LLaVA-Video's way), or no placeholder: then the video comes
before the first human turn.
"""

from collections.abc import Sequence
from typing import Any, cast

from cv_reader.assets.rows import Row
from cv_reader.assets.samples import VideoSample
from cv_reader.errors import SampleError

VIDEO_PLACEHOLDER = "<video>"
IMAGE_PLACEHOLDER = "<image>"

Turn = dict[str, Any]


def count_image_placeholders(turns: Sequence[Turn]) -> int:
    """Return the number of ``<image>`` placeholders."""
    return _count(turns, IMAGE_PLACEHOLDER)


def count_videos(turns: Sequence[Turn]) -> int:
    """Return the number of ``<video>`` placeholders."""
    return _count(turns, VIDEO_PLACEHOLDER)


def _count(turns: Sequence[Turn], placeholder: str) -> int:
    return sum(str(turn.get("value")).count(placeholder) for turn in turns if _is_human(turn))


def _is_human(turn: Turn) -> bool:
    return turn.get("from") == "human"


def rewrite_conversations(sample: VideoSample, num_images: int) -> list[Turn]:
    """Return the turns with one ``<image>`` line per mosaic where the video is shown.

    A conversation that has ``num_images`` ``<image>`` already is left as it is.

    Raises:
        SampleError: if there is no human turn, or the placeholders fit no rule.
    """
    turns = [dict(turn) for turn in _turns_of(sample)]
    first = next((turn for turn in turns if _is_human(turn)), None)
    if first is None:
        raise _error(sample, "no turn is from a human; add one")
    videos, images = count_videos(turns), count_image_placeholders(turns)
    if videos == 0 and images == num_images:
        return turns
    if videos + images > 1:
        found = " and ".join(
            f"{count} {name}"
            for count, name in ((videos, VIDEO_PLACEHOLDER), (images, IMAGE_PLACEHOLDER))
            if count
        )
        raise _error(
            sample,
            f"{found} in human turns for one video of {num_images} images; "
            f"write one {VIDEO_PLACEHOLDER} instead",
        )
    block = "\n".join([IMAGE_PLACEHOLDER] * num_images)
    if videos + images == 0:
        first["value"] = f"{block}\n{first['value']}"
    placeholder = VIDEO_PLACEHOLDER if videos else IMAGE_PLACEHOLDER
    for turn in turns:
        if videos + images and _is_human(turn):
            turn["value"] = turn["value"].replace(placeholder, block)
    return turns


def _turns_of(sample: VideoSample) -> list[Turn]:
    turns: Any = sample.row.get("conversations")
    if not isinstance(turns, list) or not all(
        isinstance(turn, dict) and isinstance(turn.get("value"), str)  # pyright: ignore[reportUnknownMemberType]
        for turn in cast("list[Any]", turns)
    ):
        raise _error(
            sample,
            'conversations must be a list of turns like {"from": "human", "value": "..."}; '
            "correct it",
        )
    return cast("list[Turn]", turns)


def _error(sample: VideoSample, reason: str) -> SampleError:
    return SampleError(f"{sample.where}: sample {sample.sample_id!r}: {reason}")


def check_conversation(row: Row, name: str) -> list[str]:
    """Check that a record's placeholders and images are equally many, and return the images.

    Raises:
        SampleError: naming the record, the counts and the remedy.
    """
    images: Any = row.get("image", [])
    paths = [images] if isinstance(images, str) else images
    if not isinstance(paths, list) or not all(isinstance(p, str) for p in cast("list[Any]", paths)):
        raise SampleError(f"{name}: image must be a path or a list of paths")
    found: Any = row.get("conversations")
    if not isinstance(found, list) or not all(
        isinstance(turn, dict) for turn in cast("list[Any]", found)
    ):
        raise SampleError(f"{name}: conversations must be a list of turns")
    turns = cast("list[dict[str, Any]]", found)
    if any(not _is_unicode(str(turn.get("value", ""))) for turn in turns):
        raise SampleError(
            f"{name}: a turn holds a lone surrogate (half of a character, as \\ud83d); remove it"
        )
    placeholders, videos = count_image_placeholders(turns), count_videos(turns)
    if isinstance(row.get("video"), str) and not paths:
        if videos > 1 or (videos and placeholders):
            raise SampleError(f"{name}: a video has one {VIDEO_PLACEHOLDER}, in one human turn")
    elif videos or not turns or placeholders != len(cast("list[str]", paths)):
        raise SampleError(
            f"{name}: {placeholders} <image> and {videos} {VIDEO_PLACEHOLDER} in its human turns "
            f"for {len(cast('list[str]', paths))} images; write one <image> per image, or run "
            "stage 2 on the raw record"
        )
    return cast("list[str]", paths)


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)
