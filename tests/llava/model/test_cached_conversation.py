"""A conversation that continues a cache: new pictures are seen, old ones are not read again."""

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import Cache, DynamicCache

from llava.model.placeholders import PlaceholderCountError
from llava.visual.batch import VisualSegment, pack_segments
from support.llava_types import MixedSamples, TinyModel
from support.tolerances import FLOAT32

Tiny = TinyModel
Samples = MixedSamples

OPTIONS = {"max_new_tokens": 5, "min_new_tokens": 5}


def _conversation(tiny: Tiny, mixed_samples: Samples) -> tuple[dict[str, Any], Any, Any, int]:
    """Two turns with a picture each, both pictures, and the tokens up to the second turn."""
    model, processor = tiny
    (first,), (second,) = mixed_samples[1][1], [mixed_samples[1][3][0]]
    turns = [
        {"from": "human", "value": "<image>\nWhat is it?"},
        {"from": "gpt", "value": "A bird."},
        {"from": "human", "value": "<image>\nAnd this?"},
    ]
    batch = processor([turns], [[first, second]])
    places = (batch["input_ids"][0] == model.config.image_token_id).nonzero()[:, 0].tolist()
    first_tokens = sum(first.placeholder_tokens)
    return batch, first, second, places[first_tokens] - 2


def _cache(model: Any, batch: dict[str, Any], first: VisualSegment, length: int) -> Cache:
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        model(
            input_ids=batch["input_ids"][:, :length],
            visual=pack_segments([[first]]),
            past_key_values=cache,
            use_cache=True,
        )
    return cache


@torch.no_grad()
def test_a_picture_after_a_cache_gives_the_logits_of_the_uncached_run(
    tiny: Tiny, mixed_samples: Samples
) -> None:
    model, _ = tiny
    batch, first, second, length = _conversation(tiny, mixed_samples)
    expected = model(input_ids=batch["input_ids"], visual=batch["visual"]).logits[:, length:]
    rest = batch["input_ids"][:, length:]

    def logits(picture: VisualSegment) -> Tensor:
        cache = _cache(model, batch, first, length)
        visual = pack_segments([[picture]])
        return model(input_ids=rest, visual=visual, past_key_values=cache).logits

    torch.testing.assert_close(logits(second), expected, **FLOAT32)
    other = VisualSegment(-second.patches, second.positions, second.placeholder_tokens)
    assert (logits(other) - expected).abs().max() > 1e-3


@pytest.mark.parametrize("given", ["all tokens, all visuals", "all tokens, new visuals", "new"])
def test_generation_continues_a_cached_conversation(
    tiny: Tiny, mixed_samples: Samples, given: str
) -> None:
    model, _ = tiny
    batch, first, second, length = _conversation(tiny, mixed_samples)
    expected = model.generate(**batch, **OPTIONS)[:, -5:]
    cache = _cache(model, batch, first, length)
    ids = batch["input_ids"][:, length:] if given == "new" else batch["input_ids"]
    visual = batch["visual"] if given.endswith("all visuals") else pack_segments([[second]])
    out = model.generate(
        input_ids=ids,
        attention_mask=batch["attention_mask"],
        visual=visual,
        past_key_values=cache,
        **OPTIONS,
    )
    assert torch.equal(out[:, -5:], expected)


def test_text_after_a_cached_picture_runs_no_tower(tiny: Tiny, mixed_samples: Samples) -> None:
    model, _ = tiny
    batch, first, second, length = _conversation(tiny, mixed_samples)
    length = batch["input_ids"].shape[1] - 3
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        model(
            input_ids=batch["input_ids"][:, :length], visual=batch["visual"], past_key_values=cache
        )
    calls: list[int] = []
    model.model.vision_tower.register_forward_hook(lambda *_: calls.append(1))
    out = model.generate(**batch, past_key_values=deepcopy(cache), **OPTIONS)
    assert calls == []
    assert torch.equal(out, model.generate(**batch, **OPTIONS))


def test_visuals_that_do_not_fit_the_new_tokens_are_refused(
    tiny: Tiny, mixed_samples: Samples
) -> None:
    model, _ = tiny
    batch, first, second, length = _conversation(tiny, mixed_samples)
    cache = _cache(model, batch, first, length)
    rest = batch["input_ids"][:, length:]
    with pytest.raises(PlaceholderCountError, match="has 4 placeholder tokens .* 19 visual tokens"):
        model(input_ids=rest, visual=batch["visual"], past_key_values=deepcopy(cache))
    image_id = model.config.image_token_id
    within = int((batch["input_ids"][0] == image_id).nonzero()[3])
    with pytest.raises(PlaceholderCountError, match=f"{within} cached tokens end within a visual"):
        model.prepare_inputs_for_generation(
            batch["input_ids"],
            next_sequence_length=batch["input_ids"].shape[1] - within,
            visual=batch["visual"],
            past_key_values=cache,
            is_first_iteration=True,
        )
