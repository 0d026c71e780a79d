"""OneVision Encoder: a vision transformer over patches of images, videos and codec mosaics.

Every patch carries a position (t, h, w), and 3-D rotary embedding is the only thing that tells
patches apart: no learned position table, no class token. So any resolution and any number of
frames works, and so does any choice of patches.

Two entries share all code below the patches: ``forward`` takes a rectangular batch of pixels,
``forward_packed`` takes segments of any shapes laid end to end.

Axis letters: B samples, C channels, F frames, H and W pixels, L tokens of a sample, P tokens of a
packed batch, S segments, D width, N heads, K width of a head, (t, h, w) positions.
"""

from collections.abc import Sequence
from itertools import groupby
from os import PathLike
from typing import Any, NamedTuple

import torch
from packaging.version import Version
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask
from transformers import __version__ as transformers_version
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel

from .block_mask import segment_block_mask
from .checks import (
    check_lengths,
    check_loaded,
    check_patches,
    check_pixels,
    check_positions,
    segment_lengths,
)
from .configuration_onevision_encoder import OneVisionEncoderConfig

# transformers 4.57 copies only modules that this file itself names, where it loads remote code.
from .patches import patchify  # noqa: F401
from .rotary import VideoRotaryEmbeddingSplit466, rotate
from .selection import select_tokens
from .varlen import VARLEN, is_varlen_default, this_machine

_VARLEN_BACKENDS = frozenset({"flash_attention_2", "flash_attention_3", VARLEN})
"""Backends whose kernels take segment boundaries; others are called for segments of one length."""

_IS_BEFORE_4_56 = Version(transformers_version) < Version("4.56")
"""Whether the library calls ``dtype`` by another name and leaves initial weights to the model."""

GROUP_TOKENS = 2048
"""Short segments share their matrix products up to this many tokens; more only costs memory."""


class Segments(NamedTuple):
    """Which tokens of a packed sequence attend to each other.

    Attributes:
        lengths: tokens of each segment, on the host.
        cu_seqlens: int32 (S + 1,) for kernels that take boundaries, None elsewhere.
        block_mask: the same for flex attention on an accelerator, None elsewhere.
    """

    lengths: tuple[int, ...]
    cu_seqlens: Tensor | None = None
    block_mask: BlockMask | None = None


def eager_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | BlockMask | None,
    *,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: object,
) -> tuple[Tensor, Tensor]:
    """Attention in plain operations, the softmax in the working dtype as the weights expect.

    Returns:
        (B, L, N, K) and the probabilities (B, N, L, L).
    """
    scores = torch.matmul(query, key.transpose(2, 3)) * scaling
    probabilities = nn.functional.softmax(scores, dim=-1)
    probabilities = nn.functional.dropout(probabilities, p=dropout, training=module.training)
    return torch.matmul(probabilities, value).transpose(1, 2).contiguous(), probabilities


