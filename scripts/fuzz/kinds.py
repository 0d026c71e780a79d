"""Sound clips of the unusual kinds that people have, for the fuzzer's corpus.

Packed B pictures, streams that begin midway, decoding times under the name of presentation times,
samples that are not square, mirrored display matrices, HDR, intra refresh, large parameter sets,
joined transport streams, and two video streams in one file.
"""

from collections.abc import Callable, Iterable
from fractions import Fraction
from multiprocessing import get_context
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

_NUM_FRAMES = 14
_SIZE_PX = (96, 64)
_LARGE_SET_BYTES = 20_000
_PATIENCE_SECONDS = (3, 6, 12, 24, 48)
"""How long each try to encode may take, as in the tests' ``support.native.clips``."""

_QUIET = {
    "libx264": ("x264-params", "log-level=none:asm=0:keyint=6:scenecut=0:bframes=2"),
    "libx265": (
        "x265-params",
        "log-level=none:pools=none:frame-threads=1:keyint=6:min-keyint=6:bframes=2",
    ),
}

Remux = Callable[[list[av.Packet]], Iterable[av.Packet]]


def make_kinds(folder: Path) -> list[Path]:
    """Write one clip of each kind; returns their paths, in a fixed order."""
    hdr = "colorprim=bt2020:transfer=smpte2084:colormatrix=bt2020nc"
    hlg = "colorprim=bt2020:transfer=arib-std-b67:colormatrix=bt2020nc"
    plain = _encode(folder / "kind_plain.mp4", "libx264")
    hevc = _encode(folder / "kind_open_gop.mkv", "libx265", "open-gop=1")
    refresh = _encode(folder / "kind_refresh.h264", "libx264", "intra-refresh=1:bframes=0")
    stream = _encode(folder / "kind_stream.ts", "libx264", "repeat-headers=1")
    wide = _encode(folder / "kind_anamorphic.mp4", "libx264", "sar=16/11")
    mpeg4 = _encode(folder / "kind_plain.avi", "mpeg4")
    return [
        _remux(mpeg4, folder / "kind_packed.avi", _packed),
        _remux(hevc, folder / "kind_cut_open_gop.mkv", _from_second_key),
        _remux(plain, folder / "kind_decoding_times.mp4", _with_decoding_times),
        _remux(plain, folder / "kind_midway.mkv", lambda packets: packets[3:]),
        wide,
        _encode(folder / "kind_absurd_aspect.mkv", "libx264", "sar=65535/1"),
        _encode(folder / "kind_pq.mp4", "libx265", hdr, pixel_format="yuv420p10le"),
        _encode(folder / "kind_hlg.mp4", "libx264", hlg, pixel_format="yuv420p10le"),
        *(_mirrored(plain, folder / f"kind_mirrored_{turn}.mp4", turn) for turn in range(4)),
        _written(folder / "kind_refresh_midway.h264", refresh.read_bytes()[900:]),
        _written(folder / "kind_large_set.h264", _with_large_set(refresh.read_bytes())),
        _written(folder / "kind_joined.ts", 2 * stream.read_bytes()),
        _two_streams([plain, wide], folder / "kind_two_streams.mkv"),
    ]


def _written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def _encode(path: Path, codec: str, params: str = "", pixel_format: str = "yuv420p") -> Path:
    """Encode in a process of its own: the thread pool of x265 may wait for itself forever."""
    for seconds in _PATIENCE_SECONDS:
        process = get_context("fork").Process(
            target=_write, args=(path, codec, params, pixel_format)
        )
        process.start()
        process.join(seconds)
        if process.exitcode == 0:
            return path
        process.kill()
        process.join()
    raise RuntimeError(f"the encoder did not finish {path.name} in {len(_PATIENCE_SECONDS)} tries")


