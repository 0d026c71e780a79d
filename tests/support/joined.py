"""Joins two clips of one size into a file whose container changes the codec's parameters.

Written by hand, box by box and tag by tag: FFmpeg's own writers keep to one set of parameters.
"""

from collections.abc import Iterator
from pathlib import Path

import av

_FLV_HEADER_BYTES = 13
_FLV_VIDEO = 9
_TICKS = 512
"""Per frame; 12800 are a second."""


def join_flv(first: Path, second: Path, target: Path, shift_ms: int) -> Path:
    """The video tags of one FLV after those of another; H.264 or HEVC."""
    data = bytearray(first.read_bytes()[:_FLV_HEADER_BYTES])
    for path, shift in ((first, 0), (second, shift_ms)):
        for tag in _flv_tags(path.read_bytes()):
            is_end = tag[11] & 0x80 == 0 and tag[12] == 2 or tag[11] & 0x8F == 0x82
            if tag[0] != _FLV_VIDEO or is_end:
                continue
            tag[4:7] = (int.from_bytes(tag[4:7], "big") + shift).to_bytes(3, "big")
            data += tag
    target.write_bytes(data)
    return target


def join_mp4(first: Path, second: Path, target: Path) -> Path:
    """One track with two sample descriptions; the clips have no B pictures and one key frame."""
    clips = [_samples(path) for path in (first, second)]
    samples = [sample for clip in clips for sample in clip]
    types = _box(b"ftyp", b"isom", 512, b"isomiso2avc1mp41")
    begins = [len(types) + 8, len(types) + 8 + sum(map(len, clips[0]))]
    ticks = _TICKS * len(samples)
    tables = (
        _table(b"stsd", 2, _description(first), _description(second)),
        _table(b"stts", 1, len(samples), _TICKS),
        _table(b"stss", 2, 1, len(clips[0]) + 1),
        _table(b"stsc", 2, 1, len(clips[0]), 1, 2, len(clips[1]), 2),
        _box(b"stsz", 0, 0, len(samples), *map(len, samples)),
        _table(b"stco", 2, *begins),
    )
    reference = _table(b"dref", 1, _box(b"url ", 1))
    media = _box(
        b"minf",
        _box(b"vmhd", 1, 0, 0),
        _box(b"dinf", reference),
        _box(b"stbl", *tables),
    )
    track = _box(
        b"trak",
        _inner_box(first, b"tkhd"),
        _box(
            b"mdia",
            _box(b"mdhd", 0, 0, 0, 12800, ticks, 0x55C40000),
            _inner_box(first, b"hdlr"),
            media,
        ),
    )
    movie = _box(b"moov", _inner_box(first, b"mvhd"), track)
    target.write_bytes(types + _box(b"mdat", *samples) + movie)
    return target


def _flv_tags(data: bytes) -> Iterator[bytearray]:
    place = _FLV_HEADER_BYTES
    while place < len(data):
        size = 11 + int.from_bytes(data[place + 1 : place + 4], "big") + 4
        yield bytearray(data[place : place + size])
        place += size


def _samples(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(video=0) if packet.size]


def _description(path: Path) -> bytes:
    return _inner_box(path, b"stsd")[16:]


def _inner_box(path: Path, kind: bytes) -> bytes:
    """The first box of a kind, at any depth."""
    data = path.read_bytes()
    start = data.index(kind, data.index(b"moov")) - 4
    return data[start : start + int.from_bytes(data[start : start + 4], "big")]


def _table(kind: bytes, count: int, *content: int | bytes) -> bytes:
    return _box(kind, 0, count, *content)


def _box(kind: bytes, *content: int | bytes) -> bytes:
    """A box; numbers are written with 32 bits."""
    body = b"".join(part.to_bytes(4, "big") if isinstance(part, int) else part for part in content)
    return (8 + len(body)).to_bytes(4, "big") + kind + body
