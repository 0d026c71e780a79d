import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from llava.model import LlavaQwen3ForCausalLM, LlavaQwenForCausalLM
from llava.model.assemble import ModelSource, load_model
from llava.model.tiny import tiny_tokenizer, write_tiny_checkpoint
from llava.model.weights import read_weights, resolve_folder
from onevision_encoder import OneVisionEncoderConfig, OneVisionEncoderModel

SIZES = {
    "vocab_size": 264,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
}


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """Folders of a plain Qwen3 and an encoder with a head, and a projector file."""
    language = Qwen3ForCausalLM(Qwen3Config(**SIZES, tie_word_embeddings=True))
    language.save_pretrained(tmp_path / "language")
    tiny_tokenizer().save_pretrained(tmp_path / "language")
    encoder = OneVisionEncoderModel(
        OneVisionEncoderConfig(
            hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2
        )
    )
    encoder.save_pretrained(tmp_path / "encoder")
    projector = {
        "model.mm_projector.0.weight": torch.randn(32, 64),
        "model.mm_projector.0.bias": torch.randn(32),
        "model.mm_projector.2.weight": torch.randn(32, 32),
        "model.mm_projector.2.bias": torch.randn(32),
    }
    save_file(projector, tmp_path / "mm_projector.safetensors")
    return tmp_path


def _load(parts: Path, **changes: Any) -> Any:
    source = {
        "model_name_or_path": str(parts / "language"),
        "vision_tower": str(parts / "encoder"),
        **changes,
    }
    return load_model(ModelSource(**source), dtype=torch.float32)


def test_every_weight_of_the_parts_arrives(parts: Path) -> None:
    model, processor = _load(parts, projector_file=str(parts / "mm_projector.safetensors"))
    assert isinstance(model, LlavaQwen3ForCausalLM)
    found = model.state_dict()
    expected = load_file(parts / "language" / "model.safetensors")
    expected |= load_file(parts / "mm_projector.safetensors")
    for name, tensor in load_file(parts / "encoder" / "model.safetensors").items():
        expected[f"model.vision_tower.vision_tower.{name}"] = tensor
    assert set(found) == set(expected) | {"lm_head.weight"}
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name
    assert torch.equal(found["lm_head.weight"], found["model.embed_tokens.weight"])
    assert model.config.image_token_id == processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    assert model.config.mm_vision_select_layer == -2


def test_the_rotary_tables_are_computed_not_left_over(parts: Path) -> None:
    model, _ = _load(parts)
    fresh = LlavaQwen3ForCausalLM(model.config)
    buffers = dict(model.named_buffers())
    assert buffers
    for name, buffer in fresh.named_buffers():
        assert torch.equal(buffers[name], buffer), name


def test_a_new_projector_follows_the_seed_alone(parts: Path) -> None:
    torch.manual_seed(1)
    first, _ = _load(parts, seed=5)
    torch.manual_seed(2)
    second, _ = _load(parts, seed=5)
    other, _ = _load(parts, seed=6)
    assert torch.equal(first.model.mm_projector[0].weight, second.model.mm_projector[0].weight)
    assert not torch.equal(first.model.mm_projector[0].weight, other.model.mm_projector[0].weight)
    assert first.model.mm_projector[0].weight.abs().max() < 1


def test_qwen2_becomes_llava_qwen_and_settings_reach_configuration_and_processor(
    parts: Path,
) -> None:
    sizes = {name: value for name, value in SIZES.items() if name != "head_dim"}
    Qwen2ForCausalLM(Qwen2Config(**sizes)).save_pretrained(parts / "language")
    model, processor = _load(
        parts,
        projector_type="linear",
        select_layer=-1,
        image_aspect_ratio="anyres",
        image_grid_pinpoints=((28, 56),),
        patches_per_side=4,
        template="plain",
    )
    assert isinstance(model, LlavaQwenForCausalLM)
    assert model.model.vision_tower.output_layer == -1
    assert (model.config.mm_projector_type, model.config.image_aspect_ratio) == ("linear", "anyres")
    assert model.config.image_grid_pinpoints == [[28, 56]]
    assert (processor.template, processor.visual.patches_per_side) == ("plain", 4)


