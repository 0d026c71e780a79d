"""Packets that are missing from an H.264 stream.

Decoders conceal a lost picture, even a lost key frame, in silence. Rule: ITU-T H.264, 7.4.3:
``frame_num`` is that of the reference picture before, or one more; 0 in an IDR picture; encoders
that leave out numbers on purpose say so in the sequence parameter set.
"""

from itertools import islice

from cv_reader.media.h264 import (
    HEADER_BYTES,
    MAX_UNITS,
    Bits,
    ParameterSets,
    length_size,
    packet_units,
    units_of_record,
)

_SLICES, _IDR = (1, 2, 5), 5


class LossDetector:
    """Looks at the packets of an H.264 stream, in the order in which they come.

    Args:
        extradata: extradata of the stream.
    """

    def __init__(self, extradata: bytes | None) -> None:
        self._sets = ParameterSets()
        self._last: int | None = None
        self._length_size = length_size(extradata)
        if extradata is not None:
            units = units_of_record if self._length_size else _plain_units
            for unit in units(extradata):
                self._sets.learn(unit)

    def forget(self) -> None:
        """Accept any number next: the stream begins again, or a loss is known."""
        self._last = None

    def is_behind_loss(self, packet: bytes) -> bool:
        """Return whether a reference picture is missing before this packet's."""
        for unit in islice(packet_units(packet, self._length_size), MAX_UNITS):
            if unit[0] & 0x1F in _SLICES:
                try:
                    return self._is_gap(unit)
                except (IndexError, ValueError):
                    return False  # damaged: the decoder reports it
            self._sets.learn(unit)
        return False

    def _is_gap(self, unit: bytes) -> bool:
        bits = Bits(unit[1:HEADER_BYTES])
        bits.skip_ue(2)
        sequence = self._sets.sequence(bits.ue())
        if sequence is None or sequence.may_skip:
            return False
        bits.u(2 * sequence.has_separate_planes)
        number, last = bits.u(sequence.frame_num_bits), self._last
        if unit[0] >> 5 & 3:
            self._last = number
        if last is None or unit[0] & 0x1F == _IDR:
            return False
        return number not in (last, (last + 1) % (1 << sequence.frame_num_bits))


def _plain_units(extradata: bytes) -> list[bytes]:
    return list(packet_units(extradata, None))
