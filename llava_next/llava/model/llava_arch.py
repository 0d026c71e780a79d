"""Join a language model and a vision tower: visual features replace the prompt's placeholders.

One mixin extends the decoder, one the decoder with its language-model head. ``llava_qwen3`` and
``llava_qwen`` differ only in their base classes.

Axis letters: B samples, T text tokens, P patches of the whole batch, S segments, D vision width,
H language-model width, p side of a patch in pixels.
"""

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)
from transformers import Cache

from llava.model.configuration import LlavaConfigFields
from llava.model.isolation import IsolatesSamples, isolation_arguments
from llava.model.loss import LanguageHead, training_loss
from llava.model.placeholders import repeat_samples, visuals_after
from llava.model.projector import build_projector
from llava.visual.batch import VisualBatch
from llava.visual.layout import BatchLayout, batch_layout
from onevision_encoder import OneVisionEncoderModel

if TYPE_CHECKING:
    # At run time the mixins have no base: the library's model class comes after them.
    from transformers import PreTrainedModel

    class _Decoder(PreTrainedModel):
        embed_tokens: nn.Embedding

    class _CausalLM(PreTrainedModel):
        vocab_size: int
        generate: Any
        prepare_inputs_for_generation: Any
        _expand_inputs_for_generation: Any
        _set_gradient_checkpointing: Any
else:
    _Decoder = _CausalLM = object


