"""A benchmark fetched over HTTP by the script, from a small hub on this machine: whole, cut or
damaged."""

import io
import os
import subprocess
import zipfile
from pathlib import Path

import pytest

from llava.eval.benchmarks.prepare import find_videos
from support.hub_server import Hub, serve
from support.media import moving_square, write_video
from support.paths import ROOT

SCRIPT = "scripts/precompute_codec_patch/preprocess_video_benchmark.sh"
SIZES = {"SEQ_LEN_FRAMES": "8", "NUM_IMAGES": "2", "SQUARE_SIZE": "64", "PATCH_SIZE": "8"}
ARCHIVE, LOOSE, LARGE = "videos_chunked_01.zip", "videos/loose.mp4", "features.bin"


@pytest.fixture
def hub(tmp_path: Path) -> Hub:
    clips = [
        write_video(tmp_path / f"{seed}.mp4", moving_square(9, 48, 64, seed=seed)).read_bytes()
        for seed in range(2)
    ]
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as content:
        content.writestr("videos/packed.mp4", clips[0])
    files = {ARCHIVE: archive.getvalue(), LOOSE: clips[1], LARGE: bytes(24 << 20)}
    return Hub("lmms-eval/PerceptionTest_Val", files)


def _prepare(hub: Hub, home: Path) -> subprocess.CompletedProcess[str]:
    proxies = {name: "" for name in os.environ if name.lower().endswith("_proxy")}
    return subprocess.run(
        ["bash", SCRIPT, "perceptiontest"],
        cwd=ROOT,
        env={
            **os.environ,
            **proxies,
            **SIZES,
            "HF_ENDPOINT": hub.endpoint,
            "HF_HUB_OFFLINE": "0",
            "HF_HOME": str(home),
            "NUM_WORKERS": "1",
        },
        capture_output=True,
        text=True,
        timeout=200,
    )


def _check_made(hub: Hub, home: Path) -> None:
    folder = home / "perceptiontest_val" / "videos"
    assert [path.name for path in find_videos(folder)] == ["loose.mp4", "packed.mp4"]
    assert (folder / "loose.mp4").read_bytes() == hub.files[LOOSE]
    made = {path.name for path in (home / "perceptiontest_offline" / "assets").iterdir()}
    assert made == {"loose", "packed"}


@pytest.mark.slow
def test_a_download_that_is_cut_goes_on_where_it_stopped(hub: Hub, tmp_path: Path) -> None:
    hub.cuts[LARGE] = 1
    with serve(hub):
        result = _prepare(hub, tmp_path / "home")
        assert result.returncode == 0, result.stderr[-3000:]
        starts = [start for path, start in hub.requests if path == LARGE]
        assert (len(starts), starts[0], starts[-1] > 0) == (2, 0, True), "then the rest alone"
        asked = len(hub.requests)
        assert _prepare(hub, tmp_path / "home").returncode == 0
    assert len(hub.requests) == asked, "a second run fetches nothing"
    _check_made(hub, tmp_path / "home")


@pytest.mark.slow
def test_a_hub_that_fails_is_reported_and_a_second_run_fetches_the_rest(
    hub: Hub, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    hub.cuts[LOOSE] = 1000
    with serve(hub):
        result = _prepare(hub, home)
        assert result.returncode == 2, result.stderr[-3000:]
        assert "lmms-eval/PerceptionTest_Val cannot be fetched from the data hub" in result.stderr
        assert "Traceback" not in result.stderr
        assert not (home / "perceptiontest_val").exists()
        hub.cuts.clear()
        hub.requests.clear()
        result = _prepare(hub, home)
        assert result.returncode == 0, result.stderr[-3000:]
    assert [path for path, _ in hub.requests] == [LOOSE], "what had arrived is kept"
    _check_made(hub, home)


@pytest.mark.slow
@pytest.mark.parametrize("name", [ARCHIVE, LOOSE])
def test_a_damaged_file_is_found_and_fetched_again(hub: Hub, tmp_path: Path, name: str) -> None:
    home = tmp_path / "home"
    hub.damaged = {name}
    with serve(hub):
        result = _prepare(hub, home)
        assert result.returncode == 2, result.stderr[-3000:]
        assert f"{name}: arrived damaged" in result.stderr
        assert not (home / "perceptiontest_val").exists()
        hub.damaged = set()
        hub.requests.clear()
        assert _prepare(hub, home).returncode == 0
    assert [path for path, _ in hub.requests] == [name], "only this file is fetched again"
    _check_made(hub, home)
