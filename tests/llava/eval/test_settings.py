"""Arguments of the plug-in against the environment: who wins, and what is refused."""

from dataclasses import fields
from pathlib import Path

import pytest

from cv_reader.assets import AssetConfig
from llava.eval.settings import (
    SELECTION_SETTINGS,
    SIZE_FLAGS,
    EvalSettingsError,
    read_settings,
)

PRETRAINED = {"pretrained": "model"}


def test_defaults_are_the_promised_ones() -> None:
    settings = read_settings(PRETRAINED, {})
    assert settings.to_dict() == {
        "pretrained": "model",
        "conv_template": "qwen_1_5",
        "video_input": "codec",
        "codec_root": [],
        "codec_miss": "error",
        "codec_cache": ".huggingface_cache/codec_online",
        "video_root": None,
        "num_frames": 8,
        "codec_seq_len_frames": 64,
        "codec_num_images": 8,
        "codec_square_size": 576,
        "codec_patch_size": 16,
        "codec_selection": {},
        "codec_debug": "off",
        "device": None,
        "dtype": None,
        "attn_implementation": None,
        "batch_size": 1,
        "max_new_tokens": 1024,
        "manifest": None,
    }


def test_environment_gives_defaults_and_arguments_win(tmp_path: Path) -> None:
    for root in (tmp_path / "one" / "assets", tmp_path / "two"):
        (root / "clip").mkdir(parents=True)
        (root / "clip" / "meta.json").write_text("{}")
    environment = {
        "LLAVA_CODEC_USE_OFFLINE": "1",
        "LLAVA_CODEC_OFFLINE_ROOT": f"{tmp_path / 'one'}:{tmp_path / 'two'}",
        "LLAVA_CODEC_NUM_IMAGES": "4",
        "LLAVA_CODEC_SEQ_LEN_FRAMES": "32",
        "LLAVA_CODEC_SQUARE_SIZE": "128",
        "LLAVA_CODEC_PATCH_SIZE": "8",
        "LLAVA_CODEC_VISIDX_MODE": "pack_topk",
        "LLAVA_CODEC_DEBUG": "all",
    }
    settings = read_settings({**PRETRAINED, "codec_square_size": 64}, environment)
    assert settings.codec_root == (tmp_path / "one" / "assets", tmp_path / "two")
    assert (settings.codec_num_images, settings.num_frames) == (4, 4)
    assert (settings.codec_seq_len_frames, settings.codec_patch_size) == (32, 8)
    assert settings.codec_square_size == 64
    assert settings.codec_debug == "all"


@pytest.mark.parametrize(
    ("value", "video_input"), [("0", "frames"), ("no", "frames"), ("1", "codec"), ("True", "codec")]
)
def test_use_offline_chooses_the_input(tmp_path: Path, value: str, video_input: str) -> None:
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "meta.json").write_text("{}")
    environment = {
        "LLAVA_CODEC_USE_OFFLINE": value,
        "LLAVA_CODEC_OFFLINE_ROOT": str(tmp_path),
    }
    assert read_settings(PRETRAINED, environment).video_input == video_input
    explicit = read_settings({**PRETRAINED, "video_input": "frames"}, environment)
    assert explicit.video_input == "frames"


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        ({}, {}, "pretrained="),
        ({**PRETRAINED, "conv_mode": "x"}, {}, "unknown model_args conv_mode"),
        ({**PRETRAINED, "codec_miss": "skip"}, {}, "codec_miss must be one of error, online"),
        ({**PRETRAINED, "video_input": "raw"}, {}, "video_input must be one of codec, frames"),
        ({**PRETRAINED, "batch_size": "auto"}, {}, "batch_size must be an integer"),
        ({**PRETRAINED, "num_frames": 0}, {}, "num_frames must be an integer of at least 1"),
        ({**PRETRAINED, "codec_root": "nowhere"}, {}, "codec_root nowhere is no folder"),
        (PRETRAINED, {"LLAVA_CODEC_NUM_IMAGES": "eight"}, "codec_num_images .* 'eight'"),
        (PRETRAINED, {"LLAVA_CODEC_VISIDX_MODE": "topk"}, "VISIDX_MODE must be pack_topk"),
        (PRETRAINED, {"LLAVA_CODEC_USE_OFFLINE": "2"}, "USE_OFFLINE must be 1 or 0, got '2'"),
        (PRETRAINED, {"LLAVA_CODEC_USE_OFFLINE": "1"}, "set LLAVA_CODEC_OFFLINE_ROOT"),
        ({**PRETRAINED, "codec_quality_db": 30}, {}, "quality_db must be 0 unless select is"),
        (
            {**PRETRAINED, "codec_block_cells": "two"},
            {},
            "codec_block_cells must be a whole number",
        ),
        (PRETRAINED, {"LLAVA_CODEC_KEEP_UNIFORM_FIRST": "x"}, "keep_uniform_first must be 1 or 0"),
        ({**PRETRAINED, "codec_selection": "x"}, {}, "unknown model_args codec_selection"),
        (PRETRAINED, {"LLAVA_CODEC_DEBUG": "loud"}, "codec_debug must be 1, 0 or all"),
    ],
)
def test_wrong_values_are_named(
    arguments: dict[str, object], environment: dict[str, str], message: str
) -> None:
    with pytest.raises(EvalSettingsError, match=message):
        read_settings(arguments, environment)


def test_every_setting_of_assets_has_an_argument_and_a_variable() -> None:
    environment = {
        "LLAVA_CODEC_SELECT": "rate_distortion",
        "LLAVA_CODEC_BLOCK_CELLS": "2",
        "LLAVA_CODEC_KEEP_FIRST_FULL_FRAME": "0",
        "LLAVA_CODEC_NUM_IMAGES": "4",
    }
    settings = read_settings(
        {**PRETRAINED, "codec_quality_db": 31, "codec_hdr": "raw"}, environment
    )
    expected = AssetConfig(
        num_images=4,
        select="rate_distortion",
        block_cells=2,
        keep_first_full_frame=False,
        quality_db=31.0,
        hdr="raw",
    )
    assert settings.asset_config() == expected
    assert settings.to_dict()["codec_selection"] == {
        "select": "rate_distortion",
        "block_cells": 2,
        "keep_first_full_frame": False,
        "quality_db": 31.0,
        "hdr": "raw",
    }
    assert read_settings(PRETRAINED, {}).asset_config(merge_side_patches=2).block_cells == 2
    names = {field.name for field in fields(AssetConfig)}
    assert {*SELECTION_SETTINGS.values(), *(name for name, _ in SIZE_FLAGS.values())} == names
