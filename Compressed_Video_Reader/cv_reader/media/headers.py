"""What the header of a packet says about its picture, for the formats where the reader asks.

- May other pictures refer to it? ITU-T H.264, 7.4.1: ``nal_ref_idc`` (bits 5 and 6 of a unit's
  first byte) is 0 in pictures that nothing refers to. ITU-T H.265, 7.4.2.2: unit types 0, 2, ... 14
  hold sub-layer non-reference pictures, which only pictures of higher temporal layers refer to.
- Is it a B picture, which is shown before a picture that the file has earlier? H.264, 7.3.3
  (``slice_type``); ISO/IEC 13818-2, 6.3.9; ISO/IEC 14496-2, 6.3.5.
- Does a decoder show it? RFC 6386, 9.1 (VP8); VP9 bitstream specification, 6.2 (``show_frame``).

Axis legend: M packets in file order.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cv_reader.media.h264 import length_size as h264_length_size

_START_CODE = b"\x00\x00\x01"
_MAX_UNITS = 512
"""Units of a packet that are looked at for its first slice; more would cost the scan its time."""

_HVCC_LENGTH_BYTE = 21
_SEQUENCE_SET = 33
_BEGINS_PICTURE, _WITHOUT_PICTURE = 1, 2
_H264_KINDS = bytes(
    _BEGINS_PICTURE if first & 0x1F in (1, 2, 5) else 6 <= first & 0x1F <= 13 and _WITHOUT_PICTURE
    for first in range(256)
)
_HEVC_KINDS = bytes(
    _BEGINS_PICTURE if first >> 1 & 0x3F < 32 else first >> 1 & 0x3F <= 40 and _WITHOUT_PICTURE
    for first in range(256)
)
"""Whether a unit begins a picture, or is of a type that holds none, by its first byte; else 0."""

_NONE, _UNKNOWN = -1, -2
_HEVC_FIRST_NOT_LEADING = 16
_HEVC_ENDS = (b"\x00\x00\x01\x48\x01", b"\x00\x00\x00\x02\x48\x01")
"""Last bytes of a packet that ends a sequence: unit type 36, after a start code or its length."""

CODECS_WITH_B = ("h264", "mpeg4", "mpeg1video", "mpeg2video")
"""Formats whose headers are read for B pictures."""

H264_IDR = 5
HEVC_KEY = range(16, 24)
"""Unit types of pictures at which decoding can start."""

_HEVC_RASL, _HEVC_BLA_IDR, _HEVC_CRA = (8, 9), range(16, 21), 21

NO_PICTURE = -1
"""Type of a packet that holds no picture."""

_MPEG4_PICTURE = b"\x00\x00\x01\xb6"
_MPEG12_PICTURE = b"\x00\x00\x01\x00"
_B_PICTURE = 3
_MPEG4_B_PICTURE = 2
_MAX_SKIPPED_BYTES = 19
"""Up to this size an MPEG-4 packet may say "nothing new here"; FFmpeg's own limit."""


class PacketFacts(NamedTuple):
    """What the header of one packet says.

    Attributes:
        reference: H.264: 1 or 0, whether others may refer to it; HEVC: the temporal layer, or
            -1 - layer for a sub-layer non-reference picture (see ``are_references``); 1 elsewhere.
        unit_type: type of the first slice's unit (H.264, HEVC); 0 in other formats, and
            ``NO_PICTURE`` where the packet holds no picture, or perhaps none.
        is_b: a B picture; False where the format's headers are not read.
        is_hidden: decoded but not shown (VP8, VP9).
        is_packed: holds more than one picture (MPEG-4).
        ends_sequence: the next picture starts a new sequence (HEVC).
    """

    reference: int = 1
    unit_type: int = 0
    is_b: bool = False
    is_hidden: bool = False
    is_packed: bool = False
    ends_sequence: bool = False


HeaderReader = Callable[[memoryview], PacketFacts]


