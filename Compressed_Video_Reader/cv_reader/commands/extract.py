"""``cv_reader extract``: write what the codec knows about frames of a video as numpy files.

``OUT.npz`` holds ``index.json`` and, per frame, arrays such as ``000012/motion``; a folder holds
``index.json`` and one ``000012.npz`` per frame. Frames are written as they are decoded, so that
memory stays the same for videos of any length. The output appears under its name when it is
complete; a folder that holds anything else is not replaced.
"""

import argparse
import io
import json
import re
import zipfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cv_reader.assets.files import new_file, new_folder
from cv_reader.commands.arguments import (
    HDR_HELP,
    add_reading_arguments,
    add_setting,
)
from cv_reader.commands.arguments.parser import new_parser
from cv_reader.errors import SettingsError, VideoError
from cv_reader.exits import FAILED_SAMPLES, OK, run_command, say
from cv_reader.media.frames import MAP_FIELDS, CodecFrame
from cv_reader.reader import Video, open_video
from cv_reader.select.selection import sample_frame_ids

INDEX = "index.json"

_FRAME_FILE = re.compile(r"\d{6,}\.npz")

Arrays = dict[str, NDArray[Any]]
Write = Callable[[str, Arrays], None]

_PURPOSE = "Write what the codec knows about frames of a video as numpy files."

_PIXELS = ("none", "luma", "rgb")


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code: 1 where the video, or some of it, is unreadable."""
    return run_command(_run, _parser().parse_args(argv))


def _parser() -> argparse.ArgumentParser:
    parser = new_parser("cv_reader extract", _PURPOSE)
    parser.add_argument("video", type=Path, help="video file to read")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        help="file to write, OUT.npz, or a folder for separate files",
    )
    parser.add_argument(
        "--frames",
        default="all",
        help="frames to read: all, uniform:64 for 64 at even distances, or numbers and "
        "ranges such as 0,5,10-20",
    )
    parser.add_argument(
        "--pixels", choices=_PIXELS, default="luma", help="kind of pixels to write too"
    )
    add_reading_arguments(parser, has_exact=True)
    add_setting(parser, "hdr", HDR_HELP)
    return parser


def _run(options: argparse.Namespace) -> int:
    with open_video(
        options.video,
        options.backend,
        require_exact=options.require_exact,
        num_threads=options.num_threads,
        hdr=options.hdr,
    ) as video:
        ids = parse_frames(options.frames, video.index.num_frames)
        with _writer(options.output) as (write, write_index):
            written, reason = _write_frames(video, ids, write, options.pixels)
            write_index({**_index(video, written), "error": reason})
    say(f"wrote {len(written)} frames ({video.backend}) to {options.output}")
    if reason is not None:
        say(f"failed: {reason}")
    return OK if reason is None else FAILED_SAMPLES


def _write_frames(
    video: Video, ids: list[int], write: Write, pixels: str
) -> tuple[list[int], str | None]:
    """Write what can be read; returns the frames written, and why others are not."""
    written: list[int] = []
    try:
        for frame in video.frames(ids):
            write(f"{frame.index:06d}", _arrays(frame, pixels))
            written.append(frame.index)
    except VideoError as error:
        if not written:
            raise
        return written, str(error)
    return written, None


def parse_frames(text: str, num_frames: int) -> list[int]:
    """Return frame numbers from ``all``, ``uniform:COUNT`` or ``0,5,10-20``: strictly increasing.

    Raises:
        SettingsError: another form, or a number that the video does not have.
    """
    if text == "all":
        return list(range(num_frames))
    try:
        if text.startswith("uniform:"):
            count = int(text.removeprefix("uniform:"))
            return sorted(set(sample_frame_ids(num_frames, count).tolist()))
        ids = sorted({number for part in text.split(",") for number in _range(part)})
    except ValueError as error:
        raise SettingsError(
            f"--frames must be all, uniform:COUNT or a list such as 0,5,10-20, got {text!r}"
        ) from error
    if not ids or ids[0] < 0 or ids[-1] >= num_frames:
        raise SettingsError(f"--frames must be in [0, {num_frames}), got {text!r}")
    return ids


def _range(part: str) -> range:
    first, dash, last = part.partition("-")
    return range(int(first), int(last if dash else first) + 1)


def _arrays(frame: CodecFrame, pixels: str) -> Arrays:
    fields = {name: getattr(frame, name) for name in (*MAP_FIELDS, "motion_ref")}
    arrays = {name: array for name, array in fields.items() if array is not None}
    if pixels == "luma":
        arrays["luma"] = frame.luma()
    if pixels == "rgb":
        arrays["rgb"] = frame.rgb()
    arrays["pict_type"] = np.array(frame.pict_type)
    return arrays


def _index(video: Video, ids: list[int]) -> dict[str, Any]:
    index = video.index
    return {
        "video": index.path,
        "codec": index.codec_name,
        "width_px": index.width_px,
        "height_px": index.height_px,
        "num_columns": index.num_columns,
        "num_rows": index.num_rows,
        "shown": index.shown,
        "num_frames": index.num_frames,
        "backend": video.backend,
        "exactness": video.exactness,
        "frames": ids,
        "pts_seconds": index.pts_seconds[ids].tolist(),
        "is_key": index.is_key[ids].tolist(),
        "packet_bytes": index.packet_bytes[ids].tolist(),
    }


WriteIndex = Callable[[dict[str, Any]], None]


@contextmanager
def _writer(output: Path) -> Generator[tuple[Write, WriteIndex]]:
    """Functions that write a frame and the index; the output appears when the block ends."""
    if output.suffix != ".npz":
        with new_folder(output, is_replaceable=_is_output) as folder:
            yield _to_folder(folder)
        return
    with new_file(output) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        yield _to_archive(archive)


def _is_output(name: str) -> bool:
    return name == INDEX or _FRAME_FILE.fullmatch(name) is not None


def _add_arrays(archive: zipfile.ZipFile, prefix: str, arrays: Arrays) -> None:
    """Write ``.npz`` files, which ``np.load`` reads."""
    for field, array in arrays.items():
        content = io.BytesIO()
        np.save(content, array, allow_pickle=False)
        archive.writestr(f"{prefix}{field}.npy", content.getvalue())


def _to_folder(folder: Path) -> tuple[Write, WriteIndex]:
    def write(name: str, arrays: Arrays) -> None:
        with zipfile.ZipFile(folder / f"{name}.npz", "w") as archive:
            _add_arrays(archive, "", arrays)

    def write_index(content: dict[str, Any]) -> None:
        (folder / INDEX).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    return write, write_index


def _to_archive(archive: zipfile.ZipFile) -> tuple[Write, WriteIndex]:
    def write(name: str, arrays: Arrays) -> None:
        _add_arrays(archive, f"{name}/", arrays)

    def write_index(content: dict[str, Any]) -> None:
        archive.writestr(INDEX, json.dumps(content, indent=2) + "\n")

    return write, write_index
