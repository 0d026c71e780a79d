"""Fields in H.264: whether there are any, and packets that complete the frame before them.

Raw and transport streams give each field of a field-coded frame a packet of its own, though a
decoder shows one picture for both. Rule: ITU-T H.264, 7.4.1.2.4: two fields that follow each other,
of opposite parity and with equal ``frame_num``, are one frame. For that the beginnings of slice
headers (7.3.3) and of sequence parameter sets (7.3.2.1.1) are read.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from cv_reader.media.h264 import length_size

_SLICES, _SEQUENCE_SET, _PICTURE_SET = (1, 2, 5), 7, 8
_HIGH_PROFILES = (100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135)
_START_CODE = b"\x00\x00\x01"
_HEADER_BYTES = 48
"""Of a slice: more than enough. Sets are read whole."""

_MAX_ZEROS = 32


@dataclass(frozen=True)
class _Sequence:
    """What a slice header's layout depends on."""

    frame_num_bits: int
    has_fields: bool
    has_separate_planes: bool


class FieldReader:
    """Looks at the packets of one stream, in file order.

    Attributes:
        seen: whether any picture so far was a field.
    """

    def __init__(self, extradata: bytes | None) -> None:
        """Prepare; ``extradata`` of the stream, whose record tells how units are separated."""
        self.seen = False
        self._sequences: dict[int, _Sequence] = {}
        self._sequence_of: dict[int, int] = {}
        self._waiting: tuple[int, int] | None = None
        self._length_size = length_size(extradata)
        if extradata is not None and self._length_size is not None:
            for unit in _units_of_record(extradata):
                self._read(unit)
        # Sets stand in the record alone then: without fields there, no packet needs a look.
        self._is_idle = self._length_size is not None and not any(
            sequence.has_fields for sequence in self._sequences.values()
        )

    def is_second(self, packet: bytes | memoryview) -> bool:
        """Whether a packet completes the frame that the packet before it began."""
        if self._is_idle:
            return False
        for unit in _units(bytes(packet), self._length_size):
            if unit[0] & 0x1F in _SLICES:
                try:
                    return self._pairs_up(_Bits(unit[1:_HEADER_BYTES]))
                except (IndexError, ValueError):
                    # Damaged: whoever decodes it will say so.
                    break
            self._read(unit)
        self._waiting = None
        return False

    def _read(self, unit: bytes) -> None:
        """Learn from a parameter set; whoever decodes it will tell whether it is damaged."""
        try:
            if unit[0] & 0x1F == _SEQUENCE_SET:
                self._read_sequence(_Bits(unit[1:]))
            elif unit[0] & 0x1F == _PICTURE_SET:
                bits = _Bits(unit[1:_HEADER_BYTES])
                self._sequence_of[bits.ue()] = bits.ue()
        except (IndexError, ValueError):
            return

    def _pairs_up(self, bits: "_Bits") -> bool:
        waiting, self._waiting = self._waiting, None
        bits.skip_ue(2)
        sequence = self._sequences.get(self._sequence_of.get(bits.ue(), -1))
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

    def _read_sequence(self, bits: "_Bits") -> None:
        profile = bits.u(8)
        bits.u(16)
        number, has_separate_planes = bits.ue(), False
        if profile in _HIGH_PROFILES:
            if bits.ue() == 3:
                has_separate_planes = bool(bits.u(1))
                lists = 12
            else:
                lists = 8
            bits.skip_ue(2)
            bits.u(1)
            if bits.u(1):
                _skip_scaling_lists(bits, lists)
        frame_num_bits = bits.ue() + 4
        order_type = bits.ue()
        if order_type == 0:
            bits.ue()
        elif order_type == 1:
            bits.u(1)
            bits.skip_ue(2)
            bits.skip_ue(bits.ue())
        bits.skip_ue(1)
        bits.u(1)
        bits.skip_ue(2)
        self._sequences[number] = _Sequence(frame_num_bits, not bits.u(1), has_separate_planes)


class _Bits:
    """Bits of a unit, without the bytes that keep start codes out of it."""

    def __init__(self, data: bytes) -> None:
        plain = data.replace(b"\0\0\3", b"\0\0")
        self._text = f"{int.from_bytes(plain, 'big'):0{8 * len(plain)}b}" if plain else ""
        self._place = 0

    def u(self, width: int) -> int:
        """A number of fixed width; raises ValueError behind the end."""
        digits = self._text[self._place : self._place + width]
        self._place += width
        if len(digits) < width:
            raise ValueError("the unit ends here")
        return int(digits, 2) if width else 0

    def ue(self) -> int:
        """An Exp-Golomb code; a signed one takes as many bits."""
        zeros = 0
        while self._text[self._place + zeros] == "0":
            zeros += 1
            if zeros > _MAX_ZEROS:
                raise ValueError("a code of more than 65 bits")
        self._place += zeros
        return self.u(zeros + 1) - 1

    def skip_ue(self, count: int) -> None:
        """Pass over some Exp-Golomb codes."""
        for _ in range(count):
            self.ue()


def _skip_scaling_lists(bits: _Bits, count: int) -> None:
    for number in range(count):
        if not bits.u(1):
            continue
        last = following = 8
        for _ in range(16 if number < 6 else 64):
            if following:
                code = bits.ue()
                following = (last + ((code + 1) // 2 if code % 2 else -(code // 2))) % 256
            last = following or last


def _units(packet: bytes, size: int | None) -> Iterator[bytes]:
    """The units of a packet; ``size`` as ``length_size`` gives it."""
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


def _units_of_record(record: bytes) -> Iterator[bytes]:
    """The parameter sets of an ``avcC`` record (ISO/IEC 14496-15, 5.3.3.1)."""
    place = 5
    for mask in (0x1F, 0xFF):
        count = record[place] & mask if place < len(record) else 0
        place += 1
        for _ in range(count):
            start = place + 2
            place = start + int.from_bytes(record[place:start], "big")
            if record[start:place]:
                yield record[start:place]
