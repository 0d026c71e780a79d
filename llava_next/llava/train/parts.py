"""The parts of a model that a run may tune, and the parameters that belong to each.

This is the one place that freezes anything.
"""

import logging
from typing import Any

from torch import nn

from llava.model.adapters import is_adapter

logger = logging.getLogger(__name__)

VISION_TOWER, PROJECTOR, LANGUAGE_MODEL = "mm_vision_tower", "mm_mlp_adapter", "mm_language_model"
PARTS = (VISION_TOWER, PROJECTOR, LANGUAGE_MODEL)
_PREFIXES = {"model.vision_tower.": VISION_TOWER, "model.mm_projector.": PROJECTOR}


def part_of(parameter_name: str) -> str:
    """The part that a parameter belongs to, by its full name."""
    for prefix, part in _PREFIXES.items():
        if parameter_name.startswith(prefix):
            return part
    return LANGUAGE_MODEL


def parameter_numel(parameter: nn.Parameter) -> int:
    """Numbers in a whole parameter. Under ZeRO-3 a rank holds an empty shard of it."""
    return vars(parameter).get("ds_numel", parameter.numel())


def parse_parts(text: str) -> tuple[str, ...]:
    """Read ``--mm_tunable_parts``: a comma-separated list.

    Raises:
        ValueError: for an unknown or repeated name, or an empty list.
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
        parts: from ``parse_parts``.
        lora: tune the adapters of the language model, whatever the parts, and not its own weights.

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
