"""Compare the native reader with the same library decoding only, and with other readers.

    python scripts/bench/native.py                     made clips, and those given
    python scripts/bench/native.py --clips A.mp4 B.mp4 --threads 1 2

Every row comes from processes of its own, taken by turns, so that ratios hold on a busy machine.
Seconds are those of the work alone (imports excluded), the least of several runs: other programs
only ever add to them. Columns:

    read     motion, residual, bits, quantiser and luma of every frame, through ``open_video``
    signals  the same decoder with its signals on, pictures dropped as they come, without cv_reader
    decode   the same library with its signals off, pictures dropped as they come
    pyav     PyAV's plain decoding of every frame
    decord   decord's plain decoding of every frame, where it is installed

Where lmms-video-utils is installed, a second table adds it: it selects and packs as well
reading, scored by frame differences (its default) or by motion vectors (H.264 alone).
With ``--hour`` also 64 frames out of one hour against decoding all of it.
"""

import argparse
import importlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from clips import looped, made_clip
from measure import memory_bytes

_SIZES_PX = ((360, 640), (1080, 1920))
_HOUR_SECONDS = 3600
_SPARSE_FRAMES = 64

_RUNS_PER_PROCESS = 5
_MAX_PROCESS_SECONDS = 5.0

_IMPORTED_LATE = "cv_reader.backends.native.reading"
"""Module that is imported when the first video is opened."""

_ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1"}
"""NumPy's idle threads would count as CPU time."""


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark, or (with ``--work``) one measured process."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--clips",
        type=Path,
        nargs="*",
        default=[],
        help="videos to read in addition to the made ones",
    )
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path(tempfile.gettempdir()) / "bench_clips",
        help="folder for made clips",
    )
    parser.add_argument(
        "--threads", type=int, nargs="*", default=[1, 2], help="numbers of decoding threads"
    )
    parser.add_argument(
        "--repeats", type=int, default=5, help="number of runs, of which the fastest counts"
    )
    parser.add_argument(
        "--frames", type=int, default=300, help="length of the made clips, in seconds"
    )
    parser.add_argument("--no_made", action="store_true", help="read only the clips given")
    parser.add_argument(
        "--hour", action="store_true", help="measure sparse access to a video of one hour"
    )
    parser.add_argument("--work", choices=sorted(_WORKS), help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.work:
        print(json.dumps(_measured(options.work, str(options.clips[0]), options.threads[0])))
        return 0
    if importlib.util.find_spec("cv_reader_native") is None:
        print("cv_reader_native is not installed; run bash Compressed_Video_Reader/install.sh")
        return 2
    made = [] if options.no_made else _made_clips(options)
    for threads in options.threads:
        _compare([*made, *options.clips], threads, options.repeats)
    if importlib.util.find_spec("lmms_video_utils"):
        _rival([*made, *options.clips])
    if made:
        _memory(made)
    if options.hour:
        _sparse(options)
    return 0


def _made_clips(options: argparse.Namespace) -> list[Path]:
    return [
        made_clip(options.folder, codec, *size, options.frames)
        for size in _SIZES_PX
        for codec in ("h264", "hevc")
    ]


def _compare(paths: list[Path], threads: int, repeats: int) -> None:
    """One row per clip: frames per second of each work, and the ratios."""
    works = ["read", "signals", "decode", "pyav"]
    works += ["decord"] if importlib.util.find_spec("decord") else []
    print(f"\n{threads} thread(s), best of {repeats}; frames/s by the clock (by CPU time), MB")
    pairs = (("read", "decode"), ("signals", "decode"), ("read", "pyav"))
    columns = [*works, *(" / ".join(pair) for pair in pairs)]
    print(f"{'clip':28}" + "".join(f"{column:>24}" for column in columns))
    for path in paths:
        results = _by_turns(works, path, threads, repeats)
        cells = [
            f"{row['frames'] / row['wall']:.0f} ({row['frames'] / row['cpu']:.0f}) "
            f"{row['rss_mb']:.0f}"
            for row in results.values()
        ]
        for one, other in pairs:
            ratios = [results[other][kind] / results[one][kind] for kind in ("wall", "cpu")]
            cells.append(f"{ratios[0]:.2f} ({ratios[1]:.2f})")
        print(f"{path.stem[:27]:28}" + "".join(f"{cell:>24}" for cell in cells), flush=True)


def _rival(paths: list[Path]) -> None:
    """Seconds and memory of lmms-video-utils, doing its own job."""
    print("\none run each, 1 thread: seconds by the clock, MB")
    works = ("read", "lmms", "lmms_vectors")
    print(f"{'clip':28}" + "".join(f"{work:>24}" for work in works))
    for path in paths:
        cells = []
        for work in works:
            if work == "lmms_vectors" and "hevc" in path.stem:
                continue
            row = _run(work, path, 1)
            cells.append(f"{row['wall']:.1f} s {row['rss_mb']:.0f}")
        print(f"{path.stem[:27]:28}" + "".join(f"{cell:>24}" for cell in cells), flush=True)


def _memory(made: list[Path]) -> None:
    """Peak memory of reading a clip, and a clip of six times its length."""
    print("\npeak memory of read, 1 thread, MB")
    for path in made[-2:]:
        longer = looped(path, 6)
        pair = [_run("read", clip, 1)["rss_mb"] for clip in (path, longer)]
        print(
            f"{path.stem[:27]:28}{pair[0]:8.0f}   {longer.stem[:27]:28}{pair[1]:8.0f}", flush=True
        )


def _sparse(options: argparse.Namespace) -> None:
    """64 uniform frames of one hour, against all of its frames decoded."""
    for codec in ("h264", "hevc"):
        clip = made_clip(options.folder, codec, 360, 640, 250)
        hour = looped(clip, _HOUR_SECONDS * 30 // 250)
        results = _by_turns(["sparse", "decode"], hour, 1, 1)
        sparse, decode = results["sparse"], results["decode"]
        print(
            f"\n{_SPARSE_FRAMES} frames with all signals of {decode['frames']:.0f} ({codec} 360p, "
            f"key interval 8.3 s, 1 thread): {sparse['wall']:.1f} s, {sparse['rss_mb']:.0f} MB; "
            f"decoding all: {decode['wall']:.1f} s; ratio {decode['wall'] / sparse['wall']:.1f} "
            f"(CPU {decode['cpu'] / sparse['cpu']:.1f})",
            flush=True,
        )


def _by_turns(
    works: list[str], path: Path, threads: int, repeats: int
) -> dict[str, dict[str, float]]:
    """Return the least of each work's times and memory, with the works taking turns."""
    rows: dict[str, list[dict[str, float]]] = {work: [] for work in works}
    for _ in range(repeats):
        for work in works:
            rows[work].append(_run(work, path, threads))
    return {
        work: {name: min(row[name] for row in runs) for name in runs[0]}
        for work, runs in rows.items()
    }


def _run(work: str, path: Path, threads: int) -> dict[str, float]:
    command = [sys.executable, __file__, f"--work={work}", f"--threads={threads}", "--clips"]
    done = subprocess.run(
        [*command, str(path)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **_ENVIRONMENT},
    )
    if done.returncode:
        raise RuntimeError(f"{work} of {path} failed: {done.stderr[-2000:]}")
    return json.loads(done.stdout)


def _measured(work: str, path: str, threads: int) -> dict[str, float]:
    """Return the least times of several runs in this process; long ones run once."""
    run = _WORKS[work](path, threads)
    frames, walls, cpus = 0, list[float](), list[float]()
    while len(walls) < _RUNS_PER_PROCESS and sum(walls) < _MAX_PROCESS_SECONDS:
        wall, cpu = time.perf_counter(), time.process_time()
        frames = run()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return {
        "wall": min(walls),
        "cpu": min(cpus),
        "frames": frames,
        "rss_mb": memory_bytes("VmHWM") / 2**20,
    }


def _read(path: str, threads: int) -> Callable[[], int]:
    importlib.import_module(_IMPORTED_LATE)
    from cv_reader import open_video

    def run() -> int:
        count = 0
        with open_video(path, backend="native", num_threads=threads) as video:
            for frame in video.frames():
                assert frame.motion is not None and frame.residual_y is not None
                frame.luma()
                count += 1
        return count

    return run


def _sparse_read(path: str, threads: int) -> Callable[[], int]:
    importlib.import_module(_IMPORTED_LATE)
    from cv_reader import open_video
    from cv_reader.select.selection import sample_frame_ids

    def run() -> int:
        with open_video(path, backend="native", num_threads=threads) as video:
            ids = sorted(set(sample_frame_ids(video.index.num_frames, _SPARSE_FRAMES).tolist()))
            return sum(frame.residual_y is not None for frame in video.frames(ids))

    return run


def _decode(path: str, threads: int, *, signals: bool = False) -> Callable[[], int]:
    import av
    from cv_reader_native import Decoder

    def run() -> int:
        count = 0
        with av.open(path) as container:
            stream = container.streams.video[0]
            extradata = bytes(stream.codec_context.extradata or b"")
            name = stream.codec_context.name
            decoder = Decoder(name, extradata, num_threads=threads, signals=signals)
            filled = (packet for packet in container.demux(stream) if packet.size)
            for number, packet in enumerate(filled):
                count += len(decoder.decode(packet, number))
            return count + len(decoder.finish())

    return run


def _pyav(path: str, threads: int) -> Callable[[], int]:
    import av

    def run() -> int:
        with av.open(path) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = threads
            stream.codec_context.thread_type = "AUTO"
            return sum(1 for _ in container.decode(stream))

    return run


def _decord(path: str, threads: int) -> Callable[[], int]:
    from decord import VideoReader, cpu

    def run() -> int:
        reader = VideoReader(path, ctx=cpu(0), num_threads=threads)
        count = len(reader)
        for _ in range(count):
            reader.next()
        return count

    return run


def _lmms(path: str, threads: int, score_mode: str = "framediff") -> Callable[[], int]:
    from lmms_video_utils import fetch_codec_video

    def run() -> int:
        fetch_codec_video(
            path, target_canvas=8, backend="pyav", device="cpu", score_mode=score_mode
        )
        return 1

    return run


_WORKS: dict[str, Callable[[str, int], Callable[[], int]]] = {
    "read": _read,
    "signals": partial(_decode, signals=True),
    "sparse": _sparse_read,
    "decode": _decode,
    "pyav": _pyav,
    "decord": _decord,
    "lmms": _lmms,
    "lmms_vectors": partial(_lmms, score_mode="mvwarp"),
}


if __name__ == "__main__":
    sys.exit(main())
