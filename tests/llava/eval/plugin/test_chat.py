"""Chat tasks: the messages of a task get the answers that its prompt gets, by the same engine."""

from collections.abc import Callable
from typing import Any

import pytest
from lmms_eval.api.instance import Instance
from lmms_eval.models.registry_v2 import ModelRegistryV2
from PIL import Image

from llava.eval.plugin.model import LlavaOVEncoder, LlavaOVEncoderChat
from llava.eval.plugin.requests import prompt_texts, read_request
from llava.generation import GenerationSettings
from llava.serve.engine import Engine
from support.eval_toy import Toy

GREEDY = {"do_sample": False, "until": []}


def _part(path: str) -> dict[str, Any]:
    """As lmms-eval's protocol has it: a path of a video, a decoded picture."""
    if path.endswith(".png"):
        return {"type": "image", "url": Image.open(path)}
    return {"type": "video", "url": path}


def _messages(document: dict[str, Any]) -> list[dict[str, Any]]:
    text = {"type": "text", "text": document["question"]}
    return [{"role": "user", "content": [*map(_part, document["media"]), text]}]


def _visuals(document: dict[str, Any]) -> list[Any]:
    return [part["url"] for part in _messages(document)[0]["content"][:-1]]


def _request(arguments: tuple[Any, ...], number: int, kind: str = "generate_until") -> Instance:
    return Instance(
        request_type=kind,  # type: ignore[arg-type]
        arguments=(*arguments, number, "toy", "test"),
        idx=0,
        metadata={"task": "toy", "doc_id": number, "repeats": 1},
    )


def _documents(toy: Toy) -> list[dict[str, Any]]:
    both = {"media": [str(toy.videos[0]), str(toy.images[0])], "question": "Which is brighter?"}
    return [*toy.documents, both]


def _model(kind: type[LlavaOVEncoder], toy: Toy) -> LlavaOVEncoder:
    model = kind(**toy.arguments(batch_size=3))
    model.task_dict = {"toy": {"test": _documents(toy)}}
    return model


def test_the_registry_has_a_model_of_each_kind() -> None:
    registry = ModelRegistryV2()
    registry.load_entrypoint_manifests(overwrite=True)
    assert registry.resolve("llava_ov_encoder").model_type == "simple"
    assert registry.resolve("llava_ov_encoder_chat").model_type == "chat"
    assert registry.get_model_class("llava_ov_encoder_chat") is LlavaOVEncoderChat


def test_messages_get_the_answers_of_prompts_and_are_counted(toy: Toy) -> None:
    documents = _documents(toy)
    prompts = [
        _request((document["question"], dict(GREEDY), _visuals), number)
        for number, document in enumerate(documents)
    ]

    def as_protocol(document: dict[str, Any]) -> list[dict[str, Any]]:
        [turn] = _messages(document)
        empty = {"start_time": None, "end_time": None}  # as lmms-eval's own class fills them in
        return [{**turn, "content": [{**part, **empty} for part in turn["content"]]}]

    chats = [_request(("", as_protocol, dict(GREEDY)), number) for number in range(len(documents))]
    expected = _model(LlavaOVEncoder, toy).generate_until(prompts)
    model = _model(LlavaOVEncoderChat, toy)
    assert model.generate_until(chats) == expected
    assert len(set(expected)) > 1
    counted = {name: model._record.visuals[name] for name in ("hits", "misses", "images")}
    assert counted == {"hits": 4, "misses": 0, "images": 3}
    assert len({repr(prompt_texts(chat, model.task_dict)) for chat in chats}) == len(chats)


def _conversation(document: dict[str, Any]) -> list[dict[str, Any]]:
    said = [{"type": "text", "text": "A square."}]
    return [
        {"role": "system", "content": [{"type": "text", "text": "Answer in one word."}]},
        *_messages(document),
        {"role": "assistant", "content": said},
        {"role": "user", "content": [{"type": "text", "text": "Text <image> of a user."}]},
    ]


def _rounds(document: dict[str, Any], **told: Any) -> Any:
    if not told:
        return _messages(document)
    asked = [{"role": "user", "content": f"Why {told['previous_output'][-1]}?"}]
    return asked, told["round_idx"] == 2, told["previous_output"], None


def test_conversations_and_rounds_are_those_of_the_engine(toy: Toy) -> None:
    """With a system turn and an answer before the question, which a prompt cannot express."""
    document = toy.documents[0]
    shown = {"num_images": 2, "sequence_length": 8, "square_size": 64, "patch_size": 8}
    engine = Engine.load(toy.model, "cpu", videos_kwargs=shown)
    settings = GenerationSettings(max_new_tokens=6)
    model = _model(LlavaOVEncoderChat, toy)
    request = _request(("", _conversation, dict(GREEDY)), 0)
    expected = engine.stream(_conversation(document), settings).read()
    assert model.generate_until([request]) == [expected]
    request = _request(("", _rounds, dict(GREEDY)), 0, "generate_until_multi_round")
    first = engine.stream(_messages(document), settings).read()
    again = _rounds(document, previous_output=[first], round_idx=1)[0]
    second = engine.stream(again, settings).read()
    assert model.generate_until_multi_round([request]) == [[first, second]]
    engine.close()


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        (lambda _: None, "must return a list of messages, got NoneType"),
        (
            lambda _: [{"role": "user", "content": [{"type": "audio", "url": "a.wav"}]}],
            "must be of type text, image or video, got 'audio'",
        ),
        (
            lambda _: [
                {"role": "user", "content": [{"type": "video", "url": "a.mp4", "end_time": 3.0}]}
            ],
            "end_time of a video cannot be obeyed",
        ),
    ],
)
def test_messages_that_cannot_be_shown_are_refused(
    messages: Callable[[Any], Any], reason: str
) -> None:
    request = _request(("", messages, {}), 0)
    with pytest.raises(ValueError, match=f"toy document 0: doc_to_messages: .*{reason}"):
        read_request(request, {"toy": {"test": [{}]}})
