from dataclasses import replace
from functools import wraps
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import CompileConfig

from llava.constants import IGNORE_INDEX
from llava.model.placeholders import PlaceholderCountError, repeat_samples
from llava.visual.batch import pack_segments
from llava.visual.config import VisualConfig
from llava.visual.segments import image_visual
from support.llava_types import MixedSamples, TinyModel
from support.tolerances import FLOAT32
from support.waiting import NoWaiting


def _logits(model: torch.nn.Module, batch: dict[str, Any]) -> torch.Tensor:
    with torch.no_grad():
        return model(**batch).logits


def test_each_sample_of_a_mixed_batch_has_the_logits_it_has_alone(
    tiny: TinyModel,
    mixed_samples: MixedSamples,
) -> None:
    model, processor = tiny
    conversations, segments = mixed_samples
    together = _logits(model, processor(conversations, segments))
    for row, (turns, visuals) in enumerate(zip(conversations, segments, strict=True)):
        alone = _logits(model, processor([turns], [visuals]))[0]
        torch.testing.assert_close(together[row, -len(alone) :], alone, **FLOAT32)


def test_permuting_positions_of_one_sample_changes_its_logits_and_no_others(
    tiny: TinyModel,
    mixed_samples: MixedSamples,
) -> None:
    model, processor = tiny
    conversations, segments = mixed_samples
    before = _logits(model, processor(conversations, segments))
    codec = segments[0][0]
    segments[0] = [replace(codec, positions=codec.positions.flip(0))]
    after = _logits(model, processor(conversations, segments))
    assert (before[0] - after[0]).abs().max() > 1e-3
    assert torch.equal(before[1:], after[1:])


def test_swapping_the_positions_of_two_samples_changes_only_theirs(
    tiny: TinyModel,
    mixed_samples: MixedSamples,
) -> None:
    model, processor = tiny
    conversations, segments = mixed_samples
    codec = segments[0][0]
    other = replace(codec, positions=codec.positions.flip(0))
    three = [conversations[0], conversations[0], conversations[1]]
    before = _logits(model, processor(three, [[codec], [other], segments[1]]))
    swapped = [
        replace(first, positions=second.positions)
        for first, second in ((codec, other), (other, codec))
    ]
    after = _logits(model, processor(three, [[swapped[0]], [swapped[1]], segments[1]]))
    # Patches and question of the two are equal: with their positions they swap their logits too.
    assert (before[0] - before[1]).abs().max() > 1e-3
    torch.testing.assert_close(after[:2], before[:2].flip(0), **FLOAT32)
    assert torch.equal(after[2], before[2])


def test_placeholders_are_replaced_in_order_as_a_naive_loop_does_it(
    tiny: TinyModel,
    mixed_samples: MixedSamples,
) -> None:
    model, processor = tiny
    batch = processor(*mixed_samples)
    with torch.no_grad():
        embeds = model.model.embed(batch["input_ids"], batch["visual"])
        features = list(model.model.mm_projector(model.model.vision_tower(batch["visual"])))
        expected = model.model.embed_tokens(batch["input_ids"])
    for row, column in (batch["input_ids"] == model.config.image_token_id).nonzero().tolist():
        expected[row, column] = features.pop(0)
    assert not features
    assert torch.equal(embeds, expected)


def test_the_layer_that_the_configuration_names_is_read(
    tiny: TinyModel,
    mixed_samples: MixedSamples,
) -> None:
    model, _ = tiny
    visual = pack_segments(mixed_samples[1])
    tower = model.model.vision_tower
    with torch.no_grad():
        penultimate = tower(visual)
        tower.output_layer = -1
        assert not torch.allclose(penultimate, tower(visual))


def test_bytes_and_what_they_are_normalised_to_have_the_same_features(tiny: TinyModel) -> None:
    picture = Image.effect_noise((56, 42), 90).convert("RGB")
    segment = image_visual(picture, VisualConfig(image_aspect_ratio="native"))
    assert segment.patches.dtype == torch.uint8
    with torch.no_grad():
        of_bytes, expected = (
            tiny[0].model.vision_tower(pack_segments([[one]]))
            for one in (segment, segment.normalised())
        )
    assert torch.equal(of_bytes, expected)


