"""Ask a trained model all questions about the test clips, as every arm shows them."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llava.eval.study.arms import Shown, cells_shown
from llava.eval.study.clips import Clip, covered
from llava.eval.study.config import StudyConfig
from llava.eval.study.learning import model_folder, prompt
from llava.eval.study.material import Pair, load_shown, make_test_data, test_pairs
from llava.model.loading import load_pretrained
from llava.model.processing import LlavaProcessor
from llava.visual.batch import pack_segments
from run_kit.exits import say
from run_kit.files import replace_file

MAX_ANSWER_TOKENS = 2
"""Every answer is one token, followed by the one that ends it."""
CLIPS_PER_BATCH = 20


@dataclass(frozen=True)
class Outcome:
    """One answer.

    Attributes:
        arm: how the clip was shown.
        num_images: budget in mosaics.
        clip: seed of the clip.
        camera: motion of the camera in the clip.
        key_frame_interval: key frame interval of the clip.
        kind: kind of the question.
        correct: whether the model's text is the answer.
        covered: whether the tokens can show the answer.
        tokens: visual tokens that were shown.
    """

    arm: str
    num_images: int
    clip: int
    camera: str
    key_frame_interval: int
    kind: str
    correct: bool
    covered: bool
    tokens: int


TestData = Sequence[tuple[Clip, dict[Pair, Shown]]]


def answer_all(config: StudyConfig, data: TestData, model_folder: Path) -> list[Outcome]:
    """Answer every question by every arm and budget, or read the answers where they exist."""
    torch.set_num_threads(1)
    loaded: tuple[Any, LlavaProcessor] | None = None
    outcomes: list[Outcome] = []
    folder = model_folder / "answers"
    folder.mkdir(exist_ok=True)
    for pair in test_pairs(config):
        target = folder / f"{pair[0]}_{pair[1]}.json"
        if target.exists():
            rows = json.loads(target.read_text(encoding="utf-8"))
            outcomes += [Outcome(**row) for row in rows]
            continue
        loaded = loaded or load_pretrained(model_folder, device=config.device)
        answered = list(_answer_pair(*loaded, data, pair, config.stamps_positions))
        share = np.mean([row.correct for row in answered]) if answered else np.nan
        tokens = pair[1] * config.sizes.cells
        say(f"  {model_folder.name}, {pair[0]}, {tokens} tokens: {share:.3f} right")
        with replace_file(target) as partial:
            partial.write_text(json.dumps([asdict(row) for row in answered]), encoding="utf-8")
        outcomes += answered
    return outcomes


def answer_seed(config: StudyConfig, seed: int) -> None:
    """Ask the model of one seed, in a process of its own."""
    answer_all(config, make_test_data(config), model_folder(config, seed))


def _answer_pair(
    model: Any, processor: LlavaProcessor, data: TestData, pair: Pair, stamped: bool
) -> Iterator[Outcome]:
    """Yield the outcomes of one arm at one budget."""
    able = [(clip, shown[pair]) for clip, shown in data if pair in shown and clip.questions]
    for start in range(0, len(able), CLIPS_PER_BATCH):
        batch = able[start : start + CLIPS_PER_BATCH]
        yield from _answer_batch(model, processor, batch, pair, stamped)


@torch.inference_mode()
def _answer_batch(
    model: Any,
    processor: LlavaProcessor,
    clips: Sequence[tuple[Clip, Shown]],
    pair: Pair,
    stamped: bool,
) -> Iterator[Outcome]:
    """Ask all questions about some clips; the encoder sees every clip once."""
    segments = [load_shown(what, processor.visual, stamped=stamped) for _, what in clips]
    visual = pack_segments([[segment] for segment in segments])
    assert visual is not None
    decoder = model.model
    features = decoder.mm_projector(decoder.vision_tower(visual.to(model.device)))
    of_clip = features.split([len(segment.patches) for segment in segments])
    asked = [
        (number, question) for number, (clip, _) in enumerate(clips) for question in clip.questions
    ]
    inputs = processor.prepare(
        [prompt(question.kind, len(clips[number][1].images)) for number, question in asked],
        [[segments[number]] for number, _ in asked],
    )
    ids = inputs["input_ids"].to(model.device)
    embeds = decoder.embed_tokens(ids).masked_scatter(
        (ids == model.config.image_token_id).unsqueeze(-1),
        torch.cat([of_clip[number] for number, _ in asked]),
    )
    output = _generate(model, embeds, inputs["attention_mask"].to(model.device))
    kept = [cells_shown(pair[0], what.positions) for _, what in clips]
    for (number, question), text in zip(asked, processor.decode(output), strict=True):
        clip = clips[number][0]
        yield Outcome(
            arm=pair[0],
            num_images=pair[1],
            clip=clip.seed,
            camera=clip.camera,
            key_frame_interval=clip.encoding.key_frame_interval,
            kind=question.kind,
            correct=text == question.answer,
            covered=covered(question, kept[number]),
            tokens=len(segments[number].patches),
        )


def _generate(model: Any, embeds: Tensor, attention_mask: Tensor) -> Tensor:
    """Return the likeliest next tokens, one after the other: int64 (B, MAX_ANSWER_TOKENS).

    What follows the token that ends an answer is replaced by padding.

    Args:
        model: the trained model.
        embeds: (B, T, H), prompts with their visual features, padded on the left.
        attention_mask: int64 (B, T), 0 at padding.
    """
    ends = torch.tensor(model.generation_config.eos_token_id, device=embeds.device)
    positions = (attention_mask.cumsum(-1) - 1).clamp(min=0)
    inputs: dict[str, Any] = {"inputs_embeds": embeds}
    tokens: list[Tensor] = []
    cache = None
    for _ in range(MAX_ANSWER_TOKENS):
        output = model(
            **inputs,
            attention_mask=attention_mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        token = output.logits[:, -1].argmax(-1)
        if tokens:
            has_ended = torch.isin(torch.stack(tokens, 1), ends).any(1)
            token = token.masked_fill(has_ended, model.config.pad_token_id)
        tokens.append(token)
        cache, inputs = output.past_key_values, {"input_ids": token[:, None]}
        positions = positions[:, -1:] + 1
        attention_mask = torch.cat([attention_mask, torch.ones_like(attention_mask[:, :1])], 1)
    return torch.stack(tokens, 1)
