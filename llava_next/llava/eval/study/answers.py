"""Ask a trained model all questions about the test clips, as every arm shows them."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig

from llava.constants import IMAGE_PLACEHOLDER
from llava.eval.study.arms import CELLS, Shown
from llava.eval.study.clips import Clip, covered
from llava.eval.study.config import StudyConfig
from llava.eval.study.material import Pair, test_pairs
from llava.eval.study.scenes import KINDS, Question
from llava.model.loading import load_pretrained
from llava.model.processing import LlavaProcessor
from llava.visual.batch import VisualSegment
from llava.visual.loading import load_mosaics
from run_kit.exits import say
from run_kit.files import replace_file

MAX_ANSWER_TOKENS = 8
BATCH_SIZE = 64


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
    """

    arm: str
    num_images: int
    clip: int
    camera: str
    key_frame_interval: int
    kind: str
    correct: bool
    covered: bool


TestData = Sequence[tuple[Clip, dict[Pair, Shown]]]


def answer_all(config: StudyConfig, data: TestData, model_folder: Path) -> list[Outcome]:
    """Answer every question by every arm and budget, or read the answers where they exist."""
    target = model_folder / "answers.json"
    if target.exists():
        return [Outcome(**row) for row in json.loads(target.read_text(encoding="utf-8"))]
    model, processor = load_pretrained(model_folder, device="cpu")
    outcomes: list[Outcome] = []
    for pair in test_pairs(config):
        answered = list(_answer_pair(model, processor, data, pair))
        share = np.mean([row.correct for row in answered]) if answered else np.nan
        say(f"  {pair[0]}, {pair[1] * CELLS} tokens: {share:.3f} right")
        outcomes += answered
    with replace_file(target) as partial:
        partial.write_text(json.dumps([asdict(row) for row in outcomes]), encoding="utf-8")
    return outcomes


def _answer_pair(
    model: Any, processor: LlavaProcessor, data: TestData, pair: Pair
) -> Iterator[Outcome]:
    """Yield the outcomes of one arm at one budget."""
    batch: list[tuple[Clip, Question, VisualSegment, bool]] = []
    for clip, shown in data:
        if (what := shown.get(pair)) is None:
            continue
        segment = load_mosaics(what.images, what.positions, processor.visual)
        rows = np.load(what.positions, allow_pickle=False)
        for question in clip.questions:
            batch.append((clip, question, segment, covered(question, rows)))
            if len(batch) == BATCH_SIZE:
                yield from _answer_batch(model, processor, batch, pair)
                batch = []
    if batch:
        yield from _answer_batch(model, processor, batch, pair)


@torch.inference_mode()
def _answer_batch(
    model: Any,
    processor: LlavaProcessor,
    batch: Sequence[tuple[Clip, Question, VisualSegment, bool]],
    pair: Pair,
) -> Iterator[Outcome]:
    prompts = [
        [{"from": "human", "value": f"{IMAGE_PLACEHOLDER}\n" * pair[1] + KINDS[question.kind].text}]
        for _, question, _, _ in batch
    ]
    inputs = processor(prompts, [[segment] for _, _, segment, _ in batch])
    output = model.generate(
        **inputs,
        generation_config=GenerationConfig(
            max_new_tokens=MAX_ANSWER_TOKENS,
            do_sample=False,
            eos_token_id=model.generation_config.eos_token_id,
            pad_token_id=processor.pad_token_id,
        ),
    )
    texts = processor.decode(output[:, inputs["input_ids"].shape[1] :])
    for (clip, question, _, can_show), text in zip(batch, texts, strict=True):
        yield Outcome(
            arm=pair[0],
            num_images=pair[1],
            clip=clip.seed,
            camera=clip.camera,
            key_frame_interval=clip.encoding.key_frame_interval,
            kind=question.kind,
            correct=text == question.answer,
            covered=can_show,
        )
