"""The one thing that is read off an H.264 packet itself: may other pictures refer to this one?

Rule: ITU-T H.264, 7.4.1: ``nal_ref_idc`` (bits 5 and 6 of a NAL unit's first byte) is 0 in the
slices of a picture that nothing refers to. Encoders use B pictures both ways.
"""

from collections.abc import Iterator

_SLICE_TYPES = (1, 2, 5)
"""NAL unit types that hold a picture's first data."""

_START_CODE = b"\x00\x00\x01"


def length_size(extradata: bytes | None) -> int | None:
    """Bytes of the length before each NAL unit, or None where start codes separate them.

    Args:
        extradata: of the stream; MP4 and Matroska hold an ``avcC`` record, which begins with 1.
    """
    if extradata is None or len(extradata) < 7 or extradata[0] != 1:
        return None
    return (extradata[4] & 3) + 1


def is_reference(packet: bytes | memoryview, size: int | None) -> bool:
    """Whether other pictures may refer to the picture in a packet; True where it has no slice.

    Args:
        size: from ``length_size``.
    """
    for header in _headers(packet, size):
        if header & 0x1F in _SLICE_TYPES:
            return bool(header & 0x60)
    return True


def _headers(packet: bytes | memoryview, size: int | None) -> Iterator[int]:
    """First byte of each NAL unit."""
    place = 0
    if size is None:
        data = bytes(packet)
        while (start := data.find(_START_CODE, place)) >= 0 and start + 3 < len(data):
            yield data[start + 3]
            place = start + 3
        return
    while place + size < len(packet):
        yield packet[place + size]
        place += size + int.from_bytes(packet[place : place + size], "big")
