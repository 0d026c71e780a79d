"""Small H.265 streams with what x265 does not write: tiles, dependent slices, long-term references.

Every coding tree unit is one block of 16 x 16. The first picture holds plain samples (PCM), the
others inter blocks with random vectors and a random coefficient or two. No in-loop filters.

Axis legend: units are numbered in raster order (Rs) unless said otherwise.
"""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from .bits import ArithmeticEncoder, Bits, Context, escaped, unit

_UNIT_PX = 16
_QP = 40
_POC_BITS = 8

_INITIAL = {
    "skip": (197, 185, 201),
    "pred_mode": (149,),
    "part_mode": (154,),
    "merge": (110,),
    "ref_idx": (153, 153),
    "mvd_greater0": (140,),
    "mvd_greater1": (198,),
    "mvp": (168,),
    "root_cbf": (79,),
    "cbf_chroma": (149,),
    "last_x": (125,),
    "last_y": (125,),
    "coefficient": (155,),
    "greater1": (154, 196, 196),
}
"""Of P slices, tables 9-5 to 9-37; of the contexts that are used here."""
_PART_MODE_OF_I = 184


@dataclass(frozen=True, kw_only=True)
class HevcStream:
    """What a stream is made of.

    Attributes:
        columns, rows: of units.
        num_pictures: the first is intra.
        tile_columns, tile_rows: uniformly spaced tiles.
        wavefront: each row of units is a substream of its own.
        slice_units: units per slice, 0 = one slice.
        dependent_units: units per dependent slice segment, 0 = none.
        long_term: the first picture stays as a long-term reference.
        two_parameter_sets: pictures choose between two picture parameter sets by turns.
        seed: of all choices.
    """

    columns: int = 8
    rows: int = 5
    num_pictures: int = 6
    tile_columns: int = 1
    tile_rows: int = 1
    wavefront: bool = False
    slice_units: int = 0
    dependent_units: int = 0
    long_term: bool = False
    two_parameter_sets: bool = False
    seed: int = 0

    @property
    def num_units(self) -> int:
        """Units per picture."""
        return self.columns * self.rows

    @property
    def has_tiles(self) -> bool:
        """Whether there is more than one."""
        return self.tile_columns * self.tile_rows > 1

    def tile_of(self, place: int) -> tuple[int, int]:
        """Row and column of a unit's tile (6.5.1, uniform spacing)."""
        row, column = divmod(place, self.columns)
        return (
            int(np.searchsorted(_bounds(self.rows, self.tile_rows)[1:], row, side="right")),
            int(np.searchsorted(_bounds(self.columns, self.tile_columns)[1:], column, "right")),
        )

    def coding_order(self) -> list[int]:
        """Units in the order in which they are coded: tile after tile."""
        return sorted(range(self.num_units), key=lambda place: (self.tile_of(place), place))


def write(stream: HevcStream) -> bytes:
    """The raw stream."""
    generator = np.random.default_rng(stream.seed)
    parts = [_video_set(), _sequence_set(stream)]
    parts += [_picture_set(stream, number) for number in range(1 + stream.two_parameter_sets)]
    for poc in range(stream.num_pictures):
        parts += _picture(stream, poc, generator)
    return b"".join(parts)


