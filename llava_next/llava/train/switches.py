"""Switches of the library: each works here, or is refused by name before the run starts."""

import json
import os
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from packaging.version import Version
from torch.distributed.fsdp import MixedPrecisionPolicy
from transformers import TrainingArguments
from transformers.training_args import ParallelMode

_REPORTERS = ("none", "tensorboard", "wandb", "mlflow", "swanlab")
_OPTIMISER_PACKAGES = {
    "8bit": "bitsandbytes",
    "paged": "bitsandbytes",
    "bnb": "bitsandbytes",
    "torchao": "torchao",
    "lomo": "lomo-optim",
    "grokadamw": "grokadamw",
    "schedule_free": "schedulefree",
    "stable_adamw": "torch-optimi",
}
"""Parts of the names of ``--optim`` to the packages that have these optimisers."""
_MODULES = {"lomo-optim": "lomo_optim", "torch-optimi": "optimi"}
_SWANLAB_TOO_NEW = Version("0.8")
_LIGER_PARTS = ("rope", "rms_norm", "swiglu")
_OWN_GROUPS = ("galore", "apollo", "lomo")
"""Optimisers that choose the groups of parameters themselves, so that parts lose their rates."""


def check_switches(args: TrainingArguments) -> None:
    """Check what the library would ignore, or find out in the middle of a run.

    Raises:
        ValueError: naming a switch that cannot work here, and the remedy.
    """
    _check_optimiser(str(getattr(args.optim, "value", args.optim)))
    given = [args.report_to] if isinstance(args.report_to, str) else args.report_to or []
    for name in given:
        if name not in _REPORTERS:
            raise ValueError(f"--report_to must be of {', '.join(_REPORTERS)}, got {name!r}")
        if name != "none":
            _require(name, f"--report_to {name}")
        if name == "swanlab" and Version(version(name)) >= _SWANLAB_TOO_NEW:
            raise ValueError(
                f"--report_to swanlab: the library asks swanlab below {_SWANLAB_TOO_NEW} for its "
                f"run, and {version(name)} is installed; pip install 'swanlab<{_SWANLAB_TOO_NEW}'"
            )
    if args.use_liger_kernel:
        _check_liger(args)
    if args.fsdp:
        _check_fsdp(args)


def read_liger_config(text: str) -> dict[str, bool]:
    """Read the value of ``--liger_kernel_config``.

    Raises:
        ValueError: if it is not a JSON object of true and false.
    """
    try:
        config = json.loads(text)
    except json.JSONDecodeError:
        config = None
    if not isinstance(config, dict) or not all(isinstance(v, bool) for v in config.values()):
        raise ValueError(
            f"--liger_kernel_config must be a JSON object of true and false, got {text!r}; for "
            "example --liger_kernel_config '{\"rope\": false}'"
        )
    return config


def _check_liger(args: TrainingArguments) -> None:
    for package in ("triton", "liger-kernel"):
        _require(package, "--use_liger_kernel True")
    others = sorted(set(args.liger_kernel_config or {}) - set(_LIGER_PARTS))
    if others:
        raise ValueError(
            f"--liger_kernel_config may switch {', '.join(_LIGER_PARTS)}, got {', '.join(others)}; "
            "the loss is the built-in one, which never holds all logits either"
        )
    is_cpu = args.use_cpu or not torch.cuda.is_available()
    if is_cpu and os.environ.get("TRITON_INTERPRET") != "1":
        raise ValueError(
            "--use_liger_kernel True needs a GPU: its kernels are Triton's; leave it out on the CPU"
        )


def register_liger() -> None:
    """Tell Liger of the decoders here, which the library then asks for their kernels by type.

    They are those of Qwen for rotations, norms and the gated MLP; the loss stays the built-in one.
    """
    from liger_kernel.transformers import (  # pyright: ignore[reportMissingImports]
        apply_liger_kernel_to_qwen2,
        apply_liger_kernel_to_qwen3,
        monkey_patch,
    )

    for name, apply in (
        ("llava_qwen", apply_liger_kernel_to_qwen2),
        ("llava_qwen3", apply_liger_kernel_to_qwen3),
    ):
        known: dict[str, Any] = monkey_patch.MODEL_TYPE_TO_APPLY_LIGER_FN
        known[name] = partial(apply, fused_linear_cross_entropy=False)


def _require(package: str, switch: str) -> None:
    if find_spec(_MODULES.get(package, package.replace("-", "_"))) is None:
        raise ValueError(
            f"{switch} needs the package {package}, which is not installed; pip install {package}"
        )


def _check_optimiser(name: str) -> None:
    if any(part in name for part in _OWN_GROUPS):
        raise ValueError(
            f"--optim {name} chooses its own groups of parameters, so the parts of the model could "
            "not have learning rates of their own; use another, such as adafactor or adamw_8bit"
        )
    for part, package in _OPTIMISER_PACKAGES.items():
        if part in name:
            _require(package, f"--optim {name}")


def _check_fsdp(args: TrainingArguments) -> None:
    if args.deepspeed:
        raise ValueError("--fsdp and --deepspeed both shard the model; leave one out")
    settings: Any = args.fsdp_config or {}
    if isinstance(settings, str):
        settings = json.loads(Path(settings).read_text(encoding="utf-8"))
    names = {name.removeprefix("fsdp_"): value for name, value in settings.items()}
    if str(names.get("version", 2)) != "2":
        raise ValueError("--fsdp is FSDP2: leave version out of --fsdp_config, or say 2")
    if "FULL" not in str(names.get("state_dict_type", "FULL_STATE_DICT")):
        raise ValueError(
            "state_dict_type of --fsdp_config must be FULL_STATE_DICT: checkpoints hold whole "
            "weights, so that they load anywhere; leave it out"
        )


def finish_fsdp(args: TrainingArguments) -> None:
    """Check the ranks, and set the precision: the loss stays in float32.

    Raises:
        ValueError: There is one rank only.
    """
    if args.parallel_mode != ParallelMode.DISTRIBUTED:
        raise ValueError("--fsdp needs several ranks; start them with torchrun or NUM_GPUS")
    if args.bf16 or args.fp16:
        settings: Any = args.fsdp_plugin_args
        settings["mixed_precision_policy"] = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16 if args.bf16 else torch.float16,
            reduce_dtype=torch.float32,
            cast_forward_inputs=False,  # positions stay in float32, too
        )


def check_four_bits(args: TrainingArguments) -> None:
    """Check that weights of 4 bits can be trained beside the other settings.

    Raises:
        ValueError: bitsandbytes is not installed, or the weights would have to be sharded.
    """
    _require("bitsandbytes", "--bits 4")
    if args.fsdp or (args.deepspeed and args.hf_deepspeed_config.is_zero3()):
        raise ValueError(
            "--bits 4 works on whole weights, which --fsdp and ZeRO-3 shard; use "
            "--deepspeed scripts/zero2.json, or neither"
        )
