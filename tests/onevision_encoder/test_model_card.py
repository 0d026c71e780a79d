"""The snippets of the model card run unchanged, on tiny random weights."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from onevision_encoder import OneVisionEncoderImageProcessor
from support.paths import ROOT

GRID, MOSAICS = 6, 8


def _write_media(folder: Path) -> None:
    rng = np.random.default_rng(0)

    def picture(height: int, width: int) -> Image.Image:
        return Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8))

    picture(150, 230).save(folder / "image.jpg")
    for index in range(16):
        picture(60, 80).save(folder / f"frame_{index}.jpg")
    for index in range(MOSAICS):
        picture(GRID * 14, GRID * 14).save(folder / f"mosaic_{index:03d}.jpg")
    positions = rng.integers(0, GRID, (MOSAICS * GRID * GRID, 3), dtype=np.int32)
    np.save(folder / "positions_thw.npy", positions)


@pytest.mark.usefixtures("auto_image_processor")
def test_snippets(tiny_model: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(patch_size=14, num_hidden_layers=2)
    model.save_pretrained(tmp_path / "checkpoint")
    OneVisionEncoderImageProcessor().save_pretrained(tmp_path / "checkpoint")
    _write_media(tmp_path)
    monkeypatch.chdir(tmp_path)
    card = (ROOT / "docs" / "model_card.md").read_text()
    snippets = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert len(snippets) == 7
    names: dict = {}
    for snippet in snippets:
        exec(snippet.replace("path/to/onevision-encoder-large", "checkpoint"), names)
        if "pooler_output" in snippet:
            assert names["outputs"].last_hidden_state.shape == (1, 1024, 64)
            assert names["outputs"].pooler_output.shape == (1, 64)
    assert names["by_indices"].last_hidden_state.shape == (1, 16 * 256, 64)
    assert torch.equal(names["outputs"].last_hidden_state, names["by_positions"].last_hidden_state)
    assert names["codec_features"].shape == (MOSAICS * GRID * GRID, 64)
    assert names["picture_features"].shape == (11 * 16, 64)  # 150 x 230 px -> 154 x 224 px
