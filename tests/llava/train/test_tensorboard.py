"""TensorBoard gets what the log file has, each data set's loss under its own name."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from llava.train.run.mosaics import draw_segment
from onevision_encoder.patches import grid_positions
from run_kit.log import read_log
from support.tolerances import WRITTEN


def test_figures_reach_tensorboard(
    train: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))
    assert train(tmp_path, max_steps=2, report_to="tensorboard", peak_tflops=0.1) == 0
    events = EventAccumulator(str(tmp_path / "events"))
    events.Reload()
    rows = read_log(tmp_path)
    names = ["loss", "tokens_per_second", "data_wait_seconds", "mfu", "grad_norm"]
    for name in names:
        values = [event.value for event in events.Scalars(f"train/{name}")]
        assert values == pytest.approx([row[name] for row in rows], rel=WRITTEN)
    losses = [event.value for event in events.Scalars("train/loss_train")]
    assert losses == pytest.approx([row["loss_by_dataset"]["train"] for row in rows], rel=WRITTEN)
    assert all(0 < row["mfu"] < 1 for row in rows)


@pytest.mark.slow
def test_pictures_of_mosaics_reach_tensorboard(
    train: Callable[..., int],
    tiny_material: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))
    codec = tmp_path / "codec.jsonl"
    lines = (tiny_material / "data" / "train.jsonl").read_text().splitlines()
    codec.write_text("\n".join(line for line in lines if "positions_thw" in line))
    options = {"data_path": codec, "image_folder": tiny_material / "data", "max_steps": 4}
    options |= {"report_to": "tensorboard", "picture_steps": 3, "per_device_train_batch_size": 1}
    assert train(tmp_path, **options) == 0
    events = EventAccumulator(str(tmp_path / "events"), size_guidance={"images": 0})
    events.Reload()
    drawn = events.Images("visuals/0")
    assert [event.step for event in drawn] == [1, 3]
    shown = np.asarray(Image.open(io.BytesIO(drawn[0].encoded_image_string)))
    # Two mosaics of 8 x 8 cells side by side; one of the four clips, cut to 14-pixel patches.
    expected = []
    for line in codec.read_text().splitlines():
        files = [tiny_material / "data" / name for name in json.loads(line)["image"]]
        mosaics = [Image.open(file).resize((112, 112), Image.Resampling.BICUBIC) for file in files]
        expected.append(np.concatenate([np.asarray(mosaic) for mosaic in mosaics], axis=1))
    assert any(np.array_equal(shown, picture) for picture in expected)


def test_an_image_is_drawn_by_its_positions_and_merged_patches_by_their_blocks() -> None:
    values = torch.arange(16, dtype=torch.uint8)
    patches = values[:, None].expand(16, 12).contiguous()  # 2 x 2 pixels of one shade
    positions = grid_positions(torch.zeros(1, dtype=torch.int64), 2, 8)
    picture = draw_segment(patches, positions, side=4)
    assert picture.shape == (4, 16, 3)
    assert picture[::2, ::2, 0].tolist() == [list(range(8)), list(range(8, 16))]
    clip = torch.stack((values.long(), values.long(), values.long()), dim=1)
    merged = draw_segment(patches, clip, side=4, merged=4)[::2, ::2, 0]
    assert merged.tolist() == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]
