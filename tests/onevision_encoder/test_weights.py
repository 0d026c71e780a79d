"""Loading takes exactly the weights that the configuration describes, from safetensors only."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from onevision_encoder import OneVisionEncoderModel

IMAGE = torch.randn(2, 3, 8, 12, generator=torch.Generator().manual_seed(1))


def _edit_weights(folder: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(folder / "model.safetensors")
    edit(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("load", [AutoModel, OneVisionEncoderModel])
@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda w: w.pop("head.probe"), "got missing: head.probe. Check use_head"),
        (lambda w: w.update(other=torch.zeros(1)), "got unexpected: other. Check"),
        (lambda w: w.update({"head.probe": torch.zeros(1, 1, 32)}), "another shape: head.probe"),
        (lambda w: (w.pop("head.probe"), w.update(o=torch.zeros(1))), "probe; unexpected: o"),
    ],
)
def test_loading_takes_exactly_the_weights_of_the_configuration(
    tiny_model: Callable, tmp_path: Path, load: type, edit: Callable, message: str
) -> None:
    tiny_model().save_pretrained(tmp_path)
    _edit_weights(tmp_path, edit)
    with pytest.raises(ValueError, match=f"must be exactly those .*{message}"):
        load.from_pretrained(tmp_path, output_loading_info=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"use_head": False}, r"unexpected: head.attention.in_proj_bias, .* and 4 more\."),
        ({"num_hidden_layers": 4}, r"missing: encoder.layers.3.layer_norm1.bias, .* and 8 more\."),
        ({"num_hidden_layers": 2}, "unexpected: encoder.layers.2.layer_norm1.bias"),
    ],
)
def test_configuration_says_which_weights(
    tiny_model: Callable, tmp_path: Path, settings: dict, message: str
) -> None:
    tiny_model().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):
        AutoModel.from_pretrained(tmp_path, **settings)


def test_loading_keeps_what_the_library_offers(tiny_model: Callable, tmp_path: Path) -> None:
    """Shards, the report, weights as an argument, and other shapes where the caller allows them."""
    model = tiny_model()
    model.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    loaded, report = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert torch.equal(loaded(IMAGE).pooler_output, model(IMAGE).pooler_output)
    assert not any(report.values())
    weights = model.state_dict()
    given = OneVisionEncoderModel.from_pretrained(None, config=model.config, state_dict=weights)
    assert torch.equal(given(IMAGE).pooler_output, model(IMAGE).pooler_output)
    wider = AutoModel.from_pretrained(tmp_path, patch_size=2, ignore_mismatched_sizes=True)
    assert wider.embeddings.patch_embedding.weight.shape == (64, 3, 2, 2)


def test_only_safetensors_are_read(tiny_model: Callable, tmp_path: Path) -> None:
    model = tiny_model()
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(OSError, match=r"model\.safetensors"):
        AutoModel.from_pretrained(tmp_path)
