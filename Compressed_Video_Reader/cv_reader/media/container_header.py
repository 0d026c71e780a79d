"""What a container's header says, apart from the packets: the codec, and how pictures are shown.

An MP4 may have several sample descriptions, and an FLV several sequence headers. FFmpeg attaches
them to a packet as side data. PyAV gives these to its decoder but not to its callers, so this
module reads them from the file. Parameters inside the packets need no such care.

Rules: ISO/IEC 14496-12, 8.2.2 (``mvhd``), 8.3.2 (``tkhd``), 8.5.2 (``stsd``) and 8.12; Adobe FLV
10.1, E.4.3, and its extension by HEVC.
"""

import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cv_reader.errors import UnsupportedVideoError
from cv_reader.partial_files import open_binary

MP4, FLV = "mov,mp4,m4a,3gp,3g2,mj2", "flv"
"""FFmpeg's names of the containers."""

MAX_INDEX_BYTES = 1 << 28
"""Size of an MP4's index (``moov``): FFmpeg reads it whole; a day of video has half of it."""

MAX_DESCRIPTION_BYTES = 1 << 20
"""Size of a track's sample descriptions (``stsd``); usual ones have some hundred bytes."""

MAX_FRAMES = 1 << 24
"""Frames of a video track: three days at 60 a second. FFmpeg takes memory for all that the header
claims, though one number of four bytes can claim billions."""

_MAX_BOXES = 20_000
"""Boxes that are looked at: more would be an attack on the time of the scan."""

_MAX_BYTES_IN_MEMORY = 1 << 20

_MAX_FIXED_BYTES = 256
"""Largest size of a box with fields of fixed size."""

_TO_DESCRIPTIONS = (b"trak", b"mdia", b"minf", b"stbl", b"stsd")
_VIDEO_DESCRIPTIONS = (b"avc1", b"avc2", b"avc3", b"avc4", b"hvc1", b"hev1")
_ENCRYPTED_VIDEO = b"encv"
_HANDLER = (b"hdlr",)

