"""Chat messages, as the library and web APIs write them, to turns and to the visuals they show.

A message is ``{"role": "system" | "user" | "assistant", "content": ...}``. Its content is a text,
or a list of parts: ``{"type": "text", "text": ...}``, ``{"type": "image", "image" | "path" | "url":
...}`` and ``{"type": "video", "video" | "path" | "url": ..., **settings}``. Parts are written one
to a line, as in the data. All text is text: ``<image>`` or ``<|im_end|>`` in it has no meaning.

A prompt, in contrast, is text that holds a special token for each picture and video.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from llava.constants import IMAGE_PLACEHOLDER, IMAGE_TOKEN, VIDEO_TOKEN
from llava.conversation import Piece, Turn, expand_placeholders
from llava.visual.batch import VisualSegment

Message = Mapping[str, Any]

_SPEAKERS = {"system": "system", "user": "human", "assistant": "gpt"}
_SOURCES = {
    "image": ("image", "path", "url", "base64"),
    "video": ("video", "path", "url"),
}
_KINDS = {"image_url": "image", "video_url": "video"}


class VisualPart(NamedTuple):
    """A picture or a video that a message shows.

    Attributes:
        kind: ``image`` or ``video``.
        source: as the message gives it: a path, a URL, a PIL image or a list of them.
        settings: the other entries of the part.
    """

    kind: str
    source: Any
    settings: dict[str, Any]


def visual_parts(messages: Sequence[Message]) -> list[VisualPart]:
    """Return what the messages show, in order.

    Raises:
        ValueError: A message is none, or a part is unknown or has no source.
    """
    parts = [part for message in messages for part in _parts(message)]
    return [part for part in parts if isinstance(part, VisualPart)]


def to_turns(messages: Sequence[Message], segments: Sequence[VisualSegment]) -> list[Turn]:
    """Write messages as turns for ``render``, with one placeholder per image, frame or mosaic.

    Args:
        messages: the conversation.
        segments: the visuals of its parts, in the order of ``visual_parts``.

    Raises:
        ValueError: A message is none, or a part is unknown or in an answer.
    """
    shown = iter(segments)
    turns: list[Turn] = []
    for message in messages:
        pieces: list[Piece] = []
        for number, part in enumerate(_parts(message)):
            if number:
                pieces.append(Piece("\n"))
            if isinstance(part, VisualPart):
                pieces += _placeholders(len(next(shown).placeholder_tokens))
            else:
                pieces.append(Piece(part))
        speaker = _SPEAKERS[message["role"]]
        if speaker != "human" and any(piece.special for piece in pieces):
            raise ValueError(f"only users show pictures and videos, got one of {message['role']}")
        text = "".join(piece.text for piece in pieces)
        turns.append({"from": speaker, "value": pieces if speaker == "human" else text})
    return turns


def _placeholders(count: int) -> list[Piece]:
    """Return placeholders, each on a line of its own."""
    placeholder = Piece(IMAGE_PLACEHOLDER, special=True)
    return [placeholder, *[Piece("\n"), placeholder] * (count - 1)]


def _parts(message: Message) -> Iterator[str | VisualPart]:
    """Yield the parts of a message: texts and visuals."""
    if not isinstance(message, Mapping) or message.get("role") not in _SPEAKERS:
        role = message.get("role") if isinstance(message, Mapping) else message
        raise ValueError(f"a message needs a role of {', '.join(_SPEAKERS)}, got {role!r}")
    content = message.get("content")
    if isinstance(content, str):
        yield content
        return
    if not isinstance(content, Sequence):
        raise ValueError(
            "the content of a message must be text or a list of parts, got "
            f"{type(content).__name__}"
        )
    for part in content:
        yield _part(part)


def _part(part: Any) -> str | VisualPart:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return part["text"]
    if kind in _KINDS:
        given = part.get(kind)
        source = given.get("url") if isinstance(given, Mapping) else given
        part = {key: value for key, value in part.items() if key != kind} | {"url": source}
        kind = _KINDS[kind]
    if kind not in _SOURCES:
        raise ValueError(f"a part of a message must be of type text, image or video, got {kind!r}")
    names = [name for name in _SOURCES[kind] if part.get(name) is not None]
    if len(names) != 1:
        raise ValueError(
            f"a part of type {kind} needs one of {', '.join(_SOURCES[kind])}, got "
            f"{', '.join(names) or 'none'}"
        )
    settings = {key: value for key, value in part.items() if key not in ("type", names[0])}
    return VisualPart(kind, part[names[0]], settings)


def join_questions(messages: Sequence[Message]) -> list[Message]:
    """Leave out answers without text, and join questions that follow each other."""
    joined: list[Message] = []
    for message in messages:
        content = message.get("content")
        role = message.get("role")
        if role == "assistant" and not _has_text(content):
            continue
        if role == "user" and joined and joined[-1].get("role") == "user":
            parts = [*_as_parts(joined[-1].get("content")), *_as_parts(content)]
            joined[-1] = {"role": "user", "content": parts}
            continue
        joined.append(message)
    return joined


def _has_text(content: Any) -> bool:
    parts = _as_parts(content)
    return any(
        not isinstance(part, Mapping) or str(part.get("text", "x")).strip() for part in parts
    )


def _as_parts(content: Any) -> list[Any]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return list(content or [])


def fill_prompt(
    prompt: str, images: Sequence[VisualSegment], videos: Sequence[VisualSegment]
) -> tuple[str, list[VisualSegment]]:
    """Write the visual tokens of a prompt; return it and its segments in order.

    Raises:
        ValueError: if the prompt does not hold one image or video token for each.
    """
    found = prompt.count(IMAGE_TOKEN), prompt.count(VIDEO_TOKEN)
    if found != (len(images), len(videos)):
        raise ValueError(
            f"a prompt holds {found[0]} {IMAGE_TOKEN} for {len(images)} images and {found[1]} "
            f"{VIDEO_TOKEN} for {len(videos)} videos; write one for each (processor.image_token, "
            "processor.video_token), or use apply_chat_template"
        )
    queues = {IMAGE_TOKEN: iter(images), VIDEO_TOKEN: iter(videos)}
    ordered: list[VisualSegment] = []

    def write(match: re.Match[str]) -> str:
        ordered.append(next(queues[match.group()]))
        pieces = _placeholders(len(ordered[-1].placeholder_tokens))
        written = expand_placeholders(pieces, ordered[-1].expansions, sample="the prompt")
        return "".join(piece.text * piece.repeat for piece in written)

    return re.sub(f"{re.escape(IMAGE_TOKEN)}|{re.escape(VIDEO_TOKEN)}", write, prompt), ordered


def images_of(prompts: Sequence[str], images: Any) -> list[list[Any]]:
    """Return the pictures of each prompt: given as one, as a list for all, or as a list for each.

    Raises:
        ValueError: if there are not as many lists as prompts.
    """
    given = images if _is_list(images) else [] if images is None else [images]
    is_nested = bool(given) and all(map(_is_list, given))
    return _share(prompts, given, IMAGE_TOKEN, is_nested=is_nested)


def videos_of(prompts: Sequence[str], videos: Any) -> list[list[Any]]:
    """Return the videos of each prompt, as ``images_of`` does; a list of pictures is one video."""
    given = videos if _is_list(videos) else [] if videos is None else [videos]
    if given and not _is_list(given[0]) and not isinstance(given[0], str | Path):
        given = [given]
    is_nested = bool(given) and all(
        _is_list(item) and all(_is_list(video) or isinstance(video, str | Path) for video in item)
        for item in given
    )
    return _share(prompts, given, VIDEO_TOKEN, is_nested=is_nested)


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def _share(
    prompts: Sequence[str], given: Sequence[Any], token: str, *, is_nested: bool
) -> list[list[Any]]:
    """Return the visuals of each prompt; a flat list is shared out by the prompts' tokens."""
    if not is_nested:
        rest = iter(given)
        shared = [[*islice(rest, prompt.count(token))] for prompt in prompts]
        shared[-1] += rest
        return shared
    if len(given) != len(prompts):
        raise ValueError(
            f"images and videos must have one list per prompt, got {len(given)} for {len(prompts)}"
        )
    return [list(item) for item in given]
