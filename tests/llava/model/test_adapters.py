"""Adapters on the language model: files, loading, merging."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from llava.model.adapters import (
    ADAPTER_CONFIG_FILE,
    ADAPTER_FILE,
    EARLIER_TUNED_FILE,
    LoraSettings,
    add_adapters,
    base_model_of,
    is_adapter,
    load_adapter_weights,
    save_adapters,
)
from llava.model.loading import load_pretrained
from llava.model.merge import main as merge
from llava.train.parts import set_trainable
from support.llava_types import MixedSamples
from support.tolerances import MERGED_WEIGHTS

SETTINGS = LoraSettings(rank=4, alpha=8, dropout=0.0)


@pytest.fixture(
    params=[
        pytest.param(("mm_mlp_adapter",), marks=pytest.mark.slow),
        ("mm_mlp_adapter", "mm_vision_tower"),
    ]
)
def adapted(
    request: pytest.FixtureRequest, tiny_checkpoint: Path, tmp_path: Path
) -> tuple[Path, torch.nn.Module]:
    """A folder of adapters with weights that matter, and the model that it was saved from."""
    model, processor = load_pretrained(tiny_checkpoint)
    config = add_adapters(model, SETTINGS, base=str(tiny_checkpoint))
    set_trainable(model, request.param, lora=True)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn_like(weight), alpha=0.1)
    tuned = {name for name, weight in model.named_parameters() if weight.requires_grad}
    folder = tmp_path / "adapters"
    folder.mkdir()
    save_adapters(folder, config, model.state_dict(), tuned)
    model.config.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder, model.eval()


def test_adapters_change_nothing_before_they_are_trained(
    tiny_checkpoint: Path,
    mixed_samples: MixedSamples,
) -> None:
    model, processor = load_pretrained(tiny_checkpoint)
    batch = processor(*mixed_samples)
    with torch.no_grad():
        before = model(**batch).logits
        add_adapters(model, SETTINGS, base="b")
        assert torch.equal(model(**batch).logits, before)


def test_every_linear_layer_of_the_decoder_has_one_and_the_encoder_none(
    tiny_checkpoint: Path,
) -> None:
    model, _ = load_pretrained(tiny_checkpoint)
    add_adapters(model, SETTINGS, base="b")
    names = {name for name, _ in model.named_parameters() if is_adapter(name)}
    assert len(names) == 2 * 7 * model.config.num_hidden_layers
    assert all(name.startswith("model.layers.") for name in names)


@pytest.mark.parametrize("parts", [("mm_mlp_adapter",), ("mm_mlp_adapter", "mm_language_model")])
def test_adapters_are_tuned_and_their_base_is_not(
    tiny_checkpoint: Path, parts: tuple[str, ...]
) -> None:
    model, _ = load_pretrained(tiny_checkpoint)
    add_adapters(model, SETTINGS, base="b")
    set_trainable(model, parts, lora=True)
    tuned = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert {name for name in tuned if not is_adapter(name)} == {
        name for name, _ in model.named_parameters() if "mm_projector" in name
    }


def test_loaded_adapters_generate_the_same(
    adapted: tuple[Path, torch.nn.Module],
    mixed_samples: MixedSamples,
) -> None:
    folder, model = adapted
    loaded, processor = load_pretrained(folder)
    batch = processor(*mixed_samples)
    with torch.no_grad():
        assert torch.equal(loaded(**batch).logits, model(**batch).logits)
    options = {"max_new_tokens": 6, "min_new_tokens": 6}
    assert torch.equal(loaded.generate(**batch, **options), model.generate(**batch, **options))


def test_a_merged_checkpoint_is_base_plus_adapters(
    adapted: tuple[Path, torch.nn.Module],
    mixed_samples: MixedSamples,
    tmp_path: Path,
) -> None:
    folder, model = adapted
    assert merge(["--adapters", str(folder), "--out", str(tmp_path / "merged")]) == 0
    merged, processor = load_pretrained(tmp_path / "merged")
    batch = processor(*mixed_samples)
    with torch.no_grad():
        expected = model(**batch).logits
        torch.testing.assert_close(merged(**batch).logits, expected, **MERGED_WEIGHTS)
    layer = model.model.layers[0].self_attn.q_proj
    product = layer.lora_B["default"].weight @ layer.lora_A["default"].weight * 2
    found = merged.model.layers[0].self_attn.q_proj.weight
    torch.testing.assert_close(found, layer.base_layer.weight + product)


def test_peft_itself_reads_everything(
    adapted: tuple[Path, torch.nn.Module],
    tiny_checkpoint: Path,
    mixed_samples: MixedSamples,
) -> None:
    from peft import PeftModel

    folder, model = adapted
    base, processor = load_pretrained(tiny_checkpoint)
    theirs = PeftModel.from_pretrained(base, folder).eval()
    batch = processor(*mixed_samples)
    with torch.no_grad():
        assert torch.equal(theirs(**batch).logits, model(**batch).logits)


def test_folders_of_earlier_versions_load(
    adapted: tuple[Path, torch.nn.Module],
    mixed_samples: MixedSamples,
) -> None:
    folder, model = adapted
    saved = load_file(folder / ADAPTER_FILE)
    prefix = "base_model.model."
    others = {n.removeprefix(prefix): v for n, v in saved.items() if "lora_" not in n}
    save_file(others, folder / EARLIER_TUNED_FILE)
    save_file({n: v for n, v in saved.items() if "lora_" in n}, folder / ADAPTER_FILE)
    config = json.loads((folder / ADAPTER_CONFIG_FILE).read_text())
    config |= {"modules_to_save": None, "base_model_name_or_path": base_model_of(folder)}
    (folder / ADAPTER_CONFIG_FILE).write_text(json.dumps(config))
    loaded, processor = load_pretrained(folder)
    batch = processor(*mixed_samples)
    with torch.no_grad():
        assert torch.equal(loaded(**batch).logits, model(**batch).logits)


def test_adapters_and_their_base_can_be_moved_together(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tmp_path / "one" / "base"
    shutil.copytree(tiny_checkpoint, base)
    model, processor = load_pretrained(base)
    monkeypatch.chdir(tmp_path)
    config = add_adapters(model, SETTINGS, base="one/base")
    written = tmp_path / "one" / "run" / "unfinished" / "checkpoint-1"
    final = tmp_path / "one" / "run" / "checkpoint-1"
    written.mkdir(parents=True)
    save_adapters(written, config, model.state_dict(), set(), final_folder=final)
    model.config.save_pretrained(written)
    processor.save_pretrained(written)
    written.rename(final)
    (tmp_path / "one").rename(tmp_path / "two")
    moved = tmp_path / "two" / "run" / "checkpoint-1"
    assert base_model_of(moved) == str(tmp_path / "two" / "base")
    load_pretrained(moved)
    config.base_model_name_or_path = "organisation/model"
    save_adapters(moved, config, model.state_dict(), set())
    assert base_model_of(moved) == "organisation/model"


def test_adapters_of_another_model_are_refused(adapted: tuple[Path, torch.nn.Module]) -> None:
    folder, model = adapted
    weights = load_file(folder / ADAPTER_FILE)
    first = sorted(weights)[0]
    save_file({first: weights[first]}, folder / ADAPTER_FILE)
    with pytest.raises(ValueError, match="do not fit their base model: absent"):
        load_adapter_weights(model, folder)
    save_file({**weights, first: torch.zeros(3, 5)}, folder / ADAPTER_FILE)
    with pytest.raises(ValueError, match="do not fit their base model: Error"):
        load_adapter_weights(model, folder)


def test_merging_a_folder_without_adapters_is_code_2(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert merge(["--adapters", str(tiny_checkpoint), "--out", str(tmp_path / "m")]) == 2
    assert "holds no adapter_config.json" in capsys.readouterr().err
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("wrong", [{"rank": 0}, {"alpha": 0}, {"dropout": 1.0}])
def test_sizes_that_cannot_work_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="--lora_r and --lora_alpha must be at least 1"):
        LoraSettings(**wrong)


@pytest.mark.parametrize("own_tower_weights", [True, False])
def test_a_checkpoint_without_vision_config_takes_it_from_its_tower(
    tiny_checkpoint: Path,
    mixed_samples: MixedSamples,
    tmp_path: Path,
    own_tower_weights: bool,
) -> None:
    model, processor = load_pretrained(tiny_checkpoint)
    tower = tmp_path / "tower"
    model.model.vision_tower.vision_tower.save_pretrained(tower)
    folder = tmp_path / "other"
    processor.tokenizer.save_pretrained(folder)
    config = json.loads((tiny_checkpoint / "config.json").read_text())
    for name in ("vision_config", "image_token_id"):
        del config[name]
    config |= {"mm_vision_tower": str(tower), "image_aspect_ratio": "anyres"}
    config["image_grid_pinpoints"] = "(28, 56), (56, 28)"
    (folder / "config.json").write_text(json.dumps(config))
    weights = model.state_dict()
    if not own_tower_weights:
        weights = {name: value for name, value in weights.items() if "vision_tower" not in name}
    save_file(weights, folder / "model.safetensors")
    loaded, its_processor = load_pretrained(folder)
    assert its_processor.visual.image_grid_pinpoints == ((28, 56), (56, 28))
    batch = its_processor(*mixed_samples)
    with torch.no_grad():
        assert torch.equal(loaded(**batch).logits, model(**batch).logits)
    config["mm_vision_tower"] = None
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="names no encoder .*--vision_tower"):
        load_pretrained(folder)