def _write(path: Path, codec: str, params: str, pixel_format: str) -> None:
    options = {"threads": "1", "g": "6", "bf": "1"}
    if codec in _QUIET:
        name, quiet = _QUIET[codec]
        options = {"threads": "1", "preset": "veryfast", name: f"{quiet}:{params}".rstrip(":")}
    muxer = {"fflags": "+bitexact"}
    if path.suffix == ".mp4":
        muxer["movflags"] = "faststart"
    with av.open(str(path), "w", options=muxer) as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height = _SIZE_PX
        stream.pix_fmt = pixel_format
        for number in range(_NUM_FRAMES):
            frame = av.VideoFrame.from_ndarray(_picture(number), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _picture(number: int) -> NDArray[np.uint8]:
    """Waves that slide, uint8 (H, W, 3)."""
    rows, columns = np.mgrid[: _SIZE_PX[1], : _SIZE_PX[0]]
    wave = np.sin((columns + 2 * number) / 5) + np.sin((rows - number) / 7)
    return np.clip(128 + 50 * wave[..., None] + np.array([9, 0, -9]), 0, 255).astype(np.uint8)


def _remux(source: Path, target: Path, change: Remux) -> Path:
    """Copy the packets of a file, changed, into another."""
    with (
        av.open(str(source)) as reader,
        av.open(str(target), "w", options={"fflags": "+bitexact"}) as writer,
    ):
        stream = writer.add_stream_from_template(reader.streams.video[0], opaque=True)
        for packet in change([packet for packet in reader.demux(video=0) if packet.size]):
            packet.stream = stream
            writer.mux(packet)
    return target


def _from_second_key(packets: list[av.Packet]) -> Iterable[av.Packet]:
    keys = [row for row, packet in enumerate(packets) if packet.is_keyframe]
    return packets[keys[1] :]


def _with_decoding_times(packets: list[av.Packet]) -> Iterable[av.Packet]:
    step = min(abs(a.pts - b.pts) for a, b in zip(packets, packets[1:], strict=False))
    for number, packet in enumerate(packets):
        packet.pts = packet.dts = number * step
        yield packet


def _packed(packets: list[av.Packet]) -> Iterable[av.Packet]:
    """Put each B picture into the packet of the picture that it follows, as Xvid and DivX do."""
    mark = b"\0\0\1\xb6"
    datas = [bytes(packet) for packet in packets]
    at = datas[0].index(mark)
    datas[0] = datas[0][:at] + b"\0\0\1\xb2DivX503b1393p" + datas[0][at:]
    is_b = [data[data.index(mark) + 4] >> 6 == 2 for data in datas] + [False]
    for row, data in enumerate(datas):
        following = datas[row + 1] if is_b[row + 1] else b""
        packet = av.Packet(mark + b"\x50\x4f" if is_b[row] else data + following)
        packet.pts = packet.dts = row
        packet.time_base = packets[0].time_base
        packet.is_keyframe = packets[row].is_keyframe
        yield packet


def _mirrored(source: Path, target: Path, turn: int) -> Path:
    """Rewrite the display matrix of an MP4's only track: mirrored, then turned by quarters."""
    a, b = ((1, 0), (0, 1), (-1, 0), (0, -1))[turn]
    data = bytearray(source.read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    matrix = (-a, -b, 0, -b, a, 0)
    data[at : at + 24] = b"".join((n << 16).to_bytes(4, "big", signed=True) for n in matrix)
    return _written(target, bytes(data))


def _with_large_set(stream: bytes) -> bytes:
    """Return a raw stream that begins with one large sequence parameter set and many small."""
    large = b"\0\0\1\x67\x42\0\0\xd6\x00\x00\x00\x01" + b"\xff" * _LARGE_SET_BYTES
    return large + b"\0\0\1\x67\x42\0\x0a\xf8" * 600 + stream


def _two_streams(sources: list[Path], target: Path) -> Path:
    inputs = [av.open(str(source)) for source in sources]
    with av.open(str(target), "w", options={"fflags": "+bitexact"}) as out:
        streams = [
            out.add_stream_from_template(opened.streams.video[0], opaque=True) for opened in inputs
        ]
        packets = [
            (float((packet.dts or 0) * packet.time_base), place, packet)
            for place, opened in enumerate(inputs)
            for packet in opened.demux(video=0)
            if packet.size
        ]
        for _, place, packet in sorted(packets, key=lambda entry: entry[:2]):
            packet.stream = streams[place]
            out.mux(packet)
    for opened in inputs:
        opened.close()
    return target
