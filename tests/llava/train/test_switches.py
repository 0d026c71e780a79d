"""Switches of the library are used or refused by name, never ignored."""

from typing import Any

import pytest
from transformers import TrainingArguments

from llava.train import switches
from llava.train.arguments import parse_arguments

FLAGS = ["--model_name_or_path", "m", "--data_path", "d", "--output_dir", "o", "--use_cpu", "True"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--optim paged_adamw_8bit", "--optim paged_adamw_8bit needs the package bitsandbytes"),
        ("--optim galore_adamw", "learning rates of their own; use another"),
        (
            "--report_to swanlab",
            "needs the package swanlab.*pip install swanlab",
        ),
        ("--report_to clearml", "--report_to must be of none, tensorboard, wandb, mlflow, swanlab"),
        ("--use_liger_kernel True", "needs the package triton.*pip install triton"),
        ("--liger_kernel_config rope", "must be a JSON object of true and false, got 'rope'"),
        ("--fsdp True", "--fsdp needs several ranks"),
        ("--fsdp True --deepspeed scripts/zero2.json", "both shard the model; leave one out"),
    ],
)
def test_what_cannot_work_is_refused_with_the_remedy(
    flags: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(switches, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=message):
        parse_arguments([*FLAGS, *flags.split()])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--use_liger_kernel True", "needs a GPU"),
        (
            '--use_liger_kernel True --liger_kernel_config {"cross_entropy":true}',
            "may switch rope, rms_norm, swiglu, got cross_entropy",
        ),
        ("--report_to swanlab", "0.8.1 is installed; pip install 'swanlab<0.8'"),
    ],
)
def test_what_is_installed_must_fit(
    flags: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(switches, "find_spec", lambda name: name)
    monkeypatch.setattr(switches, "version", lambda name: "0.8.1")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ValueError, match=message):
        parse_arguments([*FLAGS, *flags.split()])


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"version": 1}, "FSDP2"), ({"fsdp_state_dict_type": "SHARDED_STATE_DICT"}, "whole weights")],
)
def test_fsdp_is_version_2_with_whole_weights(settings: dict[str, Any], message: str) -> None:
    args = TrainingArguments(output_dir="o", use_cpu=True)
    args.fsdp, args.fsdp_config = "full_shard", settings  # type: ignore[assignment]
    with pytest.raises(ValueError, match=message):
        switches.check_switches(args)
