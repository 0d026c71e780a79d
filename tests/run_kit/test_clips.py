"""One encoder of made clips."""

from pathlib import Path

import av
import numpy as np
import pytest

from run_kit.clips import encode_clip

OPTIONS = {"preset": "veryfast", "crf": "10", "threads": "1", "x264-params": "log-level=none:asm=0"}


def test_the_file_holds_the_pictures_and_is_made_again_byte_for_byte(tmp_path: Path) -> None:
    pictures = [np.full((32, 48, 3), level, np.uint8) for level in (20, 90, 200)]
    paths = [tmp_path / "new" / "a.mp4", tmp_path / "b.mp4"]
    for path in paths:
        encode_clip(path, pictures, frame_rate=5, options=OPTIONS)
    with av.open(str(paths[0])) as container:
        assert container.streams.video[0].average_rate == 5
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert [frame.shape for frame in decoded] == [(32, 48, 3)] * 3
    means = [float(frame.mean()) for frame in decoded]
    assert means == pytest.approx([20, 90, 200], abs=4)
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_a_clip_without_pictures_is_refused_and_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"clip\.mp4: a clip needs at least one picture"):
        encode_clip(tmp_path / "clip.mp4", [], options=OPTIONS)
    assert list(tmp_path.iterdir()) == []
