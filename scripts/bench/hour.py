"""Prepare one hour of 720p as 1024 slots and 128 mosaics, next to decoding it by FFmpeg's program.

Used by ``selection.py --hour``.
"""

import json
import shutil
import sys
from pathlib import Path

from clips import FRAME_RATE, looped, made_clip
from cv_reader.media.index import scan
from measure import Measured, measure
from selection_checks import goal

CLIP_SECONDS = 25
HOUR_SECONDS = 3600
THREADS = 2
CRF = 20
"""A quality of the clip at which an hour takes about a gigabyte."""

MAX_OF_DECODING = 1.15
MAX_CHEAP_SECONDS = 30.0
MAX_BYTES = 300_000_000
RATE_FLAGS = ("--select", "rate_distortion", "--predict", "still")


def show_hour(folder: Path) -> None:
    """Print wall seconds and memory of preparing an hour of video on two cores.

    The hour is made once: 25 s of moving content by x264 (30 frames a second, B pictures, a key
    frame every 250 frames), whose packets are repeated. Nothing else should run meanwhile.
    """
    clip = made_clip(folder, "h264", 720, 1280, CLIP_SECONDS * FRAME_RATE, crf=CRF)
    video = looped(clip, HOUR_SECONDS // CLIP_SECONDS)
    scanned = scan(str(video), trust_header=True)
    print(f"\n{video.name}: {video.stat().st_size / 1e6:.0f} MB")
    print(
        f"  {scanned.index.num_frames} pictures, "
        f"{int(scanned.index.is_key.sum())} of them key pictures, "
        f"{int(scanned.packets.is_reference.sum())} references"
    )
    decoding = _decoding(video)
    for name, flags in (
        ("topk", ()),
        ("topk, cheap frames", ("--frames", "cheap")),
        ("rate_distortion, still, cheap frames", ("--frames", "cheap", *RATE_FLAGS)),
    ):
        found, pictures = _prepared(folder / "hour", video, flags)
        text = f"{found.wall_seconds:.1f} s, {found.cpu_seconds:.1f} of the processor{pictures}"
        if "cheap" in flags:
            wanted = f"<= {MAX_CHEAP_SECONDS:.0f} s"
            is_reached = found.wall_seconds <= MAX_CHEAP_SECONDS
        else:
            ratio = found.wall_seconds / decoding.wall_seconds
            wanted = f"<= {MAX_OF_DECODING} times decoding"
            text = f"{ratio:.2f} times: {text}; decoding {decoding.wall_seconds:.1f} s"
            is_reached = ratio <= MAX_OF_DECODING
        goal(f"an hour, {name}", wanted, text, is_reached=is_reached)
        peak = found.peak_rss_bytes
        wanted = f"<= {MAX_BYTES / 1e6:.0f} MB"
        goal(
            f"an hour, {name}, memory", wanted, f"{peak / 1e6:.0f} MB", is_reached=peak <= MAX_BYTES
        )


def _decoding(video: Path) -> Measured:
    """Measure FFmpeg's program, which decodes all of a video."""
    command = ["ffmpeg", "-v", "error", "-threads", str(THREADS)]
    return measure([*command, "-i", str(video), "-f", "null", "-"])


def _prepared(folder: Path, video: Path, flags: tuple[str, ...]) -> tuple[Measured, str]:
    """Measure the command that prepares a video; return also how many pictures it needed."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    samples = folder / "hour.jsonl"
    samples.write_text(json.dumps({"video": str(video), "key": "hour"}) + "\n")
    command = [sys.executable, "-m", "cv_reader.commands.main", "precompute"]
    command += ["--jsonl", str(samples), "--out_root", str(folder / "assets")]
    command += ["--sequence_length", "1024", "--num_images", "128", "--num_workers", str(THREADS)]
    found = measure([*command, "--timeout_seconds", "0", *flags])
    meta = json.loads(next((folder / "assets").rglob("*meta.json")).read_text())
    needed = meta.get("pictures_needed")
    return found, "" if needed is None else f", {needed['used']} pictures of {needed['requested']}"
