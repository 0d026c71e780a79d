"""Preprocessing against torch's own convolution and hand-computed grids."""

import json
import weakref
from collections.abc import Callable
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from llava.visual.config import VisualConfig
from llava.visual.segments import (
    codec_visual,
    frames_visual,
    image_visual,
    normalised_patches,
    resize_mosaic,
)
from llava.visual.sizes import best_canvas
from support.image_grids import image_grid

PINPOINTS = ((574, 1120), (1120, 574), (1120, 1120), (1694, 574), (574, 1694))
TINY = VisualConfig(patch_size_px=4, patches_per_side=3)


def _noise(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def _pixels(image: Image.Image, config: VisualConfig) -> torch.Tensor:
    """Normalised image float32 (1, 3, H, W), by the textbook formula."""
    scaled = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).double() / 255
    mean, std = torch.tensor(config.image_mean), torch.tensor(config.image_std)
    return ((scaled - mean.double()[:, None, None]) / std.double()[:, None, None]).float()[None]


def test_patchify_equals_unfold() -> None:
    images = [_noise(12, 8), _noise(4, 12, seed=1)]
    expected = [
        torch.nn.functional.unfold(_pixels(image, TINY), kernel_size=4, stride=4)[0].T
        for image in images
    ]
    patches = normalised_patches(images, TINY)
    assert patches.dtype == torch.float32
    torch.testing.assert_close(patches, torch.cat(expected), atol=1e-6, rtol=0)


def test_patches_times_a_flattened_kernel_equal_the_convolution() -> None:
    kernel = torch.randn(5, 3, 4, 4)
    image = _noise(12, 8)
    expected = torch.nn.functional.conv2d(_pixels(image, TINY), kernel, stride=4)
    product = normalised_patches([image], TINY) @ kernel.flatten(1).T
    torch.testing.assert_close(product, expected.flatten(2)[0].T, atol=1e-4, rtol=1e-5)


def test_patchify_refuses_broken_patches() -> None:
    with pytest.raises(ValueError, match="multiples of 4 px, got 9 x 8"):
        normalised_patches([_noise(9, 8)], TINY)
    with pytest.raises(ValueError, match="at least one"):
        normalised_patches([], TINY)


def test_a_square_image_gets_one_segment_at_t_zero() -> None:
    segment = image_visual(_noise(50, 20), TINY)
    assert segment.patches.shape == (9, 48)
    assert segment.placeholder_tokens == (9,)
    assert segment.positions.tolist() == [[0, row, col] for row in range(3) for col in range(3)]


def test_an_image_of_the_right_size_is_not_resampled() -> None:
    image = _noise(12, 12)
    for mode in ("square", "pad"):
        segment = image_visual(image, replace(TINY, image_aspect_ratio=mode))
        assert torch.equal(segment.normalised().patches, normalised_patches([image], TINY))


def test_pad_keeps_the_aspect_on_black() -> None:
    config = replace(TINY, image_aspect_ratio="pad", image_mean=(0, 0, 0), image_std=(1, 1, 1))
    white = image_visual(Image.new("RGB", (30, 10), (255, 255, 255)), config)
    patches = white.normalised().patches
    # 30 x 10 becomes 12 x 4: the middle row of patches is white, the others are black.
    assert patches[3:6].min() == 1
    assert patches[:3].max() == 0 and patches[6:].max() == 0


@pytest.mark.parametrize(
    ("size", "canvas"),
    [
        ((1920, 1080), (1120, 1120)),
        ((800, 600), (1120, 1120)),
        ((600, 2000), (574, 1694)),
        ((3000, 900), (1694, 574)),
        # Small images: all canvases hold them whole, the smallest of their orientation wins.
        ((300, 200), (1120, 574)),
        ((200, 300), (574, 1120)),
        ((448, 448), (1120, 574)),
    ],
)
def test_best_pinpoint_whatever_the_order(size: tuple[int, int], canvas: tuple[int, int]) -> None:
    for order in permutations(PINPOINTS):
        assert best_canvas(*size, order) == canvas


