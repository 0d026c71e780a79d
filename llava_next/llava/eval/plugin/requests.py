"""lmms-eval's requests as plain samples: prompt, visuals, settings, and the folder of results.

A request of a simple model carries ``(context, generation settings or target, doc_to_visual,
doc_id, task, split)``; one of several rounds ``doc_to_text`` before ``doc_id``, which writes the
next round's prompt; an unconditional one ``(context, continuation)`` alone. A request of a chat
model carries ``(context, doc_to_messages, generation settings, doc_id, task, split)``;
``doc_to_messages`` writes the later rounds, too.
"""

import inspect
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset
from datasets.features.features import require_decoding
from lmms_eval.api.instance import Instance
from lmms_eval.api.task import Task
from lmms_eval.utils import sanitize_model_name

from llava.constants import IMAGE_PLACEHOLDER
from llava.generation import GenerationSettings
from llava.messages import Message, visual_parts
from llava.visual.batch import VisualSegment
from llava.visual.loading import is_video

_JUDGES = ("lmms_eval.llm_judge", "openai", "anthropic", "requests", "httpx")

_CUTS = ("start_time", "end_time", "video_start", "video_end")

_NUMBERS = ("max_new_tokens", "temperature", "top_p", "top_k", "num_beams", "repetition_penalty")

Documents = Mapping[str, Mapping[str, Sequence[Any]]]
"""lmms-eval's ``task_dict``: task, split, document number."""


@dataclass(frozen=True)
class Sample:
    """One request, its document resolved.

    Attributes:
        name: task and document, for messages.
        task: name of the task.
        context: the prompt's text.
        second: what the request asks for: generation settings, or the continuation's text.
        visuals: PIL images and paths, in order.
        next_round: the task's function to a later round, its document given; None where there is
            one round.
        messages: the conversation of a request of a chat model, in place of the prompt's text; None
            in requests of simple models.
    """

    name: str
    task: str
    context: str
    second: Any
    visuals: list[Any]
    next_round: Callable[..., Any] | None = None
    messages: Sequence[Message] | None = None

    def after(self, answers: Sequence[str], earlier: Any) -> "tuple[Sample | None, list[str], Any]":
        """Ask the task for the round after these answers.

        Args:
            answers: of the rounds so far.
            earlier: what the task handed on from the round before; None for the second round.

        Returns:
            The round's sample, None at the end; the answers as the task hands them back; what it
            hands on. A round is a prompt of its own: the task writes earlier answers into it.

        Raises:
            ValueError: The task returned something else.
        """
        assert self.next_round is not None
        returned = self.next_round(
            previous_output=list(answers), round_idx=len(answers), previous_round_info=earlier
        )
        names = ("visuals", "context") if self.messages is None else ("messages",)
        if not isinstance(returned, tuple) or len(returned) != len(names) + 3:
            function = "doc_to_text" if self.messages is None else "doc_to_messages"
            raise ValueError(
                f"{self.name}: {function} must return ({', '.join(names)}, is_last, answers, info) "
                f"for round {len(answers)}, got {type(returned).__name__}; correct the task"
            )
        *shown, is_last, handed, info = returned
        if is_last:
            return None, list(handed), info
        if self.messages is None:
            visuals, context = shown
            return replace(self, context=context, visuals=_as_list(visuals)), list(handed), info
        visuals = _message_visuals(shown[0], self.name)
        return replace(self, messages=shown[0], visuals=visuals), list(handed), info

    @property
    def videos(self) -> list[str]:
        """Paths of the videos among the visuals."""
        return [item for item in self.visuals if isinstance(item, str) and is_video(item)]


