"""H.264: parameter sets, how they say pictures are shown, and packets that hold one field each.

Rules: ITU-T H.264, 7.3.2.1.1 (sequence parameter set) and E.1.1 (how pictures are shown);
ISO/IEC 14496-15, 5.3.3.1 (the ``avcC`` record).

Raw and transport streams give each field of a field-coded frame a packet of its own, though a
decoder shows one picture for both. Rule: ITU-T H.264, 7.4.1.2.4: two fields that follow each other,
of opposite parity and with equal ``frame_num``, are one frame. For that the beginnings of slice
headers (7.3.3) are read.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

_SLICES, _PICTURE_SET = (1, 2, 5), 8
_START_CODE = b"\x00\x00\x01"
HEADER_BYTES = 48
"""Bytes of a slice or picture parameter set that are read: more than its header can have."""

MAX_UNITS = 512
"""Units before a picture's first slice that are looked at: a stream has 32 sequence and 256 picture
parameter sets at most, so more units are an attack on the time of the scan."""

SEQUENCE_SET = 7
"""Type of the unit that holds a sequence parameter set."""

MAX_SET_BYTES = 8192
"""Bytes of a parameter set that are read: twice what the largest valid one can have."""

_MESSAGES, _RECOVERY_POINT = 6, 6
"""Type of the unit that holds messages for the decoder, and of the message about recovery."""

_MAX_MESSAGE_UNITS, _MAX_MESSAGE_BYTES = 64, 4096
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


def packet_units(packet: bytes, size: int | None) -> Iterator[bytes]:
    """Yield the units of a packet; ``size`` is that of ``length_size``."""
    if size is not None:
        place = 0
        while place + size < len(packet):
            start = place + size
            place = start + int.from_bytes(packet[place:start], "big")
            if place > start:
                yield packet[start:place]
        return
    place = packet.find(_START_CODE)
    while place >= 0:
        start = place + len(_START_CODE)
        place = packet.find(_START_CODE, start)
        unit = packet[start : place if place >= 0 else len(packet)]
        if unit:
            yield unit


def recovery_frames(packet: bytes, size: int | None) -> int:
    """Return after how many reference frames a decoder that starts at a packet shows right ones.

    It is 0 where the packet does not say so. Encoders that refresh a part of each picture, and have
    no key pictures, do (recovery point message, D.2.8).

    Args:
        packet: the packet.
        size: that of ``length_size``.
    """
    for unit in islice(packet_units(packet, size), _MAX_MESSAGE_UNITS):
        if unit[0] & 0x1F == _MESSAGES:
            content = unit[1:_MAX_MESSAGE_BYTES].replace(b"\0\0\3", b"\0\0")
            with suppress(IndexError, ValueError):
                return _recovery_of_messages(content)
    return 0


def _recovery_of_messages(content: bytes) -> int:
    place = 0
    while True:
        kind, place = _message_number(content, place)
        length, place = _message_number(content, place)
        if kind == _RECOVERY_POINT:
            return Bits(content[place : place + length]).ue()
        place += length


def _message_number(content: bytes, place: int) -> tuple[int, int]:
    """Return a message's type or size, and the place after it."""
    start = place
    while content[place] == 0xFF:
        place += 1
    return 0xFF * (place - start) + content[place], place + 1


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
    """Return bytes of the length before each NAL unit, or None where start codes separate them.

    Args:
        extradata: extradata of the stream; an ``avcC`` record (MP4, Matroska) begins with 1.
    """
    if extradata is None or len(extradata) < 7 or extradata[0] != 1:
        return None
    return (extradata[4] & 3) + 1


class ParameterSets:
    """The parameter sets that a stream has sent so far.

    Attributes:
        sequences: sequence parameter sets by their number.
    """

    def __init__(self) -> None:
        self.sequences: dict[int, Sequence] = {}
        self._sequence_of: dict[int, int] = {}

    def learn(self, unit: bytes) -> None:
        """Keep what a unit says if it is a parameter set; the decoder reports a damaged one."""
        try:
            if unit[0] & 0x1F == SEQUENCE_SET:
                sequence = read_sequence(unit[1:])
                self.sequences[sequence.number] = sequence
            elif unit[0] & 0x1F == _PICTURE_SET:
                bits = Bits(unit[1:HEADER_BYTES])
                self._sequence_of[bits.ue()] = bits.ue()
        except (IndexError, ValueError):
            return

    def sequence(self, picture_set: int) -> Sequence | None:
        """Return the sequence parameter set that a picture parameter set refers to, if known."""
        return self.sequences.get(self._sequence_of.get(picture_set, -1))


class FieldReader:
    """Looks at the packets of one stream, in file order.

    Attributes:
        seen: whether any picture so far was a field.
        is_idle: the parameter sets allow no fields, and packets bring no others.
    """

    def __init__(self, extradata: bytes | None) -> None:
        """Prepare; ``extradata`` of the stream, whose record tells how units are separated."""
        self.seen = False
        self._sets = ParameterSets()
        self._waiting: tuple[int, int] | None = None
        self._length_size = length_size(extradata)
        if extradata is not None and self._length_size is not None:
            for unit in units_of_record(extradata):
                self._sets.learn(unit)
        # Parameter sets are only in the avcC record: if none allows fields, no packet is parsed.
        self.is_idle = self._length_size is not None and not any(
            sequence.has_fields for sequence in self._sets.sequences.values()
        )

    def is_second(self, packet: bytes | memoryview) -> bool:
        """Return whether a packet completes the frame that the packet before it began."""
        if self.is_idle:
            return False
        for unit in islice(packet_units(bytes(packet), self._length_size), MAX_UNITS):
            if unit[0] & 0x1F in _SLICES:
                try:
                    return self._pairs_up(Bits(unit[1:HEADER_BYTES]))
                except (IndexError, ValueError):
                    # Damaged: the decoder reports it.
                    break
            self._sets.learn(unit)
        self._waiting = None
        return False

    def _pairs_up(self, bits: "Bits") -> bool:
        waiting, self._waiting = self._waiting, None
        bits.skip_ue(2)
        sequence = self._sets.sequence(bits.ue())
        if sequence is None or not sequence.has_fields:
            return False
        bits.u(2 * sequence.has_separate_planes)
        frame_num = bits.u(sequence.frame_num_bits)
        if not bits.u(1):
            return False
        self.seen = True
        parity = bits.u(1)
        if waiting == (frame_num, 1 - parity):
            return True
        self._waiting = frame_num, parity
        return False
