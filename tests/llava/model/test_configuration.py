from pathlib import Path

import pytest

from llava.model import LlavaQwen3Config, LlavaQwen3ForCausalLM
from onevision_encoder import OneVisionEncoderConfig


def test_the_encoders_configuration_is_nested_and_survives_saving(tmp_path: Path) -> None:
    vision = OneVisionEncoderConfig(hidden_size=64, num_attention_heads=2, num_hidden_layers=3)
    config = LlavaQwen3Config(vision_config=vision.to_dict(), image_token_id=7)
    config.save_pretrained(tmp_path)
    loaded = LlavaQwen3Config.from_pretrained(tmp_path)
    assert isinstance(loaded.vision_config, OneVisionEncoderConfig)
    assert loaded.vision_config.num_hidden_layers == 3
    assert (loaded.mm_hidden_size, loaded.image_token_id) == (64, 7)


def test_keys_of_other_checkpoints_are_kept() -> None:
    config = LlavaQwen3Config.from_dict({"mm_use_im_start_end": False, "mm_vision_tower": "x"})
    assert config.mm_use_im_start_end is False
    assert config.mm_vision_tower == "x"


def test_another_merge_type_is_refused() -> None:
    with pytest.raises(ValueError, match="mm_patch_merge_type must be 'flat'.*'spatial_unpad'"):
        LlavaQwen3Config(mm_patch_merge_type="spatial_unpad")


def test_a_width_that_is_not_the_encoders_is_refused() -> None:
    vision = OneVisionEncoderConfig(hidden_size=64, num_attention_heads=2).to_dict()
    with pytest.raises(ValueError, match="mm_hidden_size must be the encoder's hidden_size 64"):
        LlavaQwen3Config(vision_config=vision, mm_hidden_size=1024)


def test_a_model_without_encoder_configuration_says_what_to_add() -> None:
    with pytest.raises(ValueError, match="put the config.json of the encoder under the key"):
        LlavaQwen3ForCausalLM(LlavaQwen3Config(num_hidden_layers=1, hidden_size=64, vocab_size=8))


def test_a_model_without_placeholder_token_says_what_to_add() -> None:
    config = LlavaQwen3Config(vision_config=OneVisionEncoderConfig(num_hidden_layers=1).to_dict())
    with pytest.raises(ValueError, match="image_token_id must be"):
        config.require_vision()
