"""Preparation of benchmarks: videos found and named, fetched, made into assets, resumed."""

import io
import json
import re
import tarfile
import zipfile
from pathlib import Path

import huggingface_hub
import pytest

from cv_reader.assets import AssetConfig
from llava.eval.benchmarks.download import DownloadError, download
from llava.eval.benchmarks.prepare import asset_bytes, find_videos, main, name_videos
from llava.eval.benchmarks.table import find_benchmark
from support.media import moving_square, write_video

SMALL = ["--seq_len_frames", "8", "--num_images", "2", "--square_size", "64", "--patch_size", "8"]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("DRY_RUN", "NUM_WORKERS", "SEQ_LEN_FRAMES", "LLAVA_CODEC_SEQ_LEN_FRAMES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    return tmp_path


def _touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_videos_are_found_below_links_in_any_case(tmp_path: Path) -> None:
    _touch(tmp_path / "real" / "b.MKV", tmp_path / "real" / "b.srt", tmp_path / "real" / ".c.mp4")
    _touch(tmp_path / "root" / "a.mp4", tmp_path / "root" / ".partial" / "d.mp4")
    (tmp_path / "root" / "link").symlink_to(tmp_path / "real")
    root = tmp_path / "root"
    assert find_videos(root) == [root / "a.mp4", root / "link" / "b.MKV"]


def test_no_two_videos_share_a_key(tmp_path: Path) -> None:
    videos = [tmp_path / name for name in ("a/1.mp4", "a/1.webm", "b/1.mp4", "1.mp4")]
    assert name_videos(videos, tmp_path) == {
        "a__1": videos[0],
        "a__1.webm": videos[1],
        "b__1": videos[2],
        "1": videos[3],
    }


def test_assets_are_made_once(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for seed, name in enumerate(("one.mp4", "two.mkv")):
        path = home / "videomme" / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, moving_square(9, 48, 64, seed=seed))
    command = ["videomme", "--num_workers", "1", *SMALL]
    assert main(command) == 0
    offline = home / "videomme_offline"
    rows = [
        json.loads(line)
        for line in (offline / "videomme_videos.jsonl").read_text().split("\n")
        if line
    ]
    assert [row["key"] for row in rows] == ["one", "two"]
    assert rows[0]["video"] == str(home / "videomme" / "data" / "one.mp4")
    folder = offline / "assets" / "two"
    made = {path.name for path in folder.iterdir()}
    assert {"mosaic_000.jpg", "mosaic_001.jpg", "positions_thw.npy", "meta.json"} <= made
    config = AssetConfig(sequence_length=8, num_images=2, square_size=64, patch_size=8)
    size = sum(path.stat().st_size for path in folder.iterdir())
    assert size <= asset_bytes(config) < 10 * size
    before = (folder / "meta.json").stat().st_mtime_ns
    assert "2 videos, 2 without assets" in capfd.readouterr().err
    assert main(command) == 0
    assert (folder / "meta.json").stat().st_mtime_ns == before
    assert "2 videos, 0 without assets" in capfd.readouterr().err
    assert main([*command[:-1], "16"]) == 2, "other settings are refused, not mixed in"
    assert "--overwrite" in capfd.readouterr().err


def test_a_broken_video_is_reported_and_the_others_are_made(home: Path) -> None:
    folder = home / "TOMATO" / "videos"
    _touch(folder / "broken.mp4")
    write_video(folder / "good.mp4", moving_square(9, 48, 64))
    assert main(["tomato", "--num_workers", "1", *SMALL]) == 1
    assert (home / "tomato_offline/assets/videos__good/meta.json").exists()
    [failures] = (home / "tomato_offline").glob("precompute_failed*.txt")
    assert json.loads(failures.read_text())["key"] == "videos__broken"


def test_dry_run_writes_nothing(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    _touch(home / "mlvu" / "a.mp4")
    assert main(["all", "--dry_run", "--num_workers", "3", "--overwrite"]) == 0
    captured = capfd.readouterr()
    assert captured.out.count("cv_reader.commands.main precompute") == 9
    assert "--num_workers 3" in captured.out
    assert captured.out.count("--overwrite") == 9
    assert "would fetch lmms-eval/Video-MME" in captured.err
    assert [path.name for path in home.iterdir()] == ["mlvu"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["videome"], "videome is not a known benchmark; give all, or some of videomme, mvbench"),
        (["docvqa_val"], "docvqa_val has images instead of videos"),
        (["tomato", "--square_size", "60"], "square_size"),
        (["tomato"], "no videos below"),
        (["longvideobench"], "cannot be fetched from the data hub .*accept its terms"),
    ],
)
def test_what_cannot_start_exits_with_2(
    home: Path, arguments: list[str], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    (home / "TOMATO").mkdir()
    assert main(arguments) == 2
    assert re.search(message, capfd.readouterr().err)


def _snapshot(folder: Path) -> Path:
    """A repository with a zip, a tar in two parts and a video of its own."""
    (folder / "video").mkdir(parents=True)
    with zipfile.ZipFile(folder / "video" / "star.zip", "w") as archive:
        archive.writestr("star/a.mp4", b"a")
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name in ("videos/b.mp4", "videos/c.mp4"):
            info = tarfile.TarInfo(name)
            info.size = 2000
            tar.addfile(info, io.BytesIO(name[7:8].encode() * 2000))
    content = stream.getvalue()
    (folder / "videos.tar.part.aa").write_bytes(content[:1500])
    (folder / "videos.tar.part.ab").write_bytes(content[1500:])
    _touch(folder / "loose" / "d.webm", folder / "notes.json")
    return folder


def test_a_download_is_unpacked_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = _snapshot(tmp_path / "snapshot")
    asked: list[dict[str, str]] = []
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda **names: asked.append(names) or str(snapshot)
    )
    benchmark = find_benchmark("mvbench")
    assert benchmark is not None
    whole = (snapshot / "videos.tar.part.ab").read_bytes()
    (snapshot / "videos.tar.part.ab").write_bytes(whole[:100])
    with pytest.raises(DownloadError, match="videos.tar.part.aa cannot be unpacked"):
        download(benchmark, tmp_path / "home")
    assert not (tmp_path / "home" / "mvbench_video").exists()
    (snapshot / "videos.tar.part.ab").write_bytes(whole)
    (snapshot / "video" / "star.zip").write_bytes(b"")  # done already: must not be read again
    download(benchmark, tmp_path / "home")
    root = tmp_path / "home" / "mvbench_video"
    assert [path.relative_to(root).as_posix() for path in find_videos(root)] == [
        "loose/d.webm",
        "star/a.mp4",
        "videos/b.mp4",
        "videos/c.mp4",
    ]
    assert (root / "videos" / "c.mp4").read_bytes() == b"c" * 2000
    assert not list(root.glob(".*"))
    expected = {"repo_id": "OpenGVLab/MVBench", "repo_type": "dataset", "revision": "video"}
    assert asked[0] == expected


def test_variables_of_the_run_set_what_assets_are_made_with(
    home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LLAVA_CODEC_SELECT", "rate_distortion")
    monkeypatch.setenv("LLAVA_CODEC_QUALITY_DB", "30")
    assert main(["videomme", "--dry_run", *SMALL]) == 0
    assert "--patch_size 8 --select rate_distortion --quality_db 30.0\n" in capfd.readouterr().out
    monkeypatch.setenv("LLAVA_CODEC_SELECT", "best")
    assert main(["videomme", "--dry_run", *SMALL]) == 2
    assert "select must be one of" in capfd.readouterr().err
