"""Windows of a stream: which patches are kept of a few slots, given what was kept before.

A segment is as many slots as a clip has (``sequence_length``). It begins with a whole picture and
is cut into windows. Each window is solved exactly when its last picture has come, by the step that
offline selection takes for each window of a long clip, and what the cells show at its end is
carried into the next one. Memory holds the pictures of one window, and reduced ones of what cells
still show: those of one segment at most.

Axis letters: W slots of a window, K patches, p side of a patch, n units of the picture.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cv_reader.errors import SettingsError
from cv_reader.select.config import AssetConfig
from cv_reader.select.geometry import Letterbox, letterbox
from cv_reader.select.mosaics import Square, square_frame, to_image
from cv_reader.select.rate_distortion.choice import WindowChoice, choose_window
from cv_reader.select.rate_distortion.clip import SmallClip, empty_clip, put_square
from cv_reader.streams.gate import EventGate
from cv_reader.streams.pictures import StreamPicture
from cv_reader.streams.settings import StreamCounters, StreamSettings

_SAME_SECONDS = 1e-6


@dataclass(frozen=True, kw_only=True, eq=False)
class StreamWindow:
    """What is kept of a window of a stream.

    Attributes:
        number: number of the window, from 0.
        segment: number of the segment, from 0.
        break_before: why a new segment begins here: ``start``, ``full`` (the segment before has all
            its slots), ``reconnect``, ``loss``, ``jump`` or ``size``; empty inside a segment.
        rows: int32 (K, 3), (t, h, w): t a slot of the segment, h and w cells of the padded square.
        patches: uint8 (K, p, p, 3), the pixels of each row: Y, Cb, Cr as in JPEG files.
        slots: int32 (W,), slots of the segment that the window looked at.
        frame_ids: int64 (W,), numbers of their pictures since the stream was opened.
        times_seconds: float64 (W,), the stream's own time stamps.
        end_seconds: time of the picture that came when the window was ready, or of the last one.
        price: price of a cell; above ``token_price`` where the budget forced it.
        bits_per_second, patches_per_second: what the gate looked at: bits between key frames, and
            patches that the price asked for would keep, within budget or not. Key frames, and whole
            pictures that only begin a segment, do not count.
        gate: the larger of both as a multiple of its running percentile.
        is_event: a model is worth asking.
        box: place of the picture in the square.
        counters: a copy of the stream's counters when the window was ready.
    """

    number: int
    segment: int
    break_before: str
    rows: NDArray[np.int32]
    patches: NDArray[np.uint8]
    slots: NDArray[np.int32]
    frame_ids: NDArray[np.int64]
    times_seconds: NDArray[np.float64]
    end_seconds: float
    price: float
    bits_per_second: float
    patches_per_second: float
    gate: float
    is_event: bool
    box: Letterbox
    counters: StreamCounters


class WindowMaker:
    """Cuts pictures into windows and chooses their patches."""

    def __init__(self, settings: StreamSettings, counters: StreamCounters, gate: EventGate) -> None:
        self._settings, self._counters, self._gate = settings, counters, gate
        self._segment: _Segment | None = None
        self._window: _Window | None = None
        self._due_seconds = -np.inf
        self._before_seconds: float | None = None
        self._last_seconds = np.inf
        self._bits = 0

    def add(self, picture: StreamPicture) -> Iterator[StreamWindow]:
        """Take a picture; yields the windows that are complete before it and with it."""
        if picture.break_before:
            yield from self.finish()
            self._begin(picture, picture.break_before)
        elif self._ends_before(picture):
            yield from self.finish(picture.time_seconds)
        is_due = picture.time_seconds >= self._due_seconds - _SAME_SECONDS
        self._bits += picture.spent_bits
        if self._segment is None and is_due:
            self._begin(picture, "full")
        step, self._last_seconds = picture.time_seconds - self._last_seconds, picture.time_seconds
        segment = self._segment
        if segment is None or (self._window is None and not is_due):
            return  # a window begins with a picture that is looked at
        if self._window is None:
            self._window = _Window(picture.time_seconds)
        self._window.end_seconds = picture.time_seconds
        if is_due:
            self._look_at(picture, segment)
        is_full = segment.num_slots == self._settings.config.sequence_length
        is_full |= len(self._window.squares) == self._settings.window_slots
        # The next picture would be too late to wait for, if it comes after the same time as this.
        if is_full or self._is_over(picture.time_seconds + max(step, 0.0)):
            yield from self.finish()

    def _begin(self, picture: StreamPicture, reason: str) -> None:
        self._segment = _Segment.of(picture, self._settings, reason, self._counters.segments)
        self._counters.segments += 1
        if reason != "full":
            self._due_seconds, self._before_seconds = picture.time_seconds, None

    def _ends_before(self, picture: StreamPicture) -> bool:
        if self._window is None:
            return False
        if not self._settings.window_seconds:
            return picture.is_key
        return self._is_over(picture.time_seconds)

    def _is_over(self, seconds: float) -> bool:
        """Return whether a picture of that time is too late for the window."""
        length = self._settings.window_seconds
        if self._window is None or not length:
            return False
        return seconds >= self._window.first_seconds + length - _SAME_SECONDS

    def _look_at(self, picture: StreamPicture, segment: "_Segment") -> None:
        assert self._window is not None
        square = square_frame(picture.picture, segment.box)
        self._window.squares.append(square)
        self._window.numbers.append(picture.number)
        self._window.times.append(picture.time_seconds)
        segment.num_slots += 1
        self._counters.slots += 1
        rate = self._settings.slots_per_second
        step = 1 / rate if rate else 0.0
        # From one due time to the next, so that rounding to pictures does not add up.
        later = self._due_seconds + step
        self._due_seconds = later if later > picture.time_seconds else picture.time_seconds + step

    def finish(self, end_seconds: float | None = None) -> Iterator[StreamWindow]:
        """Yield the window that is under way, if it has a slot."""
        window, segment = self._window, self._segment
        if window is None or segment is None:
            return
        if end_seconds is None:
            end_seconds = window.end_seconds
        self._window = None
        begin = window.first_seconds if self._before_seconds is None else self._before_seconds
        seconds = max(end_seconds - begin, 1e-3)
        self._before_seconds = end_seconds
        first = segment.first_slot
        rows, patches, choice = segment.choose(window.squares)
        is_opening = first == 0 and segment.reason == "full"
        count = choice.num_wanted * self._settings.config.block_cells**2
        count -= int((rows[:, 0] == 0).sum()) if is_opening else 0
        rates = self._bits / seconds, count / seconds
        self._bits = 0
        gate = self._gate.value(*rates)
        number = self._counters.windows
        # Before the window goes out: the caller may not come back for another.
        self._counters.patches += len(rows)
        self._counters.windows += 1
        if segment.num_slots == self._settings.config.sequence_length:
            self._segment = None
        yield StreamWindow(
            number=number,
            segment=segment.number,
            break_before="" if first else segment.reason,
            rows=rows,
            patches=patches,
            slots=np.arange(first, segment.first_slot, dtype=np.int32),
            frame_ids=np.array(window.numbers, np.int64),
            times_seconds=np.array(window.times, np.float64),
            end_seconds=end_seconds,
            price=choice.price,
            bits_per_second=rates[0],
            patches_per_second=rates[1],
            gate=gate,
            is_event=self._gate.is_event(gate),
            box=segment.box,
            counters=replace(self._counters),
        )


class _Window:
    """The pictures of a window that is under way."""

    def __init__(self, first_seconds: float) -> None:
        self.first_seconds = self.end_seconds = first_seconds
        self.squares: list[Square] = []
        self.numbers: list[int] = []
        self.times: list[float] = []


@dataclass
class _Segment:
    """What a segment's cells show so far.

    Attributes:
        num_slots: slots so far, those of the window under way included.
        first_slot: slots of finished windows.
        num_kept: patches of finished windows.
        shown: reduced pictures that cells still show; None at the beginning.
        carried: intp (n,), which of them each unit shows.
    """

    config: AssetConfig
    box: Letterbox
    reason: str
    number: int
    num_slots: int = 0
    first_slot: int = 0
    num_kept: int = 0
    shown: SmallClip | None = None
    carried: NDArray[np.intp] | None = None

    @classmethod
    def of(
        cls, picture: StreamPicture, settings: StreamSettings, reason: str, number: int
    ) -> "_Segment":
        pixels, config = picture.picture, settings.config
        box = letterbox(
            pixels.height_px,
            pixels.width_px,
            square_px=config.square_size,
            patch_px=config.patch_size,
            samples=(pixels.num_rows, pixels.num_columns),
        )
        if not box.valid_cells().any():
            raise SettingsError(
                f"square_size must hold a whole cell of {config.patch_size} pixels of pictures of "
                f"{pixels.width_px} x {pixels.height_px}, got {config.square_size}: nothing would "
                "ever be kept; use a larger square or smaller patches"
            )
        return cls(config, box, reason, number)

    def choose(
        self, squares: list[Square]
    ) -> tuple[NDArray[np.int32], NDArray[np.uint8], WindowChoice]:
        """Choose the patches of a window: rows, patches, and how."""
        config, block = self.config, self.config.block_cells
        clip, before = empty_clip(self.box, len(squares)), 0
        for place, square in enumerate(squares):
            put_square(clip, place, square)
        if self.shown is not None:
            before = self.shown.num_slots
            clip = replace(
                clip,
                luma=np.concatenate([self.shown.luma, clip.luma]),
                chroma=np.concatenate([self.shown.chroma, clip.chroma]),
            )
        choice = choose_window(
            clip,
            slice(before, before + len(squares)),
            config,
            carried=self.carried,
            most=self._most(len(squares)) // block**2,
        )
        if len(choice.shown):
            used = np.unique(choice.shown)
            self.shown = replace(clip, luma=clip.luma[used], chroma=clip.chroma[used])
            self.carried = np.searchsorted(used, choice.shown)
        cells = choice.kept.repeat(block, axis=1).repeat(block, axis=2)
        rows = np.argwhere(cells).astype(np.int32)
        patches = self._patches(rows, squares)
        rows[:, 0] += self.first_slot
        self.first_slot += len(squares)
        self.num_kept += len(rows)
        return rows, patches, choice

    def _most(self, num_slots: int) -> int:
        """Return how many cells a window may keep.

        One mosaic is there at once; the rest of the budget comes evenly with the slots. What is not
        spent is there for later, such as a cut.
        """
        config, whole = self.config, self.config.grid**2
        slots = self.first_slot + num_slots
        come = whole + (config.num_rows - whole) * slots // config.sequence_length
        return come - self.num_kept

    def _patches(self, rows: NDArray[np.int32], squares: list[Square]) -> NDArray[np.uint8]:
        side, grid = self.config.patch_size, self.config.grid
        patches = np.empty((len(rows), side, side, 3), np.uint8)
        for slot, square in enumerate(squares):
            inside = rows[:, 0] == slot
            if not inside.any():
                continue
            pixels = np.asarray(to_image(square)).reshape(grid, side, grid, side, 3)
            patches[inside] = pixels[rows[inside, 1], :, rows[inside, 2]]
        return patches
