"""What a container says of the codec beside the packets: that it is encrypted, or that it changes.

An MP4 may have several sample descriptions, and an FLV several sequence headers. FFmpeg attaches
them to a packet as side data, which PyAV's decoder sees and PyAV's callers do not; so they are
looked for in the file itself. Parameters inside the packets need no such care.

Rules: ISO/IEC 14496-12, 8.5.2 (``stsd``) and 8.12; Adobe FLV 10.1, E.4.3, and its extension by
HEVC.
"""

import os
from collections.abc import Iterator
from typing import BinaryIO

MP4, FLV = "mov,mp4,m4a,3gp,3g2,mj2", "flv"
"""FFmpeg's names of the containers."""

_PATH_TO_DESCRIPTIONS = (b"trak", b"mdia", b"minf", b"stbl", b"stsd")
_VIDEO_DESCRIPTIONS = (b"avc1", b"avc2", b"avc3", b"avc4", b"hvc1", b"hev1")
_ENCRYPTED_VIDEO = b"encv"

_FLV_HEADER_BYTES = 13
_FLV_TAG_BYTES = 11
_FLV_TRAILER_BYTES = 4
_FLV_VIDEO = 9


def changes_parameters(path: str, container_name: str) -> bool:
    """Whether a file brings more than one set of H.264 or HEVC parameters beside its packets.

    Args:
        path: a file that FFmpeg has opened.
        container_name: FFmpeg's name of its format.
    """
    with open(path, "rb") as file:
        if container_name == MP4:
            return any(
                len({entry for entry in entries if entry[:4] in _VIDEO_DESCRIPTIONS}) > 1
                for entries in _descriptions(file)
            )
        return container_name == FLV and _has_several_headers(file)


def is_encrypted(path: str, container_name: str) -> bool:
    """Whether an MP4 says that its video is encrypted; other containers cannot say so."""
    if container_name != MP4:
        return False
    with open(path, "rb") as file:
        return any(
            entry.startswith(_ENCRYPTED_VIDEO)
            for entries in _descriptions(file)
            for entry in entries
        )


def _descriptions(file: BinaryIO) -> list[list[bytes]]:
    """Per track its sample descriptions."""
    end = os.fstat(file.fileno()).st_size
    for kind, start, size in _top_boxes(file, end):
        if kind == b"moov":
            file.seek(start)
            return [_entries(found) for found in _descend(file.read(size), _PATH_TO_DESCRIPTIONS)]
    return []


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