def test_anyres_uses_the_published_token_counts() -> None:
    config = VisualConfig(
        image_aspect_ratio="anyres", image_grid_pinpoints=PINPOINTS, enlarge_small_images=True
    )
    assert image_grid(300, 200, config) == (41, 80)
    assert image_grid(1920, 1080, config) == (80, 80)
    assert image_grid(3000, 900, config) == (41, 121)


def test_anyres_is_one_tensor_without_tiles() -> None:
    pinpoints = ((8, 16), (16, 8))
    config = replace(TINY, image_aspect_ratio="anyres", image_grid_pinpoints=pinpoints)
    segment = image_visual(_noise(40, 20), config)
    assert segment.placeholder_tokens == (8,)
    assert segment.positions[-1].tolist() == [0, 1, 3]


@pytest.mark.parametrize(
    ("size", "grid"),
    [
        ((280, 140), (10, 20)),
        ((287, 146), (10, 20)),  # 20.5 and 10.4 patches
        ((10, 10), (4, 4)),  # below 56 x 56
        ((20, 500), (36, 1)),
        ((3200, 3200), (114, 114)),  # 1600 px, rounded down to whole patches
        ((6400, 1600), (57, 228)),  # 800 x 3200
    ],
)
def test_native_rounds_and_limits(size: tuple[int, int], grid: tuple[int, int]) -> None:
    assert image_grid(*size, VisualConfig(image_aspect_ratio="native")) == grid


def test_native_refuses_extreme_aspects() -> None:
    config = VisualConfig(image_aspect_ratio="native")
    assert image_grid(2800, 14, config) == (1, 200)
    with pytest.raises(ValueError, match="up to 200, got 2815 x 14"):
        image_grid(2815, 14, config)


def test_native_segment_follows_its_grid() -> None:
    segment = image_visual(_noise(33, 22), replace(TINY, image_aspect_ratio="native"))
    assert segment.positions.max(0).values.tolist() == [0, 5, 7]


def test_frames_are_one_segment_over_the_virtual_time_line() -> None:
    frames = [_noise(12, 12, seed) for seed in range(8)]
    segment = frames_visual(frames, replace(TINY, image_aspect_ratio="native"))
    assert segment.placeholder_tokens == (9,) * 8
    assert segment.positions[::9, 0].tolist() == [0, 9, 18, 27, 36, 45, 54, 63]
    assert torch.equal(segment.normalised().patches, normalised_patches(frames, TINY))


@pytest.mark.parametrize("count", [0, 65])
def test_frame_counts_outside_the_time_line_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"1 to 64 frames, got {count}"):
        frames_visual([Image.new("RGB", (4, 4))] * count, TINY)


def _tiny_clip(cell_px: int = 6) -> tuple[list[Image.Image], np.ndarray]:
    """Two mosaics of 3 x 3 cells, each cell of one colour, and their positions."""
    cells = np.arange(18, dtype=np.uint8).reshape(2, 3, 3, 1).repeat(3, axis=3) * 14
    pixels = cells.repeat(cell_px, axis=1).repeat(cell_px, axis=2)
    positions = np.stack([np.arange(18), np.arange(18) % 3, np.arange(18) % 2], axis=1)
    return [Image.fromarray(mosaic) for mosaic in pixels], positions.astype(np.int32)


def test_codec_rows_are_aligned_with_mosaic_cells() -> None:
    config = replace(TINY, image_mean=(0, 0, 0), image_std=(1 / 255, 1 / 255, 1 / 255))
    mosaics, positions = _tiny_clip(cell_px=4)
    segment = codec_visual(mosaics, positions, config)
    assert segment.patches.float().mean(1).round().tolist() == [14 * cell for cell in range(18)]
    assert segment.positions.tolist() == positions.tolist()
    assert segment.placeholder_tokens == (9, 9)


def test_the_grid_of_a_clip_follows_from_its_positions() -> None:
    mosaics, positions = _tiny_clip()
    segment = codec_visual(mosaics, positions, replace(TINY, patches_per_side=7))
    assert segment.placeholder_tokens == (9, 9)