class VisionTower(nn.Module):
    """Runs the encoder on all visuals of a batch at once.

    The encoder's attribute is ``vision_tower``, so that weight names match LLaVA-NeXT's.
    """

    # Found by the library: its blocks are sharded, or put on a device, one by one.
    _no_split_modules = OneVisionEncoderModel._no_split_modules

    def __init__(self, config: LlavaConfigFields) -> None:
        super().__init__()
        self.vision_tower = OneVisionEncoderModel(config.require_vision())
        self.output_layer = config.mm_vision_select_layer

    def forward(self, visual: VisualBatch) -> Tensor:
        """Encode every segment with its own (t, h, w) positions: features (P, D)."""
        visual = visual.to(dtype=self.vision_tower.dtype)  # bytes are normalised here
        return self.vision_tower.forward_packed(
            visual.patches,
            visual.positions,
            visual.cu_seqlens,
            output_layer=self.output_layer,
            lengths=visual.segment_lengths,
        )

    def dummy_batch(self, device: torch.device, patches: int) -> VisualBatch:
        """Return one black token at the origin, for a training step without any visual."""
        config = self.vision_tower.config
        width = config.num_channels * config.patch_size**2
        zero = torch.zeros(1, dtype=torch.int64, device=device)
        return VisualBatch(
            patches=torch.zeros(patches, width, device=device),
            positions=torch.zeros(patches, 3, dtype=torch.int64, device=device),
            cu_seqlens=torch.arange(2, dtype=torch.int32, device=device) * patches,
            sample_index=zero,
            source_index=zero,
            patches_per_token=patches,
            segment_lengths=(patches,),
        )

    def unused_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the parameters above the layer that is read; they never receive a gradient."""
        encoder = self.vision_tower
        unused: list[nn.Module | None] = [encoder.head]
        if self.output_layer != -1:
            first_unused = len(encoder.encoder.layers) + 1 + self.output_layer
            unused += [encoder.layernorm_post, *encoder.encoder.layers[first_unused:]]
        for module in unused:
            if module is not None:
                yield from module.parameters()


class LlavaModelMixin(IsolatesSamples, _Decoder):
    """A decoder that also holds the vision tower and the projector.

    In the list of base classes it comes before the library's decoder.
    """

    config: Any

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.vision_tower = VisionTower(config)
        self.mm_projector = build_projector(
            config.mm_projector_type, config.require_vision().hidden_size, config.hidden_size
        )
        self.post_init()

    def embed(
        self,
        input_ids: Tensor,
        visual: VisualBatch | None,
        *,
        always_run_tower: bool = False,
        layout: BatchLayout | None = None,
    ) -> Tensor:
        """Embed the text and replace the placeholders by projected visual features.

        The tower runs exactly once for a batch with visuals.

        Args:
            input_ids: int64 (B, T), ``config.image_token_id`` once per visual token.
            visual: the batch's visuals, or None where it has none.
            always_run_tower: run the tower also for a batch without visuals, with zero weight, so
                that all ranks run the same modules and gather the same parameters.
            layout: where the placeholders are, checked by its maker; None = they are found here.

        Returns:
            (B, T, H).

        Raises:
            PlaceholderCountError: if a sample's placeholders are not as many as its visual tokens.
            ValueError: if the visuals were prepared for another projector.
        """
        patches_per_token = self.config.patches_per_token
        if visual is not None and visual.patches_per_token != patches_per_token:
            raise ValueError(
                f"the projector {self.config.mm_projector_type} makes one token of "
                f"{patches_per_token} patches, but the visuals were prepared for "
                f"{visual.patches_per_token}; set merge_side_patches in llava_processor.json"
            )
        embeds = self.embed_tokens(input_ids)
        if layout is None:
            layout = batch_layout(input_ids, visual, self.config.image_token_id)
        if visual is not None:
            features = self.mm_projector(self.vision_tower(visual))  # (P, H)
            flat = embeds.flatten(0, 1)
            return flat.index_copy(0, layout.placeholders, features.to(embeds.dtype)).view_as(
                embeds
            )
        if always_run_tower:
            dummy = self.vision_tower.dummy_batch(input_ids.device, patches_per_token)
            features = self.mm_projector(self.vision_tower(dummy))
            return embeds + 0.0 * features.sum().to(embeds.dtype)
        return embeds


_ATTENTION = (
    "_scaled_dot_product_",
    "_flash_attention_forward",
    "_efficient_attention_forward",
    "_varlen_attn",
    "flex_attention",
    "flash_attn",
)


def _policy(_: Any, operation: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    """Save attention, and products that are no wider than their input; compute the rest again."""
    name = operation._schema.name.partition("::")[2]
    if name.startswith(_ATTENTION):
        return CheckpointPolicy.MUST_SAVE
    if name in ("mm", "addmm"):
        left, right = args[-2:]
        if right.shape[1] <= left.shape[1]:
            return CheckpointPolicy.MUST_SAVE
    return CheckpointPolicy.PREFER_RECOMPUTE


def selective_contexts() -> Any:
    """Return contexts for ``torch.utils.checkpoint`` that save what is costly to compute again."""
    return create_selective_checkpoint_contexts(_policy)


def _holds_tokens(cache: Cache | None, is_said: bool | None) -> bool:
    """Return what is said, else count: for a static cache the host then waits for its device."""
    if cache is None or is_said is not None:
        return cache is not None and bool(is_said)
    return bool(cache.get_seq_length())


class LlavaForCausalLMMixin(IsolatesSamples, _CausalLM):
    """A language model whose prompt may contain visuals.

    In the list of base classes it comes before the library's ``...ForCausalLM`` class.

    The forward pass:

    1. ``embed_tokens`` turns ``input_ids`` (B, T) into text embeddings (B, T, H). The processor has
       expanded each ``<image>`` to as many placeholder tokens as its visual has visual tokens.
    2. ``batch_layout``, here or earlier in the collator, finds the placeholders and checks that
       each sample has as many as visual tokens.
    3. The vision tower encodes the patches of all visuals of the batch in one packed call: patches
       (P, 3 * p * p), positions (P, 3) and segment bounds (S + 1,) to features (P, D).
    4. The projector maps them to the decoder's width: (P, D) to (P, H); a merging projector makes
       one token of 4 patches.
    5. The features replace the placeholders, in order: (B, T, H).
    6. The decoder runs over text and visual tokens alike; with a cache, over the new tokens only.
    7. The head gives logits (B, T, vocabulary), or in training the loss of the supervised tokens
       without ever holding all logits.
    """

    config: Any
    model: Any
    selects_saved_operations: bool = False
    """Whether checkpointed blocks keep costly results: see ``selective_contexts``."""

    def _set_gradient_checkpointing(
        self,
        enable: bool = True,
        gradient_checkpointing_func: Any = checkpoint,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Tell the blocks how gradients are checkpointed; see the library."""
        if enable and self.selects_saved_operations:
            gradient_checkpointing_func = partial(
                gradient_checkpointing_func, use_reentrant=False, context_fn=selective_contexts
            )
        super()._set_gradient_checkpointing(enable, gradient_checkpointing_func, *args, **kwargs)

    def _build(self, decoder_class: type[Any], config: Any) -> None:
        """Hold a decoder that sees, and the head; the library's constructor would hold another."""
        self.model = decoder_class(config)
        self.vocab_size = config.vocab_size
        self.lm_head = LanguageHead(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        visual: VisualBatch | None = None,
        loss_only: bool | None = None,
        layout: BatchLayout | None = None,
        continues_cache: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Run one pass of the language model over text and visuals.

        Args:
            input_ids: int64 (B, T); each visual token is one ``config.image_token_id``.
            attention_mask: (B, T), 0 at padding.
            position_ids: (B, T). Without a mask and a cache, a row may hold several samples, each
                attending to itself alone: positions restart at 0 with each.
            past_key_values: keys and values of the tokens before ``input_ids``.
            inputs_embeds: (B, T, H) instead of ``input_ids``; then ``visual`` must be None.
            labels: int64 (B, T), ``IGNORE_INDEX`` where nothing is supervised.
            use_cache: whether to return ``past_key_values``; never for a row of several samples.
            logits_to_keep: how many last positions get logits; 0 means all.
            visual: visuals in order of their placeholders; with a cache, those of ``input_ids``.
            loss_only: with ``labels``, compute the loss without all logits, by the same modules on
                every rank for every kind of batch. Default: in training mode.
            layout: what the collator saw, and checked; with it no value is read back.
            continues_cache: whether ``past_key_values`` holds tokens; None: it is asked.
            **kwargs: of the language model (``num_items_in_batch`` among them).

        Returns:
            ``CausalLMOutputWithPast``; ``TrainingOutput`` where the loss alone is computed.

        Raises:
            PlaceholderCountError: if a sample's placeholders are not as many as its visual tokens.
            ValueError: if ``visual`` comes with embeddings, or ``use_cache`` with several samples.
        """
        if inputs_embeds is not None and visual is not None:
            raise ValueError(
                "visual needs input_ids, which have its placeholders; pass input_ids, no embeddings"
            )
        loss_only = labels is not None and (self.training if loss_only is None else loss_only)
        is_cached = _holds_tokens(past_key_values, continues_cache)
        # A placeholder behind a cache, without visuals, is one that the model generated.
        has_new_visuals = visual is not None or not is_cached
        if layout is None and (has_new_visuals or loss_only):
            tokens = self._tokens(input_ids, inputs_embeds)
            image_token = self.config.image_token_id
            layout = batch_layout(tokens, visual, image_token, labels, attention_mask, position_ids)
        if input_ids is not None and inputs_embeds is None and has_new_visuals:
            inputs_embeds = self.model.embed(
                input_ids, visual, always_run_tower=loss_only or self.training, layout=layout
            )
            input_ids = None
        decoder: dict[str, Any] = {
            "attention_mask": attention_mask,
            "position_ids": position_ids,
            "use_cache": use_cache,
        }
        if layout is not None and not is_cached:
            decoder |= self._isolate(layout, use_cache, loss_only)
        if labels is not None and layout is not None and loss_only:
            decoder |= {"inputs_embeds": inputs_embeds, "use_cache": False}
            num_items = kwargs.pop("num_items_in_batch", None)
            hidden = self.model(**decoder, **kwargs).last_hidden_state
            return training_loss(self.lm_head, hidden, labels, num_items, layout.supervised)
        return super().forward(
            input_ids=input_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            labels=labels,
            logits_to_keep=logits_to_keep,
            **decoder,
            **kwargs,
        )

    @staticmethod
    def _tokens(input_ids: Tensor | None, inputs_embeds: Tensor | None) -> Tensor:
        """Return the tokens (B, T); those of embeddings are not known, and no placeholders."""
        if input_ids is not None:
            return input_ids
        if inputs_embeds is None:
            raise ValueError("input_ids or inputs_embeds must be given, got neither")
        return inputs_embeds.new_full(inputs_embeds.shape[:2], -1, dtype=torch.int64)

    def _isolate(
        self, layout: BatchLayout, use_cache: bool | None, loss_only: bool
    ) -> dict[str, Any]:
        """Return arguments that isolate samples, or that make a mask needless in training."""
        if not layout.holds_several_samples and not loss_only:
            return {}
        arguments = isolation_arguments(self.config, layout)
        if not layout.holds_several_samples:
            return arguments
        if use_cache:
            raise ValueError(
                "use_cache must be False where a row holds several samples (its positions restart "
                "at 0): a cache continues one sample; leave it out, or give each sample a row"
            )
        return {"use_cache": False, **arguments}

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        *args: Any,
        visual: VisualBatch | None = None,
        is_first_iteration: bool = False,
        use_cache: bool | None = True,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Return the inputs of one generation step, with the visuals of the tokens that it reads.

        The first step reads the prompt; where that continues a cache, only its new tokens, and the
        visuals of the cached tokens are left out.
        """
        inputs = super().prepare_inputs_for_generation(
            input_ids, *args, is_first_iteration=is_first_iteration, use_cache=use_cache, **kwargs
        )
        inputs["visual"] = visual if is_first_iteration or not use_cache else None
        if not is_first_iteration:
            inputs["continues_cache"] = True  # said, not counted: compiled steps have no breaks
        step_ids = inputs.get("input_ids")
        if inputs["visual"] is not None and step_ids is not None:
            is_placeholder = input_ids == self.config.image_token_id
            num_cached = input_ids.shape[1] - step_ids.shape[1]
            inputs["visual"] = visuals_after(inputs["visual"], is_placeholder, num_cached)
        return inputs

    def _expand_inputs_for_generation(
        self,
        expand_size: int = 1,
        is_encoder_decoder: bool = False,
        input_ids: Tensor | None = None,
        **model_kwargs: Any,
    ) -> tuple[Any, dict[str, Any]]:
        """Repeat each sample for beams or several answers, its visuals with it."""
        visual = model_kwargs.get("visual")
        if visual is not None and input_ids is not None and expand_size > 1:
            model_kwargs["visual"] = repeat_samples(visual, input_ids.shape[0], expand_size)
        return super()._expand_inputs_for_generation(
            expand_size, is_encoder_decoder, input_ids, **model_kwargs
        )
