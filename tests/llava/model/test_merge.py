"""A model with the merging projector: a quarter of the tokens, the same paths."""

import numpy as np
import pytest
import torch
from PIL import Image

from llava.model.loading import load_pretrained
from llava.model.tiny import write_tiny_checkpoint
from llava.visual.config import VisualConfig
from llava.visual.segments import image_visual
from support.llava_types import TinyModel


@pytest.fixture(scope="module")
def merging(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    folder = tmp_path_factory.mktemp("merging")
    write_tiny_checkpoint(folder, projector_type="spatial_merge")
    return load_pretrained(folder)


def _turns() -> list[dict[str, str]]:
    return [{"from": "human", "value": "<image>\nWhat?"}]


def _image() -> Image.Image:
    return Image.fromarray(np.random.randint(0, 256, (112, 112, 3), dtype=np.uint8))


def test_the_processor_knows_the_counts_and_generation_is_that_of_one_sample(
    merging: TinyModel,
) -> None:
    model, processor = merging
    segments = [[image_visual(_image(), processor.visual)], []]
    conversations = [_turns(), [{"from": "human", "value": "Hello"}]]
    batch = processor(conversations, segments)
    assert (batch["input_ids"] == model.config.image_token_id).sum(1).tolist() == [16, 0]
    together = model.generate(**batch, max_new_tokens=4)[:, -4:]
    alone = model.generate(**processor(conversations[:1], segments[:1]), max_new_tokens=4)[:, -4:]
    assert torch.equal(together[:1], alone)


def test_visuals_prepared_for_another_projector_are_refused(merging: TinyModel) -> None:
    model, processor = merging
    plain = image_visual(_image(), VisualConfig(patches_per_side=8))
    with pytest.raises(ValueError, match="one token of 4 patches.*prepared for 1"):
        model(**processor([_turns()], [[plain]]))


def test_a_text_batch_trains_through_the_merging_projector(merging: TinyModel) -> None:
    model, processor = merging
    batch = processor([[{"from": "human", "value": "Hello"}]], [[]])
    model.train()(**batch, labels=batch["input_ids"]).loss.backward()
    model.eval()
    assert model.model.mm_projector.mlp[0].weight.grad.eq(0).all()
