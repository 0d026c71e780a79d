"""Records to segments, from files made on the spot; errors name sample and file."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from llava.data.encoding import load_segments
from llava.data.records import (
    AnyRecord,
    CodecRecord,
    FramesRecord,
    ImageRecord,
    RecordError,
    TextRecord,
    VideoRecord,
)
from llava.visual.config import VisualConfig
from llava.visual.segments import frames_visual, image_visual
from support.media import write_video

CONFIG = VisualConfig(patch_size_px=4, patches_per_side=3)
BASE = {"sample_id": "s1", "where": "d.jsonl:7", "turns": ()}


def _write_image(path: Path, seed: int = 0, size: tuple[int, int] = (12, 12)) -> Path:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def _codec_record(folder: Path) -> CodecRecord:
    """Two 12 px mosaics of 2 x 2 cells, rows (0, 0, 0) to (1, 1, 1)."""
    images = tuple(_write_image(folder / f"mosaic_{seed}.png", seed) for seed in range(2))
    positions = np.array([[t, h, w] for t in range(2) for h in range(2) for w in range(2)])
    np.save(folder / "positions_thw.npy", positions.astype(np.int32))
    return CodecRecord(**BASE, images=images, positions=folder / "positions_thw.npy")


def test_codec_mosaics_and_positions_become_one_segment(tmp_path: Path) -> None:
    (segment,) = load_segments(_codec_record(tmp_path), CONFIG)
    assert segment.placeholder_tokens == (4, 4)
    assert segment.positions[:5].tolist() == [[0, 0, 0], [0, 0, 1], [0, 1, 0], [0, 1, 1], [1, 0, 0]]


def test_each_image_becomes_a_segment(tmp_path: Path) -> None:
    paths = tuple(_write_image(tmp_path / f"{seed}.png", seed) for seed in range(2))
    segments = load_segments(ImageRecord(**BASE, images=paths), CONFIG)
    for path, segment in zip(paths, segments, strict=True):
        with Image.open(path) as image:
            assert torch.equal(segment.patches, image_visual(image, CONFIG).patches)


def test_frames_become_one_segment(tmp_path: Path) -> None:
    paths = tuple(_write_image(tmp_path / f"{seed}.png", seed) for seed in range(3))
    (segment,) = load_segments(FramesRecord(**BASE, images=paths), CONFIG)
    assert segment.placeholder_tokens == (9, 9, 9)
    assert segment.positions[::9, 0].tolist() == [0, 31, 63]


def test_text_has_no_segment() -> None:
    assert load_segments(TextRecord(**BASE), CONFIG) == []


def _grey_video(path: Path, num_frames: int) -> Path:
    """Frame i is grey of value 20 + 10 * i."""
    greys = (np.full((32, 32, 3), 20 + 10 * index, np.uint8) for index in range(num_frames))
    return write_video(path, greys)


def _brightness(record: VideoRecord) -> list[int]:
    """Index of each frame of the segment, read off its grey value."""
    raw = VisualConfig(
        patch_size_px=4, patches_per_side=2, image_mean=(0, 0, 0), image_std=(1 / 255,) * 3
    )
    (segment,) = load_segments(record, raw)
    values = segment.normalised().patches.reshape(record.num_frames, -1).mean(1)
    return [round((float(value) - 20) / 10) for value in values]


@pytest.mark.parametrize(
    ("num_frames", "expected"),
    [(4, [0, 6, 13, 20]), (1, [0]), (21, list(range(21)))],
)
def test_a_video_gives_uniform_frames(tmp_path: Path, num_frames: int, expected: list[int]) -> None:
    video = _grey_video(tmp_path / "a.mp4", 21)
    assert _brightness(VideoRecord(**BASE, video=video, num_frames=num_frames)) == expected


def test_cheap_frames_are_those_of_assets(tmp_path: Path) -> None:
    greys = (np.full((32, 32, 3), 20 + 5 * index, np.uint8) for index in range(40))
    video = write_video(tmp_path / "a.mp4", greys, options={"g": "4", "sc_threshold": "0"})
    kept = {}
    for sampling in ("uniform", "cheap"):
        record = VideoRecord(**BASE, video=video, num_frames=6, frame_sampling=sampling)
        kept[sampling] = [2 * number for number in _brightness(record)]
    assert kept["uniform"] == pytest.approx([0, 7, 15, 23, 31, 39], abs=1)
    assert all(min(number % 4, -number % 4) <= 1 for number in kept["cheap"][1:-1])
    assert kept["cheap"] != kept["uniform"]


def test_a_short_video_repeats_frames(tmp_path: Path) -> None:
    video = _grey_video(tmp_path / "a.mp4", 3)
    record = VideoRecord(**BASE, video=video, num_frames=5)
    assert _brightness(record) == [0, 0, 1, 1, 2]
    (segment,) = load_segments(record, CONFIG)
    slots = frames_visual([Image.new("RGB", (12, 12))] * 5, CONFIG).positions
    assert torch.equal(segment.positions, slots)


def _drop_mosaic(record: CodecRecord) -> None:
    record.images[1].unlink()


def _cut_mosaic(record: CodecRecord) -> None:
    record.images[1].write_bytes(record.images[1].read_bytes()[:60])


def _other_size(record: CodecRecord) -> None:
    _write_image(record.images[1], size=(24, 24))


def _not_square(record: CodecRecord) -> None:
    for path in record.images:
        _write_image(path, size=(12, 10))


def _drop_positions(record: CodecRecord) -> None:
    record.positions.unlink()


def _save_rows(record: CodecRecord, rows: np.ndarray) -> None:
    np.save(record.positions, rows)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_drop_mosaic, "mosaic_1.png cannot be read"),
        (_cut_mosaic, "mosaic_1.png cannot be read"),
        (_other_size, "the mosaics of a clip must have one size"),
        (_not_square, "a mosaic must be square.*12 x 10"),
        (_drop_positions, "positions_thw.npy"),
        (lambda record: record.positions.write_bytes(b"junk"), "positions_thw.npy"),
        (lambda record: _save_rows(record, np.zeros((7, 3), np.int32)), "7 rows for 2"),
        (lambda record: _save_rows(record, np.zeros((8, 2), np.int32)), r"\(8, 2\)"),
        (lambda record: _save_rows(record, np.zeros((8, 3), np.float32)), "float32"),
        (lambda record: _save_rows(record, np.full((8, 3), 5, np.int32)), "h 5"),
        (lambda record: _save_rows(record, np.full((8, 3), -1, np.int32)), "-1"),
    ],
)
def test_a_broken_clip_names_sample_and_reason(
    tmp_path: Path, damage: Callable[..., object], message: str
) -> None:
    record = _codec_record(tmp_path)
    damage(record)
    with pytest.raises(RecordError, match=rf"sample 's1' \(d.jsonl:7\): .*{message}"):
        load_segments(record, CONFIG)


@pytest.mark.parametrize(
    "make",
    [
        lambda path: ImageRecord(**BASE, images=(path,)),
        lambda path: FramesRecord(**BASE, images=(path,)),
        lambda path: VideoRecord(**BASE, video=path, num_frames=8),
    ],
)
@pytest.mark.parametrize("content", [None, b"", b"neither picture nor video"])
def test_unreadable_files_name_sample_and_file(
    tmp_path: Path, make: Callable[..., Any], content: bytes | None
) -> None:
    path = tmp_path / "lost.mp4"
    if content is not None:
        path.write_bytes(content)
    record: AnyRecord = make(path)
    with pytest.raises(RecordError, match=r"sample 's1' \(d.jsonl:7\): .*lost.mp4"):
        load_segments(record, CONFIG)