@pytest.mark.parametrize("extra", [-1, 1])
def test_a_wrong_placeholder_count_names_row_counts_and_remedy(
    tiny: TinyModel,
    mixed_samples: MixedSamples,
    extra: int,
) -> None:
    model, processor = tiny
    conversations, segments = mixed_samples
    batch = processor(conversations, segments)
    row = batch["input_ids"][1]
    if extra == 1:
        row[-1] = model.config.image_token_id
    else:
        row[(row == model.config.image_token_id).nonzero()[0]] = 0
    message = rf"row 1 .* {15 + extra} placeholder tokens .* 15 visual tokens .*expand"
    with pytest.raises(PlaceholderCountError, match=message):
        model(**batch)


def test_placeholders_without_visuals_are_refused(
    tiny: TinyModel,
    mixed_samples: MixedSamples,
) -> None:
    model, processor = tiny
    batch = processor(*mixed_samples)
    with pytest.raises(PlaceholderCountError, match="row 0 .* 0 visual tokens"):
        model(**{**batch, "visual": None})


def test_visuals_beside_embeddings_are_refused(
    tiny: TinyModel,
    mixed_samples: MixedSamples,
) -> None:
    model, processor = tiny
    batch = processor(*mixed_samples)
    embeds = model.model.embed_tokens(batch["input_ids"])
    with pytest.raises(ValueError, match="pass input_ids"):
        model(inputs_embeds=embeds, visual=batch["visual"])


def test_a_text_batch_in_training_runs_the_tower_once_with_zero_gradients(
    tiny: TinyModel,
    mixed_samples: MixedSamples,
) -> None:
    model, processor = tiny
    conversations, _ = mixed_samples
    batch = processor(conversations[2:3], [[]])
    labels = batch["input_ids"]
    with torch.no_grad():
        plain_loss = model(**batch, labels=labels).loss
    calls = []
    model.model.vision_tower.register_forward_hook(lambda *args: calls.append(1))
    model.train()
    loss = model(**batch, labels=labels).loss
    loss.backward()
    assert calls == [1]
    torch.testing.assert_close(loss, plain_loss)
    reached = [
        *model.model.mm_projector.parameters(),
        *model.model.vision_tower.vision_tower.encoder.layers[0].parameters(),
    ]
    assert all(parameter.grad is not None for parameter in reached)
    assert all(not parameter.grad.any() for parameter in reached)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_reach_every_weight_that_is_not_named_unused(
    tiny: TinyModel,
    mixed_samples: MixedSamples,
    checkpointing: bool,
) -> None:
    model, processor = tiny
    batch = processor(*mixed_samples)
    model.train()
    if checkpointing:
        model.gradient_checkpointing_enable()
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, IGNORE_INDEX)
    model(**batch, labels=labels).loss.backward()
    unused = {id(weight) for weight in model.model.vision_tower.unused_parameters()}
    assert unused
    for name, weight in model.named_parameters():
        has_gradient = weight.grad is not None and bool(weight.grad.any())
        # A constant added to every key cannot change a softmax: its gradient is 0 but for rounding.
        if "k_proj.bias" not in name:
            assert has_gradient == (id(weight) not in unused), name


def test_a_batch_generates_what_its_samples_generate_alone(
    tiny: TinyModel,
    mixed_samples: MixedSamples,
) -> None:
    model, processor = tiny
    conversations, segments = mixed_samples
    options = {"max_new_tokens": 6, "min_new_tokens": 6}
    together = model.generate(**processor(conversations, segments), **options)
    uncached = model.generate(**processor(conversations, segments), **options, use_cache=False)
    assert torch.equal(together, uncached)
    for row, (turns, visuals) in enumerate(zip(conversations, segments, strict=True)):
        alone = model.generate(**processor([turns], [visuals]), **options)
        assert together[row, -6:].tolist() == alone[0, -6:].tolist()


