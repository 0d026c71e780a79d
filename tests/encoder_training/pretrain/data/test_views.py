"""Images and videos as tokens: crops, sizes, positions, and the pixels at them."""

import io
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFile

from encoder_training.pretrain.data.images import ImageView, image_pixels, image_tokens, ocr_view
from encoder_training.pretrain.data.made import ENCODER_OPTIONS, draw_clip
from encoder_training.pretrain.data.samples import BadSampleError, collate, normalise
from encoder_training.pretrain.data.videos import (
    CodecIndices,
    VideoSplit,
    VideoView,
    check_codec_indices,
    selection_settings,
    video_file,
    video_tokens,
)
from run_kit.clips import encode_clip

RANDOM = np.random.default_rng


def gradient(width: int, height: int, kind: str = "PNG") -> bytes:
    """A picture whose red is its column, green its row, in parts of 255."""
    x = np.linspace(0, 255, width)[None].repeat(height, 0)
    y = np.linspace(0, 255, height)[:, None].repeat(width, 1)
    pixels = np.stack([x, y, np.full_like(x, 100)], axis=-1).round().astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **({"quality": 95} if kind == "JPEG" else {}))
    return buffer.getvalue()


def window(pixels: NDArray[np.uint8]) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of what a picture of ``gradient`` shows, in parts."""
    red, green = pixels[..., 0].astype(float) / 255, pixels[..., 1].astype(float) / 255
    step_x, step_y = np.diff(red[0]).mean(), np.diff(green[:, 0]).mean()
    left, right = sorted((red[0, 0] - step_x / 2, red[0, -1] + step_x / 2))
    return left, green[0, 0] - step_y / 2, right, green[-1, 0] + step_y / 2


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_crops_keep_area_and_aspect_in_their_ranges(kind: str) -> None:
    data, view = gradient(400, 400, kind), ImageView(size_px=56)
    areas, aspects, flips = [], [], 0
    for seed in range(80):
        pixels = image_pixels(data, view, RANDOM(seed), "x")
        left, top, right, bottom = window(pixels)
        assert pixels.shape == (56, 56, 3)
        areas.append((right - left) * (bottom - top))
        aspects.append((right - left) / (bottom - top))
        flips += int(pixels[0, 0, 0]) > int(pixels[0, -1, 0])
    assert 0.66 < min(areas) < 0.76 and 0.93 < max(areas) < 1.02
    assert 0.78 < min(aspects) < 0.86 and 1.17 < max(aspects) < 1.29
    assert 25 < flips < 55


@pytest.mark.parametrize(("width", "height"), [(400, 200), (200, 400), (300, 300)])
def test_without_augmentation_the_middle_square_is_taken(width: int, height: int) -> None:
    pixels = image_pixels(gradient(width, height), ocr_view(14, 56), RANDOM(0), "x")
    left, top, right, bottom = window(pixels)
    part_x, part_y = min(1, height / width), min(1, width / height)
    expected = (0.5 - part_x / 2, 0.5 - part_y / 2, 0.5 + part_x / 2, 0.5 + part_y / 2)
    assert np.allclose((left, top, right, bottom), expected, atol=0.02)


@pytest.mark.parametrize("size", [(640, 320), (1000, 200), (150, 600), (333, 333)])
def test_images_keep_their_shape_up_to_two_to_one(size: tuple[int, int]) -> None:
    view = ImageView(size_px=56, max_size_px=112, crop_aspect=1.0)
    seen = set()
    for seed in range(12):
        patches, positions = image_tokens(gradient(*size), view, RANDOM(seed), "x")
        rows, columns = (positions[:, axis].max().item() + 1 for axis in (1, 2))
        assert len(patches) == rows * columns and positions[:, 0].eq(0).all()
        wanted = min(max(size[0] / size[1], 0.5), 2)
        assert 0.6 * wanted < columns / rows < 1.6 * wanted
        assert 12 <= rows * columns <= 72
        seen.add((rows, columns))
    assert len(seen) > 2


def test_patches_are_cut_in_the_order_of_the_encoder() -> None:
    patches, positions = image_tokens(gradient(60, 60), ocr_view(14, 28), RANDOM(0), "x")
    pixels = image_pixels(gradient(60, 60), ocr_view(14, 28), RANDOM(0), "x")
    _, row, column = positions[2].tolist()
    assert (row, column) == (1, 0)
    cell = pixels[14:28, 0:14].transpose(2, 0, 1).reshape(-1)
    assert np.array_equal(patches[2].numpy(), cell)


def test_normalised_patches_are_those_of_the_image_processor() -> None:
    from onevision_encoder import OneVisionEncoderImageProcessor, image_segment

    data = gradient(28, 28)
    patches, _ = image_tokens(data, ocr_view(14, 28), RANDOM(0), "x")
    crop: dict[str, Any] = {"size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28}}
    processor = OneVisionEncoderImageProcessor(**crop)
    pixels = processor(Image.open(io.BytesIO(data)), return_tensors="pt")["pixel_values"][0]
    expected = image_segment(pixels).patches
    assert (normalise(patches, 14) - expected).abs().max() < 1e-5


@pytest.mark.parametrize("lenient", [False, True])
@pytest.mark.parametrize(
    "data",
    [b"", b"nothing", gradient(40, 40, "JPEG")[:500], gradient(40, 40)[:90]],
    ids=["empty", "text", "half a JPEG", "half a PNG"],
)
def test_what_is_no_picture_is_named(
    data: bytes, lenient: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", lenient)  # lmms-eval sets it
    with pytest.raises(BadSampleError, match="the place: cannot be decoded.*broken image"):
        image_pixels(data, ImageView(), RANDOM(0), "the place")


CLIP = VideoView(patch_size=8, size_px=32, clip_frames=16, num_frames=4)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    encode_clip(path, draw_clip(1, 0, RANDOM(0), 32, 24), options=ENCODER_OPTIONS)
    return path


@pytest.fixture(scope="module")
def frames(clip: Path) -> NDArray[np.uint8]:
    """All frames, decoded by PyAV alone."""
    with av.open(str(clip)) as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])


def cells(frames: NDArray[np.uint8], rows: NDArray[np.int64], ids: NDArray[np.int64]) -> Any:
    """The patches at rows (t, h, w), cut from the frames of their slots."""
    cut = [
        frames[ids[t], 8 * h : 8 * h + 8, 8 * w : 8 * w + 8].transpose(2, 0, 1).reshape(-1)
        for t, h, w in rows
    ]
    return np.stack(cut).astype(int)


def uniform(count: int) -> NDArray[np.int64]:
    return np.arange(16) * (count - 1) // 15


def test_codec_patches_are_the_pixels_at_their_positions(
    clip: Path, frames: NDArray[np.uint8]
) -> None:
    patches, positions = video_tokens(clip, CLIP, "codec", RANDOM(0), "x")
    assert patches.shape == (64, 192) and len(np.unique(positions.numpy(), axis=0)) == 64
    # The first frame is kept whole, as cv_reader's default selection does.
    assert positions[:16, 0].eq(0).all() and positions[16:, 0].gt(0).all()
    expected = cells(frames, positions.numpy(), uniform(24))
    # Two converters of colours, with chroma at half the resolution.
    assert np.abs(patches.numpy() - expected).mean() < 4


def test_stored_indices_give_their_own_patches(clip: Path, frames: NDArray[np.uint8]) -> None:
    ids = np.sort(RANDOM(3).integers(0, 24, 16))
    indices = np.sort(RANDOM(4).permutation(256)[:21])
    codec = CodecIndices(indices, ids)
    patches, positions = video_tokens(clip, CLIP, "codec", RANDOM(0), "x", codec)
    assert (positions.numpy() @ [16, 4, 1]).tolist() == indices.tolist()
    assert np.abs(patches.numpy() - cells(frames, positions.numpy(), ids)).mean() < 4
    # Files of the reference name no frames: the floor of evenly spaced ones is meant.
    other, _ = video_tokens(clip, CLIP, "codec", RANDOM(0), "x", CodecIndices(indices, None))
    expected = cells(frames, positions.numpy(), uniform(24))
    assert np.abs(other.numpy() - expected).mean() < 4


def test_chunks_draw_one_frame_of_each_stretch(clip: Path, frames: NDArray[np.uint8]) -> None:
    seen = set()
    for seed in range(8):
        patches, positions = video_tokens(clip, CLIP, "chunk", RANDOM(seed), "x")
        slots = positions[::16, 0].tolist()
        assert [slot // 4 for slot in slots] == [0, 1, 2, 3]
        assert positions[:16, 1:].tolist() == [[h, w] for h in range(4) for w in range(4)]
        seen.add(tuple(slots))
        for number, slot in enumerate(slots):
            stretch = frames[int(slot * 24 / 16) : int((slot + 1) * 24 / 16) + 1].astype(int)
            whole = patches[16 * number : 16 * number + 16].numpy().astype(int)
            tiled = whole.reshape(4, 4, 3, 8, 8).transpose(0, 3, 1, 4, 2).reshape(32, 32, 3)
            assert min(np.abs(frame - tiled).mean() for frame in stretch) < 4
    assert len(seen) > 4


def test_a_collage_is_one_tall_picture_without_time(clip: Path) -> None:
    chunk, _ = video_tokens(clip, CLIP, "chunk", RANDOM(5), "x")
    patches, positions = video_tokens(clip, CLIP, "collage", RANDOM(5), "x")
    assert patches.equal(chunk)
    assert positions.tolist() == [[0, h, w] for h in range(16) for w in range(4)]


def test_bytes_of_a_video_read_like_its_file(clip: Path) -> None:
    plain, _ = video_tokens(clip, CLIP, "chunk", RANDOM(0), "x")
    with video_file(clip.read_bytes()) as path:
        found, _ = video_tokens(path, CLIP, "chunk", RANDOM(0), "x")
    assert found.equal(plain)


def test_short_and_broken_videos_are_named(clip: Path, tmp_path: Path) -> None:
    long = VideoView(patch_size=8, size_px=32, clip_frames=64, num_frames=8)
    with pytest.raises(BadSampleError, match="at least 64 frames, got 24.*video too short"):
        video_tokens(clip, long, "chunk", RANDOM(0), "x")
    repeated = VideoView(
        patch_size=8, size_px=32, clip_frames=64, num_frames=8, short_videos="repeat"
    )
    assert len(video_tokens(clip, repeated, "chunk", RANDOM(0), "x")[0]) == 128
    (tmp_path / "bad.mp4").write_bytes(clip.read_bytes()[:300])
    for path in (tmp_path / "bad.mp4", tmp_path / "missing.mp4"):
        with pytest.raises(BadSampleError, match="place: cannot be read.*broken video"):
            video_tokens(path, CLIP, "chunk", RANDOM(0), "place")


@pytest.mark.parametrize(
    ("indices", "grid", "rule"),
    [
        ([0, 0, 0], 4, "codec indices repeat"),
        ([0, 256], 4, "codec indices out of range"),
        ([-1, 3], 4, "codec indices out of range"),
        ([], 4, "codec indices out of range"),
        ([0, 1], 16, "other grid"),
    ],
)
def test_indices_that_cannot_be_are_refused(indices: list[int], grid: int, rule: str) -> None:
    with pytest.raises(BadSampleError) as caught:
        check_codec_indices(np.array(indices, np.int64), CLIP, grid, "x")
    assert caught.value.rule == rule


def test_the_split_of_a_batch() -> None:
    def counts(split: VideoSplit, size: int) -> list[int]:
        modes = [split.mode(number, size) for number in range(size)]
        assert modes == sorted(modes, key=["codec", "chunk", "collage"].index)
        return [modes.count(mode) for mode in ("codec", "chunk", "collage")]

    assert counts(VideoSplit(0.5, 0.375), 16) == [8, 6, 2]
    assert counts(VideoSplit.from_reference(0.5, 0.4), 16) == [8, 6, 2]
    assert counts(VideoSplit.from_reference(0.5, 0.9, "cumulative"), 10) == [5, 4, 1]
    assert counts(VideoSplit.from_reference(0.1, 0.8), 10) == [1, 8, 1]
    assert counts(VideoSplit(0, 0), 3) == [0, 0, 3]
    with pytest.raises(ValueError, match="sum up to at most 1"):
        VideoSplit(0.7, 0.4)


def test_selection_has_the_sizes_of_the_view() -> None:
    config = selection_settings(VideoView())
    assert (config.sequence_length, config.num_images, config.grid) == (64, 8, 16)
    other = selection_settings(VideoView(select="rate_distortion"))
    assert (config.select, other.select) == ("topk", "rate_distortion")


def test_a_batch_needs_samples_of_one_kind() -> None:
    with pytest.raises(ValueError, match="samples of one kind, got none"):
        collate([])
