"""Turn the vision weights of LLaVA-OneVision-2 and Mage-ViT into an encoder of this project.

    python -m encoder_training.key_map CHECKPOINT OUT [--dtype bfloat16]

CHECKPOINT is a folder of safetensors, of the whole model or of its vision part. Their blocks are
those of this encoder, with the projections of query, key and value in one matrix and without a
pooling head. What belongs to the language model is left out. A pooling head for pretraining is
added by ``--add_head``, with random weights.

Axis letters: D width, C channels, p side of a patch in pixels, N heads.
"""

import json
import math
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from onevision_encoder import OneVisionEncoderConfig, OneVisionEncoderModel
from onevision_encoder.export import export
from run_kit.arguments import command_parser
from run_kit.exits import OK, USAGE, ExitOnError, say

_PATCHES = "embeddings.patch_embedding.weight"
_LAYER = re.compile(r"encoder\.layers\.(\d+)\.(.+)")
_HEAD_WIDTH = 64
_CONFIG_NAMES = ("num_attention_heads", "hidden_act", "layer_norm_eps", "rope_theta")


def find_prefix(names: Iterable[str]) -> str:
    """Return the prefix of the names of the vision weights, such as ``model.visual.``.

    Raises:
        ValueError: if there is no patch embedding, or more than one.
    """
    found = sorted({name.removesuffix(_PATCHES) for name in names if name.endswith(_PATCHES)})
    if len(found) != 1:
        raise ValueError(
            f"a checkpoint must have one weight named ...{_PATCHES}, got "
            f"{', '.join(prefix + _PATCHES for prefix in found) or 'none'}"
        )
    return found[0]


def rename_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return vision weights under the names and in the shapes of this encoder.

    Args:
        weights: without prefix; ``self_attn.qkv`` holds query, key and value one after the other,
            ``self_attn.proj`` is the output; a patch embedding may be flat, (D, C * p * p).
    """
    renamed: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if name == _PATCHES and tensor.ndim == 2:
            side = math.isqrt(tensor.shape[1] // 3)
            renamed[name] = tensor.unflatten(1, (3, side, side))
            continue
        match = _LAYER.fullmatch(name)
        if match is None or not match.group(2).startswith("self_attn."):
            renamed[name] = tensor
            continue
        start = f"encoder.layers.{match.group(1)}.self_attn"
        _, part, kind = match.group(2).split(".")
        if part == "qkv":
            for letter, section in zip("qkv", tensor.chunk(3), strict=True):
                renamed[f"{start}.{letter}_proj.{kind}"] = section.contiguous()
        else:
            renamed[f"{start}.{'out_proj' if part == 'proj' else part}.{kind}"] = tensor
    return renamed


def encoder_config_of(
    weights: Mapping[str, Tensor], vision_config: Mapping[str, Any], image_px: int = 448
) -> OneVisionEncoderConfig:
    """Return the configuration of renamed weights.

    Args:
        weights: result of ``rename_weights``; sizes are read from the shapes.
        vision_config: ``vision_config`` of the checkpoint's ``config.json``, for what shapes do not
            say; may be empty: heads are then 64 wide.
        image_px: side of images, which the configuration records.
    """
    width, channels, patch_size, _ = weights[_PATCHES].shape
    layers = {int(match.group(1)) for name in weights if (match := _LAYER.fullmatch(name))}
    said: dict[str, Any] = {"num_attention_heads": width // _HEAD_WIDTH}
    said |= {name: vision_config[name] for name in _CONFIG_NAMES if name in vision_config}
    return OneVisionEncoderConfig(
        **said,
        hidden_size=width,
        num_channels=channels,
        patch_size=patch_size,
        num_hidden_layers=len(layers),
        intermediate_size=weights["encoder.layers.0.mlp.fc1.bias"].shape[0],
        image_size=image_px,
        use_head="head.probe" in weights,
        rope_precision="float32",
    )


def convert(
    weights: Mapping[str, Tensor], vision_config: Mapping[str, Any], *, add_head: bool = False
) -> OneVisionEncoderModel:
    """Return an encoder with the vision weights of a checkpoint.

    Args:
        weights: all weights of the checkpoint, under their own names.
        vision_config: see ``encoder_config_of``.
        add_head: give it the final norm and the pooling head, with random weights.

    Raises:
        ValueError: naming weights that are missing, unexpected or of another shape.
    """
    prefix = find_prefix(weights)
    own = {name.removeprefix(prefix): t for name, t in weights.items() if name.startswith(prefix)}
    kept = ("embeddings.", "layernorm_pre.", "encoder.", "layernorm_post.", "head.")
    renamed = rename_weights({name: t for name, t in own.items() if name.startswith(kept)})
    config = encoder_config_of(renamed, vision_config)
    has_head = config.use_head
    config.use_head = has_head or add_head
    model = OneVisionEncoderModel(config)
    nn.Module.to(model, renamed[_PATCHES].dtype)
    absent = {name for name in model.state_dict() if name.startswith(("head.", "layernorm_post."))}
    try:
        report = model.load_state_dict(renamed, strict=False)
    except RuntimeError as error:
        raise ValueError(f"weights must have the shapes that config.json says: {error}") from error
    missing = set(report.missing_keys) - (absent if add_head and not has_head else set())
    if missing or report.unexpected_keys:
        raise ValueError(
            "vision weights must be those of this encoder's blocks, got "
            f"missing: {sorted(missing)[:5]}, unexpected: {sorted(report.unexpected_keys)[:5]}"
        )
    return model


def read_vision_weights(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the vision weights of a folder of safetensors, and its ``vision_config``.

    Raises:
        ValueError: if the folder holds no safetensors with a patch embedding.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ValueError(f"{folder} must hold *.safetensors, got none")
    names: dict[str, Path] = {}
    for path in files:
        with safe_open(path, framework="pt") as file:
            names |= dict.fromkeys(file.keys(), path)
    prefix = find_prefix(names)
    weights: dict[str, Tensor] = {}
    for path in files:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                if name.startswith(prefix):
                    weights[name] = file.get_tensor(name)
    config_file = folder / "config.json"
    config: dict[str, Any] = {}
    if config_file.is_file():
        config = json.loads(config_file.read_text(encoding="utf-8"))
    return weights, config.get("vision_config", config)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; exit codes are those of ``run_kit.exits``."""
    parser = command_parser("encoder_training.key_map", __doc__)
    parser.add_argument("checkpoint", type=Path, help="folder of safetensors")
    parser.add_argument("out", type=Path, help="new folder, in the layout of the Hub")
    parser.add_argument("--add_head", action="store_true", help="add a random pooling head")
    parser.add_argument(
        "--dtype",
        default="bfloat16",
        choices=["bfloat16", "float16", "float32"],
        help="type of the written weights",
    )
    arguments = parser.parse_args(argv)
    with ExitOnError(USAGE):
        if arguments.out.exists():
            raise ValueError(f"{arguments.out} must be a new folder")
        weights, vision_config = read_vision_weights(arguments.checkpoint)
        model = convert(weights, vision_config, add_head=arguments.add_head)
        export(model.to(getattr(torch, arguments.dtype)), arguments.out)
        say(f"wrote {arguments.out}")
    return OK


if __name__ == "__main__":
    sys.exit(main())