def test_a_checkpoint_keeps_its_settings_but_for_what_is_asked(tmp_path: Path) -> None:
    write_tiny_checkpoint(tmp_path / "llava")
    source = ModelSource(model_name_or_path=str(tmp_path / "llava"), image_aspect_ratio="pad")
    model, processor = load_model(source, dtype=torch.float32)
    assert (processor.visual.image_aspect_ratio, processor.visual.patches_per_side) == ("pad", 8)
    stored = load_file(tmp_path / "llava" / "model.safetensors")
    assert all(torch.equal(value, stored[name]) for name, value in model.state_dict().items())
    assert model.generation_config.eos_token_id == [258, 256]


def test_a_projector_file_replaces_that_of_a_checkpoint(tmp_path: Path) -> None:
    write_tiny_checkpoint(tmp_path / "llava")
    stored = load_file(tmp_path / "llava" / "model.safetensors")
    projector = {
        name: torch.full_like(value, 0.5) for name, value in stored.items() if "projector" in name
    }
    save_file(projector, tmp_path / "mm_projector.safetensors")
    model, _ = load_model(
        ModelSource(
            model_name_or_path=str(tmp_path / "llava"),
            projector_file=str(tmp_path / "mm_projector.safetensors"),
        ),
        dtype=torch.float32,
    )
    assert (model.model.mm_projector[2].weight == 0.5).all()


def test_parts_beside_a_checkpoint_are_refused(parts: Path, tmp_path: Path) -> None:
    write_tiny_checkpoint(tmp_path / "llava")
    with pytest.raises(ValueError, match="leave out --vision_tower"):
        _load(parts, model_name_or_path=str(tmp_path / "llava"))


def test_a_plain_language_model_needs_a_tower(parts: Path) -> None:
    with pytest.raises(ValueError, match="give the encoder's folder with --vision_tower"):
        _load(parts, vision_tower=None)


def test_another_kind_of_model_is_refused_by_name(parts: Path) -> None:
    with pytest.raises(ValueError, match="of type qwen3, qwen2, got 'onevision_encoder'"):
        _load(parts, model_name_or_path=str(parts / "encoder"))


def test_a_pickled_projector_is_refused_with_the_way_to_convert_it(parts: Path) -> None:
    with pytest.raises(ValueError, match="safetensors.torch.save_file"):
        _load(parts, projector_file=str(parts / "mm_projector.bin"))


def test_a_missing_projector_file_is_named(parts: Path) -> None:
    with pytest.raises(ValueError, match="nowhere.safetensors does not exist"):
        _load(parts, projector_file=str(parts / "nowhere.safetensors"))


def test_a_projector_file_with_other_weights_is_refused(parts: Path) -> None:
    save_file({"lm_head.weight": torch.zeros(2)}, parts / "other.safetensors")
    with pytest.raises(ValueError, match="projector weights only, got 'lm_head.weight'"):
        _load(parts, projector_file=str(parts / "other.safetensors"))


def test_weights_that_do_not_fit_are_named(parts: Path) -> None:
    weights = load_file(parts / "encoder" / "model.safetensors")
    weights["surprise"] = weights.pop("layernorm_pre.bias")
    save_file(weights, parts / "encoder" / "model.safetensors")
    with pytest.raises(ValueError, match="missing_keys.*layernorm_pre.bias.*surprise"):
        _load(parts)


def test_sharded_weights_are_read_whole(parts: Path) -> None:
    folder = parts / "language"
    whole = read_weights(folder)
    names = sorted(whole)
    for shard, half in (("a.safetensors", names[::2]), ("b.safetensors", names[1::2])):
        save_file({name: whole[name] for name in half}, folder / shard)
    index = {
        name: "a.safetensors" if place % 2 == 0 else "b.safetensors"
        for place, name in enumerate(names)
    }
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    found = read_weights(folder)
    assert set(found) == set(whole)
    assert all(torch.equal(found[name], whole[name]) for name in whole)


def test_a_folder_without_safetensors_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="never unpickled"):
        read_weights(tmp_path)


@pytest.mark.parametrize("name", ["./no/such/folder", "no-owner/no-model"])
def test_a_name_that_is_nowhere_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="must be a folder or a repository on the hub"):
        resolve_folder(name)
