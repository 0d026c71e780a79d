"""The conversation of an entry, as published data sets write it, to turns with placeholders.

Entries have ``conversations`` with ``from`` and ``value``, or ``messages`` with ``role`` and
``content``; speakers are human or user, gpt or assistant, and system; contents are text or a list
of parts (text, image, video). A placeholder may be in any human turn; in an answer or a system turn
``<image>`` and ``<video>`` are plain text.

What is read differently from how it is written is noted on the record, and the validator counts it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from llava.constants import IMAGE_PLACEHOLDER
from llava.conversation import VIDEO_PLACEHOLDER, Turn

SPEAKERS = {
    "human": "human",
    "user": "human",
    "gpt": "gpt",
    "assistant": "gpt",
    "system": "system",
}
"""How data sets name speakers, and the names used here."""

TRAILING_QUESTION = "a last question without an answer is left out"
EMPTY_SYSTEM = "an empty system turn is left out"
JOINED_SYSTEM = "several system turns at the start are joined"
PLACED_FIRST = "no placeholder: the visuals come first in the first question"
ONE_FOR_VIDEO = "one <image> is the video"

_SHOWN_CHARACTERS = 200
_PART_KINDS = {
    "text": "text",
    "input_text": "text",
    "image": "image",
    "image_url": "image",
    "input_image": "image",
    "video": "video",
    "video_url": "video",
}


class TurnError(ValueError):
    """A conversation cannot be read; the message does not name the sample."""


class Conversation(NamedTuple):
    """What an entry says.

    Attributes:
        turns: turns of the speakers human, gpt and system.
        images: paths given inside the parts of messages, in order.
        videos: the same for videos.
        notes: what is read differently from how it is written.
    """

    turns: tuple[Turn, ...]
    images: tuple[str, ...] = ()
    videos: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def shown(value: object) -> str:
    """Return a value for a message, shortened where it is long."""
    text = repr(value)
    if len(text) <= _SHOWN_CHARACTERS:
        return text
    return f"{text[:_SHOWN_CHARACTERS]}... ({len(text)} characters)"


def read_conversation(fields: Mapping[str, Any]) -> Conversation:
    """Read the turns of an entry; that speakers alternate is checked where they are rendered.

    Raises:
        TurnError: if there are none, or one is not of a known form.
    """
    keys = [key for key in ("conversations", "messages") if key in fields]
    if len(keys) > 1:
        raise TurnError("an entry has conversations or messages, got both; leave one out")
    written = fields[keys[0]] if keys else None
    if not isinstance(written, list) or not written:
        raise TurnError(
            "conversations must be a list of turns (or messages, in its place), "
            f"got {shown(written)}"
        )
    files: dict[str, list[str]] = {"image": [], "video": []}
    turns = [_read_turn(turn, number, files) for number, turn in enumerate(written, start=1)]
    turns, notes = _tidy(turns)
    return Conversation(tuple(turns), tuple(files["image"]), tuple(files["video"]), tuple(notes))


def _read_turn(turn: Any, number: int, files: dict[str, list[str]]) -> dict[str, str]:
    """Return one turn; paths inside its parts are added to ``files``."""
    if isinstance(turn, Mapping) and {"from", "value"} <= turn.keys():
        speaker, value = turn["from"], turn["value"]
    elif isinstance(turn, Mapping) and {"role", "content"} <= turn.keys():
        speaker, value = turn["role"], turn["content"]
    else:
        raise TurnError(
            f"turn {number} must have from and value (or role and content), got {shown(turn)}"
        )
    known = SPEAKERS.get(speaker) if isinstance(speaker, str) else None
    if known is None:
        raise TurnError(
            f"turn {number} must be from {', '.join(SPEAKERS)}, got {shown(speaker)}; "
            "rename the speaker or leave the sample out"
        )
    if isinstance(value, list):
        value = _read_parts(value, number, known, files)
    if not isinstance(value, str):
        raise TurnError(f"the value of turn {number} must be a string, got {shown(value)}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise TurnError(
            f"turn {number} holds half a character ({value[error.start]!r} at character "
            f"{error.start}), which no tokenizer takes; remove it, or let "
            "python -m llava.data.validate --fix replace it"
        ) from None
    return {"from": known, "value": value}


def _read_parts(parts: list[Any], number: int, speaker: str, files: dict[str, list[str]]) -> str:
    """Return the text of a list of parts, with a placeholder per image or video."""
    texts: list[str] = []
    for part in parts:
        kind = _PART_KINDS.get(str(part.get("type"))) if isinstance(part, Mapping) else None
        if kind is None:
            raise TurnError(
                f"a part of turn {number} must be text, image or video, got {shown(part)}; "
                "leave other media out"
            )
        if kind == "text":
            texts.append(str(part.get("text", "")))
            continue
        if speaker != "human":
            raise TurnError(f"turn {number} shows {kind} in an answer; only questions can")
        path = part.get(kind, part.get(f"{kind}_url", part.get("url", part.get("path"))))
        path = path.get("url") if isinstance(path, Mapping) else path
        if path is not None:
            files[kind].append(_local_path(path, number))
        texts.append(IMAGE_PLACEHOLDER if kind == "image" else VIDEO_PLACEHOLDER)
    return "\n".join(texts)


def _local_path(path: Any, number: int) -> str:
    if not isinstance(path, str) or path.startswith(("http://", "https://", "data:")):
        raise TurnError(
            f"turn {number} must name a local file, got {shown(path)}; download it first"
        )
    return path.removeprefix("file://")


def _tidy(turns: list[dict[str, str]]) -> tuple[list[dict[str, str]], list[str]]:
    """Leave out what no training needs: empty system turns, a last question without answer."""
    notes: list[str] = []
    kept = [turn for turn in turns if turn["from"] != "system" or turn["value"].strip()]
    if len(kept) < len(turns):
        notes.append(EMPTY_SYSTEM)
    leading = next(
        (number for number, turn in enumerate(kept) if turn["from"] != "system"), len(kept)
    )
    if leading > 1:
        notes.append(JOINED_SYSTEM)
        system = "\n\n".join(turn["value"] for turn in kept[:leading])
        kept = [{"from": "system", "value": system}, *kept[leading:]]
    answered = [number for number, turn in enumerate(kept) if turn["from"] == "gpt"]
    if answered and kept[-1]["from"] == "human":
        notes.append(TRAILING_QUESTION)
        kept = kept[: answered[-1] + 1]
    return kept, notes


def place_visuals(
    turns: Sequence[Turn], count: int, *, is_one_video: bool, is_raw: bool = False
) -> tuple[tuple[Turn, ...], tuple[str, ...]]:
    """Write the visuals of a record as ``count`` placeholders ``<image>``.

    Where no human turn has a placeholder, all come first in the first question, each on its own
    line. One ``<video>`` means all frames or mosaics of a video; for a raw video one ``<image>``
    does, too, as published data sets write it.

    Args:
        turns: as ``read_conversation`` gives them.
        count: images, frames or mosaics of the record.
        is_one_video: whether they are of one video.
        is_raw: whether the record names that video itself.

    Returns:
        The turns, and notes on what is read differently from how it is written.

    Raises:
        TurnError: if the placeholders cannot mean the visuals.
    """
    asked = [turn["value"] for turn in turns if turn["from"] == "human"]
    images = sum(text.count(IMAGE_PLACEHOLDER) for text in asked)
    videos = sum(text.count(VIDEO_PLACEHOLDER) for text in asked)
    block = "\n".join([IMAGE_PLACEHOLDER] * count)
    if not videos and (images == count or not count):
        return tuple(turns), ()
    if not is_raw and not videos and images:
        return tuple(turns), ()  # the wrong number: an error where tokens are put in their place
    if is_one_video and videos + images == 1:
        word = VIDEO_PLACEHOLDER if videos else IMAGE_PLACEHOLDER
        return _replaced(turns, word, block), () if videos else (ONE_FOR_VIDEO,)
    if count and not videos and not images and asked:
        first = next(number for number, turn in enumerate(turns) if turn["from"] == "human")
        question = {**turns[first], "value": f"{block}\n{turns[first]['value']}"}
        return (*turns[:first], question, *turns[first + 1 :]), (PLACED_FIRST,)
    if not is_one_video:
        raise TurnError(
            f"{VIDEO_PLACEHOLDER} needs a raw video or type frames, but the record has "
            f"{count} images; write one {IMAGE_PLACEHOLDER} per image, or remove the placeholder"
        )
    raise TurnError(
        f"the human turns hold {videos} {VIDEO_PLACEHOLDER} and {images} {IMAGE_PLACEHOLDER} for "
        f"one video shown as {count} pictures; write one {VIDEO_PLACEHOLDER} instead"
    )


def _replaced(turns: Sequence[Turn], word: str, block: str) -> tuple[Turn, ...]:
    """Return turns with a placeholder of human turns written as a block."""
    return tuple(
        {**turn, "value": turn["value"].replace(word, block)} if turn["from"] == "human" else turn
        for turn in turns
    )
