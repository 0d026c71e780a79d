import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from llava.model.loading import load_pretrained
from llava.model.tiny import main, tiny_tokenizer, write_tiny_checkpoint
from support.llava_types import MixedSamples, TinyModel


def test_equal_seeds_give_equal_bytes_and_other_seeds_other_weights(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_tiny_checkpoint(tmp_path / name, seed=seed)
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes(), file.name
    weights = "model.safetensors"
    assert (tmp_path / "a" / weights).read_bytes() != (tmp_path / "c" / weights).read_bytes()


def test_writing_leaves_the_random_state_alone(tmp_path: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    write_tiny_checkpoint(tmp_path)
    assert torch.equal(torch.rand(2), expected)


def test_weights_have_the_promised_names(
    tiny: TinyModel,
) -> None:
    names = set(tiny[0].state_dict())
    assert {
        "lm_head.weight",
        "model.embed_tokens.weight",
        "model.layers.1.mlp.down_proj.weight",
        "model.mm_projector.0.weight",
        "model.mm_projector.2.bias",
        "model.vision_tower.vision_tower.embeddings.patch_embedding.weight",
        "model.vision_tower.vision_tower.encoder.layers.0.self_attn.q_proj.bias",
    } <= names


def test_a_state_survives_saving_in_shards_and_loading_bit_for_bit(
    tiny: TinyModel, tmp_path: Path
) -> None:
    model, processor = tiny
    model.save_pretrained(tmp_path, max_shard_size="100KB")
    processor.save_pretrained(tmp_path)
    files = sorted(tmp_path.glob("*.safetensors"))
    assert len(files) > 1
    written = {name: tensor for file in files for name, tensor in load_file(file).items()}
    loaded = load_pretrained(tmp_path)[0].state_dict()
    expected = model.state_dict()
    assert set(loaded) == set(expected)
    # Tied weights are written once.
    assert set(expected) - set(written) <= {"lm_head.weight"}
    for name, tensor in expected.items():
        assert torch.equal(loaded[name], tensor), name
        assert name not in written or torch.equal(written[name], tensor), name


def test_the_auto_classes_load_a_checkpoint_after_import(
    tiny_checkpoint: Path,
    tiny: TinyModel,
    mixed_samples: MixedSamples,
) -> None:
    model, processor = tiny
    config = AutoConfig.from_pretrained(tiny_checkpoint)
    assert config.model_type in ("llava_qwen3", "llava_qwen")
    assert config.vision_config.hidden_size == config.mm_hidden_size == 64
    loaded = AutoModelForCausalLM.from_pretrained(tiny_checkpoint)
    batch = processor(*mixed_samples)
    with torch.no_grad():
        assert torch.equal(loaded(**batch).logits, model(**batch).logits)


def test_a_saved_model_generates_the_same_tokens(
    tiny: TinyModel,
    mixed_samples: MixedSamples,
    tmp_path: Path,
) -> None:
    model, processor = tiny
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    reloaded, reloaded_processor = load_pretrained(tmp_path)
    expected = model.generate(**processor(*mixed_samples), max_new_tokens=5)
    found = reloaded.generate(**reloaded_processor(*mixed_samples), max_new_tokens=5)
    assert torch.equal(found, expected)


def test_loading_in_another_dtype_and_attention_backend(
    tiny_checkpoint: Path,
    mixed_samples: MixedSamples,
) -> None:
    model, processor = load_pretrained(
        tiny_checkpoint, dtype=torch.bfloat16, attn_implementation="eager"
    )
    assert model.dtype == model.model.vision_tower.vision_tower.dtype == torch.bfloat16
    assert model.config._attn_implementation == "eager"
    assert model.config.vision_config._attn_implementation == "eager"
    with torch.no_grad():
        assert model(**processor(*mixed_samples)).logits.isfinite().all()


def test_any_text_survives_the_tokenizer() -> None:
    tokenizer = tiny_tokenizer()
    text = "Ünïcode 日本 🎬\n\ttabs  and   spaces"
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_the_command_writes_a_checkpoint(tmp_path: Path) -> None:
    assert main(["--out", str(tmp_path / "x"), "--patches_per_side", "4"]) == 0
    _, processor = load_pretrained(tmp_path / "x")
    assert processor.visual.patches_per_side == 4


def test_a_folder_with_another_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no LLaVA checkpoint"):
        load_pretrained(tmp_path)


@pytest.mark.slow
def test_the_auto_classes_know_the_models_in_a_fresh_process(tiny_checkpoint: Path) -> None:
    code = (
        "import sys, llava.model; from transformers import AutoModelForCausalLM as A;"
        "print(type(A.from_pretrained(sys.argv[1])).__name__)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(tiny_checkpoint)], capture_output=True, text=True
    )
    assert result.stdout.strip() in ("LlavaQwen3ForCausalLM", "LlavaQwenForCausalLM")
