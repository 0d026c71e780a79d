"""Evaluation and the chat engine give the same answers to the same questions."""

from typing import Any

from lmms_eval.api.instance import Instance

from llava.eval.plugin.model import LlavaOVEncoder
from llava.generation import GenerationSettings
from llava.serve.engine import Engine
from support.eval_toy import Toy


def _messages(document: dict[str, Any]) -> list[dict[str, Any]]:
    kinds = [("image" if path.endswith(".png") else "video", path) for path in document["media"]]
    parts = [{"type": kind, kind: path} for kind, path in kinds]
    text = {"type": "text", "text": document["question"]}
    return [{"role": "user", "content": [*parts, text]}]


def test_lmms_eval_and_the_engine_give_the_same_greedy_answers(toy: Toy) -> None:
    evaluated = LlavaOVEncoder(**toy.arguments(batch_size=2))
    evaluated.task_dict = {"toy": {"test": toy.documents}}
    requests = [
        Instance(
            request_type="generate_until",
            arguments=(
                document["question"],
                {"max_new_tokens": 6},
                lambda shown: shown["media"],
                index,
                "toy",
                "test",
            ),
            idx=0,
            metadata={"task": "toy", "doc_id": index, "repeats": 1},
        )
        for index, document in enumerate(toy.documents)
    ]
    shown = {"num_images": 2, "sequence_length": 8, "square_size": 64, "patch_size": 8}
    engine = Engine.load(toy.model, "cpu", videos_kwargs=shown)
    settings = GenerationSettings(max_new_tokens=6)
    answers = [engine.stream(_messages(item), settings).read() for item in toy.documents]
    assert evaluated.generate_until(requests) == answers
    assert len(set(answers)) > 1
    engine.close()
