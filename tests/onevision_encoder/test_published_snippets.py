"""Every snippet of the encoder's published pages runs and gives the published model's result.

Replaced are only the checkpoint's name, the files' paths, the attention backend, which needs half
precision, and the device where there is no GPU.
"""

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from onevision_encoder import index_positions, patchify, selection
from support import published_snippets as published

SIDE_PX = 448


@pytest.fixture
def run(tiny_model: Callable, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Runs snippets one after another on a tiny checkpoint; returns their variables."""
    rng = np.random.default_rng(0)
    for name in ("image", *(f"frame_{index}" for index in range(16))):
        pixels = rng.integers(0, 255, (60, 90, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{name}.jpg")

    def run(
        *snippets: str, side_px: int = SIDE_PX, use_head: bool = True, **given: object
    ) -> dict[str, Any]:
        folder = tmp_path / "checkpoint"
        settings = {"hidden_size": 32, "num_attention_heads": 1, "num_hidden_layers": 2}
        tiny_model(**settings, patch_size=14, use_head=use_head).save_pretrained(folder)
        config = json.loads((folder / "config.json").read_text())
        stored = {**config, "attn_implementation": "flash_attention_2"}
        (folder / "config.json").write_text(json.dumps(stored))
        processor = {
            "image_processor_type": "CLIPImageProcessor",
            "size": {"shortest_edge": side_px},
            "crop_size": {"height": side_px, "width": side_px},
        }
        (folder / "preprocessor_config.json").write_text(json.dumps(processor))
        replaced = {
            'attn_implementation="flash_attention_2"': 'attn_implementation="sdpa"',
            "lmms-lab-encoder/onevision-encoder-large": str(folder),
            "path/to/onevision-encoder-large-lang-tf57": str(folder),
            "path/to/your": str(tmp_path),
            "path/to": str(tmp_path),
        }
        if not torch.cuda.is_available():
            replaced |= {'"cuda"': '"cpu"', ".cuda()": ""}
        names: dict[str, Any] = dict(given)
        for snippet in snippets:
            for old, new in replaced.items():
                snippet = snippet.replace(old, new)
            exec(snippet, names)
        return names

    return run


@pytest.fixture
def warnings() -> Iterator[list[str]]:
    """What the selection of patches warns of."""
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    selection.logger.addHandler(handler)
    selection.logger.warning_once.cache_clear()
    yield messages
    selection.logger.removeHandler(handler)


@pytest.mark.parametrize("load", [published.LOAD, published.LOAD + published.LOAD_FROM_SOURCE])
@pytest.mark.usefixtures("auto_image_processor")
def test_image(run: Callable[..., dict[str, Any]], load: str) -> None:
    outputs = run(load, published.IMAGE)["outputs"]
    assert outputs.last_hidden_state.shape == (1, 1024, 32)
    assert outputs.pooler_output.shape == (1, 32)


@pytest.mark.usefixtures("auto_image_processor")
def test_video_by_indices_of_smaller_frames(
    run: Callable[..., dict[str, Any]], warnings: list[str]
) -> None:
    """The snippet as published: 448 px frames, but indices of 256 patches a frame."""
    names = run(published.LOAD, published.VIDEO_BY_INDICES, published.VIDEO_BY_INDICES)
    outputs, indices, model = names["outputs"], names["visible_indices"], names["model"]
    assert names["video"].shape == (1, 3, 16, SIDE_PX, SIDE_PX)
    # The published model gathers the tokens and their rotary angles by these indices.
    patches = patchify(names["video"], 14)[0, indices[0]]
    positions = index_positions(indices[0], 32, 32)
    assert [int(positions[:, 0].min()), int(positions[:, 0].max())] == [0, 15]
    bounds = torch.tensor([0, 4096], dtype=torch.int32)
    with torch.no_grad():
        expected = model.forward_packed(patches, positions, bounds)
    torch.testing.assert_close(outputs.last_hidden_state[0], expected)
    (message,) = warnings
    assert "16 frames of 1024 patches (32 x 32)" in message
    assert "4096 of its 16384 patches" in message
    assert "224 x 224 px" in message
    assert "gather_visible=True reads the same without" in message


@pytest.mark.usefixtures("auto_image_processor")
def test_video_by_indices_of_its_frames(
    run: Callable[..., dict[str, Any]], warnings: list[str]
) -> None:
    """The same snippet, with the frames of 224 px that its note asks for and the warning names."""
    names = run(published.LOAD, published.VIDEO_BY_INDICES, side_px=224)
    assert names["outputs"].last_hidden_state.shape == (1, 16 * 256, 32)
    positions = index_positions(names["visible_indices"], 16, 16)
    assert positions[0, ::256, 0].tolist()[:6] == [0, 4, 8, 12, 16, 21]
    with torch.no_grad():
        expected = names["model"](names["video"], patch_positions=positions)
    assert torch.equal(names["outputs"].last_hidden_state, expected.last_hidden_state)
    assert warnings == []


@pytest.mark.usefixtures("auto_image_processor")
def test_video_by_positions(run: Callable[..., dict[str, Any]]) -> None:
    names = run(published.LOAD, published.VIDEO_BY_POSITIONS, side_px=56, use_head=False)
    assert names["patch_positions"].shape == (1, 16 * 16, 3)
    assert names["outputs"].last_hidden_state.shape == (1, 16 * 16, 32)
    assert names["outputs"].pooler_output is None


def test_variant_of_transformers_5(run: Callable[..., dict[str, Any]]) -> None:
    given = {"images": torch.randn(1, 3, 28, 28), "patch_positions": torch.zeros(1, 4, 3).long()}
    names = run(published.LANG_TF57, published.LANG_TF57_BACKEND, use_head=False, **given)
    assert names["out"].last_hidden_state.shape == (1, 4, 32)
    assert names["model"].config._attn_implementation == "sdpa"
