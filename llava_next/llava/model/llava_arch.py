"""How a language model sees: visuals -> tower -> projector -> placeholders of the prompt.

Two mixins carry it, one for the decoder and one for the decoder with its language-model head, so
that ``llava_qwen3`` and ``llava_qwen`` differ in nothing but their base classes.

Axis letters: B samples, T text tokens, P patches of the whole batch, H language-model width.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import Cache
from transformers.modeling_outputs import CausalLMOutputWithPast

from llava.constants import IGNORE_INDEX
from llava.model.isolation import IsolatesSamples, holds_several_samples, isolation_arguments
from llava.model.loss import LanguageHead
from llava.model.projector import build_projector
from llava.model.vision_tower import VisionTower
from llava.visual.batch import VisualBatch, VisualSegment, pack_segments

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
else:
    _Decoder = _CausalLM = object


class PlaceholderCountError(ValueError):
    """The prompt of a sample has another number of placeholders than it has visual tokens."""


@dataclass
class TrainingOutput(CausalLMOutputWithPast):
    """What a training step returns: the loss, and no logits.

    Attributes:
        token_losses: float32 (B, T) without gradient: at each supervised token the loss of its
            prediction, elsewhere 0.
    """

    token_losses: Tensor | None = None


class LlavaModelMixin(IsolatesSamples, _Decoder):
    """A decoder that also holds the vision tower and the projector. Goes before the decoder."""

    config: Any

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.vision_tower = VisionTower(config)
        self.mm_projector = build_projector(
            config.mm_projector_type, config.require_vision().hidden_size, config.hidden_size
        )
        self.post_init()

    def embed(self, input_ids: Tensor, visual: VisualBatch | None) -> Tensor:
        """Embed the text, and put projected visual features where the placeholders stand.

        The tower runs exactly once for a batch with visuals, and in training also for one without
        (with zero weight), so that all ranks run the same modules and gather the same parameters.

        Args:
            input_ids: int64 (B, T), ``config.image_token_id`` once per visual token.
            visual: the batch's visuals, or None where it has none.

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
        is_placeholder = input_ids == self.config.image_token_id  # (B, T)
        check_placeholders(is_placeholder, visual)
        if visual is not None:
            features = self.mm_projector(self.vision_tower(visual))  # (P, H)
            return embeds.masked_scatter(is_placeholder.unsqueeze(-1), features.to(embeds.dtype))
        if self.training:
            dummy = self.vision_tower.dummy_batch(input_ids.device, patches_per_token)
            features = self.mm_projector(self.vision_tower(dummy))
            return embeds + 0.0 * features.sum().to(embeds.dtype)
        return embeds


