"""Reading pictures: pixel formats, orientation, files that are no pictures."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from llava.visual.pictures import (
    fit_on_canvas,
    fitted_size,
    load_image,
    read_image_size,
    read_uncompressed,
    to_rgb,
)


def _tiny_picture(width: int = 3, height: int = 2) -> Image.Image:
    pixels = np.arange(width * height * 3, dtype=np.uint8).reshape(height, width, 3) * 5
    return Image.fromarray(pixels)


def test_rgb_pixels_are_not_changed(tmp_path: Path) -> None:
    _tiny_picture().save(tmp_path / "a.png")
    assert np.array_equal(np.asarray(load_image(tmp_path / "a.png")), np.asarray(_tiny_picture()))


def test_transparency_lies_over_white() -> None:
    image = Image.new("RGBA", (2, 1), (10, 20, 30, 0))
    image.putpixel((1, 0), (10, 20, 30, 255))
    assert np.asarray(to_rgb(image)).tolist() == [[[255, 255, 255], [10, 20, 30]]]


def test_palette_with_a_transparent_entry_lies_over_white() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([9, 9, 9, 40, 50, 60])
    image.putdata([0, 1])
    image.info["transparency"] = 0
    assert np.asarray(to_rgb(image)).tolist() == [[[255, 255, 255], [40, 50, 60]]]


def test_grey_repeats_in_all_channels() -> None:
    assert np.asarray(to_rgb(Image.new("L", (1, 1), 77))).tolist() == [[[77, 77, 77]]]


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 257 * 255 - 1, 65535]], dtype=np.uint16)).save(tmp_path / "a.png")
    assert np.asarray(load_image(tmp_path / "a.png"))[0, :, 0].tolist() == [0, 254, 255]


def test_floating_point_pixels_are_refused() -> None:
    with pytest.raises(ValueError, match="mode F"):
        to_rgb(Image.new("F", (1, 1)))


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate a quarter clockwise to see it upright
    _tiny_picture().save(tmp_path / "a.png", exif=exif)
    expected = np.rot90(np.asarray(_tiny_picture()), k=-1)
    assert np.array_equal(np.asarray(load_image(tmp_path / "a.png")), expected)


def _truncated(path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:400])


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda path: None, id="missing"),
        pytest.param(lambda path: path.touch(), id="empty"),
        pytest.param(lambda path: path.write_text("not a picture"), id="text"),
        pytest.param(lambda path: path.mkdir(), id="folder"),
        pytest.param(_truncated, id="truncated"),
    ],
)
@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize("lenient", [False, True])
def test_unreadable_files_are_named(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    lenient: bool,
    suffix: str,
    damage: Callable[..., object],
) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", lenient)  # lmms-eval sets it
    path = tmp_path / f"a.{suffix}"
    damage(path)
    with pytest.raises(ValueError, match=f"a.{suffix} cannot be read"):
        load_image(path)
    assert lenient == ImageFile.LOAD_TRUNCATED_IMAGES


def test_a_decompression_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    Image.new("RGB", (5, 5)).save(tmp_path / "bomb.png")
    with pytest.raises(ValueError, match="bomb.png is too large"):
        load_image(tmp_path / "bomb.png")


@pytest.mark.parametrize(
    ("size", "canvas", "expected"),
    [
        ((200, 100), (50, 50), (50, 25)),
        ((100, 200), (50, 50), (25, 50)),
        ((10, 10), (50, 70), (50, 50)),
        ((1000, 1), (50, 50), (50, 1)),
    ],
)
def test_fitted_size_keeps_the_aspect(
    size: tuple[int, int], canvas: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert fitted_size(*size, *canvas) == expected


def test_the_canvas_is_black_around_the_centred_picture() -> None:
    canvas = np.asarray(fit_on_canvas(Image.new("RGB", (8, 4), (200, 100, 50)), 8, 8))
    assert (canvas[2:6] == (200, 100, 50)).all()
    assert not canvas[:2].any() and not canvas[6:].any()


def _png_with_text(path: Path, where: str) -> None:
    """Write a PNG with 2 MB of text before or behind its pixels."""
    _tiny_picture().save(path)
    plain = path.read_bytes()
    text = b"workflow\0\0" + zlib.compress(b"x" * 2_000_000)
    crc = zlib.crc32(b"zTXt" + text).to_bytes(4, "big")
    chunk = len(text).to_bytes(4, "big") + b"zTXt" + text + crc
    cut = plain.index(b"IDAT" if where == "before" else b"IEND") - 4
    path.write_bytes(plain[:cut] + chunk + plain[cut:])


@pytest.mark.parametrize("where", ["before", "behind"])
def test_much_text_in_a_png_hides_no_pixels(tmp_path: Path, where: str) -> None:
    _png_with_text(tmp_path / "a.png", where)
    assert read_image_size(tmp_path / "a.png") == (3, 2)
    assert np.array_equal(np.asarray(load_image(tmp_path / "a.png")), np.asarray(_tiny_picture()))


def test_a_large_colour_profile_in_a_png_hides_no_pixels(tmp_path: Path) -> None:
    _tiny_picture().save(tmp_path / "a.png", icc_profile=b"\0" * 3_000_000)
    assert read_image_size(tmp_path / "a.png") == (3, 2)
    assert np.array_equal(np.asarray(load_image(tmp_path / "a.png")), np.asarray(_tiny_picture()))


def test_a_large_claim_is_refused_before_decoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Libraries switch Pillow's own limit off.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    _tiny_picture().save(tmp_path / "a.jpg")
    content = bytearray((tmp_path / "a.jpg").read_bytes())
    frame = content.index(b"\xff\xc0")
    content[frame + 5 : frame + 9] = struct.pack(">HH", 65500, 65500)
    (tmp_path / "a.jpg").write_bytes(content)
    for read in (load_image, read_image_size):
        with pytest.raises(ValueError, match=r"a\.jpg is too large: 65500 x 65500 pixels"):
            read(tmp_path / "a.jpg")


def test_postscript_is_not_run(tmp_path: Path) -> None:
    _tiny_picture().save(tmp_path / "a.eps")
    with pytest.raises(ValueError, match=r"a\.eps cannot be read: PostScript"):
        load_image(tmp_path / "a.eps")


@pytest.mark.parametrize(
    "content",
    [
        b"P6\n2 1\n255\n" + bytes(5),
        b"P6\n2 1\n255\n" + bytes(7),
        b"P6\n0 1\n255\n",
        b"P6\n2 1\n65535\n" + bytes(12),
        b"P6\n999999 999999\n255\n" + bytes(6),
        b"P5\n3 2\n255\n" + bytes(6),
        b"P6 2 1 255 " + bytes(6),
        b"",
    ],
)
def test_only_a_whole_file_of_assets_is_read_without_pillow(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.ppm"
    path.write_bytes(content)
    assert read_uncompressed(path) is None
    path.write_bytes(b"P6\n2 1\n255\n" + bytes(range(6)))
    assert np.array_equal(read_uncompressed(path), [[[0, 1, 2], [3, 4, 5]]])
    assert np.array_equal(np.asarray(load_image(path)), [[[0, 1, 2], [3, 4, 5]]])
    assert read_uncompressed(path.rename(tmp_path / "x.jpg")) is None
    assert read_uncompressed(path) is None