def test_a_static_cache_gives_the_same_tokens_and_its_steps_read_no_value(
    tiny: TinyModel, mixed_samples: MixedSamples, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A static cache has its length on the device: to read it would break a compiled step."""
    model, processor = tiny
    conversations, segments = mixed_samples
    inputs = processor(conversations[:1], segments[:1])
    options = {"max_new_tokens": 4, "min_new_tokens": 4}
    expected = model.generate(**inputs, **options)
    forward, watched = type(model).forward, []

    @wraps(forward)  # the library looks at its parameters
    def watch(self: Any, input_ids: torch.Tensor, **kwargs: Any) -> Any:
        if input_ids.shape[1] > 1:
            return forward(self, input_ids, **kwargs)
        with NoWaiting() as mode:
            output = forward(self, input_ids, **kwargs)
        watched.append(mode.operations)
        return output

    monkeypatch.setattr(type(model), "forward", watch)
    assert torch.equal(model.generate(**inputs, **options, cache_implementation="static"), expected)
    assert len(watched) == 3 and min(watched) > 50


@pytest.mark.slow
def test_a_compiled_step_of_a_static_cache_is_one_graph(
    tiny: TinyModel, mixed_samples: MixedSamples
) -> None:
    model, processor = tiny
    conversations, segments = mixed_samples
    inputs = processor(conversations[:1], segments[:1])
    options = {"max_new_tokens": 4, "min_new_tokens": 4}
    expected = model.generate(**inputs, **options)
    compiled = CompileConfig(backend="eager", mode=None, fullgraph=True)  # pyright: ignore[reportArgumentType]
    compiled._compile_all_devices = True  # pyright: ignore[reportAttributeAccessIssue]
    options |= {"cache_implementation": "static", "compile_config": compiled}
    assert torch.equal(model.generate(**inputs, **options), expected)


def test_the_tower_runs_for_the_prompt_alone(
    tiny: TinyModel,
    mixed_samples: MixedSamples,
) -> None:
    model, processor = tiny
    calls = []
    model.model.vision_tower.register_forward_hook(lambda *args: calls.append(1))
    model.generate(**processor(*mixed_samples), max_new_tokens=4, min_new_tokens=4)
    assert calls == [1]


def test_generation_computes_one_row_of_logits_for_a_prompt(
    tiny: TinyModel,
    mixed_samples: MixedSamples,
) -> None:
    model, processor = tiny
    rows = []
    model.lm_head.register_forward_hook(lambda module, inputs, output: rows.append(output.shape[1]))
    model.generate(**processor(*mixed_samples), max_new_tokens=3, min_new_tokens=3)
    assert rows == [1, 1, 1]


def test_a_generated_placeholder_token_is_a_token_like_any(
    tiny: TinyModel,
    mixed_samples: MixedSamples,
) -> None:
    model, processor = tiny
    image_id = model.config.image_token_id
    others = [token for token in range(model.config.vocab_size) if token != image_id]
    out = model.generate(**processor(*mixed_samples), max_new_tokens=3, suppress_tokens=others)
    assert (out[:, -3:] == image_id).all()


def test_beams_repeat_the_visuals_of_their_sample(
    tiny: TinyModel,
    mixed_samples: MixedSamples,
) -> None:
    model, processor = tiny
    conversations, segments = mixed_samples
    options = {"max_new_tokens": 4, "min_new_tokens": 4, "num_beams": 2}
    together = model.generate(**processor(conversations, segments), **options)
    alone = model.generate(**processor(conversations[:1], segments[:1]), **options)
    assert together[0, -4:].tolist() == alone[0, -4:].tolist()


def test_repeated_samples_stand_next_to_each_other(
    mixed_samples: MixedSamples,
) -> None:
    _, segments = mixed_samples
    visual = pack_segments(segments)
    repeated = repeat_samples(visual, batch_size=4, times=2)
    expected = pack_segments([row for row in segments for _ in range(2)])
    assert torch.equal(repeated.patches, expected.patches)
    assert torch.equal(repeated.cu_seqlens, expected.cu_seqlens)
    assert repeated.sample_index.tolist() == [0, 1, 2, 3, 6, 6, 7, 7]


def test_the_loss_is_the_mean_over_supervised_tokens(
    tiny: TinyModel,
    mixed_samples: MixedSamples,
) -> None:
    model, processor = tiny
    batch = processor(*mixed_samples)
    labels = torch.full_like(batch["input_ids"], IGNORE_INDEX)
    labels[:, -5:] = batch["input_ids"][:, -5:]
    with torch.no_grad():
        output = model(**batch, labels=labels)
        half = model(**batch, labels=labels, num_items_in_batch=torch.tensor(40)).loss
    log_probabilities = output.logits[:, -6:-1].log_softmax(-1)
    expected = -log_probabilities.gather(-1, labels[:, -5:, None]).mean()
    torch.testing.assert_close(output.loss, expected)
    torch.testing.assert_close(half, expected / 2)