def _bounds(size: int, parts: int) -> list[int]:
    return [part * size // parts for part in range(parts + 1)]


def _unit(kind: int, payload: bytes) -> bytes:
    return unit(bytes([kind << 1, 1]), payload)


def _profile(bits: Bits) -> Bits:
    return bits.u(1, 8).u(0x60000000, 32).u(0b1001, 4).u(0, 44).u(93, 8)


def _video_set() -> bytes:
    bits = _profile(Bits().u(0, 4).u(3, 2).u(0, 6).u(0, 3).u(1).u(0xFFFF, 16))
    bits.u(1).ue(4, 0, 0)
    return _unit(32, bits.u(0, 6).ue(0).u(0).u(0).end())


def _sequence_set(stream: HevcStream) -> bytes:
    bits = _profile(Bits().u(0, 4).u(0, 3).u(1))
    bits.ue(0, 1, stream.columns * _UNIT_PX, stream.rows * _UNIT_PX).u(0)
    bits.ue(0, 0, _POC_BITS - 4).u(1).ue(4, 0, 0)
    bits.ue(1, 0, 0, 2, 0, 0)  # units and coding blocks of 16, transforms of 4 to 16
    bits.u(0).u(0).u(0)  # scaling lists, asymmetric partitions, sample adaptive offset
    bits.u(1).u(7, 4).u(7, 4).ue(1, 0).u(1)  # plain samples of 8 bits in blocks of 16
    bits.ue(0).u(stream.long_term)
    if stream.long_term:
        bits.ue(0)
    return _unit(33, bits.u(0).u(0).u(0).u(0).end())


def _picture_set(stream: HevcStream, number: int) -> bytes:
    bits = Bits().ue(number, 0).u(stream.dependent_units > 0).u(0, 6).ue(0, 0)
    bits.se(_QP - 26 - number).u(0).u(0).u(0).se(0, 0).u(0).u(0).u(0).u(0)
    bits.u(stream.has_tiles).u(stream.wavefront)
    if stream.has_tiles:
        bits.ue(stream.tile_columns - 1, stream.tile_rows - 1).u(1).u(0)
    bits.u(0).u(1).u(0).u(1)  # filters: not over slices, control present, deblocking off
    return _unit(34, bits.u(0).u(0).ue(0).u(0).u(0).end())


def _picture(stream: HevcStream, poc: int, generator: Generator) -> list[bytes]:
    order = stream.coding_order()
    every = stream.dependent_units or stream.slice_units or len(order)
    picture = _PictureWriter(stream, poc, generator)
    units = []
    for first in range(0, len(order), every):
        is_dependent = bool(stream.dependent_units) and (
            first > 0 and (not stream.slice_units or first % stream.slice_units != 0)
        )
        places = order[first : first + every]
        substreams = picture.segment(places, is_dependent)
        header = _segment_header(stream, poc, places[0], first == 0, is_dependent)
        if stream.has_tiles or stream.wavefront:
            _entry_points(header, substreams)
        payload = header.end() + b"".join(substreams)
        units.append(_unit(1 if poc else 19, payload))
    return units


def _segment_header(
    stream: HevcStream, poc: int, place: int, is_first: bool, is_dependent: bool
) -> Bits:
    bits = Bits().u(is_first)
    if poc == 0:
        bits.u(0)
    bits.ue(poc % 2 if stream.two_parameter_sets else 0)
    if not is_first:
        if stream.dependent_units:
            bits.u(is_dependent)
        bits.u(place, (stream.num_units - 1).bit_length())
    if is_dependent:
        return bits
    bits.ue(1 if poc else 2)
    if poc:
        bits.u(poc, _POC_BITS).u(0)
        references = _references(stream, poc)
        bits.ue(len(references), 0)
        for before, reference in zip([poc, *references], references, strict=False):
            bits.ue(before - reference - 1).u(1)
        if stream.long_term:
            bits.ue(int(poc > 1))
            if poc > 1:
                bits.u(0, _POC_BITS).u(1).u(0)
        bits.u(1).ue(_num_references(stream, poc) - 1).ue(4)  # one merge candidate
    return bits.se(0)


def _references(stream: HevcStream, poc: int) -> list[int]:
    """Short-term references, nearest first."""
    lowest = 1 if stream.long_term and poc > 1 else 0
    return [number for number in (poc - 1, poc - 2) if number >= lowest]


def _num_references(stream: HevcStream, poc: int) -> int:
    return len(_references(stream, poc)) + int(stream.long_term and poc > 1)


def _entry_points(header: Bits, substreams: list[bytes]) -> None:
    """Sizes of all substreams but the last, as in the file: with emulation prevention bytes."""
    header.ue(len(substreams) - 1)
    if len(substreams) == 1:
        return
    sizes, before = [], len(escaped(b"\1"))
    for count in range(1, len(substreams)):
        through = len(escaped(b"\1" + b"".join(substreams[:count])))
        sizes.append(through - before)
        before = through
    header.ue(31)
    for size in sizes:
        header.u(size - 1, 32)


class _PictureWriter:
    """Codes the units of one picture, segment by segment."""

    def __init__(self, stream: HevcStream, poc: int, generator: Generator) -> None:
        self._stream, self._poc, self._generator = stream, poc, generator
        self._skipped: dict[int, bool] = {}
        self._slice_of: dict[int, int] = {}
        self._slice = -1
        self._contexts = self._fresh()
        self._row_contexts: dict[tuple[int, tuple[int, int]], dict[str, list[Context]]] = {}

    def segment(self, places: list[int], is_dependent: bool) -> list[bytes]:
        """The substreams of a slice segment."""
        if not is_dependent:
            self._slice += 1
            self._contexts = self._fresh()
        substreams = []
        coder = ArithmeticEncoder()
        for number, place in enumerate(places):
            self._begin_unit(place)
            self._code(coder, place)
            self._slice_of[place] = self._slice
            if self._stream.wavefront and self._column_in_tile(place) == 1:
                self._row_contexts[place // self._stream.columns, self._stream.tile_of(place)] = (
                    _copied(self._contexts)
                )
            is_last = place == places[-1]
            coder.terminate(int(is_last))
            if not is_last and self._starts_substream(places[number + 1]):
                coder.terminate(1)
            elif not is_last:
                continue
            substreams.append(coder.bits.bytes())
            coder = ArithmeticEncoder()
        return substreams

    def _begin_unit(self, place: int) -> None:
        stream = self._stream
        if not self._starts_substream(place):
            return
        above = (place // stream.columns - 1, stream.tile_of(place))
        if not stream.wavefront:
            self._contexts = self._fresh()
            return
        # A slice of its own begins afresh where the unit above to the right is another's.
        right = place - stream.columns + 1
        usable = above in self._row_contexts and self._slice_of.get(right) == self._slice
        self._contexts = _copied(self._row_contexts[above]) if usable else self._fresh()

    def _starts_substream(self, place: int) -> bool:
        """Whether contexts and coder are reset at a unit, as well as where slices begin."""
        stream = self._stream
        starts_tile = stream.has_tiles and all(
            other not in self._slice_of or stream.tile_of(other) != stream.tile_of(place)
            for other in range(stream.num_units)
        )
        return starts_tile or (stream.wavefront and self._column_in_tile(place) == 0)

    def _column_in_tile(self, place: int) -> int:
        stream = self._stream
        first = _bounds(stream.columns, stream.tile_columns)[stream.tile_of(place)[1]]
        return place % stream.columns - first

    def _fresh(self) -> dict[str, list[Context]]:
        qp = _QP - (self._poc % 2 if self._stream.two_parameter_sets else 0)
        contexts = {name: [Context(v, qp) for v in values] for name, values in _INITIAL.items()}
        if self._poc == 0:
            contexts["part_mode"] = [Context(_PART_MODE_OF_I, qp)]
        return contexts

    def _code(self, coder: ArithmeticEncoder, place: int) -> None:
        if self._poc == 0:
            coder.decide(self._contexts["part_mode"][0], 1)
            coder.terminate(1)  # plain samples follow
            for value in _texture(self._generator):
                coder.bits.u(value, 8)
            return
        skip = bool(self._generator.random() < 0.2)
        coder.decide(self._contexts["skip"][self._skipped_neighbours(place)], int(skip))
        self._skipped[place] = skip
        if skip:
            return
        coder.decide(self._contexts["pred_mode"][0], 0)
        coder.decide(self._contexts["part_mode"][0], 1)
        coder.decide(self._contexts["merge"][0], 0)
        self._code_reference(coder)
        self._code_vector(coder)
        coder.decide(self._contexts["mvp"][0], int(self._generator.integers(2)))
        has_residual = bool(self._generator.random() < 0.6)
        coder.decide(self._contexts["root_cbf"][0], int(has_residual))
        if has_residual:
            self._code_residual(coder)

    def _skipped_neighbours(self, place: int) -> int:
        """How many of the units to the left and above are available and skipped (6.4.1)."""
        stream = self._stream
        left = place - 1 if place % stream.columns else -1
        return sum(
            self._slice_of.get(other) == self._slice
            and stream.tile_of(other) == stream.tile_of(place)
            and self._skipped[other]
            for other in (left, place - stream.columns)
        )

    def _code_reference(self, coder: ArithmeticEncoder) -> None:
        last = _num_references(self._stream, self._poc) - 1
        index = int(self._generator.integers(last + 1))
        for place in range(min(index + 1, last)):
            coder.decide(self._contexts["ref_idx"][place], int(index > place))

    def _code_vector(self, coder: ArithmeticEncoder) -> None:
        difference = self._generator.integers(-9, 10, 2).tolist()
        for value in difference:
            coder.decide(self._contexts["mvd_greater0"][0], int(value != 0))
        for value in difference:
            if value:
                coder.decide(self._contexts["mvd_greater1"][0], int(abs(value) > 1))
        for value in difference:
            if abs(value) > 1:
                _exp_golomb(coder, abs(value) - 2, 1)
            if value:
                coder.bypass(int(value < 0))

    def _code_residual(self, coder: ArithmeticEncoder) -> None:
        """One coefficient at (0, 0), or one at (0, 1) and perhaps that one too (7.3.8.11)."""
        contexts = self._contexts
        coder.decide(contexts["cbf_chroma"][0], 0)
        coder.decide(contexts["cbf_chroma"][0], 0)
        last_row, first = (int(value) for value in self._generator.integers(2, size=2))
        coder.decide(contexts["last_x"][0], 0)
        coder.decide(contexts["last_y"][0], last_row)
        if last_row:
            coder.decide(contexts["last_y"][0], 0)
            coder.decide(contexts["coefficient"][0], first)
        num_coefficients = 1 + (last_row and first)
        for number in range(num_coefficients):
            coder.decide(contexts["greater1"][1 + number], 0)
        coder.bypass(int(self._generator.integers(1 << num_coefficients)), num_coefficients)


def _exp_golomb(coder: ArithmeticEncoder, value: int, order: int) -> None:
    """9.3.3.5."""
    while value >= 1 << order:
        coder.bypass(1)
        value -= 1 << order
        order += 1
    coder.bypass(0)
    coder.bypass(value, order)


def _texture(generator: Generator) -> list[int]:
    """Samples of a unit: luma with steps of 4 x 4, and flat chroma."""
    luma = generator.integers(30, 220, (4, 4)).repeat(4, 0).repeat(4, 1)
    luma = luma + generator.integers(-9, 10, (_UNIT_PX, _UNIT_PX))
    chroma = np.repeat(generator.integers(90, 160, 2), _UNIT_PX * _UNIT_PX // 4)
    return [*luma.ravel().tolist(), *chroma.tolist()]


def _copied(contexts: dict[str, list[Context]]) -> dict[str, list[Context]]:
    copies: dict[str, list[Context]] = {}
    for name, row in contexts.items():
        copies[name] = [Context(154, 26) for _ in row]
        for copy, context in zip(copies[name], row, strict=True):
            copy.state, copy.likely = context.state, context.likely
    return copies
