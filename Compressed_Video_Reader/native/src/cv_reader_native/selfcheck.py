"""A check without files: two built-in clips of five pictures, and what their maps must be.

The clips hold I, P and B pictures of 64 x 48 pixels, made with x264 and x265 for this purpose.
"""

import base64
import hashlib
from typing import TYPE_CHECKING

from cv_reader_native import Decoder, Picture

if TYPE_CHECKING:
    from cv_reader_native._decoder import MapName

_SIDE_PX = (64, 48)
_BLOCKS = (4, 3)

_MAPS: "tuple[tuple[MapName, int, int], ...]" = (
    ("residual", 16, 32),
    ("motion", 4, 16),
    ("distance", 4, 8),
    ("bits", 1, 4),
    ("qp", 1, 1),
)
"""Name, rows per block, and bytes per block in each row."""

_CLIPS: dict[str, tuple[tuple[int, str], ...]] = {
    "h264": (
        (
            0,
            "0004JWB>}R*@Su!000935C8xJ10eAtS)c#_0ch!XM6xUZ00Cu)gaCJ3eP)z|)-&sD{+BsA7)`yNA(nna"
            "EA-Og&vH~vHI`NMS|Osh5`ZR@;mJdMZc9vB?CuIreyNfX)TE!U%Pao6op67MwAxN=sCvlGpg52TndG_1"
            "#yy(c*#",
        ),
        (3, "0003&nj>sNAL@fzm@%lywJ_TD<gBd&`+t&wZZHe4U|ri*JkBxGR@MVzJ@Y(jcdJ0#fB"),
        (1, "0003&o<TT-KhYx2Q&|"),
        (2, "00032o?>c3pZ9A{(m("),
        (4, "0003&nq*0+L1>vw2uuIxXA8zoLbY&M^tR?G%&>+!r2"),
    ),
    "hevc": (
        (
            0,
            "0003%0Sp2E{{dhC00RJ!0009300RIXm5>Pl00BY)0RdnD00RJ!0009300RIXpdf=5Sy?Vju4o7V00RIB"
            "00093$Up!90Ym}8bI^$Z00AfguL)rB^fgd{0s}b!Y!Wt&6sR_ci1h^1O&4)`r(73Y>f}k(o~R7OZ`Xcr"
            "e4Ir!KiuKvW#N{ISXj-j80OT@{6F9",
        ),
        (3, "000330niy=gfWDW?p`T?MtqQSj3teFaitw-vw@G+t!Ww=wU|Zf+W"),
        (2, "000330pLWJ;f0W;ln7&h"),
        (1, "000310pKM6`YbVkqTA#_zy"),
        (4, "000330ni|yUvUfu62S2m5=45*h(Qury;Tn*EL({y4FrG"),
    ),
}
"""Codec -> packets in decoding order: place in presentation order, and content in base 85."""

_DIGESTS = {
    "h264": "90bfc56d8fe80a1e1351d79b605feb731c31c1099271ed77737dcae54841a9e9",
    "hevc": "19e2ad27442b5eb0f1e3037931d0bd36a2030e4b4f1d4daa44fc41f6fc783872",
}
"""SHA-256 over maps and samples, as proven right by the tests of ``cv_reader``."""


def failure() -> str | None:
    """Return what is wrong with this build, or None."""
    for codec, clip in _CLIPS.items():
        for num_threads in (1, 2):
            found = digest(codec, clip, num_threads)
            if found != _DIGESTS[codec]:
                return f"{codec} with {num_threads} threads gives {found}, not {_DIGESTS[codec]}"
    return None


def digest(codec: str, clip: tuple[tuple[int, str], ...], num_threads: int) -> str:
    """Return the SHA-256 of all that the decoder says about a clip."""
    decoder = Decoder(codec, b"", num_threads=num_threads)
    pictures: list[Picture] = []
    for place, content in clip:
        pictures += decoder.decode(base64.b85decode(content), place)
    pictures += decoder.finish()
    total = hashlib.sha256()
    for picture in pictures:
        facts = (picture.picture_id, picture.pict_type, picture.flags, picture.num_missing)
        total.update(repr(facts).encode())
        for name, rows, row_bytes in _MAPS:
            total.update(_cropped(picture, name, rows, row_bytes))
        for number in range(3):
            total.update(_samples(picture, number))
    return total.hexdigest()


def _cropped(picture: Picture, name: "MapName", rows: int, row_bytes: int) -> bytes:
    """Return a map (both its lists) without the blocks beyond the picture."""
    memory, blocks = picture.map(name), picture.blocks
    if memory is None or blocks is None:
        return b""
    whole = memoryview(memory)
    pitch, per_list = blocks[0] * row_bytes, blocks[0] * blocks[1] * rows * row_bytes
    starts = (
        first + row * pitch
        for first in range(0, len(whole), per_list)
        for row in range(_BLOCKS[1] * rows)
    )
    return b"".join(whole[start : start + _BLOCKS[0] * row_bytes] for start in starts)


def _samples(picture: Picture, number: int) -> bytes:
    """Return a plane without the padding of its rows, which differs between processors."""
    memory, pitch = picture.plane(number)
    width, height = (side if number == 0 else side // 2 for side in _SIDE_PX)
    rows = memoryview(memory)
    return b"".join(rows[y * pitch : y * pitch + width] for y in range(height))
