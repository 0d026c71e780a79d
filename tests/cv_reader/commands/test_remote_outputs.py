"""``stage1``, ``stage2``, both in one, and ``index`` write to a store what they write to a disk."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cv_reader.assets import read_asset
from cv_reader.commands import index, stage1, stage2
from cv_reader.remote.files import forget_looked_up
from support.corpus import Corpus
from support.filled_bucket import Store, files_below
from support.object_store import BUCKET
from support.slurm_node import stand_in

pytest.importorskip("fsspec")
pytestmark = pytest.mark.usefixtures("own_cache")
SIZES = ["--square_size", "64", "--num_images", "2", "--sequence_length", "8", "--num_workers", "1"]


def _files(folder: Path) -> dict[str, bytes]:
    """What samples became; the lines, without where that is."""
    found = files_below(folder)
    kept = {name: content for name, content in found.items() if "sample_" in name}
    lines = found.get("t.jsonl", b"").replace(str(folder).encode(), b"")
    return kept | {"t.jsonl": lines.replace(b"file://", b"")}


def _both(data: Path, videos: Path | str, out: Path | str, *extra: str) -> list[str]:
    places = ["--dataset_path", str(data), "--video_root", str(videos)]
    places += ["--visidx_root", f"{out}/1", "--out_image_root", f"{out}/2"]
    return [*places, "--out_jsonl", f"{out}/t.jsonl", "--write_positions", *SIZES, *extra]


@pytest.mark.slow
def test_both_stages_write_to_a_store(
    corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = corpus.write(tmp_path / "d.jsonl", corpus.row("good.mp4"))
    assert stage2.main_of_both(_both(data, corpus.root, f"file://{tmp_path}/store")) == 0
    (line,) = (tmp_path / "store" / "t.jsonl").read_text().splitlines()
    positions = json.loads(line)["positions_thw"]
    assert positions.startswith(f"file://{tmp_path}/store/2/sample_")
    assert read_asset(positions.rpartition("/")[0]).positions.shape == (32, 3)
    assert len(list((tmp_path / "store" / "1").glob("*.npy"))) == 2
    assert stage2.main_of_both(_both(data, corpus.root, f"file://{tmp_path}/store")) == 0
    assert "0 made, 1 kept" in capsys.readouterr().err
    # Nothing stays on this disk but reports.
    assert not list((tmp_path / "cache" / "outputs").rglob("*.npy"))


@pytest.mark.slow
@pytest.mark.parametrize("output", ["folder", "tar"])
def test_stages_in_a_store_write_what_they_write_to_a_disk(
    corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str], output: str
) -> None:
    names = ("good.mp4", "short.mp4", "other.mp4")
    data = corpus.write(tmp_path / "d.jsonl", *map(corpus.row, names))
    extra = ["--output", output, "--shard_samples", "2"]
    assert stage2.main_of_both(_both(data, corpus.root, tmp_path / "local", *extra)) == 0
    expected = _files(tmp_path / "local")
    assert len(expected) == (25 if output == "folder" else 10)
    store = tmp_path / "store"

    def run(command: Callable[[list[str]], int], args: list[str], said: str) -> None:
        forget_looked_up()
        assert command(args) == 0
        assert said in capsys.readouterr().err

    remote = _both(data, f"file://{corpus.root}", f"file://{store}", *extra)
    run(stage2.main_of_both, remote, "3 made, 0 kept")
    found = _files(store)
    shards = {n: c for n, c in files_below(store).items() if n.startswith("2/shard_")}
    local_shards = {n: c for n, c in files_below(tmp_path / "local").items() if "shard_" in n}
    assert shards == {n: c for n, c in local_shards.items() if n.startswith("2/shard_")}
    assert found == expected
    run(stage2.main_of_both, remote, "0 made, 3 kept")
    run(stage2.main_of_both, [*remote, "--trust_ledger"], "0 made, 3 kept")
    assert _files(store) == expected
    # The stages one by one, of which the second reads what the first wrote to the store.
    one = [*remote[:4], "--out_root", f"file://{tmp_path}/apart/1", *SIZES]
    run(stage1.main, one, "3 made, 0 kept")
    run(stage1.main, one, "0 made, 3 kept")
    two = _both(data, corpus.root, f"file://{tmp_path}/apart", *extra)
    run(stage2.main, two, "3 made, 0 kept")
    assert _files(tmp_path / "apart") == expected
    # A file that is missing or cut is found, and its sample made again.
    cut = next(path for path in (tmp_path / "apart" / "2").rglob("*000*") if path.suffix != ".json")
    cut.write_bytes(cut.read_bytes()[:-1])
    next((tmp_path / "apart" / "1").glob("*good*.meta.json")).unlink()
    run(stage1.main, one, "1 made, 2 kept")
    run(stage2.main, two, " kept")
    assert _files(tmp_path / "apart") == expected


@pytest.mark.slow
def test_an_index_is_written_to_a_store_and_continued(
    corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = corpus.write(tmp_path / "d.jsonl", {"video": "good.mp4"}, {"video": "short.mp4"})
    small = ["--sequence_length", "8", "--num_images", "2", "--num_workers", "1"]
    local = ["--dataset_path", str(data), "--video_root", str(corpus.root), *small]
    assert index.main([*local, "--out", str(tmp_path / "local.jsonl")]) == 0
    remote = ["--dataset_path", f"file://{data}", "--video_root", f"file://{corpus.root}", *small]
    remote += ["--out", f"file://{tmp_path}/store/kept.jsonl"]
    for said in ("2 made, 0 kept", "0 made, 2 kept"):
        assert index.main(remote) == 0
        assert said in capsys.readouterr().err
    found = (tmp_path / "store" / "kept.jsonl").read_bytes()
    assert found == (tmp_path / "local.jsonl").read_bytes()
    assert (tmp_path / "store" / "kept.jsonl.summary.json").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["local", "ray", "slurm"])
def test_commands_write_to_a_bucket_whatever_the_network_does(
    store: tuple[Store, Any], engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, system = store
    chosen = {"local": [], "ray": ["--engine", "ray", "--address", "local"]}
    chosen["slurm"] = ["--engine", "slurm", "--chunk_tasks", "2"]
    if engine == "ray":
        pytest.importorskip("ray")
    if engine == "slurm":
        (tmp_path / "bin").mkdir()
        monkeypatch.setenv("PATH", str(stand_in(tmp_path / "bin")), prepend=":")
    rows = [
        {
            "id": str(number),
            "video": f"videos/{number}.mp4",
            "conversations": [
                {"from": "human", "value": "<image>\nWhat?"},
                {"from": "gpt", "value": "A square."},
            ],
        }
        for number in range(3)
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    system.pipe_file(f"{BUCKET}/data.jsonl", text.encode())
    (run.local / "data.jsonl").write_text(text)
    kinds = ["", "", "error", "", "", "", "", "cut", "", "", "slow", ""]
    run.faults.kind = lambda number, _method, _path: kinds[number % len(kinds)]

    def started(command: str, *args: str) -> str:
        program = [sys.executable, "-m", "cv_reader.commands.main", command, *args, *chosen[engine]]
        ended = subprocess.run(program, capture_output=True, text=True, timeout=300)
        assert ended.returncode == 0, ended.stderr
        return ended.stderr

    out, root = f"s3://{BUCKET}/out", f"s3://{BUCKET}"
    both = ["--stage", "1,2", *_both(Path("data.jsonl"), root, out)]
    both[both.index("data.jsonl")] = f"{root}/data.jsonl"
    assert "3 made, 0 kept" in started("precompute", *both)
    listed = ["--dataset_path", f"{root}/list.jsonl", "--out", f"{out}/kept.jsonl"]
    listed += ["--sequence_length", "8", "--num_images", "2", "--num_workers", "1"]
    assert "3 made, 0 kept" in started("index", *listed)
    assert {"error", "cut", "slow"} == set(run.faults.given)
    found = {
        name.removeprefix(f"{BUCKET}/out/"): system.cat_file(name)
        for name in system.find(f"{BUCKET}/out")
    }
    lines = found.pop("t.jsonl").replace(out.encode(), b"")
    local = run.local / "both"
    assert stage2.main_of_both(_both(run.local / "data.jsonl", run.local, local)) == 0
    expected = _files(local)
    assert lines == expected.pop("t.jsonl")
    assert {name: content for name, content in found.items() if "sample_" in name} == expected
    here = ["--dataset_path", str(run.local / "list.jsonl"), "--out", str(local / "kept.jsonl")]
    assert index.main([*here, *listed[4:]]) == 0
    assert found["kept.jsonl"] == (local / "kept.jsonl").read_bytes()
