"""Read how a task wants answers generated: its settings and its stop strings.

Defaults are those of the reference implementation: greedy, at most 1024 new tokens. Sampling is on
exactly where the temperature is above 0.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase, StoppingCriteria

_NUMBERS = ("max_new_tokens", "temperature", "top_p", "top_k", "num_beams", "repetition_penalty")
_MAX_BYTES_OF_A_CHARACTER = 4


@dataclass(frozen=True, kw_only=True)
class GenerationSettings:
    """The settings of one request; requests with equal settings share a batch.

    Attributes:
        max_new_tokens: limit of the answer.
        temperature: 0 is greedy.
        top_p, top_k: limits of sampling; None = off.
        num_beams: 1 = no beam search.
        repetition_penalty: 1 = none.
        until: strings that end the answer and do not belong to it.
    """

    max_new_tokens: int = 1024
    temperature: float = 0.0
    top_p: float | None = None
    top_k: int | None = None
    num_beams: int = 1
    repetition_penalty: float = 1.0
    until: tuple[str, ...] = ()

    def to_generate(self) -> dict[str, Any]:
        """Return the keyword arguments of ``generate``, without the stop strings."""
        arguments: dict[str, Any] = {
            "max_new_tokens": self.max_new_tokens,
            "num_beams": self.num_beams,
            "repetition_penalty": self.repetition_penalty,
            "do_sample": self.temperature > 0,
        }
        if self.temperature > 0:
            arguments |= {
                "temperature": self.temperature,
                "top_p": 1.0 if self.top_p is None else self.top_p,
                "top_k": 0 if self.top_k is None else self.top_k,
            }
        return arguments


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


def cut_at(text: str, until: Sequence[str]) -> str:
    """Return the text before the first stop string."""
    ends = [text.index(stop) for stop in until if stop in text]
    return text[: min(ends)] if ends else text


class StopAtStrings(StoppingCriteria):
    """End each answer of a batch as soon as its text contains a stop string."""

    def __init__(
        self, until: Sequence[str], tokenizer: PreTrainedTokenizerBase, prompt_tokens: int
    ) -> None:
        self._until = tuple(until)
        self._tokenizer = tokenizer
        self._prompt_tokens = prompt_tokens
        # Every token but a special one spells at least a byte, so a stop string that the newest
        # token completes is within as many tokens, and a cut character before it.
        longest = max((len(stop.encode()) for stop in self._until), default=0)
        self._window_tokens = longest + _MAX_BYTES_OF_A_CHARACTER

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Any:
        """Return which rows are done: bool (B,)."""
        start = max(self._prompt_tokens, input_ids.shape[1] - self._window_tokens)
        texts = self._tokenizer.batch_decode(input_ids[:, start:], skip_special_tokens=True)
        done = [any(stop in text for stop in self._until) for text in texts]
        return torch.tensor(done, dtype=torch.bool, device=input_ids.device)
