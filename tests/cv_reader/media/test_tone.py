"""HDR as SDR, against the published formulas in floats, on streams of every format with HDR."""

import warnings
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from cv_reader import open_video
from cv_reader.errors import SettingsError, UnsupportedVideoError
from cv_reader.media.display import Colorimetry
from cv_reader.media.tone import tone_mapped
from support.media import texture

BT2020 = (0.2627, 0.0593)
PQ, HLG = 16, 18


def pq_to_nits(signal: np.ndarray) -> np.ndarray:
    """SMPTE ST 2084."""
    power = np.asarray(signal, float) ** (1 / 78.84375)
    part = np.maximum(power - 0.8359375, 0) / (18.8515625 - 18.6875 * power)
    return 10000 * part ** (1 / 0.1593017578125)


def nits_to_pq(nits: np.ndarray) -> np.ndarray:
    """Its inverse."""
    power = (np.asarray(nits, float) / 10000) ** 0.1593017578125
    return ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375


def hlg_to_nits(signal: np.ndarray) -> np.ndarray:
    """ITU-R BT.2100, table 5, for a screen of 1,000 cd/m2."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
    luminance = scene @ np.array([0.2627, 0.6780, 0.0593])
    return 1000 * luminance[..., None] ** 0.2 * scene


def compressed(nits: np.ndarray) -> np.ndarray:
    """ITU-R BT.2390, 5.4.1, from 1,000 to 203 cd/m2."""
    top, most = nits_to_pq(1000), nits_to_pq(203) / nits_to_pq(1000)
    share = np.minimum(nits_to_pq(nits) / top, 1)
    knee = 1.5 * most - 0.5
    t = (share - knee) / (1 - knee)
    curve = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee)
    curve += (3 * t**2 - 2 * t**3) * most
    return pq_to_nits(np.where(share < knee, share, curve) * top)


TO_BT709 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]]
)
"""ITU-R BT.2087, 2.2 inverted."""


def expected_sdr(signal: np.ndarray, transfer: int) -> np.ndarray:
    """R'G'B' (..., 3) in 0..1 of HDR to those of SDR in 0..255, in floats."""
    light = pq_to_nits(signal) if transfer == PQ else hlg_to_nits(signal)
    brightest = light.max(axis=-1, keepdims=True)
    light = light * compressed(brightest) / np.maximum(brightest, 1e-9)
    linear = np.clip(light @ TO_BT709.T / 203, 0, 1)
    return 255 * linear ** (1 / 2.4)


def coded(signal: np.ndarray, weights: Any, bits: int, is_full: bool) -> list[np.ndarray]:
    """R'G'B' (..., 3) to luma and colour differences, as stored."""
    red, blue = weights
    luma = signal @ np.array([red, 1 - red - blue, blue])
    parts = luma, (signal[..., 2] - luma) / (2 - 2 * blue), (signal[..., 0] - luma) / (2 - 2 * red)
    unit = 2 ** (bits - 8)
    spans = [(0, 256 * unit - 1)] + [(128 * unit, 256 * unit - 1)] * 2
    if not is_full:
        spans = [(16 * unit, 219 * unit)] + [(128 * unit, 224 * unit)] * 2
    dtype = np.uint16 if bits > 8 else np.uint8
    return [
        np.clip(np.rint(part * span + zero), 0, 2**bits - 1).astype(dtype)
        for part, (zero, span) in zip(parts, spans, strict=True)
    ]


def test_the_formulas_meet_published_values() -> None:
    # BT.2408: the white of graphics is 58 % of PQ and 75 % of HLG.
    assert abs(float(nits_to_pq(203)) - 0.58) < 0.002
    assert abs(hlg_to_nits(np.full((1, 3), 0.75))[0, 0] - 203) < 1
    assert np.allclose(TO_BT709.sum(axis=1), 1, atol=2e-4)


@pytest.mark.parametrize("transfer", [PQ, HLG])
@pytest.mark.parametrize(("bits", "is_full"), [(8, False), (10, False), (10, True), (12, False)])
def test_pictures_follow_the_formulas(transfer: int, bits: int, is_full: bool) -> None:
    signal = np.random.default_rng(bits).uniform(0, 1, (40, 50, 3))
    planes = coded(signal, BT2020, bits, is_full)
    found = tone_mapped(planes, bits, BT2020, is_full, Colorimetry(9, 1, transfer, 9))
    error = np.moveaxis(found, 0, 2) - expected_sdr(signal, transfer)
    # Stored samples are whole numbers: of 8 bit, a step is several steps of what is shown.
    assert np.abs(error).mean() < (3 if bits == 8 else 0.8)
    assert bits == 8 or np.percentile(np.abs(error), 99) < 3


@pytest.mark.parametrize("transfer", [PQ, HLG])
def test_greys_stay_grey_and_in_order(transfer: int) -> None:
    signal = np.linspace(0, 1, 400)[:, None].repeat(3, axis=1)[None]
    planes = coded(signal, BT2020, 10, False)
    found = tone_mapped(planes, 10, BT2020, False, Colorimetry(9, 1, transfer, 9)).astype(int)
    assert (found.max(axis=0) - found.min(axis=0)).max() <= 1
    assert (np.diff(found[1, 0]) >= 0).all()
    assert found[1, 0, 0] == 0 and found[1, 0, -1] == 255


