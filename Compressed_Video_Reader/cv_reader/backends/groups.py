"""Decode groups of pictures in parallel: some threads, each with a decoder of its own.

A group is what is decoded from one key picture for the sake of requested frames. Reading any frames
gives what reading all of them gives, so that threads may read groups apart: every frame equals that
of a single thread, byte for byte. Frames leave in presentation order. Threads decode ahead of the
caller, by a bounded number of frames, so that memory does not depend on the length of the video.

Axis legend: N requested frames.
"""

import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass

import numpy as np

from cv_reader.errors import CorruptVideoError
from cv_reader.media.decoding import lost_frames_error
from cv_reader.media.frames import CodecFrame
from cv_reader.media.index import VideoSource
from cv_reader.media.scanning import NO_TIME

_AHEAD_BYTES = 64 << 20
"""Memory of the frames that wait for the caller, of all threads together."""

_PIXEL_BYTES, _MAP_BYTES = 2, 4
"""Memory that a frame takes per pixel, without and with its maps."""

ReadIds = Callable[[Sequence[int]], Generator[CodecFrame]]
"""Reads increasing frames with one thread."""


@dataclass(frozen=True, eq=False)
class Lanes:
    """How requested frames are divided among threads.

    Attributes:
        ids: the frames of each thread, increasing.
        owner: the thread of each requested frame, N numbers.
        room_frames: frames of one thread that wait for the caller.
    """

    ids: tuple[list[int], ...]
    owner: list[int]
    room_frames: int


def plan_lanes(
    source: VideoSource, ids: Sequence[int], num_threads: int, *, signals: bool
) -> Lanes | None:
    """Divide requested frames among threads, a group at a time.

    Args:
        source: the video.
        ids: strictly increasing frame numbers.
        num_threads: threads that decode.
        signals: whether frames come with their maps.

    Returns:
        None where threads are better spent on one group after the other: fewer groups than threads,
        more requested frames in a group than may wait in memory, or a file without time stamps,
        which would be read from its beginning for each group.
    """
    if num_threads < 2 or len(ids) < num_threads:
        return None
    packets, number = source.packets, np.asarray(ids, np.int64)
    start = packets.start_of_frame[number]
    begins = np.append(0, np.flatnonzero(np.diff(start)) + 1)
    if len(begins) < num_threads:
        return None
    later = start[begins[1:]]
    if ((packets.pts[later] == NO_TIME) & (packets.dts[later] == NO_TIME)).any():
        return None
    pixels = source.first.width_px * source.first.height_px
    frame_bytes = pixels * (_PIXEL_BYTES + _MAP_BYTES * signals)
    room = max(1, _AHEAD_BYTES // (frame_bytes * num_threads))
    if len(ids) > 2 * room * len(begins):
        return None
    # A group takes about as long as it has packets; the thread that is done first takes the next.
    last = np.maximum.reduceat(packets.last_of_frame[number], begins)
    costs: list[int] = (last - start[begins] + 1).tolist()
    counts: list[int] = np.diff(begins, append=len(ids)).tolist()
    busy, owner = [0] * num_threads, list[int]()
    for cost, count in zip(costs, counts, strict=True):
        lane = busy.index(min(busy))
        busy[lane] += cost
        owner += [lane] * count
    parts = tuple(
        [frame for frame, own in zip(ids, owner, strict=True) if own == lane]
        for lane in range(num_threads)
    )
    return Lanes(parts, owner, room)


def read_lanes(
    source: VideoSource, ids: Sequence[int], lanes: Lanes, read: ReadIds
) -> Generator[CodecFrame]:
    """Yield requested frames in order; each lane reads its own with a thread.

    Raises:
        VideoError: as ``read`` raises it. Frames that cannot be decoded are named together, after
            the last one that can.
    """
    lost: list[int] = []
    workers = [_Worker(read, part, lanes.room_frames) for part in lanes.ids]
    with ExitStack() as stack:
        for worker in workers:
            stack.enter_context(worker)
        for number, lane in zip(ids, lanes.owner, strict=True):
            frame = workers[lane].take(number)
            if frame is None:
                lost.append(number)
            else:
                yield frame
        for worker in workers:
            worker.check_end()
    if lost:
        raise lost_frames_error(source.index.path, lost, len(ids))


class _Worker:
    """A thread that reads frames ahead of the caller; use it as a context manager.

    It is a daemon, because an iteration that is given up half-way must not keep the interpreter
    from ending.
    """

    def __init__(self, read: ReadIds, ids: Sequence[int], room_frames: int) -> None:
        self._read, self._ids, self._room = read, ids, room_frames
        self._changed = threading.Condition()
        self._waiting: deque[CodecFrame] = deque()
        self._error: Exception | None = None
        self._is_ended = self._is_closed = False
        self._thread = threading.Thread(target=self._work, name="cv_reader group", daemon=True)

    def __enter__(self) -> "_Worker":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        with self._changed:
            self._is_closed = True
            self._waiting.clear()
            self._changed.notify_all()
        self._thread.join()

    def take(self, number: int) -> CodecFrame | None:
        """Return a frame when it comes, None where it cannot be decoded; numbers must increase."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._waiting) or self._is_ended)
            if self._waiting:
                if self._waiting[0].index != number:
                    return None
                self._changed.notify_all()
                return self._waiting.popleft()
        self.check_end()
        return None

    def check_end(self) -> None:
        """Wait for the thread's end, and raise its error, but for frames that it lost."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_ended)
        error = self._error
        if error is not None and not (isinstance(error, CorruptVideoError) and error.lost):
            raise error

    def _work(self) -> None:
        try:
            with closing(self._read(self._ids)) as frames:
                for frame in frames:
                    if not self._put(frame):
                        break
        # Errors of videos, but also any other: ``take`` raises it again in the caller's thread, as
        # if frames were read there.
        except Exception as error:  # noqa: BLE001
            self._error = error
        finally:
            with self._changed:
                self._is_ended = True
                self._changed.notify_all()

    def _put(self, frame: CodecFrame) -> bool:
        """Add a frame, and wait until there is room for another; False once no reader is left."""
        with self._changed:
            self._waiting.append(frame)
            self._changed.notify_all()
            self._changed.wait_for(lambda: len(self._waiting) < self._room or self._is_closed)
            return not self._is_closed
