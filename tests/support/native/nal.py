"""Splits a packet of H.264 or H.265 into its units, in either framing."""

from collections.abc import Iterator

from .bits import escaped


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


def parameter_set(width_blocks: int, height_blocks: int) -> bytes:
    """A sequence parameter set of H.264 (baseline, four reference frames) for a picture size."""
    bits = f"{66:08b}{0:08b}{51:08b}"  # profile, constraints, level
    bits += _ue(0) + _ue(0)  # id, log2_max_frame_num - 4
    bits += _ue(2)  # pictures are shown as they are decoded
    bits += _ue(4) + "0"  # reference frames, no gaps in frame numbers
    bits += _ue(width_blocks - 1) + _ue(height_blocks - 1)
    bits += "1" + "1" + "0" + "0" + "1"  # frames only, direct 8x8, no cropping, no usability, stop
    bits += "0" * (-len(bits) % 8)
    payload = int(bits, 2).to_bytes(len(bits) // 8, "big")
    return b"\x67" + payload.replace(b"\0\0\0", b"\0\0\3\0").replace(b"\0\0\1", b"\0\0\3\1")


_HIGH_PROFILE = (
    "id chroma depth depth bypass* scaling* number order lsb refs gaps* w h frames* 8x8*"
)
"""The fields between a level and the cropping; those with an asterisk are single bits."""


def without_usability(unit: bytes) -> bytes:
    """A sequence parameter set (high profile, frames, as x264 writes it) without its last part,
    which among other things says how far pictures are reordered."""
    payload = unit[1:].replace(b"\0\0\3", b"\0\0")
    assert payload[0] == 100, "not of high profile"
    text = f"{int.from_bytes(payload, 'big'):0{8 * len(payload)}b}"
    at = 24
    for name in _HIGH_PROFILE.split():
        at = at + 1 if name.endswith("*") else _after_code(text, at)
    is_cropped = text[at] == "1"
    at += 1
    for _ in range(4 * is_cropped):
        at = _after_code(text, at)
    assert text[at] == "1", "has no such part"
    cut = text[:at] + "0" + "1"
    cut += "0" * (-len(cut) % 8)
    return unit[:1] + escaped(int(cut, 2).to_bytes(len(cut) // 8, "big"))


def _after_code(text: str, at: int) -> int:
    """Where an Exp-Golomb code ends."""
    return 2 * text.index("1", at) - at + 1


def _ue(value: int) -> str:
    """Exp-Golomb code of an unsigned number."""
    code = f"{value + 1:b}"
    return "0" * (len(code) - 1) + code
