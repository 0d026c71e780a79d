"""Commands on addresses: the bytes of local runs, refusals before work, faults and kills."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cv_reader.commands import precompute, stage1, stage2
from cv_reader.remote import choice, transfer
from cv_reader.remote.cache import choose_cache
from support.corpus import Corpus
from support.media import moving_square, write_video
from support.object_store import BUCKET, Faults, closed_port, faulty_proxy, s3_server, use_s3

pytest.importorskip("fsspec")
SMALL = ["--square_size", "64", "--num_images", "2", "--seq_len_frames", "8", "--num_workers", "1"]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("CV_READER_CACHE", str(tmp_path / "cache"))
    yield
    choose_cache(choice.cache_settings())


def _files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


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
    assert _files(out / "assets") == _files(tmp_path / "local" / "assets")
    assert len(_files(out / "assets")) == 12
    failed = json.loads((out / "precompute_failed.shard00of01.txt").read_text())
    assert failed["reason"].startswith(f"file://{corpus.root}/none.mp4: no such object")
    # Nothing stays behind but reports.
    assert not list((tmp_path / "cache" / "outputs").rglob("*.jpg"))
    # An asset counts where its metadata is there, with all the files that it names.
    (out / "assets" / "short" / "meta.json").unlink()
    (out / "assets" / "good" / "mosaic_001.jpg").write_bytes(b"cut")
    assert precompute.main(remote) == 1
    assert "2 made, 0 kept" in capsys.readouterr().err
    assert _files(out / "assets") == _files(tmp_path / "local" / "assets")
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
        return {name: content for name, content in _files(out).items() if "sample_" in name}

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
        ({"--out_root": "memory://out", "--output": "tar"}, "needs a folder of this machine"),
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


@dataclass
class Store:
    """A bucket behind a proxy, and a local copy of what is in it."""

    local: Path
    faults: Faults

    def run(self, *extra: str, **settings: Any) -> subprocess.CompletedProcess[str]:
        """Run precompute from the bucket to the bucket in a process of its own."""
        return subprocess.run(
            self.command(*extra), capture_output=True, text=True, timeout=200, **settings
        )

    @staticmethod
    def command(*extra: str) -> list[str]:
        """Return the command line of a run."""
        program = [sys.executable, "-m", "cv_reader.commands.main", "precompute"]
        places = ["--jsonl", f"s3://{BUCKET}/list.jsonl", "--out_root", f"s3://{BUCKET}/out"]
        return [*program, *places, *SMALL, *extra]

    def expected(self) -> dict[str, bytes]:
        """Return the assets of a local run."""
        out = self.local / "expected"
        args = ["--jsonl", str(self.local / "list.jsonl"), "--out_root", str(out), *SMALL]
        assert precompute.main(args) == 0
        return _files(out / "assets")

    @staticmethod
    def assets(system: Any) -> dict[str, bytes]:
        """Return the assets in the bucket."""
        start = f"{BUCKET}/out/assets/"
        return {name.removeprefix(start): system.cat_file(name) for name in system.find(start)}


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Store, Any]]:
    """Three videos and their list in a bucket, and a file system that looks past the proxy."""
    s3fs = pytest.importorskip("s3fs")
    pytest.importorskip("moto")
    monkeypatch.setattr(transfer, "FIRST_WAIT_SECONDS", 0.01)
    use_s3(monkeypatch, "")
    local, faults = tmp_path / "local", Faults()
    (local / "videos").mkdir(parents=True)
    for number in range(3):
        write_video(local / "videos" / f"{number}.mp4", moving_square(20, 48, 64, seed=number))
    rows = [json.dumps({"video": f"videos/{number}.mp4"}) + "\n" for number in range(3)]
    (local / "list.jsonl").write_text("".join(rows))
    with s3_server() as server, faulty_proxy(server, faults) as proxy:
        options: dict[str, Any] = {"skip_instance_cache": True, "use_listings_cache": False}
        system = s3fs.S3FileSystem(endpoint_url=server, **options)
        for path in sorted(local.rglob("*.*")):
            system.put_file(str(path), f"{BUCKET}/{path.relative_to(local)}")
        # Assets record the time of the video, which is that of its upload.
        for name in (f"videos/{number}.mp4" for number in range(3)):
            seconds = system.info(f"{BUCKET}/{name}")["LastModified"].timestamp()
            os.utime(local / name, (seconds, seconds))
        use_s3(monkeypatch, proxy)
        yield Store(local, faults), system


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
