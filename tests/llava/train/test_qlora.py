"""QLoRA: the decoder in 4 bits, tower and projector as they are, adapters that load on the base."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from llava.model.adapters import ADAPTER_FILE, Quantisation, quantise_decoder
from llava.model.loading import load_pretrained
from llava.train.arguments import parse_arguments
from llava.train.parts import parameter_numel
from run_kit.checkpoints import MARKER_FILE
from run_kit.log import read_log
from support.ranks import finish, launcher
from support.tolerances import SAME_LOSS

FLAGS = "--model_name_or_path m --data_path d --output_dir o --use_cpu True"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--bits 8", "--bits must be 4 .QLoRA. or 16"),
        ("--bits 4", "add --lora_enable true"),
        ("--bits 4 --lora_enable True --quant_type int4", "--quant_type must be one of nf4, fp4"),
    ],
)
def test_settings_without_a_meaning_are_refused(flags: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_arguments([*FLAGS.split(), *flags.split()])


@pytest.mark.slow
def test_only_the_decoder_s_products_have_4_bits(tiny_material: Path) -> None:
    pytest.importorskip("bitsandbytes")
    model, _ = load_pretrained(tiny_material / "model")
    plain = {name: (p.dtype, p.numel()) for name, p in model.named_parameters()}
    before = model.model.layers[0].mlp.up_proj.weight.detach().clone()
    quantise_decoder(model, Quantisation(), device=torch.device("cpu"), compute_dtype=torch.float32)
    after = dict(model.named_parameters())
    packed = {name for name, p in after.items() if p.dtype == torch.uint8}
    assert len(packed) == 7 * len(model.model.layers)
    assert all(".layers." in name and "vision_tower" not in name for name in packed)
    for name, parameter in after.items():
        assert parameter_numel(parameter) == plain[name][1]
        assert name in packed or parameter.dtype == plain[name][0]
    import bitsandbytes

    weight = model.model.layers[0].mlp.up_proj.weight
    read = bitsandbytes.functional.dequantize_4bit(weight.data, weight.quant_state)
    # 16 levels over the largest of 64 weights: the widest gap of nf4 is 0.3 of it.
    assert (read - before).abs().max() < 0.16 * before.abs().max()


@pytest.mark.slow
def test_a_run_in_4_bits_learns_resumes_and_saves_plain_adapters(
    train: Callable[..., int], tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes")
    options = {"lora_enable": True, "lora_r": 4, "lora_dropout": 0.0, "max_steps": 4}
    options |= {"mm_tunable_parts": "mm_mlp_adapter", "save_strategy": "steps", "save_steps": 2}
    assert train(tmp_path / "plain", **options) == 0
    assert train(tmp_path / "four", **options, bits=4) == 0
    plain, four = ([row["loss"] for row in read_log(tmp_path / x)] for x in ("plain", "four"))
    assert four[0] == pytest.approx(plain[0], rel=0.05) and four != plain
    saved = load_file(tmp_path / "four" / ADAPTER_FILE)
    assert saved.keys() == load_file(tmp_path / "plain" / ADAPTER_FILE).keys()
    assert all(value.dtype == torch.float32 for value in saved.values())
    load_pretrained(tmp_path / "four")

    (tmp_path / "four" / "checkpoint-4" / MARKER_FILE).unlink()
    assert train(tmp_path / "four", **options, bits=4, resume_from_checkpoint="auto") == 0
    assert [row["loss"] for row in read_log(tmp_path / "four")] == four


@pytest.mark.slow
def test_two_ranks_with_zero_2_have_the_losses_of_one(
    run_arguments: Callable[..., list[str]], train: Callable[..., int], tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes")
    options = {"lora_enable": True, "lora_r": 4, "lora_dropout": 0.0, "bits": 4, "max_steps": 2}
    options |= {"mm_tunable_parts": "mm_mlp_adapter"}
    assert train(tmp_path / "one", **options, per_device_train_batch_size=4) == 0
    ranks = {"per_device_train_batch_size": 2, "deepspeed": "scripts/zero2.json"}
    finish([*launcher(2), *run_arguments(tmp_path / "two", **options, **ranks)])
    one, two = ([row["loss"] for row in read_log(tmp_path / name)] for name in ("one", "two"))
    assert two == pytest.approx(one, rel=SAME_LOSS)
