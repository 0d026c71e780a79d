"""Parameter sets of H.264: what slice headers depend on, and how pictures are to be shown.

Rules: ITU-T H.264, 7.3.2.1.1 (sequence parameter set) and E.1.1 (how pictures are shown);
ISO/IEC 14496-15, 5.3.3.1 (the ``avcC`` record).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

SEQUENCE_SET = 7
"""Type of the unit that holds a sequence parameter set."""

MAX_SET_BYTES = 8192
"""Bytes of a parameter set that are read: twice what the largest valid one can have."""

_HIGH_PROFILES = (100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135)
_MAX_ZEROS = 32
_MAX_CYCLE = 255
"""Pictures in a cycle of order counts (7.4.2.1.1)."""

_UNSPECIFIED = 2
_EXTENDED_ASPECT = 255
_ASPECTS = (
    (0, 1), (1, 1), (12, 11), (10, 11), (16, 11), (40, 33), (24, 11), (20, 11), (32, 11),
    (80, 33), (18, 11), (15, 11), (64, 33), (160, 99), (4, 3), (3, 2), (2, 1),
)  # fmt: skip
"""Width and height of a sample by its number (table E-1); (0, 1) = unspecified."""


class ShownBySequence(NamedTuple):
    """What a sequence parameter set says of how pictures are shown, in FFmpeg's numbers.

    Attributes:
        sample_aspect: width and height of a sample; (0, 1) where it says nothing.
        color_range: 0 unspecified, 1 limited, 2 full.
        primaries, transfer, matrix: ITU-T H.273; 2 = unspecified.
    """

    sample_aspect: tuple[int, int] = (0, 1)
    color_range: int = 0
    primaries: int = _UNSPECIFIED
    transfer: int = _UNSPECIFIED
    matrix: int = _UNSPECIFIED


@dataclass(frozen=True)
class Sequence:
    """What a slice header's layout depends on, and how pictures are shown.

    Attributes:
        number: number of the set.
        frame_num_bits: width of ``frame_num``.
        has_fields: pictures may be fields.
        has_separate_planes: each colour plane has slices of its own.
        may_skip: encoders may leave out numbers of reference pictures.
        shown: None where the set ends too early.
    """

    number: int
    frame_num_bits: int
    has_fields: bool
    has_separate_planes: bool
    may_skip: bool
    shown: ShownBySequence | None


def read_sequence(content: bytes) -> Sequence:
    """Return what a sequence parameter set says; ``content`` follows the unit's first byte.

    Raises:
        ValueError, IndexError: the set is damaged.
    """
    bits = Bits(content)
    profile = bits.u(8)
    bits.u(16)
    number, has_separate_planes = bits.ue(), False
    if profile in _HIGH_PROFILES:
        chroma_format = bits.ue()
        if chroma_format == 3:
            has_separate_planes = bool(bits.u(1))
        bits.skip_ue(2)
        bits.u(1)
        if bits.u(1):
            _skip_scaling_lists(bits, 12 if chroma_format == 3 else 8)
    frame_num_bits = bits.ue() + 4
    order_type = bits.ue()
    if order_type == 0:
        bits.ue()
    elif order_type == 1:
        bits.u(1)
        bits.skip_ue(2)
        cycle = bits.ue()
        if cycle > _MAX_CYCLE:
            raise ValueError(f"a cycle of {cycle} order counts, more than {_MAX_CYCLE}")
        bits.skip_ue(cycle)
    bits.skip_ue(1)
    may_skip = bool(bits.u(1))
    bits.skip_ue(2)
    has_fields = not bits.u(1)
    try:
        shown = _read_shown(bits, has_fields)
    except (IndexError, ValueError):
        shown = None
    return Sequence(number, frame_num_bits, has_fields, has_separate_planes, may_skip, shown)


def _read_shown(bits: "Bits", has_fields: bool) -> ShownBySequence:
    bits.u(1 + has_fields)
    if bits.u(1):
        bits.skip_ue(4)  # cropping
    if not bits.u(1):
        return ShownBySequence()
    aspect, color_range, colors = (0, 1), 0, (_UNSPECIFIED,) * 3
    if bits.u(1):
        kind = bits.u(8)
        if kind == _EXTENDED_ASPECT:
            aspect = bits.u(16), bits.u(16)
        elif kind < len(_ASPECTS):
            aspect = _ASPECTS[kind]
    if bits.u(1):
        bits.u(1)  # overscan
    if bits.u(1):
        bits.u(3)
        color_range = 1 + bits.u(1)
        if bits.u(1):
            colors = bits.u(8), bits.u(8), bits.u(8)
    return ShownBySequence(aspect, color_range, *colors)


def shown_by_record(record: bytes | None) -> ShownBySequence | None:
    """Return what an ``avcC`` record says of how pictures are shown; None where it has no set, a
    damaged one, or sets that differ."""
    found: set[ShownBySequence | None] = set()
    for unit in units_of_record(record or b""):
        if unit[0] & 0x1F == SEQUENCE_SET:
            try:
                found.add(read_sequence(unit[1:]).shown)
            except (IndexError, ValueError):
                found.add(None)
    return found.pop() if len(found) == 1 else None


class Bits:
    """Bits of a unit, without the bytes that keep start codes out of it."""

    def __init__(self, data: bytes) -> None:
        """Prepare; of the unit's content no more than ``MAX_SET_BYTES`` are looked at."""
        plain = data[:MAX_SET_BYTES].replace(b"\0\0\3", b"\0\0")
        self._text = f"{int.from_bytes(plain, 'big'):0{8 * len(plain)}b}" if plain else ""
        self._place = 0

    def u(self, width: int) -> int:
        """Read a number of fixed width; raises ValueError past the end."""
        digits = self._text[self._place : self._place + width]
        self._place += width
        if len(digits) < width:
            raise ValueError("the unit ends here")
        return int(digits, 2) if width else 0

    def ue(self) -> int:
        """Read an Exp-Golomb code; a signed one takes as many bits."""
        zeros = 0
        while self._text[self._place + zeros] == "0":
            zeros += 1
            if zeros > _MAX_ZEROS:
                raise ValueError("a code of more than 65 bits")
        self._place += zeros
        return self.u(zeros + 1) - 1

    def skip_ue(self, count: int) -> None:
        """Skip some Exp-Golomb codes."""
        for _ in range(count):
            self.ue()


def _skip_scaling_lists(bits: Bits, count: int) -> None:
    for number in range(count):
        if not bits.u(1):
            continue
        last = following = 8
        for _ in range(16 if number < 6 else 64):
            if following:
                code = bits.ue()
                following = (last + ((code + 1) // 2 if code % 2 else -(code // 2))) % 256
            last = following or last


def units_of_record(record: bytes) -> Iterator[bytes]:
    """Yield the parameter sets of an ``avcC`` record (ISO/IEC 14496-15, 5.3.3.1)."""
    place = 5
    for mask in (0x1F, 0xFF):
        count = record[place] & mask if place < len(record) else 0
        place += 1
        for _ in range(count):
            start = place + 2
            place = start + int.from_bytes(record[place:start], "big")
            if record[start:place]:
                yield record[start:place]


def length_size(extradata: bytes | None) -> int | None:
    """Bytes of the length before each NAL unit, or None where start codes separate them.

    Args:
        extradata: of the stream; MP4 and Matroska hold an ``avcC`` record, which begins with 1.
    """
    if extradata is None or len(extradata) < 7 or extradata[0] != 1:
        return None
    return (extradata[4] & 3) + 1
