"""Let the samples of a packed row attend to themselves alone, each at the cost it has alone.

The library masks such a row instead: it scores all pairs of the row's tokens, throws most of them
away, and holds a mask of T x T. Here the default backend is called once per sample, and
FlashAttention and ``varlen`` are told the bounds. Other backends, and layers with a sliding window,
keep the library's mask.

Axis letters: B rows, T tokens of a row, N heads, K width of a head.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from llava.visual.layout import BatchLayout
from onevision_encoder.varlen import VARLEN, is_varlen_default, this_machine

if TYPE_CHECKING:
    from transformers import PreTrainedModel as _PreTrained
else:
    _PreTrained = object

SDPA_PER_SAMPLE = "sdpa_per_sample"
"""Name of the backend that replaces ``sdpa`` in the decoder: the same but for packed rows."""

_FLASH_BACKENDS = frozenset({"flash_attention_2", "flash_attention_3", VARLEN})


def sdpa_per_sample(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    sample_lengths: tuple[int, ...] | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Call the library's ``sdpa`` once per sample where a row holds several.

    Args:
        module: module of the attention.
        query: (B, N, T, K).
        key: (B, M, T, K), M <= N heads.
        value: (B, M, T, K).
        attention_mask: None where there are ``sample_lengths``.
        sample_lengths: tokens of each sample of the one row.
        **kwargs: further arguments of the library's function.

    Returns:
        (B, T, N, K) and None.
    """
    if sample_lengths is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    samples = zip(*(x.split(sample_lengths, dim=2) for x in (query, key, value)), strict=True)
    mixed = [sdpa_attention_forward(module, q, k, v, None, **kwargs)[0] for q, k, v in samples]
    return torch.cat(mixed, dim=1), None


AttentionInterface.register(SDPA_PER_SAMPLE, sdpa_per_sample)
AttentionMaskInterface.register(SDPA_PER_SAMPLE, sdpa_mask)
AttentionMaskInterface.register(VARLEN, sdpa_mask)


class IsolatesSamples(_PreTrained):
    """A model that reads ``sdpa`` as the backend above, and prefers ``varlen`` where it runs.

    In the list of base classes it comes before the library's.
    """

    config: Any

    def get_correct_attn_implementation(
        self, requested_attention: str | None, is_init_check: bool = False
    ) -> str:
        """Return the name of the backend that is used; see the library."""
        config = self.config
        width: int = getattr(config, "head_dim", None) or (
            config.hidden_size // config.num_attention_heads
        )
        if requested_attention is None and is_varlen_default(
            this_machine(), width, config.attention_dropout
        ):
            return VARLEN
        name = super().get_correct_attn_implementation(requested_attention, is_init_check)
        return SDPA_PER_SAMPLE if name == "sdpa" else name


def isolation_arguments(config: Any, layout: BatchLayout) -> dict[str, Any]:
    """Return keyword arguments that tell the decoder the samples of a batch without a mask.

    Padding behind a sample needs none either: causal attention never looks at what comes after.

    Args:
        config: configuration of the decoder; names the backend.
        layout: where the samples are.

    Returns:
        None of them where the library's mask has to do it.
    """
    backend = config._attn_implementation
    slides = set(config.layer_types) != {"full_attention"}
    if slides or backend not in {SDPA_PER_SAMPLE, *_FLASH_BACKENDS}:
        return {}
    arguments: dict[str, Any] = {"attention_mask": {"full_attention": None}}
    if not layout.holds_several_samples:
        return arguments if layout.pads_right_only else {}
    if len(layout.row_lengths) != 1:
        return {}
    [lengths] = layout.row_lengths
    if backend == SDPA_PER_SAMPLE:
        return arguments | {"sample_lengths": lengths}
    edges = layout.sample_bounds
    if backend == VARLEN:
        arguments["sample_lengths"] = lengths
    arguments |= {"cu_seq_lens_q": edges, "cu_seq_lens_k": edges}
    return arguments | {"max_length_q": max(lengths), "max_length_k": max(lengths)}
