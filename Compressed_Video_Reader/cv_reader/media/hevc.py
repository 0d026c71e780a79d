"""What is read off an HEVC packet itself: may other pictures refer to this one?

Rule: ITU-T H.265, 7.4.2.2: NAL unit types 0, 2, ... 14 hold sub-layer non-reference pictures, which
only pictures of higher temporal layers refer to. In the highest layer of a stream nothing does.

Axis legend: M packets in file order.
"""

import numpy as np
from numpy.typing import NDArray

_START_CODE = b"\x00\x00\x01"
_FIRST_AFTER_SLICES = 32
_FIRST_NOT_LEADING = 16
_HVCC_LENGTH_BYTE = 21


def length_size(extradata: bytes | None) -> int | None:
    """Bytes of the length before each NAL unit, or None where start codes separate them.

    Args:
        extradata: of the stream; MP4 and Matroska hold an ``hvcC`` record, which begins with 1.
    """
    if extradata is None or len(extradata) <= _HVCC_LENGTH_BYTE or extradata[0] != 1:
        return None
    return (extradata[_HVCC_LENGTH_BYTE] & 3) + 1


def layer_code(packet: memoryview, size: int | None) -> int:
    """The temporal layer of a packet's picture, or -1 - layer for a sub-layer non-reference one.

    Args:
        size: from ``length_size``.
    """
    place = 0
    # One copy for all searches: a copy per unit would take quadratic time.
    data = bytes(packet) if size is None else b""
    while True:
        if size is None:
            place = _after_start_code(data, place)
            header = place
        else:
            header = place + size
        if not 0 <= header < len(packet) - 1:
            return 0
        kind, layer = packet[header] >> 1 & 0x3F, (packet[header + 1] & 7) - 1
        if kind < _FIRST_AFTER_SLICES:
            return -1 - layer if kind < _FIRST_NOT_LEADING and kind % 2 == 0 else layer
        place = header if size is None else header + _length(packet, place, size)


def are_references(codes: NDArray[np.int64]) -> NDArray[np.bool_]:
    """bool (M,): False where nothing in the stream refers to the picture.

    Args:
        codes: int64 (M,), from ``layer_code``.
    """
    layers = np.where(codes < 0, -1 - codes, codes)
    return (codes >= 0) | (layers < layers.max(initial=0))


def _after_start_code(packet: bytes, place: int) -> int:
    start = packet.find(_START_CODE, place)
    return -1 if start < 0 else start + len(_START_CODE)


def _length(packet: memoryview, place: int, size: int) -> int:
    return int.from_bytes(packet[place : place + size], "big")
