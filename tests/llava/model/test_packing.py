"""Several samples in one row: none sees another, and the loss is that of the padded batch."""

from pathlib import Path
from typing import Any

import pytest
import torch

from llava.constants import IGNORE_INDEX
from llava.model import isolation
from llava.model.loading import load_pretrained
from llava.model.processing import LlavaProcessor
from llava.visual.batch import pack_segments
from onevision_encoder import modeling_onevision_encoder
from onevision_encoder.varlen import Machine
from support.llava_types import MixedSamples, TinyModel
from support.tolerances import FLOAT32


def _rows(processor: LlavaProcessor, samples: Any) -> list[torch.Tensor]:
    return [
        processor([turns], [visuals])["input_ids"][0]
        for turns, visuals in zip(*samples, strict=True)
    ]


def _packed(rows: list[torch.Tensor], segments: Any) -> dict[str, object]:
    return {
        "input_ids": torch.cat(rows)[None],
        "position_ids": torch.cat([torch.arange(len(row)) for row in rows])[None],
        "visual": pack_segments([[one for visuals in segments for one in visuals]]),
    }


@pytest.mark.parametrize("attention", ["sdpa", "eager", "varlen"])
def test_the_packed_loss_and_gradients_are_the_padded_ones(
    tiny_checkpoint: Path,
    mixed_samples: MixedSamples,
    attention: str,
) -> None:
    model, processor = load_pretrained(tiny_checkpoint, attn_implementation=attention)
    model.train()
    rows, segments = _rows(processor, mixed_samples), mixed_samples[1]
    labels = [row.clone() for row in rows]
    for row in labels:
        row[:5] = IGNORE_INDEX
    pad = torch.nn.utils.rnn.pad_sequence
    padded = model(
        input_ids=pad(rows, batch_first=True),
        attention_mask=pad([torch.ones_like(row) for row in rows], batch_first=True),
        labels=pad(labels, batch_first=True, padding_value=IGNORE_INDEX),
        visual=pack_segments(segments),
    )
    padded.loss.backward()
    weights = [weight for weight in model.parameters() if weight.grad is not None]
    expected = [weight.grad.clone() for weight in weights]
    model.zero_grad()
    packed = model(**_packed(rows, segments), labels=torch.cat(labels)[None])
    packed.loss.backward()
    torch.testing.assert_close(packed.loss, padded.loss, **FLOAT32)
    torch.testing.assert_close([w.grad for w in weights], expected, atol=1e-5, rtol=1e-4)
    start = 0
    for number, row in enumerate(rows):
        one = padded.token_losses[number, : len(row)]
        found = packed.token_losses[0, start : start + len(row)]
        torch.testing.assert_close(found, one, **FLOAT32)
        start += len(row)


def test_a_change_in_one_sample_leaves_the_others_untouched(
    tiny: TinyModel,
    mixed_samples: MixedSamples,
) -> None:
    model, processor = tiny
    rows, segments = _rows(processor, mixed_samples), mixed_samples[1]
    with torch.no_grad():
        before = model(**_packed(rows, segments)).logits[0]
        rows[2][-8] += 1
        after = model(**_packed(rows, segments)).logits[0]
    start = sum(map(len, rows[:2]))
    end = start + len(rows[2])
    changed = (before != after).any(-1).nonzero()[:, 0]
    assert changed.min() == end - 8 and changed.max() < end


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_evaluation_of_a_packed_row_gives_each_sample_its_own_logits(
    tiny_checkpoint: Path,
    mixed_samples: MixedSamples,
    attention: str,
) -> None:
    model, processor = load_pretrained(tiny_checkpoint, attn_implementation=attention)
    rows, segments = _rows(processor, mixed_samples), mixed_samples[1]
    with torch.no_grad():
        packed = model(**_packed(rows, segments))
        alone = [
            model(input_ids=row[None], visual=pack_segments([visuals])).logits[0]
            for row, visuals in zip(rows, segments, strict=True)
        ]
    assert packed.past_key_values is None
    torch.testing.assert_close(packed.logits[0], torch.cat(alone), **FLOAT32)


def test_a_cache_of_several_samples_is_refused(
    tiny: TinyModel,
    mixed_samples: MixedSamples,
) -> None:
    model, processor = tiny
    rows, segments = _rows(processor, mixed_samples), mixed_samples[1]
    with pytest.raises(ValueError, match="use_cache must be False where a row holds several"):
        model(**_packed(rows, segments), use_cache=True)


def test_the_decoder_never_scores_tokens_of_two_samples(
    tiny: TinyModel,
    mixed_samples: MixedSamples,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, processor = tiny
    rows, segments = _rows(processor, mixed_samples), mixed_samples[1]
    scored: list[tuple[int, int]] = []
    attention = torch.nn.functional.scaled_dot_product_attention

    def recorded(query: torch.Tensor, key: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        scored.append((query.shape[2], key.shape[2]))
        return attention(query, key, *args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", recorded)
    with torch.no_grad():
        model(**_packed(rows, segments))
    lengths = [len(row) for row in rows]
    in_decoder = scored[-len(rows) * model.config.num_hidden_layers :]
    assert in_decoder == [(length, length) for length in lengths] * model.config.num_hidden_layers


@pytest.mark.parametrize(("asked", "expected"), [(None, "varlen"), ("sdpa", "sdpa_per_sample")])
def test_varlen_is_the_default_of_decoder_and_encoder_where_it_runs(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, asked: str | None, expected: str
) -> None:
    machine = Machine(has_kernel=True, device_type="cuda", capability=(9, 0))
    monkeypatch.setattr(isolation, "this_machine", lambda: machine)
    monkeypatch.setattr(modeling_onevision_encoder, "this_machine", lambda: machine)
    model: Any = load_pretrained(tiny_checkpoint, attn_implementation=asked)[0]
    assert model.config._attn_implementation == expected
    assert model.model.config._attn_implementation == expected
    encoder = model.model.vision_tower.vision_tower
    assert encoder.config._attn_implementation == (asked or expected)
