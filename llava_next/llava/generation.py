"""How an answer is generated: settings, what ends it, and its tokens while they come.

Greedy by default; sampling is on exactly where the temperature is above 0.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase, StoppingCriteria
from transformers.generation.streamers import BaseStreamer

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


class StopRows(StoppingCriteria):
    """End each answer of a batch as soon as a function says that it is done."""

    def __init__(self, done: Callable[[], Sequence[bool]]) -> None:
        self._done = done

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Any:
        """Return which rows are done: bool (B,)."""
        return torch.tensor(self._done(), dtype=torch.bool, device=input_ids.device)


class TokenSink(BaseStreamer):
    """Hands the ids of each new token of a batch to a function as soon as they are known."""

    def __init__(self, take: Callable[[list[int]], None]) -> None:
        self._take = take
        self._has_prompt = False

    def put(self, value: Tensor) -> None:
        """Take the prompt, which comes first, or one token of each row."""
        if self._has_prompt:
            self._take(value.flatten().tolist())
        self._has_prompt = True

    def end(self) -> None:
        """Do nothing: the caller of ``generate`` knows when it ends."""


class TextStream:
    """Text of tokens that come one by one, in pieces that never have to be taken back.

    What may still change is kept until it cannot: bytes of a character that is not whole, the
    beginning of a stop string, and blanks, which are removed from both ends. All pieces together
    are the text of the whole answer.

    Attributes:
        is_stopped: whether a stop string has come; further tokens give nothing.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, until: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._until = tuple(until)
        self._ids: list[int] = []
        self._given = 0
        self.is_stopped = False

    def add(self, token: int) -> str:
        """Take a token; return the text that is certain since."""
        self._ids.append(token)
        return self._new(is_last=False)

    def end(self) -> str:
        """Return the rest of the text."""
        return self._new(is_last=True)

    def _new(self, *, is_last: bool) -> str:
        if self.is_stopped:
            return ""
        text: Any = self._tokenizer.decode(self._ids, skip_special_tokens=True)
        cut = cut_at(text, self._until)
        self.is_stopped = cut != text
        certain = cut if self.is_stopped or is_last else cut[: self._certain_length(cut)]
        certain = certain.strip()
        new = certain[self._given :]
        self._given = max(self._given, len(certain))
        return new

    def _certain_length(self, text: str) -> int:
        """Return how many characters no later token can change."""
        length = len(text.rstrip("\ufffd"))
        for stop in self._until:
            for size in range(min(len(stop) - 1, length), 0, -1):
                if stop.startswith(text[length - size : length]):
                    length -= size
                    break
        return length
