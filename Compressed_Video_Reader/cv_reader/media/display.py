"""How the pictures of a stream are shown: turned, mirrored, stretched, HDR as SDR."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

HDR_MODES = ("tonemap", "refuse", "raw")
"""What can be done with HDR: show it as SDR, refuse it, or read its samples as if they were SDR."""

_UNSPECIFIED = 2
PQ, HLG = 16, 18
UNREADABLE_MATRICES = {14: "ICtCp", 15: "IPT (Dolby Vision)"}
"""Kinds of colour differences that no linear matrix turns into R, G and B."""

_MATRIX_NAMES = {
    0: "rgb", 1: "bt709", 4: "fcc", 5: "bt470bg", 6: "smpte170m", 7: "smpte240m", 8: "ycgco",
    9: "bt2020nc", 10: "bt2020c",
}  # fmt: skip
_RANGE_NAMES = {1: "limited", 2: "full"}
_HDR_NAMES = {PQ: "pq", HLG: "hlg"}

_MAX_ASPECT = 10
"""Samples that claim to be more than so many times as wide as high, or the reverse, are taken as
square: such ratios come from damage, and no camera or disc has them."""

_MIN_DEVIATION = Fraction(1, 100)
"""Samples are square up to this: such ratios come from rounding a size to even numbers."""


class Orientation(NamedTuple):
    """How a picture is turned to be shown: mirrored first, then turned.

    Attributes:
        rotation_degrees: clockwise turn: 0, 90, 180 or 270.
        is_mirrored: left and right are exchanged before the turn.
    """

    rotation_degrees: int = 0
    is_mirrored: bool = False

    @property
    def swaps_sides(self) -> bool:
        """Whether rows become columns."""
        return self.rotation_degrees % 180 != 0

    @property
    def flips(self) -> tuple[bool, bool]:
        """Whether rows and columns are reversed, before they are swapped."""
        rows = self.rotation_degrees in (90, 180)
        columns = self.rotation_degrees in (180, 270)
        return rows, columns != self.is_mirrored

    @property
    def reported_degrees(self) -> int:
        """The clockwise turn that FFmpeg reads off such a matrix, which does not see mirroring."""
        return (self.rotation_degrees + 180 * self.is_mirrored) % 360

    @classmethod
    def of_matrix(cls, matrix: Sequence[float]) -> "Orientation | None":
        """Return the orientation that a display matrix states, or None for another angle.

        Args:
            matrix: a, b, c, d of x' = a x + c y, y' = b x + d y (ISO/IEC 14496-12, 6.2.2). Both
                axes may be scaled: FFmpeg counts that to the sample aspect ratio.
        """
        a, b, c, d = matrix
        columns = np.array([[a, c], [b, d]], np.float64)
        scales = np.hypot(*columns.T)
        if not scales.all():
            return None
        (a, c), (b, d) = (columns / scales[:, None]).round(2).tolist()
        turns = {(1, 0, 0, 1): 0, (0, 1, -1, 0): 90, (-1, 0, 0, -1): 180, (0, -1, 1, 0): 270}
        for is_mirrored, unit in ((False, (a, b, c, d)), (True, (-a, -b, c, d))):
            if unit in turns:
                return cls(turns[unit], is_mirrored)
        return None


class Colorimetry(NamedTuple):
    """What a stream or its container says of colours, in FFmpeg's numbers (ITU-T H.273)."""

    matrix: int = _UNSPECIFIED
    color_range: int = 0
    transfer: int = _UNSPECIFIED
    primaries: int = _UNSPECIFIED

    def completed(self, matrix: int, color_range: int) -> tuple[int, int]:
        """Return a picture's matrix and range, those of the stream where it names none."""
        return (
            self.matrix if matrix == _UNSPECIFIED else matrix,
            color_range or self.color_range,
        )


@dataclass(frozen=True)
class Display:
    """How the pictures of a stream are shown; the same for all of them.

    Attributes:
        orientation: how they are turned.
        sample_aspect: width of a coded sample to its height; see ``usable_aspect``.
        colors: colour description of the stream, or else of its container.
        tone_maps: HDR is shown as SDR.
    """

    orientation: Orientation = Orientation()
    sample_aspect: Fraction = Fraction(1)
    colors: Colorimetry = Colorimetry()
    tone_maps: bool = False

    @property
    def hdr(self) -> str:
        """``pq``, ``hlg``, or nothing for SDR."""
        return _HDR_NAMES.get(self.colors.transfer, "")

    def turned(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return a coded size (columns, rows) after the turn; or a shown size before it."""
        return (size[1], size[0]) if self.orientation.swaps_sides else size

    def shown_size(self, coded_size: tuple[int, int]) -> tuple[int, int]:
        """Return width and height of a picture of coded columns and rows, in square pixels.

        Rows are kept; columns are scaled to the shape of the samples.
        """
        columns, rows = coded_size
        return self.turned((max(1, round(columns * self.sample_aspect)), rows))

    def facts(self, samples: tuple[int, int]) -> dict[str, Any]:
        """Return how pictures are shown, ready for JSON.

        Args:
            samples: columns and rows after the turn.
        """
        matrix, color_range = self.colors.matrix, self.colors.color_range
        aspect = self.sample_aspect
        return {
            "num_columns": samples[0],
            "num_rows": samples[1],
            "sample_aspect_ratio": f"{aspect.numerator}:{aspect.denominator}",
            "rotation_degrees": self.orientation.rotation_degrees,
            "is_mirrored": self.orientation.is_mirrored,
            "color_matrix": _MATRIX_NAMES.get(matrix, "unspecified"),
            "color_range": _RANGE_NAMES.get(color_range, "unspecified"),
            "transfer": self.hdr or "sdr",
            "hdr": ("tonemap" if self.tone_maps else "raw") if self.hdr else None,
        }


def usable_aspect(width: int, height: int) -> Fraction:
    """Return the sample aspect ratio that a file states, or 1 where the ratio is implausible.

    Args:
        width: width of a sample, in any unit.
        height: height of a sample, in the same unit.
    """
    if width <= 0 or height <= 0:
        return Fraction(1)
    aspect = Fraction(width, height)
    is_meant = 1 <= max(aspect, 1 / aspect) <= _MAX_ASPECT
    return aspect if is_meant and abs(aspect - 1) >= _MIN_DEVIATION else Fraction(1)