class OneVisionEncoderAttention(nn.Module):
    """Bidirectional attention with rotary positions, within each segment."""

    is_causal = False

    def __init__(self, config: OneVisionEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self,
        hidden_states: Tensor,
        cosine: Tensor,
        signed_sine: Tensor,
        segments: Segments | None,
    ) -> tuple[Tensor, Tensor | None]:
        """Mix tokens: (B, L, D) to (B, L, D), and the probabilities (eager, not packed)."""
        heads = (*hidden_states.shape[:-1], -1, self.head_dim)
        query = self.q_proj(hidden_states).view(heads)
        key = self.k_proj(hidden_states).view(heads)
        value = self.v_proj(hidden_states).view(heads).transpose(1, 2)
        if self.config.rope_precision == "query":
            cosine, signed_sine = cosine.to(query.dtype), signed_sine.to(query.dtype)
        query = rotate(query, cosine, signed_sine).transpose(1, 2)
        key = rotate(key, cosine, signed_sine).transpose(1, 2)
        mixed, probabilities = self._attend(query, key, value, segments)
        return self.out_proj(mixed.reshape(hidden_states.shape)), probabilities

    def _attend(
        self, query: Tensor, key: Tensor, value: Tensor, segments: Segments | None
    ) -> tuple[Tensor, Tensor | None]:
        name = self.config._attn_implementation
        attention = eager_attention_forward if name == "eager" else ALL_ATTENTION_FUNCTIONS[name]
        options = {
            "scaling": self.head_dim**-0.5,
            "dropout": self.config.attention_dropout if self.training else 0.0,
            "is_causal": False,
        }
        if segments is None or len(segments.lengths) == 1:
            return attention(self, query, key, value, None, **options)
        if segments.cu_seqlens is not None:
            longest = max(segments.lengths)
            options |= {"cu_seq_lens_q": segments.cu_seqlens, "cu_seq_lens_k": segments.cu_seqlens}
            options |= {"max_length_q": longest, "max_length_k": longest}
            if name == VARLEN:
                options["sample_lengths"] = segments.lengths
            return attention(self, query, key, value, None, **options)
        if segments.block_mask is not None:
            return attention(self, query, key, value, segments.block_mask, **options)
        # Neighbours of one length are the rows of one call.
        runs = [(len(list(run)), length) for length, run in groupby(segments.lengths)]
        sizes = [count * length for count, length in runs]
        parts = zip(*(x[0].split(sizes, dim=1) for x in (query, key, value)), strict=True)
        mixed: list[Tensor] = []
        for run, part in zip(runs, parts, strict=True):
            q, k, v = (x.unflatten(1, run).transpose(0, 1) for x in part)
            mixed.append(attention(self, q, k, v, None, **options)[0].flatten(0, 1))
        return torch.cat(mixed)[None], None


class OneVisionEncoderMLP(nn.Module):
    """Two layers with an activation between: (..., D) to (..., D)."""

    def __init__(self, config: OneVisionEncoderConfig) -> None:
        super().__init__()
        self.activation_fn = ACT2FN[config.hidden_act]
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Transform each token on its own."""
        return self.fc2(self.activation_fn(self.fc1(hidden_states)))


def _norm(config: OneVisionEncoderConfig) -> nn.Module:
    norm_class = nn.RMSNorm if config.layer_norm_type == "rms_norm" else nn.LayerNorm
    return norm_class(config.hidden_size, eps=config.layer_norm_eps)


class OneVisionEncoderLayer(GradientCheckpointingLayer):
    """One pre-norm block."""

    def __init__(self, config: OneVisionEncoderConfig) -> None:
        super().__init__()
        self.self_attn = OneVisionEncoderAttention(config)
        self.layer_norm1 = _norm(config)
        self.mlp = OneVisionEncoderMLP(config)
        self.layer_norm2 = _norm(config)

    def forward(
        self,
        hidden_states: Tensor,
        cosine: Tensor,
        signed_sine: Tensor,
        segments: Segments | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Transform tokens (B, L, D); also the attention probabilities where there are any."""
        mixed, probabilities = self.self_attn(
            self.layer_norm1(hidden_states), cosine, signed_sine, segments
        )
        hidden_states = hidden_states + mixed
        return hidden_states + self.mlp(self.layer_norm2(hidden_states)), probabilities


class OneVisionEncoderPatchEmbedding(nn.Conv2d):
    """The patch convolution, applied to patches that are already cut out.

    Its weight has the published convolution's name and shape (D, C, p, p).
    """

    def __init__(self, config: OneVisionEncoderConfig) -> None:
        side = config.patch_size
        super().__init__(
            config.num_channels, config.hidden_size, kernel_size=side, stride=side, bias=False
        )

    def forward(self, input: Tensor) -> Tensor:
        """Embed patches (..., C * p * p), element order (channel, row, column): (..., D)."""
        return nn.functional.linear(input.to(self.weight.dtype), self.weight.flatten(1))


class OneVisionEncoderEmbeddings(nn.Module):
    """Holds the patch embedding under its published name."""

    def __init__(self, config: OneVisionEncoderConfig) -> None:
        super().__init__()
        self.patch_embedding = OneVisionEncoderPatchEmbedding(config)

    def forward(self, patches: Tensor) -> Tensor:
        """Embed patches (..., C * p * p): (..., D)."""
        return self.patch_embedding(patches)


