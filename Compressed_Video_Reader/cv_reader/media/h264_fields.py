"""Fields in H.264: whether there are any, and packets that complete the frame before them.

Raw and transport streams give each field of a field-coded frame a packet of its own, though a
decoder shows one picture for both. Rule: ITU-T H.264, 7.4.1.2.4: two fields that follow each other,
of opposite parity and with equal ``frame_num``, are one frame. For that the beginnings of slice
headers (7.3.3) are read.
"""

from collections.abc import Iterator
from itertools import islice

from cv_reader.media.h264 import (
    SEQUENCE_SET,
    Bits,
    Sequence,
    length_size,
    read_sequence,
    units_of_record,
)

_SLICES, _PICTURE_SET = (1, 2, 5), 8
_START_CODE = b"\x00\x00\x01"
HEADER_BYTES = 48
"""Bytes of a slice or picture parameter set that are read: more than its header can have."""

MAX_UNITS = 512
"""Units before a picture's first slice that are looked at: a stream has 32 sequence and 256 picture
parameter sets at most, so more units are an attack on the time of the scan."""


class FieldReader:
    """Looks at the packets of one stream, in file order.

    Attributes:
        seen: whether any picture so far was a field.
    """

    def __init__(self, extradata: bytes | None) -> None:
        """Prepare; ``extradata`` of the stream, whose record tells how units are separated."""
        self.seen = False
        self._sequences: dict[int, Sequence] = {}
        self._sequence_of: dict[int, int] = {}
        self._waiting: tuple[int, int] | None = None
        self._length_size = length_size(extradata)
        if extradata is not None and self._length_size is not None:
            for unit in units_of_record(extradata):
                self._read(unit)
        # Parameter sets are only in the avcC record: if none allows fields, no packet is parsed.
        self._is_idle = self._length_size is not None and not any(
            sequence.has_fields for sequence in self._sequences.values()
        )

    def is_second(self, packet: bytes | memoryview) -> bool:
        """Whether a packet completes the frame that the packet before it began."""
        if self._is_idle:
            return False
        for unit in islice(packet_units(bytes(packet), self._length_size), MAX_UNITS):
            if unit[0] & 0x1F in _SLICES:
                try:
                    return self._pairs_up(Bits(unit[1:HEADER_BYTES]))
                except (IndexError, ValueError):
                    # Damaged: the decoder reports it.
                    break
            self._read(unit)
        self._waiting = None
        return False

    def _read(self, unit: bytes) -> None:
        """Learn from a parameter set; the decoder reports a damaged one."""
        try:
            if unit[0] & 0x1F == SEQUENCE_SET:
                sequence = read_sequence(unit[1:])
                self._sequences[sequence.number] = sequence
            elif unit[0] & 0x1F == _PICTURE_SET:
                bits = Bits(unit[1:HEADER_BYTES])
                self._sequence_of[bits.ue()] = bits.ue()
        except (IndexError, ValueError):
            return

    def _pairs_up(self, bits: "Bits") -> bool:
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