class LlavaForCausalLMMixin(IsolatesSamples, _CausalLM):
    """A language model whose prompt may hold visuals. Goes before the ``...ForCausalLM`` class."""

    config: Any
    model: Any

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
        **kwargs: Any,
    ) -> Any:
        """One pass of the language model over text and visuals.

        Args:
            input_ids: int64 (B, T); each visual token is one ``config.image_token_id``.
            attention_mask: (B, T), 0 at padding.
            position_ids: (B, T); follows from the mask in ``generate``. Without a mask and
                a cache, a row may hold several samples, each attending to itself alone: positions
                start anew at 0 with each.
            past_key_values: keys and values of the tokens before ``input_ids``.
            inputs_embeds: (B, T, H) instead of ``input_ids``; then ``visual`` must be None.
            labels: int64 (B, T), ``IGNORE_INDEX`` where nothing is supervised. In training mode
                they bring the loss alone, never all logits.
            use_cache: whether to return ``past_key_values``; never for a row of several samples.
            logits_to_keep: how many last positions get logits; 0 means all.
            visual: the visuals of the batch, in the order of their placeholders.
            **kwargs: passed on to the language model (``num_items_in_batch`` among them).

        Returns:
            ``CausalLMOutputWithPast``; ``TrainingOutput`` in training mode with labels.

        Raises:
            PlaceholderCountError: if a sample's placeholders are not as many as its visual tokens.
            ValueError: if ``visual`` comes with ``inputs_embeds``, or ``use_cache`` with several
                samples in a row.
        """
        if inputs_embeds is not None and visual is not None:
            raise ValueError(
                "visual must be None where inputs_embeds is given, because its placeholders can "
                "be found in input_ids only; pass input_ids"
            )
        # Cached steps embed their own tokens: a generated placeholder token is a token like any.
        is_cached = past_key_values is not None and past_key_values.get_seq_length() > 0
        if input_ids is not None and inputs_embeds is None and not is_cached:
            inputs_embeds = self.model.embed(input_ids, visual)
            input_ids = None
        decoder: dict[str, Any] = {
            "attention_mask": attention_mask,
            "position_ids": position_ids,
            "use_cache": use_cache,
        }
        if attention_mask is None and position_ids is not None and not is_cached:
            decoder |= self._isolate(position_ids, use_cache)
        if labels is not None and self.training:
            decoder |= {"inputs_embeds": inputs_embeds, "use_cache": False}
            num_items = kwargs.pop("num_items_in_batch", None)
            hidden = self.model(**decoder, **kwargs).last_hidden_state
            return self._training_loss(hidden, labels, num_items)
        return super().forward(
            input_ids=input_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            labels=labels,
            logits_to_keep=logits_to_keep,
            **decoder,
            **kwargs,
        )

    def _isolate(self, position_ids: Tensor, use_cache: bool | None) -> dict[str, Any]:
        """What keeps the samples of packed rows apart; nothing where each row is one sample."""
        if not holds_several_samples(position_ids):
            return {}
        if use_cache:
            raise ValueError(
                "use_cache must be False where a row holds several samples (its positions start "
                "anew): a cache continues one sample; leave it out, or give each sample a row"
            )
        return {"use_cache": False, **isolation_arguments(self.config, position_ids)}

    def _training_loss(
        self, hidden: Tensor, labels: Tensor, num_items: Tensor | int | None
    ) -> TrainingOutput:
        """Loss of hidden states (B, T, H), each predicting the next label of (B, T)."""
        supervised = labels != IGNORE_INDEX
        supervised[:, 0] = False
        targets = labels[supervised]
        before = supervised.roll(-1, dims=1)
        if num_items is None:
            num_items = len(targets)
        divisor = torch.as_tensor(num_items, dtype=torch.float32, device=hidden.device)
        loss, losses = self.lm_head(hidden[before], targets, divisor)
        token_losses = torch.zeros(labels.shape, device=hidden.device)
        token_losses[supervised] = losses
        return TrainingOutput(loss=loss, token_losses=token_losses)

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        *args: Any,
        visual: VisualBatch | None = None,
        is_first_iteration: bool = False,
        use_cache: bool | None = True,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Inputs of one generation step; visuals go in where the whole prompt goes in."""
        inputs = super().prepare_inputs_for_generation(
            input_ids, *args, is_first_iteration=is_first_iteration, use_cache=use_cache, **kwargs
        )
        inputs["visual"] = visual if is_first_iteration or not use_cache else None
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


def check_placeholders(is_placeholder: Tensor, visual: VisualBatch | None) -> None:
    """Hold each sample's placeholders against its visual tokens.

    Args:
        is_placeholder: bool (B, T).
        visual: the batch's visuals.

    Raises:
        PlaceholderCountError: naming the row, both counts and the remedy.
    """
    found = is_placeholder.sum(dim=1)
    given = torch.zeros_like(found) if visual is None else visual.tokens_per_sample(len(found))
    if torch.equal(found, given):
        return
    row = int((found != given).nonzero()[0])
    raise PlaceholderCountError(
        f"row {row} of the batch has {int(found[row])} placeholder tokens in input_ids, but "
        f"{int(given[row])} visual tokens were given for it; expand every <image> to exactly the "
        "tokens of its visual (LlavaProcessor and llava.data do), and do not cut a prompt within "
        "its visuals: raise --model_max_length or drop the sample"
    )


def repeat_samples(visual: VisualBatch, batch_size: int, times: int) -> VisualBatch:
    """Repeat each sample's visuals next to itself: samples 0, 1 become 0, 0, 1, 1."""
    samples: list[list[VisualSegment]] = [[] for _ in range(batch_size)]
    bounds = visual.cu_seqlens.tolist()
    for start, end, sample in zip(
        bounds[:-1], bounds[1:], visual.sample_index.tolist(), strict=True
    ):
        samples[sample].append(
            VisualSegment(
                visual.patches[start:end],
                visual.positions[start:end],
                ((end - start) // visual.patches_per_token,),
                visual.patches_per_token,
            )
        )
    repeated = pack_segments([segments for segments in samples for _ in range(times)])
    assert repeated is not None  # a VisualBatch always holds a segment
    return repeated.to(visual.patches.device)
