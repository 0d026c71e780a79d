"""Videos and their list in a bucket of a real S3 server, and runs of precompute on them."""

import json
import os
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cv_reader.commands import precompute
from cv_reader.remote import transfer
from support.media import moving_square, write_video
from support.object_store import BUCKET, Faults, faulty_proxy, s3_server, use_s3

SMALL = ["--square_size", "64", "--num_images", "2", "--seq_len_frames", "8", "--num_workers", "1"]


def files_below(folder: Path) -> dict[str, bytes]:
    """Return the content of all files of a folder by their paths in it."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


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

    def expected(self, *extra: str) -> dict[str, bytes]:
        """Return the assets of a local run."""
        out = self.local / "expected"
        args = ["--jsonl", str(self.local / "list.jsonl"), "--out_root", str(out), *SMALL, *extra]
        assert precompute.main(args) == 0
        return files_below(out / "assets")

    @staticmethod
    def assets(system: Any) -> dict[str, bytes]:
        """Return the assets in the bucket."""
        start = f"{BUCKET}/out/assets/"
        return {name.removeprefix(start): system.cat_file(name) for name in system.find(start)}


@contextmanager
def filled_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[tuple[Store, Any]]:
    """Put three videos and their list into a bucket; gives a file system that sees no faults."""
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
