"""Drawing FFmpeg's vector records, against a loop that draws them one by one."""

from pathlib import Path

import av
import numpy as np
import pytest
from av.codec.context import Flags2

from cv_reader.backends.vectors import draw_vectors, read_vectors
from support.media import moving_square, write_video

CLIPS = [
    ("libx264", {"g": "12", "bf": "2", "preset": "medium"}),
    ("mpeg4", {"g": "12", "bf": "2", "flags": "+mv4+qpel"}),
    ("mpeg2video", {"g": "12", "bf": "2"}),
]


def _drawn_one_by_one(
    vectors: np.ndarray, height: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    rows, columns = -(-height // 8), -(-width // 8)
    motion = np.zeros((2, rows, columns, 2), np.int16)
    direction = np.zeros((2, rows, columns), np.int16)
    for vector in vectors:
        which = 0 if vector["source"] < 0 else 1
        scale = int(vector["motion_scale"])
        for row in range(rows):
            for column in range(columns):
                if (
                    abs(row * 8 + 4 - int(vector["dst_y"])) < vector["h"] / 2
                    and abs(column * 8 + 4 - int(vector["dst_x"])) < vector["w"] / 2
                ):
                    x = int(vector["motion_x"]) * 4 // scale
                    y = int(vector["motion_y"]) * 4 // scale
                    motion[which, row, column] = (x, y)
                    direction[which, row, column] = -1 if which == 0 else 1
    return motion, direction


def _exported(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        container.streams.video[0].codec_context.flags2 |= Flags2.export_mvs
        return [read_vectors(frame, str(path)) for frame in container.decode(video=0)]


@pytest.mark.parametrize(("codec", "options"), CLIPS)
def test_records_of_real_decoders(tmp_path: Path, codec: str, options: dict[str, str]) -> None:
    clip = moving_square(14, 72, 104, (2, 3))
    pictures = _exported(write_video(tmp_path / "clip.mkv", clip, codec=codec, options=options))
    seen = np.concatenate(pictures)
    assert {-1, 1} == set(seen["source"].tolist())
    assert len({(int(v["w"]), int(v["h"])) for v in seen}) > 1 or codec != "libx264"
    for vectors in pictures:
        motion, direction = draw_vectors(vectors, 72, 104)
        expected, expected_direction = _drawn_one_by_one(vectors, 72, 104)
        np.testing.assert_array_equal(direction, expected_direction)
        np.testing.assert_array_equal(motion, expected)


def test_exported_vectors_lead_from_block_to_reference(tmp_path: Path) -> None:
    for vectors in _exported(write_video(tmp_path / "clip.mp4", moving_square(8, 64, 96))):
        whole = vectors[(vectors["motion_x"] % 4 == 0) & (vectors["motion_y"] % 4 == 0)]
        np.testing.assert_array_equal(whole["src_x"] - whole["dst_x"], whole["motion_x"] // 4)
        np.testing.assert_array_equal(whole["src_y"] - whole["dst_y"], whole["motion_y"] // 4)


def _record(**fields: int) -> np.ndarray:
    facts = {"source": -1, "w": 16, "h": 16, "motion_x": 5, "motion_y": -3, "motion_scale": 4}
    facts |= {"dst_x": 8, "dst_y": 8, **fields}
    return np.array([tuple(facts.values())], [(name, "i4") for name in facts])


def test_blocks_outside_the_picture_are_clipped() -> None:
    motion, direction = draw_vectors(_record(dst_x=24), 8, 24)
    assert direction[0].tolist() == [[0, 0, -1]]
    assert motion[0, 0, 2].tolist() == [5, -3]
    _, direction = draw_vectors(_record(dst_x=-8), 16, 16)
    assert not direction.any()


def test_scale_is_brought_to_quarter_pixels() -> None:
    motion, _ = draw_vectors(_record(motion_scale=2, source=1), 16, 16)
    assert (motion[1] == (10, -6)).all()
    motion, direction = draw_vectors(_record(motion_scale=0), 16, 16)
    assert not motion.any()
    assert not direction.any()


def test_no_vectors() -> None:
    motion, direction = draw_vectors(_record()[:0], 17, 9)
    assert motion.shape == (2, 3, 2, 2)
    assert not direction.any()
