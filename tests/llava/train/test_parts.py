import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from llava.model.tiny import tiny_model, tiny_tokenizer
from llava.train.arguments import LlavaTrainingArguments
from llava.train.parts import PARTS, parameter_groups, parse_parts, part_of, set_trainable


@pytest.fixture
def model() -> torch.nn.Module:
    return tiny_model(tiny_tokenizer())


def test_every_parameter_belongs_to_the_part_its_name_says(model: torch.nn.Module) -> None:
    belongs = {name: part_of(name) for name, _ in model.named_parameters()}
    assert belongs["lm_head.weight"] == belongs["model.embed_tokens.weight"] == "mm_language_model"
    assert belongs["model.mm_projector.2.bias"] == "mm_mlp_adapter"
    tower = {name for name in belongs if name.startswith("model.vision_tower.vision_tower.")}
    assert tower == {name for name, part in belongs.items() if part == "mm_vision_tower"}


@pytest.mark.parametrize("part", PARTS)
def test_only_the_named_part_is_trainable_and_that_is_logged(
    model: torch.nn.Module, part: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="llava.train.parts"):
        counts = set_trainable(model, (part,))
    trainable = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert trainable and {part_of(name) for name in trainable} == {part}
    expected = sum(w.numel() for w in model.parameters() if w.requires_grad)
    assert counts == {**dict.fromkeys(PARTS, 0), part: expected}
    assert f"{part}: {expected:,} trainable parameters" in caplog.messages


def test_layers_above_the_one_that_is_read_stay_frozen(model: torch.nn.Module) -> None:
    set_trainable(model, PARTS)
    frozen = {name for name, weight in model.named_parameters() if not weight.requires_grad}
    assert frozen and all(".vision_tower.encoder.layers.1." in name for name in frozen)


def test_parts_are_read_from_a_comma_separated_list() -> None:
    assert parse_parts("mm_vision_tower, mm_mlp_adapter") == ("mm_vision_tower", "mm_mlp_adapter")


@pytest.mark.parametrize("text", ["", "mm_vision_resampler", "mm_mlp_adapter,mm_mlp_adapter"])
def test_unknown_repeated_or_missing_parts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="--mm_tunable_parts must be"):
        parse_parts(text)


def test_each_part_has_its_learning_rate_and_biases_do_not_decay(
    model: torch.nn.Module, tmp_path: Path
) -> None:
    set_trainable(model, PARTS)
    args = LlavaTrainingArguments(
        output_dir=str(tmp_path),
        use_cpu=True,
        learning_rate=1e-5,
        mm_projector_lr=1e-3,
        mm_vision_tower_lr=2e-6,
        weight_decay=0.1,
    )
    decayed = {name for name, weight in model.named_parameters() if weight.ndim > 1}
    groups = parameter_groups(model, args.rates_by_part, args.weight_decay, decayed)
    names = {id(weight): name for name, weight in model.named_parameters()}
    expected = {"mm_language_model": 1e-5, "mm_mlp_adapter": 1e-3, "mm_vision_tower": 2e-6}
    for group in groups:
        assert group["lr"] == expected[group["part"]]
        for weight in group["params"]:
            assert part_of(names[id(weight)]) == group["part"]
            assert group["weight_decay"] == (0.1 if weight.ndim > 1 else 0.0)
    grouped = [id(weight) for group in groups for weight in group["params"]]
    trainable = [id(weight) for weight in model.parameters() if weight.requires_grad]
    assert sorted(grouped) == sorted(trainable)


def test_a_part_without_its_own_rate_takes_the_common_one_and_zero_is_a_rate(
    model: torch.nn.Module, tmp_path: Path
) -> None:
    set_trainable(model, PARTS)
    args = LlavaTrainingArguments(
        output_dir=str(tmp_path), use_cpu=True, learning_rate=1e-5, mm_vision_tower_lr=0.0
    )
    groups = parameter_groups(model, args.rates_by_part, 0.0, set())
    rates = {group["part"]: group["lr"] for group in groups}
    assert rates == {"mm_language_model": 1e-5, "mm_mlp_adapter": 1e-5, "mm_vision_tower": 0.0}