_IDENTITY = b"".join(
    value.to_bytes(4, "big") for value in (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
)
"""A display matrix that changes nothing."""

_PATHS_TO_MATRICES = (((b"mvhd",), slice(-64, -28)), ((b"trak", b"tkhd"), slice(-44, -8)))
"""Boxes with a matrix, and its place in all their versions."""

_FLV_HEADER_BYTES = 13
_FLV_TAG_BYTES = 11
_FLV_TRAILER_BYTES = 4
_FLV_VIDEO = 9


@dataclass(frozen=True)
class HeaderFacts:
    """What a file says outside of its packets.

    Attributes:
        is_encrypted: the video is encrypted; only an MP4 can say so.
        changes_parameters: the file has more than one set of H.264 or HEVC parameters.
        is_upright: the file says that pictures are shown as they are coded; False where it says
            nothing, as in all formats but MP4.
    """

    is_encrypted: bool = False
    changes_parameters: bool = False
    is_upright: bool = False


def read_header(path: str, container_name: str) -> HeaderFacts:
    """Read the header of a file that FFmpeg has opened.

    Args:
        path: the file.
        container_name: FFmpeg's name of its format.
    """
    with open_binary(path) as file:
        if container_name == MP4:
            return _movie_facts(file, path)
        return HeaderFacts(changes_parameters=container_name == FLV and _has_several_headers(file))


def check_claims(path: str) -> None:
    """Refuse an MP4 whose header claims absurd sizes, before FFmpeg takes memory for them.

    Raises:
        UnsupportedVideoError: naming the claim and the limit.
    """
    with open_binary(path) as file:
        if file.read(8)[4:] not in (b"ftyp", b"moov"):
            return
        movie_file, movie = _movie(file)
        _check(movie.size, MAX_INDEX_BYTES, "its index (moov) of {} bytes exceeds", path)
        if isinstance(movie_file, io.BytesIO) and not _may_claim_too_much(movie_file.getvalue()):
            return
        for track in _descend(movie_file, movie, (b"trak", b"mdia")):
            handlers = [_content(movie_file, box) for box in _descend(movie_file, track, _HANDLER)]
            if not any(handler[8:12] == b"vide" for handler in handlers):
                continue
            for box in _descend(movie_file, track, (b"minf", b"stbl", b"stsz")):
                count = int.from_bytes(_content(movie_file, box)[8:12], "big")
                _check(count, MAX_FRAMES, "the {} frames that its header claims exceed", path)


def key_packet_positions(path: str) -> list[int]:
    """Return where in an MP4 the key packets of its video tracks begin, by its index.

    Rules: ISO/IEC 14496-12, 8.6.2 (``stss``), 8.7.3 (``stsz``), 8.7.4 (``stsc``) and 8.7.5
    (``stco``, ``co64``).

    Returns:
        Nothing where the index says nothing of key packets, or breaks a rule.
    """
    found: list[int] = []
    with open_binary(path) as file:
        movie_file, movie = _movie(file)
        for track in _descend(movie_file, movie, (b"trak", b"mdia")):
            handlers = [_content(movie_file, box) for box in _descend(movie_file, track, _HANDLER)]
            if any(handler[8:12] == b"vide" for handler in handlers):
                for table in _descend(movie_file, track, (b"minf", b"stbl")):
                    boxes = dict(_boxes(movie_file, table))
                    tables = {
                        kind: _content(movie_file, boxes[kind], MAX_INDEX_BYTES)
                        for kind in (b"stss", b"stsz", b"stsc", b"stco", b"co64")
                        if kind in boxes
                    }
                    found += _key_positions(tables)
    return found


def _key_positions(tables: dict[bytes, bytes]) -> list[int]:
    """Return the places of the key samples of one track; see ``key_packet_positions``."""
    is_wide = b"co64" in tables
    chunks = _numbers(tables.get(b"co64" if is_wide else b"stco", b""), ">u8" if is_wide else ">u4")
    runs, keys = _numbers(tables.get(b"stsc", b"")), _numbers(tables.get(b"stss", b""))
    sizes, fixed = tables.get(b"stsz", b""), int.from_bytes(tables.get(b"stsz", b"")[4:8], "big")
    size_bytes = _numbers(sizes[4:])
    if not len(chunks) or not len(runs) or not len(keys) or fixed or len(runs) % 3:
        return []
    first_chunk, per_chunk = runs[::3] - 1, runs[1::3]
    chunks_of_run = np.diff(np.append(first_chunk, len(chunks)))
    if (chunks_of_run < 0).any() or first_chunk[0]:
        return []
    total = int((chunks_of_run * per_chunk).sum())
    if total < len(size_bytes) or int(per_chunk.max()) > MAX_FRAMES:
        return []
    starts = np.cumsum(np.append(0, np.repeat(per_chunk, chunks_of_run)))
    # A sample follows those before it in its chunk.
    before = np.cumsum(np.append(0, size_bytes))
    samples = keys[(keys >= 1) & (keys <= len(size_bytes))] - 1
    chunk = np.searchsorted(starts, samples, side="right") - 1
    places = chunks[chunk] + before[samples] - before[starts[chunk]]
    return [int(place) for place in places]


def _numbers(content: bytes, kind: str = ">u4") -> NDArray[np.int64]:
    """Return the numbers of a table that follow its version, flags and number of entries."""
    size = np.dtype(kind).itemsize
    count = (len(content) - 8) // size if len(content) > 8 else 0
    return np.frombuffer(content, kind, max(count, 0), 8 if count > 0 else 0).astype(np.int64)


def _may_claim_too_much(movie: bytes) -> bool:
    """Return whether any box of sample sizes (``stsz``) claims too many samples, without a walk
    through the boxes."""
    place = movie.find(b"stsz")
    while place >= 0:
        if int.from_bytes(movie[place + 12 : place + 16], "big") > MAX_FRAMES:
            return True
        place = movie.find(b"stsz", place + 4)
    return False


def _check(value: int, limit: int, what: str, path: str) -> None:
    if value > limit:
        raise UnsupportedVideoError(
            path, f"{what.format(value)} the limit of {limit}; remux or re-encode it"
        )


class _Box(NamedTuple):
    """The content of a box: its place in the file and its size in bytes."""

    start: int
    size: int


def _movie_facts(file: BinaryIO, path: str) -> HeaderFacts:
    descriptions: list[list[bytes]] = []
    matrices: list[bytes] = []
    file, movie = _movie(file)
    for box in _descend(file, movie, _TO_DESCRIPTIONS):
        _check(box.size, MAX_DESCRIPTION_BYTES, "its sample descriptions of {} bytes exceed", path)
        descriptions.append(_entries(_content(file, box, MAX_DESCRIPTION_BYTES)))
    for kinds, place in _PATHS_TO_MATRICES:
        matrices += [_content(file, box)[place] for box in _descend(file, movie, kinds)]
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


def _movie(file: BinaryIO) -> tuple[BinaryIO, _Box]:
    """Return where to read the first ``moov`` of a file, and its box, empty where there is none. A
    small one is read from memory, which is quicker."""
    whole = _Box(0, file.seek(0, os.SEEK_END))
    box = next((box for kind, box in _boxes(file, whole) if kind == b"moov"), _Box(0, 0))
    if box.size > _MAX_BYTES_IN_MEMORY:
        return file, box
    return io.BytesIO(_content(file, box, box.size)), _Box(0, box.size)


def _boxes(file: BinaryIO, parent: _Box) -> Iterator[tuple[bytes, _Box]]:
    """Yield the kind and content of each box within another; contents are not read."""
    place, end = parent.start, parent.start + parent.size
    for _ in range(_MAX_BOXES):
        if place + 8 > end:
            return
        file.seek(place)
        head = file.read(16)
        size, header = int.from_bytes(head[:4], "big"), 8
        if size == 1:
            size, header = int.from_bytes(head[8:16], "big"), 16
        if size == 0:
            size = end - place
        if size < header:
            return
        yield head[4:8], _Box(place + header, min(size, end - place) - header)
        place += size


def _descend(file: BinaryIO, parent: _Box, kinds: tuple[bytes, ...]) -> Iterator[_Box]:
    """Yield the contents of all boxes at a path of kinds."""
    if not kinds:
        yield parent
        return
    for kind, box in _boxes(file, parent):
        if kind == kinds[0]:
            yield from _descend(file, box, kinds[1:])


def _content(file: BinaryIO, box: _Box, limit: int = _MAX_FIXED_BYTES) -> bytes:
    file.seek(box.start)
    return file.read(min(box.size, limit))


def _entries(descriptions: bytes) -> list[bytes]:
    """Return the sample descriptions, each after its kind; they follow version, flags and count."""
    entries: list[bytes] = []
    place = 8
    while place + 8 <= len(descriptions):
        size = int.from_bytes(descriptions[place : place + 4], "big")
        if size < 8:
            break
        entries.append(descriptions[place + 4 : place + size])
        place += size
    return entries


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
    """Return whether a tag is of packet type 0, and of codec 7 (H.264) or of the newer form, which
    bit 7 marks."""
    if content[0] & 0x80:
        return content[0] & 0x0F == 0
    return content[0] & 0x0F == 7 and content[1] == 0
