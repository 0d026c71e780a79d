"""Commands on addresses: the bytes of local runs, refusals before work, faults and kills."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cv_reader.commands import precompute, stage1, stage2
from support.corpus import Corpus
from support.filled_bucket import SMALL, Store, files_below
from support.hub_server import Hub, serve
from support.object_store import BUCKET, closed_port

pytest.importorskip("fsspec")


pytestmark = pytest.mark.usefixtures("own_cache")


def test_addresses_give_the_bytes_of_a_local_run(
    corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = corpus.write(
        tmp_path / "v.jsonl", {"video": "good.mp4"}, {"video": "short.mp4"}, {"video": "none.mp4"}
    )
    local = ["--jsonl", str(data), "--video_root", str(corpus.root), "--out_root"]
    assert precompute.main([*local, str(tmp_path / "local"), *SMALL]) == 1
    remote = ["--jsonl", f"file://{data}", "--video_root", f"file://{corpus.root}", "--out_root"]
    remote += [f"file://{tmp_path}/store/out", *SMALL]
    assert precompute.main(remote) == 1
    assert "read 0.0 MiB from remote storage (100.0%" in capsys.readouterr().err
    out = tmp_path / "store" / "out"
    assert files_below(out / "assets") == files_below(tmp_path / "local" / "assets")
    assert len(files_below(out / "assets")) == 12
    failed = json.loads((out / "precompute_failed.shard00of01.txt").read_text())
    assert failed["reason"].startswith(f"file://{corpus.root}/none.mp4: no such object")
    # Nothing stays behind but reports.
    assert not list((tmp_path / "cache" / "outputs").rglob("*.jpg"))
    # An asset counts where its metadata is there, with all the files that it names.
    (out / "assets" / "short" / "meta.json").unlink()
    (out / "assets" / "good" / "mosaic_001.jpg").write_bytes(b"cut")
    assert precompute.main(remote) == 1
    assert "2 made, 0 kept" in capsys.readouterr().err
    assert files_below(out / "assets") == files_below(tmp_path / "local" / "assets")
    assert precompute.main([*remote, "--sequence_length", "4"]) == 2
    assert "8 where 4 is asked for" in capsys.readouterr().err


def test_both_stages_read_videos_of_a_store(corpus: Corpus, tmp_path: Path) -> None:
    data = corpus.write(tmp_path / "data.json", corpus.row("good.mp4"), corpus.row("short.mp4"))

    def run(out: Path, root: str) -> dict[str, bytes]:
        first = ["--dataset_path", str(data), "--video_root", root, "--out_root", str(out / "1")]
        assert stage1.main([*first, *SMALL]) == 0
        second = ["--input_dataset", str(data), "--video_root", root, "--num_images", "2"]
        second += ["--visidx_root", str(out / "1"), "--out_image_root", str(out / "2"), "--T", "8"]
        second += ["--square_size", "64", "--num_workers", "1"]
        assert stage2.main([*second, "--out_jsonl", str(out / "t.jsonl")]) == 0
        return {name: content for name, content in files_below(out).items() if "sample_" in name}

    local = run(tmp_path / "a", str(corpus.root))
    assert run(tmp_path / "b", f"file://{corpus.root}") == local
    assert len(local) > 6


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"--out_root": "ftp://host/out"}, "the scheme must be one of"),
        ({"--video_root": "s4://b/videos"}, "the scheme must be one of"),
        ({"--jsonl": "memory://none.jsonl"}, "memory://none.jsonl: no such object"),
        ({"--out_root": "https://host/out"}, "a web server cannot be written to"),
        ({"--cache_gb": "0"}, "--cache_gb"),
        ({"video": "s5://b/a.mp4"}, "the scheme must be one of"),
    ],
)
def test_refusals_come_before_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changed: dict[str, str], said: str
) -> None:
    data = tmp_path / "v.jsonl"
    data.write_text(json.dumps({"video": changed.pop("video", "a.mp4")}) + "\n")
    args = {"--jsonl": str(data), "--out_root": str(tmp_path / "out"), **changed}
    assert precompute.main([part for pair in args.items() for part in pair]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out" / "assets").exists()


@pytest.mark.slow
def test_a_bucket_gives_the_bytes_of_a_local_run_whatever_the_network_does(
    store: tuple[Store, Any],
) -> None:
    run, system = store
    kinds = ["error", "", "", "cut", "", "", "slow", "", ""]
    run.faults.kind = lambda number, _method, _path: kinds[number % len(kinds)]
    ended = run.run()
    assert ended.returncode == 0, ended.stderr
    assert "3 made, 0 kept, 0 skipped, 0 failed" in ended.stderr
    assert {"error", "cut", "slow"} == set(run.faults.given)
    assert run.assets(system) == run.expected()
    again = run.run()
    assert "0 made, 3 kept" in again.stderr


@pytest.mark.slow
def test_a_video_that_cannot_be_fetched_fails_alone_and_by_name(store: tuple[Store, Any]) -> None:
    run, system = store

    def kind(_number: int, method: str, path: str) -> str:
        return "error" if method == "GET" and path.endswith("/2.mp4") else ""

    run.faults.kind = kind
    ended = run.run()
    assert ended.returncode == 1
    assert "2 made, 0 kept, 0 skipped, 1 failed" in ended.stderr
    failed = json.loads(system.cat(f"{BUCKET}/out/precompute_failed.shard00of01.txt"))
    assert failed["kind"] == "RemoteError"
    assert failed["reason"].startswith(f"s3://{BUCKET}/videos/2.mp4: failed 5 times, the last:")


@pytest.mark.slow
@pytest.mark.parametrize("after", [1, 9])
def test_a_killed_run_leaves_no_half_asset_and_continues(
    store: tuple[Store, Any], after: int
) -> None:
    run, system = store

    def kind(_number: int, method: str, _path: str) -> str:
        return "slow" if method == "PUT" else ""

    run.faults.kind = kind
    started = subprocess.Popen(run.command(), stderr=subprocess.DEVNULL, start_new_session=True)
    _wait_until(lambda: sum(seen[0] == "PUT" for seen in run.faults.seen) > after)
    os.killpg(started.pid, signal.SIGKILL)
    started.wait()
    time.sleep(0.5)
    expected = run.expected()
    done = run.assets(system) if system.exists(f"{BUCKET}/out/assets") else {}
    whole = {name.split("/")[0] for name in done if name.endswith("meta.json")}
    for name, content in expected.items():
        assert name.split("/")[0] not in whole or done[name] == content
    ended = run.run()
    assert ended.returncode == 0, ended.stderr
    assert f"{3 - len(whole)} made, {len(whole)} kept" in ended.stderr
    assert run.assets(system) == expected


def _wait_until(is_so: Callable[[], bool], limit_seconds: float = 60.0) -> None:
    deadline = time.monotonic() + limit_seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
def test_what_is_wrong_with_a_store_is_told_at_once(
    store: tuple[Store, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = store

    def refused(*extra: str) -> str:
        ended = run.run(*extra)
        assert ended.returncode == 2, ended.stderr
        assert "Traceback" not in ended.stderr
        return ended.stderr

    assert "s3://nowhere/out" in refused("--out_root", "s3://nowhere/out")
    assert "no such object, folder or bucket" in refused("--video_root", "s3://nowhere/videos")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{closed_port()}")
    assert "Could not connect" in refused()
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert "no credentials were found" in refused()


@pytest.mark.slow
def test_videos_of_a_hub_give_the_bytes_of_a_local_run(corpus: Corpus, tmp_path: Path) -> None:
    """The hub is a server of this machine; its library talks to it as to the real one."""
    pytest.importorskip("huggingface_hub")
    names = ("good.mp4", "short.mp4")
    data = corpus.write(tmp_path / "list.jsonl", *({"video": name} for name in (*names, "no.mp4")))
    files = {f"videos/{name}": (corpus.root / name).read_bytes() for name in names}
    program = [sys.executable, "-m", "cv_reader.commands.main", "precompute", *SMALL]
    local = ["--jsonl", str(data), "--video_root", str(corpus.root)]
    assert precompute.main([*local, *SMALL, "--out_root", str(tmp_path / "local")]) == 1
    with serve(Hub("some/videos", {**files, "list.jsonl": data.read_bytes()})) as hub:
        root = "hf://datasets/some/videos"
        places = ["--jsonl", f"{root}/list.jsonl", "--video_root", f"{root}/videos"]
        ended = subprocess.run(
            [*program, *places, "--out_root", str(tmp_path / "out")],
            env={**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_HUB_OFFLINE": "0"},
            capture_output=True,
            text=True,
            timeout=200,
        )
    assert ended.returncode == 1, ended.stderr
    assert "2 made, 0 kept, 0 skipped, 1 failed" in ended.stderr
    assert "no.mp4: no such object" in ended.stderr
    found, expected = (files_below(tmp_path / out / "assets") for out in ("out", "local"))
    assert found.keys() == expected.keys()
    # The hub tells no times.
    assert all(found[name] == expected[name] for name in found if not name.endswith("meta.json"))
