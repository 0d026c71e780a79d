"""``--output tar`` to a store: the shards of a local run, whatever ends a run."""

import json
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from cv_reader.assets import read_asset
from cv_reader.commands import precompute
from cv_reader.remote.files import forget_looked_up
from cv_reader.shards import find_shards, index_path, sample_path
from support.corpus import Corpus
from support.filled_bucket import SMALL, Store
from support.object_store import BUCKET

pytest.importorskip("fsspec")
TAR = ["--output", "tar", "--shard_samples", "2"]
VIDEOS = ("good.mp4", "short.mp4")
KEYS = ("a", "b", "c")


pytestmark = pytest.mark.usefixtures("own_cache")


def _shards(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("shard_*"))}


def _list(corpus: Corpus, folder: Path) -> Path:
    rows = [{"video": VIDEOS[number % 2], "key": key} for number, key in enumerate(KEYS)]
    return corpus.write(folder / "v.jsonl", *rows)


def _in_store(corpus: Corpus, folder: Path) -> list[str]:
    data = _list(corpus, folder)
    places = ["--jsonl", f"file://{data}", "--video_root", f"file://{corpus.root}"]
    return [*places, "--out_root", f"file://{folder}/store", *SMALL, *TAR]


def test_shards_in_a_store_hold_the_samples(
    corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = _in_store(corpus, tmp_path)
    assert precompute.main(command) == 0
    tars = find_shards(Path(f"file://{tmp_path}/store/assets"))
    assert [tar.name for tar in tars] == ["shard_000000.tar", "shard_000001.tar"]
    assert read_asset(sample_path(tars[1], "c")).positions.shape == (32, 3)
    assert precompute.main(command) == 0
    assert "0 made, 3 kept" in capsys.readouterr().err
    # Nothing stays on this disk but reports.
    assert not list((tmp_path / "cache" / "outputs").rglob("shard_0*"))


@pytest.mark.slow
def test_shards_in_a_store_are_those_of_a_local_run(
    corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    local = ["--jsonl", str(_list(corpus, tmp_path)), "--video_root", str(corpus.root)]
    assert precompute.main([*local, *SMALL, *TAR, "--out_root", str(tmp_path / "local")]) == 0
    expected = _shards(tmp_path / "local" / "assets")
    assert len(expected) == 4
    remote, out = _in_store(corpus, tmp_path), tmp_path / "store"

    def run(said: str, *extra: str) -> None:
        assert precompute.main([*remote, *extra]) == 0
        assert said in capsys.readouterr().err
        assert _shards(out / "assets") == expected

    run("3 made, 0 kept")
    assert (out / "summary.shard00of01.json").is_file()
    run("0 made, 3 kept", "--trust_ledger")
    # A tar that is cut is found by its size, and made again under the same number as it was last.
    cut = out / "assets" / "shard_000001.tar"
    cut.write_bytes(cut.read_bytes()[:-1])
    forget_looked_up()
    run("1 made, 2 kept")
    index_path(cut).unlink()
    assert precompute.main(remote) == 2
    assert "has no index shard_000001.index.json" in capsys.readouterr().err
    run("3 made, 0 kept", "--overwrite")


@pytest.mark.slow
def test_a_run_that_was_killed_before_it_moved_a_shard_moves_it(
    corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = corpus.write(tmp_path / "v.jsonl", *({"video": v, "key": v[:2]} for v in VIDEOS))
    out = tmp_path / "store"
    command = ["--jsonl", str(data), "--video_root", str(corpus.root), *SMALL, *TAR]
    command += ["--out_root", f"file://{out}"]
    assert precompute.main(command) == 0
    expected = _shards(out / "assets")
    # What a kill leaves behind: the folders, the shard on this disk, its index in the store.
    (folder,) = (tmp_path / "cache" / "outputs").glob("*/assets")
    assert precompute.main([*command[:-1], str(tmp_path / "folders"), "--output", "folder"]) == 0
    for key in ("go", "sh"):
        shutil.copytree(tmp_path / "folders" / "assets" / key, folder / key)
    for path in (out / "assets").iterdir():
        shutil.copy(path, folder)
    os.unlink(out / "assets" / "shard_000000.tar")
    forget_looked_up()
    capsys.readouterr()
    assert precompute.main(command) == 0
    assert "0 made, 2 kept" in capsys.readouterr().err
    assert _shards(out / "assets") == expected
    assert not list(folder.iterdir())
    assert json.loads((out / "summary.shard00of01.json").read_text())["kept"] == 2


@pytest.mark.slow
def test_killed_runs_into_a_bucket_end_with_the_shards_of_a_local_run(
    store: tuple[Store, Any],
) -> None:
    run, system = store
    kinds = ["", "error", "", "", "cut", "", "slow", ""]
    run.faults.kind = lambda number, _method, _path: kinds[number % len(kinds)]
    chance = random.Random(1)
    for _ in range(3):
        started = subprocess.Popen(
            run.command(*TAR), stderr=subprocess.DEVNULL, start_new_session=True
        )
        time.sleep(chance.uniform(2.0, 6.0))
        os.killpg(started.pid, signal.SIGKILL)
        started.wait()
    ended = run.run(*TAR)
    assert ended.returncode == 0, ended.stderr
    found = run.assets(system)
    assert set(found) == {f"shard_00000{n}.{end}" for n in (0, 1) for end in ("tar", "index.json")}
    assert found == run.expected(*TAR)
    again = run.run(*TAR)
    assert "0 made, 3 kept" in again.stderr
    assert len(find_shards(Path(f"s3://{BUCKET}/out/assets"))) == 2
