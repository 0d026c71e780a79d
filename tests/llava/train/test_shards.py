"""Training on assets in shards is training on the same assets in folders, to the last bit."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cv_reader.commands import stage2
from run_kit.checkpoints import checkpoints
from run_kit.log import read_log
from support.corpus import Corpus
from support.equal_runs import assert_equal_runs
from support.media import moving_square, write_video
from support.object_store import BUCKET, Faults, faulty_proxy, fill_bucket, s3_server, use_s3
from support.paths import ROOT

CLIPS = 5
OPTIONS = {
    "max_steps": 12,
    "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 2,
    "save_strategy": "steps",
    "save_steps": 2,
    "save_total_limit": 1,
    "pack_sequences": True,
    "model_max_length": 500,
    "dataloader_num_workers": 1,
}


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same clips and lines twice: ``folder`` and ``tar`` hold ``t.jsonl`` and the assets."""
    root = tmp_path_factory.mktemp("assets")
    corpus = Corpus(root)
    names = [f"{number}.mp4" for number in range(CLIPS)]
    for number, name in enumerate(names):
        write_video(root / name, moving_square(12, 48, 64, seed=number))
    data = corpus.write(root / "d.jsonl", *map(corpus.row, names))
    for kind in ("folder", "tar"):
        out = root / kind
        code = stage2.main_of_both([
            "--dataset_path", str(data), "--video_root", str(root), "--visidx_root", str(out / "1"),
            "--square_size", "128", "--num_images", "2", "--sequence_length", "8",
            "--out_image_root", str(out / "2"), "--out_jsonl", str(out / "t.jsonl"),
            "--write_positions", "--output", kind, "--shard_samples", "2", "--num_workers", "1",
        ])  # fmt: skip
        assert code == 0
        # Relative to --image_folder; the first mosaic of each clip is a picture sample, too.
        lines = (out / "t.jsonl").read_text().replace(f"{out}/", "").splitlines()
        rows = [row for line in lines for row in (json.loads(line), _picture(json.loads(line)))]
        corpus.write(out / "t.jsonl", *rows)
    return {kind: root / kind for kind in ("folder", "tar")}


def _picture(row: dict[str, Any]) -> dict[str, Any]:
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": row["id"]}]
    return {"id": f"{row['id']} still", "image": row["image"][0], "conversations": turns}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_shards_train_as_folders_and_a_killed_run_continues(
    roots: dict[str, Path],
    run_arguments: Callable[..., list[str]],
    train: Callable[..., int],
    tmp_path: Path,
) -> None:
    def options(kind: str) -> dict[str, Any]:
        return OPTIONS | {"data_path": roots[kind] / "t.jsonl", "image_folder": roots[kind]}

    assert "2/shard_000002.tar#" in (roots["tar"] / "t.jsonl").read_text()
    for kind in ("folder", "tar"):
        assert train(tmp_path / kind, **options(kind)) == 0
    assert_equal_runs(tmp_path / "folder", tmp_path / "tar")
    command = [sys.executable, "-m", "llava.train.train"]
    command += run_arguments(tmp_path / "killed", **options("tar"), resume_from_checkpoint="auto")
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    while len(read_log(tmp_path / "killed")) < 5 and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert checkpoints(tmp_path / "killed")
    assert train(tmp_path / "killed", **options("tar"), resume_from_checkpoint="auto") == 0
    assert_equal_runs(tmp_path / "folder", tmp_path / "killed")


@pytest.mark.slow
def test_a_bucket_trains_as_folders_and_each_file_is_fetched_once(
    roots: dict[str, Path],
    train: Callable[..., int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("s3fs")
    pytest.importorskip("moto")
    monkeypatch.setenv("CV_READER_CACHE", str(tmp_path / "cache"))
    options = OPTIONS | {"save_strategy": "no", "max_steps": 6}
    folder = roots["folder"]
    assert train(tmp_path / "f", **options, data_path=folder / "t.jsonl", image_folder=folder) == 0
    use_s3(monkeypatch, "")
    with s3_server() as server:
        for kind in ("folder", "tar"):
            fill_bucket(server, roots[kind])
            faults = Faults()
            with faulty_proxy(server, faults) as proxy:
                use_s3(monkeypatch, proxy)
                place = {"data_path": roots[kind] / "t.jsonl", "image_folder": f"s3://{BUCKET}"}
                assert train(tmp_path / f"s3 {kind}", **options, **place) == 0
            assert_equal_runs(tmp_path / "f", tmp_path / f"s3 {kind}")
            read = [(path, span) for method, path, span in faults.seen if method == "GET"]
            read = [item for item in read if "list-type" not in item[0]]
            # Two epochs and more; a tar is never fetched whole.
            assert read and len(set(read)) == len(read)
            assert kind == "folder" or all(span for path, span in read if path.endswith(".tar"))