class OneVisionEncoderStack(nn.Module):
    """Holds the blocks under their published names; the model runs them."""

    def __init__(self, config: OneVisionEncoderConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            OneVisionEncoderLayer(config) for _ in range(config.num_hidden_layers)
        )


class OneVisionEncoderPoolingHead(nn.Module):
    """One learned query attends to all tokens. Its norm is always an RMS norm."""

    def __init__(self, config: OneVisionEncoderConfig) -> None:
        super().__init__()
        self.probe = nn.Parameter(torch.randn(1, 1, config.hidden_size))
        self.attention = nn.MultiheadAttention(
            config.hidden_size, config.num_attention_heads, batch_first=True
        )
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = OneVisionEncoderMLP(config)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Pool tokens: (B, L, D) to (B, D)."""
        probe = self.probe.expand(hidden_states.shape[0], -1, -1)
        pooled = self.attention(probe, hidden_states, hidden_states, need_weights=False)[0]
        return (pooled + self.mlp(self.norm(pooled)))[:, 0]


def _groups(lengths: Sequence[int]) -> list[Segments]:
    """Join neighbours while they have at most ``GROUP_TOKENS`` tokens together."""
    groups: list[list[int]] = []
    for length in lengths:
        if groups and sum(groups[-1]) + length <= GROUP_TOKENS:
            groups[-1].append(length)
        else:
            groups.append([length])
    return [Segments(tuple(group)) for group in groups]


class OneVisionEncoderPreTrainedModel(PreTrainedModel):
    """Loading, saving and initial weights."""

    config_class = OneVisionEncoderConfig
    base_model_prefix = "onevision_encoder"
    main_input_name = "pixel_values"
    supports_gradient_checkpointing = True
    _no_split_modules = ["OneVisionEncoderLayer"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flash_attn_2 = True  # its name before transformers 4.54
    _supports_flex_attn = True
    _supports_attention_backend = True

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | PathLike[str] | None,
        *model_args: Any,
        ignore_mismatched_sizes: bool = False,
        output_loading_info: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Load as the library does, and see that the weights are what the configuration describes.

        The library by itself warns, and continues with random weights where some are missing.

        Args:
            pretrained_model_name_or_path: folder or name on the Hub; safetensors unless
                ``use_safetensors=False`` is passed.
            model_args: further arguments of the class.
            ignore_mismatched_sizes: start weights of another shape afresh.
            output_loading_info: also return the library's report.
            kwargs: arguments of the library's ``from_pretrained``.

        Raises:
            ValueError: naming weights that are missing, unexpected or of another shape.
        """
        kwargs.setdefault("use_safetensors", True)
        if _IS_BEFORE_4_56 and "dtype" in kwargs:
            kwargs["torch_dtype"] = kwargs.pop("dtype")
        loaded: Any = super().from_pretrained(
            pretrained_model_name_or_path,
            *model_args,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **kwargs,
        )
        model, report = loaded
        check_loaded(report | {"mismatched_keys": []} if ignore_mismatched_sizes else report)
        return (model, report) if output_loading_info else model

    def get_correct_attn_implementation(
        self, requested_attention: str | None, is_init_check: bool = False
    ) -> str:
        """Return the backend that is used: where none is asked for, ``varlen`` if it runs here."""
        head_dim = self.config.hidden_size // self.config.num_attention_heads
        if requested_attention is None and is_varlen_default(
            this_machine(), head_dim, self.config.attention_dropout
        ):
            return VARLEN
        return super().get_correct_attn_implementation(requested_attention, is_init_check)

    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        return True

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if _IS_BEFORE_4_56 and isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        if isinstance(module, OneVisionEncoderPoolingHead):
            nn.init.normal_(module.probe)


