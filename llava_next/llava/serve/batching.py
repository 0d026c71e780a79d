"""Answers that the model generates together: which may share a batch, and one row of it.

Requests that wait while the model works form the next batch. A row ends on its own, and its text
comes as if it were alone; the batch ends with its last row. Requests whose keys and values are
kept from before run alone: they have almost nothing to read.
"""

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

from transformers import PreTrainedTokenizerBase

from llava.generation import GenerationSettings, TextStream
from llava.serve.answer import AnswerStream
from llava.serve.memory import PrefixMemory, ShownVisual

_MOST_PADDED_TOKENS = 1 << 15
"""Tokens of the prompts of a batch, padding included: what it costs in memory."""


@dataclass(eq=False)
class Row:
    """A request on its way to an answer.

    Attributes:
        answer: takes the text.
        ids: the prompt.
        shown: its visuals.
        settings: how it is generated.
        memory: keeps keys and values of its conversation; None where nothing is kept.
        asked: when it came, of ``time.perf_counter``.
        is_taken: whether the model works on it.
        is_done: whether it needs no more tokens.
        new: ids of the answer so far.
    """

    answer: AnswerStream
    ids: list[int]
    shown: Sequence[ShownVisual]
    settings: GenerationSettings
    memory: PrefixMemory | None
    asked: float = field(default_factory=time.perf_counter)
    is_taken: bool = False
    is_done: bool = False
    new: list[int] = field(default_factory=list)

    def begin(self, tokenizer: PreTrainedTokenizerBase, ends: Collection[int]) -> None:
        """Prepare to take tokens; those of ``ends`` end the answer."""
        self._text = TextStream(tokenizer, self.settings.until)
        self._ends, self._began = ends, time.perf_counter()
        self.answer.usage.seconds["wait"] = self._began - self.asked

    def take(self, token: int) -> None:
        """Take the next token; after the last one, padding."""
        if self.is_done:
            return
        self.new.append(token)
        self.answer.usage.seconds.setdefault("prompt", time.perf_counter() - self._began)
        self.answer.put(self._text.add(token))
        is_full = len(self.new) == self.settings.max_new_tokens
        self.is_done = self._has_ended or is_full or self.answer.is_stopped

    @property
    def _has_ended(self) -> bool:
        return self._text.is_stopped or self.new[-1] in self._ends

    def finish(self) -> None:
        """Give the rest of the text, and complete the usage."""
        usage = self.answer.usage
        self.answer.put(self._text.end())
        usage.seconds["answer"] = time.perf_counter() - self._began - usage.seconds["prompt"]
        usage.new_tokens = len(self.new)
        if not self._has_ended:
            usage.finish = "cancelled" if self.answer.is_stopped else "length"


def next_batch(waiting: Sequence[Row], most: int) -> list[Row]:
    """Return the rows to generate next: the first that waits, and what may share its batch.

    Args:
        waiting: rows in the order in which they came; at least one.
        most: rows of a batch.
    """
    batch = [waiting[0]]
    for row in waiting[1:] if _is_fresh(waiting[0]) else ():
        if len(batch) == most:
            break
        longest = max(len(item.ids) for item in (*batch, row))
        is_fit = _is_fresh(row) and _sampling(row) == _sampling(batch[0])
        is_own = row.memory is None or all(item.memory is not row.memory for item in batch)
        if is_fit and is_own and longest * (len(batch) + 1) <= _MOST_PADDED_TOKENS:
            batch.append(row)
    return batch


def _is_fresh(row: Row) -> bool:
    return row.memory is None or row.memory.is_empty


def _sampling(row: Row) -> GenerationSettings:
    """Return the settings that the rows of a batch must have in common."""
    return replace(row.settings, max_new_tokens=1, until=())
