import json
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from llava.chat_template import chat_template
from llava.conversation import IM_END, IM_START, render
from llava.model.processing import LlavaProcessor
from llava.model.tiny import tiny_tokenizer
from llava.visual.config import PROCESSOR_FILE, VisualConfig
from support.llava_types import MixedSamples


@pytest.fixture
def processor() -> LlavaProcessor:
    return LlavaProcessor(tiny_tokenizer(), VisualConfig(patches_per_side=8))


def test_prompts_are_padded_on_the_left_and_hold_one_token_per_patch(
    processor: LlavaProcessor,
    mixed_samples: MixedSamples,
) -> None:
    conversations, segments = mixed_samples
    batch = processor(conversations, segments)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    image_id = processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    assert (ids == image_id).sum(1).tolist() == [32, 15, 0, 10]
    assert batch["visual"].tokens_per_sample(4).tolist() == [32, 15, 0, 10]
    assert (mask.diff(dim=1) >= 0).all() and (mask[:, -1] == 1).all()
    assert (ids[mask == 0] == processor.pad_token_id).all()


def test_the_prompt_reads_as_chatml_with_an_open_answer(
    processor: LlavaProcessor,
    mixed_samples: MixedSamples,
) -> None:
    conversations, segments = mixed_samples
    batch = processor(conversations[1:2], segments[1:2])
    assert processor.tokenizer.decode(batch["input_ids"][0]) == (
        f"{IM_START}system\nYou are a helpful assistant.{IM_END}\n"
        f"{IM_START}user\n{'<|image_pad|>' * 15}\nWhat is it?{IM_END}\n{IM_START}assistant\n"
    )


def test_the_chat_template_of_the_tokenizer_agrees_with_the_conversation_module(
    processor: LlavaProcessor,
) -> None:
    messages = [{"role": "user", "content": "Hi"}]
    templated = processor.tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True
    )
    turns = [{"from": "human", "value": "Hi"}]
    pieces = render(turns, sample="s", add_generation_prompt=True)
    assert templated == "".join(piece.text for piece in pieces)


def test_a_saved_checkpoint_has_the_template_it_is_trained_with(
    processor: LlavaProcessor, tmp_path: Path
) -> None:
    processor.tokenizer.chat_template = "the language model's own"
    LlavaProcessor(processor.tokenizer, processor.visual, "plain").save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template == chat_template("plain")
    processor.save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template == chat_template("qwen_1_5")


def test_text_alone_has_no_visual(
    processor: LlavaProcessor,
    mixed_samples: MixedSamples,
) -> None:
    conversations, _ = mixed_samples
    assert processor(conversations[2:3], [[]])["visual"] is None


def test_missing_visuals_name_the_sample_and_both_counts(
    processor: LlavaProcessor,
    mixed_samples: MixedSamples,
) -> None:
    conversations, segments = mixed_samples
    with pytest.raises(ValueError, match="sample 1.* 1 <image> placeholders for 0 images"):
        processor(conversations[:2], [segments[0], []])


def test_conversations_and_segments_must_be_as_many(
    processor: LlavaProcessor,
    mixed_samples: MixedSamples,
) -> None:
    with pytest.raises(ValueError, match="got 4 and 1"):
        processor(mixed_samples[0], mixed_samples[1][:1])


def test_generated_tokens_decode_without_special_tokens(processor: LlavaProcessor) -> None:
    ids = processor.tokenizer(f" é, 7{IM_END}", return_tensors="pt").input_ids
    assert processor.decode(ids) == ["é, 7"]


def test_a_saved_processor_comes_back(
    processor: LlavaProcessor,
    tmp_path: Path,
) -> None:
    visual = replace(
        processor.visual, image_aspect_ratio="anyres", image_grid_pinpoints=((28, 56), (56, 28))
    )
    LlavaProcessor(processor.tokenizer, visual, "plain").save_pretrained(tmp_path)
    loaded = LlavaProcessor.from_pretrained(tmp_path)
    assert (loaded.visual, loaded.template) == (visual, "plain")
    text = f"{IM_START}a <|image_pad|>{IM_END}"
    assert loaded.tokenizer(text).input_ids == processor.tokenizer(text).input_ids
    assert loaded.tokenizer.pad_token_id == processor.pad_token_id


def test_a_folder_without_the_processor_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no LLaVA checkpoint"):
        LlavaProcessor.from_pretrained(tmp_path)


def test_another_schema_is_refused(processor: LlavaProcessor, tmp_path: Path) -> None:
    processor.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / PROCESSOR_FILE).read_text())
    (tmp_path / PROCESSOR_FILE).write_text(json.dumps({**settings, "schema_version": 2}))
    with pytest.raises(ValueError, match="schema_version must be 1, got 2"):
        LlavaProcessor.from_pretrained(tmp_path)


def test_a_tokenizer_without_padding_token_is_refused() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = None
    with pytest.raises(ValueError, match="no padding token"):
        LlavaProcessor(tokenizer, VisualConfig())


def test_an_unknown_template_is_refused() -> None:
    with pytest.raises(ValueError, match="template must be one of qwen_1_5, plain"):
        LlavaProcessor(tiny_tokenizer(), VisualConfig(), "vicuna_v1")
