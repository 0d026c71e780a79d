"""Splits a packet of H.264 or H.265 into its units, in either framing."""

from collections.abc import Iterator


def coded_slice_bytes(packet: bytes, extradata: bytes, standard: str) -> int:
    """Bytes of a packet that belong to slices; parameter sets and messages left out."""
    return sum(len(unit) for unit in units(packet, extradata, standard) if is_slice(unit, standard))


def is_slice(unit: bytes, standard: str) -> bool:
    """Whether a unit holds coded blocks."""
    if standard == "h264":
        return unit[0] & 0x1F in (1, 5)
    return (unit[0] >> 1) & 0x3F < 32


def units(packet: bytes, extradata: bytes, standard: str) -> Iterator[bytes]:
    """The units of a packet, without start codes or lengths."""
    if not extradata or extradata[0] != 1:
        yield from (unit for unit in packet.split(b"\x00\x00\x01") if unit.strip(b"\x00"))
        return
    length_bytes = (extradata[4 if standard == "h264" else 21] & 3) + 1
    at = 0
    while at < len(packet):
        size = int.from_bytes(packet[at : at + length_bytes], "big")
        at += length_bytes
        yield packet[at : at + size]
        at += size
