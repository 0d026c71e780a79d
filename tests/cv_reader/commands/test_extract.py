"""``cv_reader extract`` writes what ``open_video`` gives."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from cv_reader import open_video
from cv_reader.commands.extract import main, parse_frames
from cv_reader.errors import SettingsError
from cv_reader.select.selection import sample_frame_ids
from support.media import write_video


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows, columns = np.mgrid[:48, :64]
    frames = [
        np.stack([(rows * 3 + columns * 2 + 5 * number) % 256] * 3, axis=-1).astype(np.uint8)
        for number in range(12)
    ]
    return write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", frames)


def test_archive_holds_the_maps_of_the_chosen_frames(clip: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.npz"
    assert main([str(clip), "-o", str(target), "--frames", "3,7-8"]) == 0
    with open_video(clip) as video, np.load(target) as archive:
        for frame in video.frames([3, 7, 8]):
            for name in ("motion", "motion_ref", "residual_y"):
                stored = archive[f"{frame.index:06d}/{name}"]
                assert np.array_equal(stored, getattr(frame, name))
            assert np.array_equal(archive[f"{frame.index:06d}/luma"], frame.luma())
    with zipfile.ZipFile(target) as archive:
        index = json.loads(archive.read("index.json"))
    assert index["frames"] == [3, 7, 8]
    assert index["error"] is None


def test_folder_holds_a_file_per_frame(clip: Path, tmp_path: Path) -> None:
    target = tmp_path / "out"
    assert main([str(clip), "-o", str(target), "--pixels", "rgb"]) == 0
    assert len(list(target.glob("*.npz"))) == 12
    with np.load(target / "000005.npz") as arrays:
        assert arrays["rgb"].shape == (48, 64, 3)
        assert "luma" not in arrays


@pytest.mark.parametrize(
    ("text", "expected"),
    [("all", range(10)), ("uniform:3", [0, 4, 9]), ("2,0", [0, 2]), ("1-3,3", [1, 2, 3])],
)
def test_frames_are_chosen_by_number(text: str, expected: list[int]) -> None:
    assert parse_frames(text, 10) == list(expected)


def test_uniform_frames_are_those_of_stage_1_for_all_lengths() -> None:
    for num_frames in range(1, 3000):
        exact = sorted({slot * (num_frames - 1) // 63 for slot in range(64)})
        assert parse_frames("uniform:64", num_frames) == exact
        assert sorted(set(sample_frame_ids(num_frames, 64).tolist())) == exact


@pytest.mark.parametrize("text", ["", "x", "3-", "10", "-1", "uniform:x", "5-2"])
def test_frames_that_do_not_exist_are_refused(text: str) -> None:
    with pytest.raises(SettingsError):
        parse_frames(text, 10)


def test_unreadable_video_exits_1_and_leaves_nothing(tmp_path: Path) -> None:
    assert main([str(tmp_path / "none.mp4"), "-o", str(tmp_path / "out.npz")]) == 1
    assert not list(tmp_path.iterdir())


def test_wrong_backend_exits_2(clip: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([str(clip), "-o", str(tmp_path / "o.npz"), "--backend", "best"])
