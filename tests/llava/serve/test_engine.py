"""The engine: the answers of ``llava.ask`` and lmms-eval, what is kept, and for whom."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from llava.ask import Assistant
from llava.generation import GenerationSettings
from llava.messages import join_questions
from llava.model.tiny import write_tiny_checkpoint
from llava.serve.answer import AnswerStream
from llava.serve.engine import Engine
from llava.serve.memory import PrefixMemory
from llava.serve.session import ChatSession
from support.media import moving_square, texture, write_video

SHORT = GenerationSettings(max_new_tokens=8)
VIDEO = {"num_images": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("serve")
    write_tiny_checkpoint(folder / "model", seed=3)
    for seed, name in enumerate("ab"):
        write_video(folder / f"{name}.mp4", moving_square(12, 48, 64, (1, 1), seed=seed))
    Image.fromarray(texture(40, 56, seed=1)).save(folder / "p.png")
    return folder


@pytest.fixture
def engine(folder: Path) -> Any:
    engine = Engine.load(folder / "model", "cpu", videos_kwargs=VIDEO)
    yield engine
    engine.close()


def _message(*parts: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(parts)}


def _text(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def test_the_engine_gives_the_answer_of_ask(engine: Engine, folder: Path) -> None:
    assistant = Assistant(engine.model, engine.processor)
    for name in ("a.mp4", "p.png"):
        path = folder / name
        expected = assistant.ask(path, "What moves?", max_new_tokens=8, **VIDEO)
        conversation = ChatSession(engine)
        conversation.show(path)
        answer = conversation.ask("What moves?", SHORT)
        assert list(answer) and answer.text == expected
        kind = "video" if name == "a.mp4" else "image"
        messages = [_message({"type": kind, kind: str(path)}, _text("What moves?"))]
        assert engine.stream(messages, SHORT).read() == expected


def test_a_second_question_reads_and_encodes_nothing_again(engine: Engine, folder: Path) -> None:
    conversation = ChatSession(engine)
    usage = conversation.show(folder / "a.mp4")
    assert usage.visual_tokens == 2 * 64
    assert usage.seconds.keys() == {"visuals", "prompt"}
    first = conversation.ask("What moves?", SHORT)
    first.read()
    assert first.usage.reused_tokens == usage.prompt_tokens > 128
    counted = engine.store.reads, engine.totals["encoded_visuals"]
    assert counted == (1, 1)
    second = conversation.ask("And then?", SHORT)
    text = second.read()
    assert (engine.store.reads, engine.totals["encoded_visuals"]) == counted
    assert second.usage.reused_tokens > first.usage.prompt_tokens - 1
    # The same conversation without anything kept.
    assert engine.stream(conversation.messages[:-1], SHORT).read() == text
    assert second.usage.seconds.keys() == {"visuals", "wait", "prompt", "answer"}
    assert conversation.messages[-1] == {"role": "assistant", "content": text}


def test_another_video_may_follow(engine: Engine, folder: Path) -> None:
    conversation = ChatSession(engine)
    conversation.show(folder / "a.mp4")
    conversation.ask("What moves?", SHORT).read()
    conversation.show(folder / "b.mp4")
    answer = conversation.ask("And here?", SHORT)
    text = answer.read()
    assert answer.usage.visual_tokens == 4 * 64
    assert engine.stream(conversation.messages[:-1], SHORT).read() == text


def test_conversations_do_not_see_each_other(engine: Engine, folder: Path) -> None:
    one, other = ChatSession(engine), ChatSession(engine)
    one.show(folder / "a.mp4")
    other.show(folder / "b.mp4")
    answers = [one.ask("What moves?", SHORT), other.ask("What moves?", SHORT)]
    texts = [answer.read() for answer in answers]
    for name, text, conversation in zip("ab", texts, (one, other), strict=True):
        alone = ChatSession(Engine(engine.model, engine.processor, videos_kwargs=VIDEO))
        alone.show(folder / f"{name}.mp4")
        assert alone.ask("What moves?", SHORT).read() == text
        assert len(conversation.messages) == 2
    fresh = ChatSession(engine)
    assert fresh.ask("What moves?", SHORT).usage.reused_tokens == 0


def test_equal_tokens_of_another_picture_are_not_reused(engine: Engine, folder: Path) -> None:
    """Placeholders are equal; what they stand for is not."""
    conversation = ChatSession(engine)
    conversation.show(folder / "a.mp4")
    memory = conversation.memory
    messages = [_message({"type": "video", "video": str(folder / "b.mp4")}, _text("Q"))]
    answer = engine.stream(messages, SHORT, memory=memory)
    assert answer.read() == engine.stream(messages, SHORT).read()
    assert answer.usage.reused_tokens < 64


def test_a_changed_file_is_read_again(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "p.png"
    shown = []
    for colour in ("red", "blue"):
        Image.new("RGB", (64, 48), colour).save(path)
        shown.append(engine.show([_message({"type": "image", "path": str(path)})])[0])
    assert engine.store.reads == 2
    assert not shown[0].segment.patches.equal(shown[1].segment.patches)


def test_stopping_ends_an_answer_and_the_conversation_goes_on(engine: Engine) -> None:
    conversation = ChatSession(engine)
    engine.model.generation_config.eos_token_id = []
    answer = conversation.ask("Tell.", GenerationSettings(max_new_tokens=5000))
    next(iter(answer))
    with pytest.raises(ValueError, match="has not ended"):
        conversation.ask("Again?")
    answer.stop()
    text = answer.read()
    assert answer.usage.finish == "cancelled" and answer.usage.new_tokens < 5000
    again = conversation.ask("Again?", SHORT)
    again.read()
    assert again.usage.finish == "length" and again.usage.new_tokens == 8
    assert conversation.messages[1]["content"] == text


def _waiting(engine: Engine, ask: Callable[[], list[AnswerStream]]) -> list[AnswerStream]:
    """Ask while the engine is busy, so that all answers wait at the same time."""
    busy = threading.Event()
    engine._worker.submit(busy.wait)
    answers = ask()
    busy.set()
    for answer in answers:
        answer.read()
    return answers


def test_answers_in_a_batch_are_those_of_questions_alone(engine: Engine, folder: Path) -> None:
    videos = [{"type": "video", "video": str(folder / f"{name}.mp4")} for name in "ab"]
    picture = {"type": "image", "path": str(folder / "p.png")}
    asked = [
        ([_message(videos[0], _text("What moves?"))], SHORT),
        ([_message(_text("Tell a long story about what moves, please."))], SHORT),
        ([_message(picture, _text("What?"))], GenerationSettings(max_new_tokens=5)),
        ([_message(videos[1], picture, _text("Both?"))], SHORT),
    ]
    alone = [engine.stream(*item) for item in asked]
    texts = [answer.read() for answer in alone]
    stop = texts[1][2:4]
    asked[1] = asked[1][0], GenerationSettings(max_new_tokens=8, until=(stop,))
    texts[1] = texts[1].split(stop)[0].strip()
    engine.max_batch = 3
    sizes: list[int] = []
    generate = engine.model.generate
    engine.model.generate = lambda **given: (
        sizes.append(len(given["input_ids"])),
        generate(**given),
    )
    memories = [PrefixMemory() for _ in asked]

    def ask() -> list[AnswerStream]:
        answers = [
            engine.stream(*item, memory=memory)
            for item, memory in zip(asked, memories, strict=True)
        ]
        assert [answer.ahead for answer in answers] == [0, 1, 2, 3]
        return answers

    answers = _waiting(engine, ask)
    assert [answer.text for answer in answers] == texts
    assert sizes == [3, 1]
    assert [answer.usage.new_tokens for answer in answers] == [8, answers[1].usage.new_tokens, 5, 8]
    assert [answer.usage.finish for answer in answers] == ["length", "stop", "length", "length"]
    # What a row left in its memory answers the next question as reading all again does.
    for (messages, _), answer, memory in zip(asked, answers, memories, strict=True):
        reply = {"role": "assistant", "content": answer.text}
        more = [*messages, reply, _message(_text("And then?"))]
        again = engine.stream(more, SHORT, memory=memory)
        assert again.read() == engine.stream(more, SHORT).read()
        assert again.usage.reused_tokens >= answer.usage.prompt_tokens
    assert sizes[2:] == [1] * 8


def test_a_batch_survives_its_rows(engine: Engine) -> None:
    """One is stopped, and memory does not suffice for all together."""
    engine.model.generation_config.eos_token_id = []
    texts = [f"Tell {number}." for number in range(3)]
    alone = [engine.stream([_message(_text(text))], SHORT).read() for text in texts]
    engine.max_batch = 8
    generate = engine.model.generate

    def small(**given: Any) -> Any:
        if len(given["input_ids"]) > 2:
            raise RuntimeError("out of memory")
        return generate(**given)

    engine.model.generate = small
    sampled = GenerationSettings(max_new_tokens=2, temperature=1.0)

    def ask() -> list[AnswerStream]:
        answers = [engine.stream([_message(_text(text))], SHORT) for text in texts]
        answers.append(engine.stream([_message(_text("Tell 4."))], SHORT))
        answers.append(engine.stream([_message(_text("Tell 5."))], sampled))
        answers[3].stop()
        return answers

    answers = _waiting(engine, ask)
    assert [answer.text for answer in answers[:3]] == alone
    assert [answer.usage.finish for answer in answers] == [*["length"] * 3, "cancelled", "length"]
    assert engine.totals["answers"] == 3 + 3 + 1


def test_stop_strings_end_an_answer(engine: Engine) -> None:
    messages = [_message(_text("Tell."))]
    whole = engine.stream(messages, SHORT).read()
    stop = whole[2]
    settings = GenerationSettings(max_new_tokens=8, until=(stop,))
    answer = engine.stream(messages, settings)
    assert answer.read() == whole.split(stop)[0].strip()
    assert answer.usage.finish == "stop"


def test_errors_reach_the_asker_and_the_engine_goes_on(
    engine: Engine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="no.mp4"):
        ChatSession(engine).show(folder / "no.mp4")
    with pytest.raises(ValueError, match="leaves no room in the 32768 of the model"):
        engine.stream([_message(_text("x" * 40_000))])
    with monkeypatch.context() as patch:
        patch.setattr(engine.model, "generate", lambda **_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            engine.stream([_message(_text("Q"))], SHORT).read()
    assert isinstance(engine.stream([_message(_text("Q"))], SHORT).read(), str)


def test_empty_answers_are_left_out() -> None:
    messages = [
        _message(_text("a")),
        {"role": "assistant", "content": " "},
        {"role": "user", "content": "b"},
        {"role": "assistant", "content": "c"},
    ]
    assert join_questions(messages) == [_message(_text("a"), _text("b")), messages[-1]]