@pytest.mark.parametrize(("cell_px", "suffix"), [(4, "jpg"), (5, "jpg"), (4, "ppm")])
def test_files_give_the_bytes_that_pillow_decodes_and_resizes(
    tmp_path: Path, cell_px: int, suffix: str
) -> None:
    paths = [tmp_path / f"{number}.{suffix}" for number in range(2)]
    for number, path in enumerate(paths):
        _noise(3 * cell_px, 3 * cell_px, number).save(path, quality=95)
    expected = [  # cell by cell, channel by channel
        pixels[4 * row : 4 * row + 4, 4 * column : 4 * column + 4, channel].tobytes()
        for pixels in map(_decoded_as_12_px, paths)
        for row in range(3)
        for column in range(3)
        for channel in range(3)
    ]
    segment = codec_visual(paths, _tiny_clip()[1], TINY)
    assert segment.patches.dtype == torch.uint8
    assert segment.patches.numpy().tobytes() == b"".join(expected)
    frames = frames_visual(paths, TINY).patches
    assert frames.numpy().tobytes() == b"".join(expected)


def _decoded_as_12_px(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image.convert("RGB").resize((12, 12), Image.Resampling.BICUBIC))


def test_a_clip_keeps_one_of_its_pictures_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[weakref.ref[Image.Image]] = []
    most = 0

    def read(source: Image.Image) -> Image.Image:
        nonlocal most
        picture = source.copy()
        alive.append(weakref.ref(picture))
        most = max(most, sum(each() is not None for each in alive))
        return picture

    monkeypatch.setattr("llava.visual.segments.read_picture", read)
    mosaics, positions = _tiny_clip()
    codec_visual(mosaics * 4, np.concatenate([positions] * 4), TINY)
    frames_visual(mosaics * 4, TINY)
    assert len(alive) == 16
    assert most <= 2  # the one that is cut, until the next is there


def test_published_mosaic_size_becomes_the_encoder_grid() -> None:
    assert resize_mosaic(_noise(576, 576), 36, 14).size == (504, 504)
    same = _noise(504, 504)
    assert resize_mosaic(same, 36, 14) is same


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda mosaics, rows: (mosaics, rows[:-1]), "17 rows for 2 mosaics"),
        (lambda mosaics, rows: (mosaics, rows[:4]), "4 rows for 2 mosaics"),
        (lambda mosaics, rows: ([], rows), "for 0 mosaics"),
        (lambda mosaics, rows: (mosaics, rows[:0]), "0 rows"),
        (lambda mosaics, rows: (mosaics, rows.astype(np.float32)), "integers"),
        (lambda mosaics, rows: (mosaics, rows[:, 0]), "integers"),
        (lambda mosaics, rows: ([mosaics[0], _noise(12, 12)], rows), "one size"),
        (lambda mosaics, rows: ([_noise(18, 15)] * 2, rows), "square.*18 x 15"),
        (lambda mosaics, rows: ([_noise(16, 16)] * 2, rows), "multiple of its grid 3"),
    ],
)
def test_clips_that_do_not_fit_together_are_refused(
    change: Callable[..., Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        codec_visual(*change(*_tiny_clip()), TINY)


def test_config_survives_json() -> None:
    config = VisualConfig(
        image_aspect_ratio="anyres", image_grid_pinpoints=PINPOINTS, patches_per_side=8
    )
    assert VisualConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"patch_size_px": 0}, "patch_size_px"),
        ({"image_aspect_ratio": "anyres_max_9"}, "one of square, pad, anyres, native"),
        ({"image_aspect_ratio": "anyres"}, "needs image_grid_pinpoints"),
        ({"image_grid_pinpoints": ((576, 1120),)}, "multiples of the patch size 14"),
        ({"native_max_pixels": 100}, "at least 3136"),
        ({"image_std": (1, 1, 0)}, "image_std above 0"),
        ({"patch_size": 14}, "unknown visual settings: patch_size"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VisualConfig.from_dict(settings)