def read_request(request: Instance, documents: Documents) -> Sample:
    """Resolve a request; reading its document may decode images."""
    arguments: tuple[Any, ...] = request.args
    if len(arguments) == 2:
        context, second = arguments
        return Sample(
            f"{request.task_name} {request.doc_id}", request.task_name, context, second, []
        )
    context, second, doc_to_visual, *between, doc_id, task, split = arguments
    document = documents[task][split][doc_id]
    if _is_chat(request):
        name, messages = f"{task} document {doc_id}", second(document)
        return Sample(
            name=name,
            task=task,
            context=context,
            second=arguments[2],
            visuals=_message_visuals(messages, name),
            next_round=partial(second, document),
            messages=messages,
        )
    if callable(second):
        second = second(document)
    return Sample(
        name=f"{task} document {doc_id}",
        task=task,
        context=context,
        second=second,
        visuals=_as_list(doc_to_visual(document)),
        next_round=partial(between[0], document) if between else None,
    )


def asked_settings(request: Instance) -> Any:
    """Return a request's generation settings; of a request for a score, what it scores."""
    arguments: tuple[Any, ...] = request.args
    return arguments[2] if _is_chat(request) else arguments[1]


def prompt_texts(request: Instance, documents: Documents) -> list[str]:
    """Return the texts that a request consists of, to tell it from others of its document."""
    texts = [text for text in request.args[:2] if isinstance(text, str)]
    messages = read_request(request, documents).messages if _is_chat(request) else None
    for message in messages or ():
        parts = message["content"]
        texts.append(message["role"])
        texts += [parts] if isinstance(parts, str) else [str(part.get("text")) for part in parts]
    return texts


def _is_chat(request: Instance) -> bool:
    """Whether a request is one of a chat model: a function to messages, then its settings."""
    arguments: tuple[Any, ...] = request.args
    return len(arguments) > 2 and callable(arguments[1]) and isinstance(arguments[2], Mapping)


def _message_visuals(messages: Any, name: str) -> list[Any]:
    """Return what messages show, in order.

    Raises:
        ValueError: There are no messages, or a part of them is not one that the model can be shown.
    """
    try:
        if not isinstance(messages, list | tuple):
            raise ValueError(f"must return a list of messages, got {type(messages).__name__}")
        parts = visual_parts(messages)
        for part in parts:
            cut = sorted(key for key in _CUTS if part.settings.get(key) is not None)
            if cut:
                raise ValueError(
                    f"{' and '.join(cut)} of a video cannot be obeyed: its codec asset covers the "
                    "whole file; cut the video into a file of its own"
                )
    except ValueError as error:
        raise ValueError(f"{name}: doc_to_messages: {error}") from error
    return [part.source for part in parts]


def is_padding(request: Instance) -> bool:
    """Return whether a request only evens out the ranks; its answer is thrown away."""
    return bool(request.metadata.get("__padding_only__"))


def write_prompt(context: str, segments: Sequence[VisualSegment]) -> str:
    """Put placeholders into a prompt: one per image, frame or mosaic.

    ``<image>`` in the text marks the next visual; without any, all visuals come first, each
    placeholder on a line of its own.

    Raises:
        ValueError: if the text has placeholders, but not as many as there are visuals.
    """
    blocks = ["\n".join([IMAGE_PLACEHOLDER] * len(item.placeholder_tokens)) for item in segments]
    parts = context.split(IMAGE_PLACEHOLDER)
    if len(parts) == 1:
        return "\n".join([*blocks, context])
    if len(parts) != len(blocks) + 1:
        raise ValueError(
            f"the prompt has {len(parts) - 1} {IMAGE_PLACEHOLDER} for {len(blocks)} visuals; the "
            "task's doc_to_text must write one per visual, or none"
        )
    return parts[0] + "".join(block + rest for block, rest in zip(blocks, parts[1:], strict=True))


def command_line(requests: Sequence[Instance]) -> Namespace | None:
    """Return lmms-eval's parsed command line, or None where it was called from Python.

    Models are not given it. But a request's ``doc_to_visual`` or ``doc_to_messages`` is bound to
    its task, and a task holds the parsed command line, whether that came from flags or from a YAML
    file.
    """
    for request in requests:
        task = _task(request)
        if task is not None and vars(task).get("args") is not None:
            return vars(task)["args"]
    return None


