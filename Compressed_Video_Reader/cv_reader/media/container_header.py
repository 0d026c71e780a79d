"""What a container's header says beside the packets: of the codec, and how pictures are shown.

An MP4 may have several sample descriptions, and an FLV several sequence headers. FFmpeg attaches
them to a packet as side data, which PyAV's decoder sees and PyAV's callers do not; so they are
looked for in the file itself. Parameters inside the packets need no such care.

Rules: ISO/IEC 14496-12, 8.2.2 (``mvhd``), 8.3.2 (``tkhd``), 8.5.2 (``stsd``) and 8.12; Adobe FLV
10.1, E.4.3, and its extension by HEVC.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

MP4, FLV = "mov,mp4,m4a,3gp,3g2,mj2", "flv"
"""FFmpeg's names of the containers."""

_PATH_TO_DESCRIPTIONS = (b"trak", b"mdia", b"minf", b"stbl", b"stsd")
_VIDEO_DESCRIPTIONS = (b"avc1", b"avc2", b"avc3", b"avc4", b"hvc1", b"hev1")
_ENCRYPTED_VIDEO = b"encv"

_IDENTITY = b"".join(
    value.to_bytes(4, "big") for value in (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
)
"""A display matrix that changes nothing."""

_PATHS_TO_MATRICES = (((b"mvhd",), slice(-64, -28)), ((b"trak", b"tkhd"), slice(-44, -8)))
"""Boxes with a matrix, and where it stands in all their versions."""

_FLV_HEADER_BYTES = 13
_FLV_TAG_BYTES = 11
_FLV_TRAILER_BYTES = 4
_FLV_VIDEO = 9


@dataclass(frozen=True)
class HeaderFacts:
    """What a file says beside its packets.

    Attributes:
        is_encrypted: its video is; only an MP4 can say so.
        changes_parameters: it brings more than one set of H.264 or HEVC parameters.
        is_upright: it says that pictures are shown as they are coded; False where it says nothing,
            as all but an MP4 do.
    """

    is_encrypted: bool = False
    changes_parameters: bool = False
    is_upright: bool = False


def read_header(path: str, container_name: str) -> HeaderFacts:
    """Look into a file that FFmpeg has opened.

    Args:
        path: of the file.
        container_name: FFmpeg's name of its format.
    """
    with open(path, "rb") as file:
        if container_name == MP4:
            return _movie_facts(_movie(file))
        return HeaderFacts(changes_parameters=container_name == FLV and _has_several_headers(file))


def _movie_facts(movie: bytes) -> HeaderFacts:
    descriptions = [_entries(found) for found in _descend(movie, _PATH_TO_DESCRIPTIONS)]
    matrices = [
        content[place] for path, place in _PATHS_TO_MATRICES for content in _descend(movie, path)
    ]
    return HeaderFacts(
        is_encrypted=any(
            entry.startswith(_ENCRYPTED_VIDEO) for entries in descriptions for entry in entries
        ),
        changes_parameters=any(
            len({entry for entry in entries if entry[:4] in _VIDEO_DESCRIPTIONS}) > 1
            for entries in descriptions
        ),
        is_upright=len(matrices) > 1 and set(matrices) == {_IDENTITY},
    )


def _movie(file: BinaryIO) -> bytes:
    """The content of an MP4's ``moov``, or nothing."""
    for kind, start, size in _top_boxes(file, os.fstat(file.fileno()).st_size):
        if kind == b"moov":
            file.seek(start)
            return file.read(size)
    return b""


def _top_boxes(file: BinaryIO, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and size of the content of each box of a file."""
    place = 0
    while place + 8 <= end:
        file.seek(place)
        head = file.read(16)
        size, header = int.from_bytes(head[:4], "big"), 8
        if size == 1:
            size, header = int.from_bytes(head[8:16], "big"), 16
        if size == 0:
            size = end - place
        if size < header:
            return
        yield head[4:8], place + header, size - header
        place += size


def _boxes(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and content of each box; all within a movie's header have sizes of 32 bits."""
    place = 0
    while place + 8 <= len(content):
        size = int.from_bytes(content[place : place + 4], "big")
        if size < 8:
            return
        yield content[place + 4 : place + 8], content[place + 8 : place + size]
        place += size


def _descend(content: bytes, path: tuple[bytes, ...]) -> Iterator[bytes]:
    """Contents of all boxes at a path."""
    if not path:
        yield content
        return
    for kind, inner in _boxes(content):
        if kind == path[0]:
            yield from _descend(inner, path[1:])


def _entries(descriptions: bytes) -> list[bytes]:
    """Sample descriptions, each with its kind before it, behind version, flags and count."""
    return [kind + content for kind, content in _boxes(descriptions[8:])]


def _has_several_headers(file: BinaryIO) -> bool:
    first = None
    file.seek(_FLV_HEADER_BYTES)
    while len(head := file.read(_FLV_TAG_BYTES)) == _FLV_TAG_BYTES:
        size = int.from_bytes(head[1:4], "big")
        content = file.read(2) if head[0] == _FLV_VIDEO and size >= 2 else b""
        if content and _is_sequence_header(content):
            content += file.read(size - 2)
            first = first or content
            if content != first:
                return True
        file.seek(size - len(content) + _FLV_TRAILER_BYTES, os.SEEK_CUR)
    return False


def _is_sequence_header(content: bytes) -> bool:
    """Packet type 0 of codec 7 (H.264), or of the newer form, which bit 7 marks."""
    if content[0] & 0x80:
        return content[0] & 0x0F == 0
    return content[0] & 0x0F == 7 and content[1] == 0