class OneVisionEncoderModel(OneVisionEncoderPreTrainedModel):
    """The encoder: patches with positions to token features, and a pooled feature with a head.

    NaN or infinite pixels are not looked for: they spread over their own sample or segment.
    """

    def __init__(self, config: OneVisionEncoderConfig) -> None:
        super().__init__(config)
        self.embeddings = OneVisionEncoderEmbeddings(config)
        self.layernorm_pre = _norm(config)
        self.video_rope = VideoRotaryEmbeddingSplit466(config)
        self.encoder = OneVisionEncoderStack(config)
        self.layernorm_post = _norm(config) if config.use_head else None
        self.head = OneVisionEncoderPoolingHead(config) if config.use_head else None
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Return the patch embedding, where gradients enter for frozen weights."""
        return self.embeddings.patch_embedding

    def forward(
        self,
        pixel_values: Tensor,
        visible_indices: Tensor | None = None,
        patch_positions: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        *,
        gather_visible: bool | None = None,
    ) -> BaseModelOutputWithPooling | tuple[Tensor | tuple[Tensor, ...] | None, ...]:
        """Encode a batch of images or videos of one size.

        Without indices and positions, frame i of a video gets t = i.

        Args:
            pixel_values: floating, normalised: (B, C, H, W), or (B, C, F, H, W) for video.
            visible_indices: int64 (B or 1, L), flat indices t * (H/p * W/p) + h * W/p + w into the
                virtual grid of ``config.rope_temporal_size`` frames (one for images). They give
                the tokens' positions. Where L is not the number of patches in ``pixel_values``
                they also select the tokens: index i reads patch i of ``pixel_values``, with one
                warning where the video is shorter than the virtual grid.
            patch_positions: (B or 1, L, 3), rows (t, h, w) >= 0, for tokens in raster order, or
                for those that ``visible_indices`` selects. No upper limit.
            output_attentions: return the probabilities (B, N, L, L) of every block; eager only.
            output_hidden_states: return the input of every block and the output of the last,
                before the final norm.
            return_dict: False for a tuple.
            gather_visible: whether ``visible_indices`` select tokens, instead of deciding by
                their number: a selection may then keep all tokens in another order, and one from
                a video shorter than the virtual grid gives no warning.

        Returns:
            ``last_hidden_state`` (B, L, D), after the final norm where there is a head, and
            ``pooler_output`` (B, D) or None.

        Raises:
            ValueError: naming the argument, the rule and the value.
        """
        if output_attentions is None:
            output_attentions = self.config.output_attentions
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        if output_attentions and self.config._attn_implementation != "eager":
            raise ValueError(
                "output_attentions needs attn_implementation='eager', got "
                f"{self.config._attn_implementation!r}; call set_attn_implementation('eager')"
            )
        check_pixels(pixel_values, self.config.num_channels, self.config.patch_size)
        patches, positions = select_tokens(
            pixel_values,
            visible_indices,
            patch_positions,
            patch_size=self.config.patch_size,
            temporal_size=self.config.rope_temporal_size,
            gather=gather_visible,
        )
        hidden_states: list[Tensor] = []
        attentions: list[Tensor] = []
        tokens = self._run_blocks(
            patches,
            positions,
            None,
            self.config.num_hidden_layers,
            hidden_states if output_hidden_states else None,
            attentions if output_attentions else None,
        )
        if self.layernorm_post is not None:
            tokens = self.layernorm_post(tokens)
        output = BaseModelOutputWithPooling(
            last_hidden_state=tokens,
            pooler_output=None if self.head is None else self.head(tokens),
            hidden_states=tuple(hidden_states) if output_hidden_states else None,
            attentions=tuple(attentions) if output_attentions else None,
        )
        if self.config.return_dict if return_dict is None else return_dict:
            return output
        # The pooled feature keeps its place in the tuple even where there is none.
        extras = (output.hidden_states, output.attentions)
        return (tokens, output.pooler_output, *(extra for extra in extras if extra is not None))

    def forward_packed(
        self,
        patches: Tensor,
        patch_positions: Tensor,
        cu_seqlens: Tensor,
        *,
        output_layer: int = -1,
        lengths: Sequence[int] | None = None,
    ) -> Tensor:
        """Encode segments of any shapes in one call; tokens attend within their segment.

        Equals one ``forward`` per segment. Only the blocks up to ``output_layer`` are computed.

        Args:
            patches: floating (P, C * p * p), normalised, element order (channel, row, column).
            patch_positions: (P, 3), rows (t, h, w) >= 0.
            cu_seqlens: int32 (S + 1,), strictly rising from 0 to P; segment s is the tokens
                cu_seqlens[s] to cu_seqlens[s + 1].
            output_layer: -1 for ``last_hidden_state``, any lower number for that entry of
                ``hidden_states``: -2 is the output of the last block but one.
            lengths: tokens of each segment, on the host. With them nothing is read back from the
                device, and the values of ``patch_positions`` and ``cu_seqlens`` are the caller's to
                check. None reads ``cu_seqlens``.

        Returns:
            (P, D).

        Raises:
            ValueError: naming the argument, the rule and the value.
        """
        blocks = self.config.num_hidden_layers
        if not -blocks - 1 <= output_layer <= -1:
            raise ValueError(
                f"output_layer must be between {-blocks - 1} and -1 ({blocks} blocks), "
                f"got {output_layer}"
            )
        check_patches(patches, self.config.num_channels * self.config.patch_size**2)
        check_positions(patch_positions, [(patches.shape[0], 3)], reads_values=lengths is None)
        groups = self._grouped(cu_seqlens, patches, lengths)
        sizes = [sum(group.lengths) for group in groups]
        parts = zip(
            patches[None].split(sizes, dim=1),
            patch_positions[None].to(patches.device, non_blocking=True).split(sizes, dim=1),
            groups,
            strict=True,
        )
        tokens = [self._run_blocks(*part, blocks + 1 + output_layer) for part in parts]
        tokens = torch.cat(tokens, dim=1)[0]
        if output_layer == -1 and self.layernorm_post is not None:
            return self.layernorm_post(tokens)
        return tokens

    def _grouped(
        self, cu_seqlens: Tensor, patches: Tensor, given: Sequence[int] | None
    ) -> list[Segments]:
        """Return the segments in groups that go through the blocks one after the other."""
        if given is None:
            lengths = segment_lengths(cu_seqlens, patches.shape[0])
        else:
            lengths = check_lengths(given, cu_seqlens, patches.shape[0])
        name, device = self.config._attn_implementation, patches.device
        if name in _VARLEN_BACKENDS:
            return [Segments(lengths, cu_seqlens.to(device, torch.int32, non_blocking=True))]
        # On a CPU one call per segment is faster, and flex attention has no backward anyway.
        if name == "flex_attention" and device.type != "cpu":
            bounds = cu_seqlens.to(device, torch.int32, non_blocking=True)
            mask = segment_block_mask(bounds, patches.shape[0])
            return [Segments(lengths, block_mask=mask)]
        # Gradients keep every activation with or without groups. Where processes share out the
        # weights, all of them gather a block's at every call: data must not decide how many.
        is_shared = torch.distributed.is_available() and torch.distributed.is_initialized()
        if device.type != "cpu" or torch.is_grad_enabled() or is_shared:
            return [Segments(lengths)]
        # A CPU gains by small groups: large buffers are new pages every time, others are reused.
        return _groups(lengths)

    def _run_blocks(
        self,
        patches: Tensor,
        positions: Tensor,
        segments: Segments | None,
        num_blocks: int,
        hidden_states: list[Tensor] | None = None,
        attentions: list[Tensor] | None = None,
    ) -> Tensor:
        """Patches (B, L, C * p * p) to tokens (B, L, D); fills the lists that it is given."""
        tokens = self.layernorm_pre(self.embeddings(patches))
        # Angles need float32 at least: bfloat16 does not hold whole numbers above 256.
        angle_dtype = torch.promote_types(tokens.dtype, torch.float32)
        cosine, signed_sine = self.video_rope.tables(positions, angle_dtype)
        for layer in self.encoder.layers[:num_blocks]:
            if hidden_states is not None:
                hidden_states.append(tokens)
            tokens, probabilities = layer(tokens, cosine, signed_sine, segments)
            if attentions is not None and probabilities is not None:
                attentions.append(probabilities)
        if hidden_states is not None:
            hidden_states.append(tokens)
        return tokens