def header_reader(codec_name: str, extradata: bytes | None) -> HeaderReader:
    """Return the function that reads the packets of one stream.

    Args:
        codec_name: FFmpeg's name of the format.
        extradata: the codec's parameters as the container keeps them.
    """
    if codec_name == "h264":
        h264_size = h264_length_size(extradata)
        return partial(_h264_facts, size=h264_size)
    if codec_name == "hevc":
        hevc_size = hevc_length_size(extradata)
        return partial(_hevc_facts, size=hevc_size)
    return _READERS.get(codec_name, _no_facts)


def hevc_length_size(extradata: bytes | None) -> int | None:
    """Return the bytes of the length before each unit, or None where start codes separate units.

    Args:
        extradata: extradata of the stream; an ``hvcC`` record (MP4, Matroska) begins with 1.
    """
    if extradata is None or len(extradata) <= _HVCC_LENGTH_BYTE or extradata[0] != 1:
        return None
    return (extradata[_HVCC_LENGTH_BYTE] & 3) + 1


def has_sequence_set(extradata: bytes | None) -> bool:
    """Return whether an ``hvcC`` record holds a sequence parameter set.

    Rule: ISO/IEC 14496-15, 8.3.3.1.
    """
    if hevc_length_size(extradata) is None or extradata is None:
        return False
    place, count = _HVCC_LENGTH_BYTE + 2, extradata[_HVCC_LENGTH_BYTE + 1 : _HVCC_LENGTH_BYTE + 2]
    for _ in range(count[0] if count else 0):
        kind = extradata[place : place + 1]
        if kind and kind[0] & 0x3F == _SEQUENCE_SET:
            return int.from_bytes(extradata[place + 1 : place + 3], "big") > 0
        units = int.from_bytes(extradata[place + 1 : place + 3], "big")
        place += 3
        for _ in range(units):
            place += 2 + int.from_bytes(extradata[place : place + 2], "big")
            if place >= len(extradata):
                return False
    return False


