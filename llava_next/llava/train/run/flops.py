"""Floating-point operations of a training step, by formula.

A multiply-add counts as two. Recomputation for checkpointed gradients does not count, so that the
share of the peak (MFU) can be compared between runs.

Axis letters: T tokens of a sample, P patches of a visual, H language-model width, D vision width.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from llava.train.parts import LANGUAGE_MODEL, PROJECTOR, VISION_TOWER, parameter_numel


@dataclass(frozen=True, kw_only=True)
class FlopCounter:
    """Counts a step's operations from the lengths of its samples and visuals.

    Attributes:
        tower: number of the tower's weights; each acts on every patch.
        projector: number of the projector's weights, divided by the patches of a visual token.
        decoder: number of the decoder's weights; each acts on every token.
        head: number of the head's weights; each acts on every supervised token.
        tower_attention: number of the tower's layers that are used, times D.
        decoder_attention: number of the decoder's layers, times the width of all query heads.
        tuned: names of the parts whose weights get gradients.
        adapters: whether the language model has adapters, so that gradients pass through it.
    """

    tower: float
    projector: float
    decoder: float
    head: float
    tower_attention: float
    decoder_attention: float
    tuned: frozenset[str]
    adapters: bool = False

    def step(
        self, sample_tokens: Sequence[int], segment_patches: Sequence[int], supervised: int
    ) -> float:
        """Return the operations of forward and backward pass."""
        patches, tokens = sum(segment_patches), sum(sample_tokens)
        # Scores and weighted sums: 2 x 2 x T^2 per unit of width, half of it under a causal mask.
        seen = 4 * self.tower_attention * sum(count**2 for count in segment_patches)
        read = 2 * self.decoder_attention * sum(count**2 for count in sample_tokens)
        tower = (2 * self.tower * patches, seen)
        projector = (2 * self.projector * patches, 0.0)
        decoder = (2 * self.decoder * tokens, read)
        head = (2 * self.head * supervised, 0.0)
        total, below = 0.0, False
        for part, (weights, attention) in (
            (VISION_TOWER, tower),
            (PROJECTOR, projector),
            (LANGUAGE_MODEL, decoder),
            (LANGUAGE_MODEL, head),
        ):
            tuned = part in self.tuned
            adapted = self.adapters and part == LANGUAGE_MODEL
            inward = below or adapted or (tuned and part != PROJECTOR)
            total += weights * (1 + tuned + inward) + attention * (1 + 2 * inward)
            below = below or tuned
        return total


def count_flops_of(model: Any, tuned: Collection[str], *, lora: bool = False) -> FlopCounter:
    """Return the counter of a LLaVA language model.

    Args:
        model: a LLaVA language model.
        tuned: names of the parts that are tuned.
        lora: whether the language model is tuned through adapters, so that its own weights get no
            gradient.
    """
    config, encoder = model.config, model.model.vision_tower.vision_tower
    unused = {id(weight) for weight in model.model.vision_tower.unused_parameters()}
    used = [weight for weight in encoder.parameters() if id(weight) not in unused]
    layers = len(encoder.encoder.layers) + 1 + model.model.vision_tower.output_layer
    patches_per_token = config.patches_per_token
    parts = set(tuned) - ({LANGUAGE_MODEL} if lora else set())
    return FlopCounter(
        tower=sum(map(parameter_numel, used)),
        projector=sum(map(parameter_numel, model.model.mm_projector.parameters()))
        / patches_per_token,
        decoder=sum(map(parameter_numel, model.model.layers.parameters())),
        head=parameter_numel(model.lm_head.weight),
        tower_attention=layers * encoder.config.hidden_size,
        decoder_attention=config.num_hidden_layers * config.num_attention_heads * config.head_dim,
        tuned=frozenset(parts),
        adapters=lora,
    )
