"""Tiny checkpoints and visuals for the tests of the model."""

from pathlib import Path

import pytest
import torch

from llava.model.loading import load_pretrained
from llava.model.tiny import write_tiny_checkpoint
from llava.visual.batch import VisualSegment
from onevision_encoder.patches import grid_positions, uniform_slots
from support.llava_types import MixedSamples, TinyModel

PATCH_VALUES = 3 * 14 * 14


@pytest.fixture(scope="session", params=["qwen3", "qwen2"])
def tiny_checkpoint(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    write_tiny_checkpoint(folder, language_model=request.param)
    return folder


@pytest.fixture
def tiny(tiny_checkpoint: Path) -> TinyModel:
    return load_pretrained(tiny_checkpoint)


def _tiny_segment(positions: torch.Tensor, placeholders: tuple[int, ...]) -> VisualSegment:
    return VisualSegment(torch.randn(len(positions), PATCH_VALUES), positions, placeholders)


@pytest.fixture
def mixed_samples() -> MixedSamples:
    """A codec clip of two mosaics, an image, a text, and two images of different shapes."""
    slots = torch.randint(0, 64, (32,)).sort().values
    codec_positions = torch.stack((slots, torch.arange(32) % 5, torch.arange(32) // 7), dim=1)
    segments = [
        [_tiny_segment(codec_positions, (16, 16))],
        [_tiny_segment(grid_positions(uniform_slots(1), 5, 3), (15,))],
        [],
        [
            _tiny_segment(grid_positions(uniform_slots(1), 2, 2), (4,)),
            _tiny_segment(grid_positions(uniform_slots(2), 1, 3), (3, 3)),
        ],
    ]
    questions = [
        "<image>\n<image>\nWhat moves?",
        "<image>\nWhat is it?",
        "Say something.",
        "<image> before <image> and <image> after",
    ]
    return [[{"from": "human", "value": question}] for question in questions], segments