def are_references(codes: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return bool (M,), False where nothing in an HEVC stream refers to the picture.

    In the highest temporal layer nothing refers to a sub-layer non-reference picture.

    Args:
        codes: int64 (M,), ``PacketFacts.reference`` of each packet.
    """
    layers = np.where(codes < 0, -1 - codes, codes)
    return (codes >= 0) | (layers < layers.max(initial=0))


def skipped_leading(
    unit_types: NDArray[np.int64], ends_sequence: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Return bool (M,), leading pictures that an HEVC decoder skips.

    It skips those that may refer to pictures before a key picture at which a sequence starts
    (ITU-T H.265, 8.1.3: RASL pictures where NoRaslOutputFlag is 1). The first key picture counts as
    one even where other pictures precede it: what they refer to is missing. Leading pictures before
    it belong to a key picture that the stream lacks.

    Args:
        unit_types: int64 (M,).
        ends_sequence: int64 (M,), 1 where the next packet starts a sequence.
    """
    keys = np.flatnonzero(np.isin(unit_types, HEVC_KEY))
    is_first = np.append(1, ends_sequence)[keys] == 1
    is_first[:1] = True
    is_clean = np.isin(unit_types[keys], _HEVC_BLA_IDR)
    is_start = is_clean | ((unit_types[keys] == _HEVC_CRA) & is_first)
    own_key = np.searchsorted(keys, np.arange(len(unit_types)), side="right")
    return np.isin(unit_types, _HEVC_RASL) & np.append(True, is_start)[own_key]


def _no_facts(packet: memoryview) -> PacketFacts:
    del packet
    return PacketFacts()


def _h264_facts(packet: memoryview, size: int | None) -> PacketFacts:
    place = _first_picture_unit(packet, size, _H264_KINDS)
    if place < 0:
        return PacketFacts(unit_type=NO_PICTURE if place == _NONE else 0)
    first = packet[place]
    # A picture's first slice begins at its first macroblock: one bit, then the slice type in
    # Exp-Golomb codes, of which 1 ("010") and 6 ("00111") are B.
    following = packet[place + 1] if place + 1 < len(packet) else 0
    is_b = following >> 4 == 0b1010 or following >> 2 == 0b100111
    return PacketFacts(int(bool(first & 0x60)), first & 0x1F, is_b)


def _hevc_facts(packet: memoryview, size: int | None) -> PacketFacts:
    place = _first_picture_unit(packet, size, _HEVC_KINDS)
    ends_sequence = bytes(packet[-6:]).endswith(_HEVC_ENDS)
    if not 0 <= place < len(packet) - 1:
        unit_type = NO_PICTURE if place == _NONE else 0
        return PacketFacts(0, unit_type, ends_sequence=ends_sequence)
    kind, layer = packet[place] >> 1 & 0x3F, (packet[place + 1] & 7) - 1
    if kind < _HEVC_FIRST_NOT_LEADING and kind % 2 == 0:
        layer = -1 - layer
    return PacketFacts(layer, kind, ends_sequence=ends_sequence)


def _first_picture_unit(packet: memoryview, size: int | None, kinds: bytes) -> int:
    """Return where the first unit of a picture begins, ``_NONE`` where all units are of types that
    hold no picture, and ``_UNKNOWN`` where there are others, as in damaged packets.

    Args:
        packet: one packet of an H.264 or HEVC stream.
        size: bytes of the length before each unit, or None for start codes.
        kinds: see ``_H264_KINDS``.
    """
    place, length, result = 0, len(packet), _UNKNOWN
    # One copy for all searches: a copy per unit would take quadratic time.
    data = bytes(packet) if size is None else b""
    for number in range(_MAX_UNITS):
        if size is None:
            start = place = data.find(_START_CODE, place) + len(_START_CODE)
            if start < len(_START_CODE) or start >= length:
                return result
        else:
            start = place + size
            if start >= length:
                return result if place == length else _UNKNOWN
            place = start + int.from_bytes(packet[place:start], "big")
        kind = kinds[packet[start]]
        if kind == _BEGINS_PICTURE:
            return start
        is_known = kind == _WITHOUT_PICTURE and (number == 0 or result == _NONE)
        result = _NONE if is_known else _UNKNOWN
    return _UNKNOWN


def _mpeg4_facts(packet: memoryview) -> PacketFacts:
    data = bytes(packet)
    place = data.find(_MPEG4_PICTURE)
    if place < 0 or place + 4 >= len(data):
        return PacketFacts(unit_type=NO_PICTURE)
    return PacketFacts(
        unit_type=NO_PICTURE if len(data) <= _MAX_SKIPPED_BYTES else 0,
        is_b=data[place + 4] >> 6 == _MPEG4_B_PICTURE,
        is_packed=data.find(_MPEG4_PICTURE, place + 4) >= 0,
    )


def _mpeg12_facts(packet: memoryview) -> PacketFacts:
    data = bytes(packet)
    place = data.find(_MPEG12_PICTURE)
    if place < 0 or place + 5 >= len(data):
        return PacketFacts(unit_type=NO_PICTURE)
    return PacketFacts(is_b=data[place + 5] >> 3 & 7 == _B_PICTURE)


def _vp8_facts(packet: memoryview) -> PacketFacts:
    return PacketFacts(is_hidden=not packet[0] & 0x10)


def _vp9_facts(packet: memoryview) -> PacketFacts:
    # A superframe, which ends with a marker, holds hidden pictures and one that is shown.
    if packet[-1] & 0xE0 == 0xC0:
        return PacketFacts()
    bits = int.from_bytes(packet[:2].tobytes().ljust(2, b"\0"), "big")
    # Marker (2 bits), profile (2, and 1 more in profile 3), show_existing, key, show.
    shift = 11 - (bits >> 12 & 3 == 3)
    shows_existing, shows = bits >> shift & 1, bits >> (shift - 2) & 1
    return PacketFacts(is_hidden=not (shows_existing or shows))


_READERS: dict[str, HeaderReader] = {
    "mpeg4": _mpeg4_facts,
    "mpeg1video": _mpeg12_facts,
    "mpeg2video": _mpeg12_facts,
    "vp8": _vp8_facts,
    "vp9": _vp9_facts,
}
