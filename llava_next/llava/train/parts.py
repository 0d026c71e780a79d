"""The parts of a model that a run may tune, and the parameters that belong to each.

This is the one place that freezes parameters.
"""

import logging
from collections.abc import Mapping
from typing import Any

from torch import nn

from llava.model.adapters import is_adapter

logger = logging.getLogger(__name__)

VISION_TOWER, PROJECTOR, LANGUAGE_MODEL = "mm_vision_tower", "mm_mlp_adapter", "mm_language_model"
PARTS = (VISION_TOWER, PROJECTOR, LANGUAGE_MODEL)
_PREFIXES = {"model.vision_tower.": VISION_TOWER, "model.mm_projector.": PROJECTOR}


def part_of(parameter_name: str) -> str:
    """Return the part that a parameter belongs to, by its full name."""
    for prefix, part in _PREFIXES.items():
        if parameter_name.startswith(prefix):
            return part
    return LANGUAGE_MODEL


def parameter_numel(parameter: nn.Parameter) -> int:
    """Return the elements of a whole parameter, also where it is sharded or has 4 bits."""
    packed = vars(parameter).get("quant_state")
    if packed is not None:
        return packed.shape.numel()
    return vars(parameter).get("ds_numel", parameter.numel())


def parse_parts(text: str) -> tuple[str, ...]:
    """Read ``--mm_tunable_parts``: a comma-separated list.

    Raises:
        ValueError: A name is unknown or repeated, or the list is empty.
    """
    parts = tuple(name.strip() for name in text.split(","))
    if not set(parts) <= set(PARTS) or len(set(parts)) != len(parts):
        raise ValueError(
            f"--mm_tunable_parts must be a comma-separated choice of {', '.join(PARTS)}, "
            f"got {text!r}"
        )
    return parts


def set_trainable(
    model: nn.Module, parts: tuple[str, ...], *, lora: bool = False
) -> dict[str, int]:
    """Freeze everything outside ``parts`` and log what is left.

    Layers of the tower above the one that is read stay frozen: no gradient ever reaches them.

    Args:
        model: a LLaVA language model.
        parts: names of the parts to tune, the result of ``parse_parts``.
        lora: whether to tune the language model's adapters instead of its own weights; they are
            tuned whether or not ``parts`` names the language model.

    Returns:
        Trainable parameters per part, zeros included.
    """
    tower: Any = model.get_submodule("model.vision_tower")
    unused = {id(parameter) for parameter in tower.unused_parameters()}
    counts: dict[str, int] = dict.fromkeys(PARTS, 0)
    for name, parameter in model.named_parameters():
        part = part_of(name)
        tuned = is_adapter(name) if lora and part == LANGUAGE_MODEL else part in parts
        parameter.requires_grad_(tuned and id(parameter) not in unused)
        if parameter.requires_grad:
            counts[part] += parameter_numel(parameter)
    for part, count in counts.items():
        logger.info("%s: %s trainable parameters", part, f"{count:,}")
    return counts


def tuned_weights_to_float32(model: nn.Module) -> None:
    """Convert the weights that are tuned to float32, in place; frozen ones keep their type."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def parameter_groups(
    model: nn.Module, rates: Mapping[str, float], weight_decay: float, decayed: set[str]
) -> list[dict[str, Any]]:
    """Return optimiser groups: one per part, split into parameters with and without weight decay.

    Args:
        model: a LLaVA language model.
        rates: learning rate of each part.
        weight_decay: weight decay of the parameters that decay.
        decayed: names of the parameters that decay.

    Returns:
        Groups with keys ``params``, ``lr``, ``weight_decay`` and ``part``; none is empty.
    """
    groups: dict[tuple[str, bool], list[nn.Parameter]] = {
        (part, decays): [] for part in PARTS for decays in (True, False)
    }
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups[part_of(name), name in decayed].append(parameter)
    return [
        {
            "params": parameters,
            "lr": rates[part],
            "weight_decay": weight_decay if decays else 0.0,
            "part": part,
        }
        for (part, decays), parameters in groups.items()
        if parameters
    ]
