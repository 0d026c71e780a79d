"""Energon reads our shards after its own ``prepare``, in a loader that saves and restores."""

import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from cv_reader.assets.make import write_evaluation_asset
from cv_reader.commands import convert, validate
from cv_reader.select.config import AssetConfig
from support.media import moving_square, write_video

pytestmark = pytest.mark.slow
KEYS = [f"clip_{number}" for number in range(5)]
CONFIG = AssetConfig(square_size=64, num_images=2, sequence_length=8)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """``assets`` and ``tars``: the same five assets, prepared by Energon."""
    pytest.importorskip(
        "megatron.energon", reason="Energon is not installed: pip install megatron-energon==7.4.1"
    )
    for number, key in enumerate(KEYS):
        video = write_video(tmp_path / f"{key}.mp4", moving_square(10, 48, 64, seed=number))
        write_evaluation_asset(video, key=key, out_root=tmp_path, config=CONFIG)
    tars = tmp_path / "tars"
    arguments = ["--to", "tar", "--out", str(tars), "--shard_samples", "2"]
    assert convert.main([str(tmp_path / "assets"), *arguments]) == 0
    prepare = [str(Path(sys.executable).with_name("energon")), "prepare", str(tars)]
    prepare += ["--non-interactive", "--split-ratio", "1,0,0", "--num-workers", "1"]
    subprocess.run([*prepare, "--sample-type", "CrudeWebdataset"], check=True)
    return tmp_path


def test_energon_reads_every_member_and_restores_its_loader(root: Path) -> None:
    seen = list(islice(_loader(root), 2 * len(KEYS)))
    assert {sample["__key__"] for sample in seen[: len(KEYS)]} == set(KEYS)
    for sample in seen:
        folder = root / "assets" / sample["__key__"]
        files = {path.name: path.read_bytes() for path in folder.iterdir()}
        assert {name: sample[name] for name in files} == files
    # Our own reading minds nothing that Energon has put beside the shards.
    assert validate.main([str(root / "tars"), "--deep", "--num_workers", "1"]) == 0
    loader, restored = _loader(root), _loader(root)
    before = list(islice(loader, 3))
    restored.restore_state_rank(loader.save_state_rank())
    keys = [sample["__key__"] for sample in (*before, *islice(restored, 4))]
    assert keys == [sample["__key__"] for sample in seen[:7]]


def _loader(root: Path) -> Any:
    from megatron.energon import (
        Cooker,
        DefaultTaskEncoder,
        WorkerConfig,
        get_savable_loader,
        get_train_dataset,
        stateless,
    )

    @stateless
    def cook(sample: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in sample.items() if name != "__subflavors__"}

    class Encoder(DefaultTaskEncoder[Any, Any, Any, Any]):
        cookers = [Cooker(cook)]
        decoder = None

        def batch(self, samples: list[Any]) -> Any:
            return samples[0]

    dataset = get_train_dataset(
        root / "tars",
        worker_config=WorkerConfig(rank=0, world_size=1, num_workers=0),
        batch_size=1,
        shuffle_buffer_size=None,
        max_samples_per_sequence=None,
        task_encoder=Encoder(),
    )
    return get_savable_loader(dataset)