def _write(path: Path, codec: str, transfer: int, signal: np.ndarray, num_frames: int = 4) -> Path:
    """A still picture of R'G'B' (H, W, 3) in 0..1, with 4:2:0 samples of 10 bit (8 in VP9, of
    which PyAV's encoder has no deeper ones)."""
    bits = 8 if codec == "libvpx-vp9" else 10
    pixel_format, dtype = ("yuv420p", np.uint8) if bits == 8 else ("yuv420p10le", np.uint16)
    luma, blue, red = (plane.astype(np.float64) for plane in coded(signal, BT2020, bits, False))
    height, width = luma.shape
    halves = [part.reshape(height // 2, 2, width // 2, 2).mean(axis=(1, 3)) for part in (blue, red)]
    planes = [np.rint(plane).astype(dtype) for plane in (luma, *halves)]
    names = {PQ: "smpte2084", HLG: "arib-std-b67"}
    colors = f"colorprim=bt2020:transfer={names[transfer]}:colormatrix=bt2020nc"
    options = {
        "libx264": {"crf": "4", "x264-params": f"log-level=none:{colors}"},
        "libx265": {"x265-params": f"log-level=none:pools=none:crf=4:{colors}"},
        "libvpx-vp9": {"crf": "4", "b": "0", "cpu-used": "8"},
        "libsvtav1": {"preset": "12", "crf": "8", "svtav1-params": "lp=1"},
    }[codec]
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, pixel_format
        context = stream.codec_context
        context.color_trc, context.color_primaries = transfer, 9
        context.colorspace, context.color_range = 9, 1
        for number in range(num_frames):
            frame = av.VideoFrame(width, height, pixel_format)
            frame.colorspace, frame.color_range = 9, 1
            for plane, samples in zip(frame.planes, planes, strict=True):
                rows = np.zeros((plane.height, plane.line_size // samples.itemsize), dtype)
                rows[:, : plane.width] = samples
                plane.update(rows.tobytes())
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


STREAMS = [
    ("libx264", "mp4"), ("libx264", "ts"), ("libx265", "mp4"), ("libx265", "mkv"),
    ("libvpx-vp9", "webm"), ("libsvtav1", "mp4"),
]  # fmt: skip


def _picture() -> np.ndarray:
    """Smooth R'G'B', dark to bright, (96, 128, 3) in 0..1."""
    return np.clip(texture(96, 128).astype(float) / 255, 0.05, 0.75).round(3)


@pytest.mark.parametrize(("codec", "suffix"), STREAMS)
@pytest.mark.parametrize("transfer", [PQ, HLG])
def test_every_format_is_tone_mapped(
    codec: str, suffix: str, transfer: int, tmp_path: Path
) -> None:
    path = _write(tmp_path / f"clip.{suffix}", codec, transfer, _picture())
    expected = expected_sdr(_picture(), transfer)
    for backend in ("auto", "estimated"):
        with pytest.warns(UserWarning, match="HDR"), open_video(path, backend=backend) as video:
            assert video.index.shown["transfer"] == {PQ: "pq", HLG: "hlg"}[transfer]
            assert video.index.shown["hdr"] == "tonemap"
            frame = next(video.frames([1]))
        error = np.abs(frame.rgb() - expected)
        assert error.mean() < 6, (backend, error.mean())
        samples, colors = frame.planes((128, 96), (64, 48))
        assert colors.is_full and colors.matrix == 5
        luma = frame.rgb() @ np.array([0.299, 0.587, 0.114])
        assert np.abs(samples[0] - luma).mean() < 1
        # The samples as coded are there as well.
        with open_video(path, backend=backend, hdr="raw") as video:
            raw = next(video.frames([1]))
            assert video.index.shown["hdr"] == "raw"
        np.testing.assert_array_equal(raw.luma(), frame.luma())
        assert np.abs(raw.rgb().astype(float) - frame.rgb()).mean() > 8
        with pytest.raises(UnsupportedVideoError, match="HDR .*tonemap"):
            open_video(path, backend=backend, hdr="refuse")


def test_modes_are_checked_and_raw_samples_need_no_warning(tmp_path: Path) -> None:
    path = _write(tmp_path / "clip.mp4", "libx265", PQ, _picture())
    with pytest.raises(SettingsError, match="hdr must be one of"):
        open_video(path, hdr="mapped")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        open_video(path, hdr="raw").close()


def test_unknown_kinds_of_colour_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as container:
        params = "log-level=none:colormatrix=ictcp:transfer=smpte2084:colorprim=bt2020"
        stream = container.add_stream("libx264", rate=25, options={"x264-params": params})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        frame = av.VideoFrame(64, 48, "yuv420p")
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(UnsupportedVideoError, match="ICtCp"):
        open_video(path)
