"""Where the codec's own vectors lead from one sampled frame to the sampled frame before.

Between two sampled frames there are many pictures. The vector of a block leads to its reference,
the vectors there lead on, and so to the earlier sampled frame. Every picture is looked at, in
presentation order; per picture the displacement to the earlier sampled frame is kept, so that a
later picture adds one vector to it. Pictures whose references are shown later wait for them.

- Of two vectors the one over the shorter distance is followed, of equal ones that into the past.
- A vector that passes the earlier sampled frame is cut there, in proportion to time.
- An intra block ends its chain, and so does a reference that was not decoded: what refers to it
  has no displacement.

Displacements are taken at the middle of units, two along a side of a cell, and looked up at the
unit that they lead to. Memory: some 30 pictures of units, for a video of any length.

Axis letters: n units, a and b their rows and columns.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cv_reader.media.frames import CELL_PX, CodecFrame
from cv_reader.select.geometry import Letterbox

CELL_UNITS = 2
"""Units along a side of a cell."""

STEPS = 16
"""Steps of a luma sample (an eighth of a cell) in which displacements are counted."""

UNIT_STEPS = 8 * STEPS // CELL_UNITS
"""Side of a unit."""

_HELD_PICTURES = 32
"""Pictures whose displacements are held, as later ones may refer to them."""

_MOST_WAITING = 32
"""Pictures that may come before a reference: twice what H.264 and HEVC allow."""

_PX_PER_QPEL = np.float32(0.25)

Pixels = NDArray[np.float32]
Units = NDArray[np.bool_]


class Links(NamedTuple):
    """Displacements from every sampled frame to the one before.

    Attributes:
        steps: int16 (T, a, b, 2), (down, right) in sixteenths of a sample; 0 where not known.
        is_known: bool (T, a, b), where vectors lead the whole way; false in slot 0.
        num_pictures: pictures that were looked at.
    """

    steps: NDArray[np.int16]
    is_known: Units
    num_pictures: int


class _Vectors(NamedTuple):
    """The vectors of a picture at the middle of its units.

    Attributes:
        to_reference: float32 (2, n, 2), (down, right) in samples of the source.
        frames: int32 (2, n), signed distance to the reference; 0 = no vector.
    """

    to_reference: Pixels
    frames: NDArray[np.int32]


class _Field(NamedTuple):
    """Displacements of a picture's units to a sampled frame, in samples of the source.

    Attributes:
        shift: float32 (n, 2), (down, right).
        is_known: bool (n,).
    """

    shift: Pixels
    is_known: Units


@dataclass(eq=False)
class _Base:
    """A sampled frame that chains lead to.

    Attributes:
        frame: its number.
        slot: its slot.
        target: the sampled frame after it, where the chains begin.
        fields: vectors of each picture, newest last.
        waiting: pictures whose references have not all come.
    """

    frame: int
    slot: int
    target: int
    fields: dict[int, _Field]
    waiting: list[int]


class MotionChains:
    """Composes vectors from sampled frame to sampled frame, picture by picture.

    Args:
        box: place of the picture in the square.
        rows: rows of cells that are looked at.
        columns: columns of cells.
        frame_ids: sampled frames, strictly increasing.
    """

    def __init__(self, box: Letterbox, rows: slice, columns: slice, frame_ids: list[int]) -> None:
        self._down = _Axis.of(rows, box.patch_px, box.pad_top_px, box.num_rows, box.height_px)
        self._right = _Axis.of(
            columns, box.patch_px, box.pad_left_px, box.num_columns, box.width_px
        )
        self._shape = (len(self._down.middles), len(self._right.middles))
        grid = np.meshgrid(self._down.middles, self._right.middles, indexing="ij")
        self._middles = np.stack(grid, axis=-1).reshape(-1, 2)
        self._slots = {frame: slot for slot, frame in enumerate(frame_ids)}
        self._frame_ids = frame_ids
        self._bases: list[_Base] = []
        self._seen: dict[int, _Vectors] = {}
        self._newest = -1
        self._num_pictures = 0
        shape = (len(frame_ids), *self._shape)
        self._steps = np.zeros((*shape, 2), np.int16)
        self._is_known = np.zeros(shape, np.bool_)

    def add(self, frame: CodecFrame) -> None:
        """Take the vectors of the next picture in presentation order."""
        number = frame.index
        self._newest, self._num_pictures = number, self._num_pictures + 1
        self._seen[number] = self._vectors(frame)
        if len(self._seen) > _HELD_PICTURES + _MOST_WAITING:
            del self._seen[next(iter(self._seen))]
        for base in self._bases:
            base.waiting.append(number)
            self._resolve(base)
        self._drop_finished()
        slot = self._slots.get(number)
        if slot is not None and slot + 1 < len(self._frame_ids):
            start = _Field(np.zeros(self._middles.shape, np.float32), self._everywhere())
            self._bases.append(_Base(number, slot, self._frame_ids[slot + 1], {number: start}, []))

    def finish(self) -> Links:
        """Return all displacements, once the last picture was added."""
        for base in self._bases:
            self._resolve(base, is_last=True)
        self._drop_finished()
        return Links(self._steps, self._is_known, self._num_pictures)

    def _everywhere(self) -> Units:
        return np.ones(len(self._middles), np.bool_)

    def _vectors(self, frame: CodecFrame) -> _Vectors:
        assert frame.motion is not None and frame.motion_ref is not None
        down, right = self._down.map_cells[:, None], self._right.map_cells
        vectors = frame.motion[:, down, right].reshape(2, -1, 2)[..., ::-1].astype(np.float32)
        distances = frame.motion_ref[:, down, right].reshape(2, -1).astype(np.int32)
        return _Vectors(vectors * _PX_PER_QPEL, distances)

    def _resolve(self, base: _Base, *, is_last: bool = False) -> None:
        """Find the displacements of all pictures whose references are there."""
        while base.waiting:
            ready = (n for n in base.waiting if not self._misses_reference(base, n))
            number = next(ready, None)
            if number is None:
                number = base.waiting[0]
                if not is_last and self._newest - number <= _MOST_WAITING:
                    break
            base.waiting.remove(number)
            base.fields[number] = self._field(base, number)
        while len(base.fields) > _HELD_PICTURES:
            del base.fields[next(iter(base.fields))]

    def _misses_reference(self, base: _Base, number: int) -> bool:
        """Return whether a picture refers to one that is yet to come, or waits itself."""
        distances: list[int] = np.unique(self._seen[number].frames).tolist()
        references = [number + distance for distance in distances if distance]
        return any(one > self._newest or one in base.waiting for one in references)

    def _field(self, base: _Base, number: int) -> _Field:
        """Return the displacements of a picture by its vectors and the fields of its references."""
        seen = self._seen[number]
        shift = np.zeros(self._middles.shape, np.float32)
        is_known = np.zeros(len(self._middles), np.bool_)
        # A list is followed where its distance is the shorter one, then the other where needed.
        pairs = {
            (abs(distance), distance, which)
            for which in range(2)
            for distance in np.unique(seen.frames[which]).tolist()
            if distance
        }
        for _, distance, which in sorted(pairs):
            units = np.flatnonzero((seen.frames[which] == distance) & ~is_known)
            vectors = seen.to_reference[which, units]
            reference = number + distance
            oldest = min(base.fields)
            if reference < oldest:
                # The part of the vector that is behind the oldest picture held is left out.
                vectors = vectors * np.float32((number - oldest) / (number - reference))
                reference = oldest
            field = base.fields.get(reference)
            if field is None:
                continue
            ends = self._unit_at(self._middles[units] + vectors)
            shift[units] = vectors + field.shift[ends]
            is_known[units] = field.is_known[ends]
        return _Field(shift, is_known)

    def _unit_at(self, places: Pixels) -> NDArray[np.intp]:
        """Return the units at places (n, 2) in samples, at the border those nearest."""
        return self._down.unit_at(places[:, 0]) * self._shape[1] + self._right.unit_at(places[:, 1])

    def _drop_finished(self) -> None:
        """Write the displacements of sampled frames that are known by now."""
        for base in self._bases:
            field = base.fields.get(base.target)
            if field is None:
                continue
            scale = np.array([self._down.steps_per_px, self._right.steps_per_px], np.float32)
            limits = np.iinfo(np.int16)
            steps = np.rint(field.shift * scale).clip(limits.min, limits.max).astype(np.int16)
            steps[~field.is_known] = 0
            self._steps[base.slot + 1] = steps.reshape(*self._shape, 2)
            self._is_known[base.slot + 1] = field.is_known.reshape(self._shape)
        self._bases = [base for base in self._bases if base.target not in base.fields]


class _Axis(NamedTuple):
    """Units along an axis of the source.

    Attributes:
        middles: float32, the middle of every unit in samples of the source.
        map_cells: the elements of motion maps that hold them.
        begin: where the first unit begins.
        side: samples of a unit.
        steps_per_px: sixteenths of a reduced sample in a sample of the source.
    """

    middles: Pixels
    map_cells: NDArray[np.intp]
    begin: float
    side: float
    steps_per_px: float

    @classmethod
    def of(cls, cells: slice, patch_px: int, pad_px: int, source_px: int, shown_px: int) -> "_Axis":
        """Return the units of a run of cells; lengths as in ``Letterbox``."""
        ratio = source_px / shown_px
        count = CELL_UNITS * (cells.stop - cells.start)
        side = patch_px / CELL_UNITS * ratio
        begin = (cells.start * patch_px - pad_px) * ratio
        middles: NDArray[np.float64] = begin + (np.arange(count, dtype=np.float64) + 0.5) * side
        elements = (middles.astype(np.intp) // CELL_PX).clip(0, (source_px - 1) // CELL_PX)
        return cls(middles.astype(np.float32), elements, begin, side, UNIT_STEPS / side)

    def unit_at(self, places: Pixels) -> NDArray[np.intp]:
        """Return the units at places, at the border those nearest."""
        units = np.floor((places - np.float32(self.begin)) / np.float32(self.side))
        return units.clip(0, len(self.middles) - 1).astype(np.intp)
