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
from os import PathLike
from typing import Any

import torch
from packaging.version import Version
from torch import Tensor, nn
from transformers import __version__ as transformers_version
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.modeling_utils import PreTrainedModel

from .checks import (
    check_lengths,
    check_loaded,
    check_patches,
    check_pixels,
    check_positions,
    segment_lengths,
)
from .configuration_onevision_encoder import OneVisionEncoderConfig
from .layers import (
    OneVisionEncoderEmbeddings,
    OneVisionEncoderPoolingHead,
    OneVisionEncoderStack,
    Segments,
    norm_layer,
    segment_block_mask,
)

# transformers 4.57 copies only modules that this file itself names, where it loads remote code.
from .patches import patchify  # noqa: F401
from .rotary import VideoRotaryEmbeddingSplit466
from .selection import select_tokens
from .varlen import VARLEN, is_varlen_default, this_machine

_VARLEN_BACKENDS = frozenset({"flash_attention_2", "flash_attention_3", VARLEN})
"""Backends whose kernels take segment boundaries; others are called for segments of one length."""

_IS_BEFORE_4_56 = Version(transformers_version) < Version("4.56")
"""Whether the library calls ``dtype`` by another name and leaves initial weights to the model."""

GROUP_TOKENS = 2048
"""Short segments share their matrix products up to this many tokens; more only costs memory."""


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
        self.layernorm_pre = norm_layer(config)
        self.video_rope = VideoRotaryEmbeddingSplit466(config)
        self.encoder = OneVisionEncoderStack(config)
        self.layernorm_post = norm_layer(config) if config.use_head else None
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