def default_stop(request: Instance) -> str | None:
    """Return the stop string that lmms-eval added to a task that states none, or None.

    lmms-eval fills a missing ``until`` with the task's few-shot delimiter, a blank line by default.
    It then puts that very string object there, and copies keep it, whereas an equal string that
    was read from the task's file or from ``--gen_kwargs`` is another object. No other trace of
    who wrote it is left.

    Args:
        request: request of a ``generate_until`` task; without a task there is no default.
    """
    task = _task(request)
    settings = asked_settings(request)
    if task is None or not isinstance(settings, Mapping):
        return None
    until, delimiter = settings.get("until"), task.config.fewshot_delimiter
    is_default = isinstance(until, list) and len(until) == 1 and until[0] is delimiter
    return delimiter if is_default else None


def judged_tasks(requests: Sequence[Instance]) -> list[str]:
    """Return names of the tasks that a judge model scores, over a network.

    Their scorer's module holds something of lmms-eval's judges or of a client library.
    """
    scorers = {
        request.task_name: task.config.process_results
        for request in requests
        if (task := _task(request)) is not None
    }
    return sorted(
        name
        for name, scorer in scorers.items()
        if inspect.isfunction(scorer) and any(map(_is_of_a_judge, scorer.__globals__.values()))
    )


def _task(request: Instance) -> Task | None:
    arguments: tuple[Any, ...] = request.args
    bound = arguments[1 if _is_chat(request) else 2] if len(arguments) > 2 else None
    task = bound.__self__ if inspect.ismethod(bound) else None
    return task if isinstance(task, Task) else None


def _is_of_a_judge(value: object) -> bool:
    module = value.__name__ if inspect.ismodule(value) else type(value).__module__
    if inspect.isclass(value) or inspect.isfunction(value):
        module = value.__module__
    return module in _JUDGES or module.startswith(tuple(f"{name}." for name in _JUDGES))


def results_folder(flags: Namespace | None, pretrained: str) -> Path | None:
    """Return where lmms-eval will write this run's results, or None where it writes none."""
    if flags is None or not flags.output_path:
        return None
    return Path(flags.output_path) / sanitize_model_name(pretrained)


def shows_stored_images(documents: Sequence[Any]) -> bool:
    """Return whether a split's visuals are images in the data set; to look at them is to decode."""
    return isinstance(documents, Dataset) and require_decoding(dict(documents.features))


def _as_list(visuals: Any) -> list[Any]:
    """Tasks return a list, one visual alone, or None for text."""
    if visuals is None:
        return []
    return list(visuals) if isinstance(visuals, list | tuple) else [visuals]


def read_generation_settings(
    task_settings: Mapping[str, Any], max_new_tokens: int
) -> tuple[GenerationSettings, dict[str, Any]]:
    """Read a task's ``generation_kwargs``.

    Args:
        task_settings: ``generation_kwargs`` of the task.
        max_new_tokens: limit where the task states none.

    Returns:
        The settings, and those of the task that have no meaning here (``image_aspect_ratio``: the
        checkpoint decides; ``do_sample``: the temperature does).

    Raises:
        ValueError: if ``until`` is neither a string nor a list of strings.
    """
    values = {name: task_settings[name] for name in _NUMBERS if task_settings.get(name) is not None}
    ignored = {
        name: value for name, value in task_settings.items() if name not in (*_NUMBERS, "until")
    }
    settings = GenerationSettings(
        **{"max_new_tokens": max_new_tokens, **values}, until=_stop_strings(task_settings)
    )
    if ignored.get("do_sample") == (settings.temperature > 0):
        del ignored["do_sample"]
    return settings, ignored


def _stop_strings(task_settings: Mapping[str, Any]) -> tuple[str, ...]:
    until = task_settings.get("until") or []
    texts = [until] if isinstance(until, str) else until
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        raise ValueError(
            f"generation_kwargs.until must be a string or a list of strings, got {until!r}; "
            "correct the task's YAML"
        )
    return tuple(text for text in texts if text)
