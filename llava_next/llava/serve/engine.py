"""One engine for chat, server and scripts: messages in, text out while it is generated.

Requests are served in the order in which they come, by one thread that runs the model; those that
wait at the same time share a batch (``llava.serve.batching``). Reading videos is done by the thread
that asks, so that it delays no other answer.

``ChatSession(Engine.load(folder))`` is a conversation: ``show`` prepares a video once, ``ask``
answers questions about it and reads neither the video nor answered questions again.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import DynamicCache, GenerationConfig, StoppingCriteriaList

from llava.generation import GenerationSettings, StopRows, TokenSink
from llava.messages import Message, VisualPart, join_questions, to_turns, visual_parts
from llava.model.loading import load_pretrained
from llava.model.processing import LlavaProcessor
from llava.serve.answer import AnswerStream, Usage
from llava.serve.batching import Row, next_batch
from llava.serve.memory import PrefixMemory, ShownVisual, VisualStore, visual_key
from llava.visual.batch import pack_segments
from llava.visual.clips import ClipSettings

logger = logging.getLogger(__name__)


class Engine:
    """A loaded model that answers messages.

    Attributes:
        model: the model in evaluation mode.
        processor: its processor.
        store: the visuals that were read.
        max_batch: answers that are generated together, where that many wait.
        totals: counts over all answers: ``answers``, ``prompt_tokens``, ``visual_tokens``,
            ``reused_tokens``, ``new_tokens``, ``encoded_visuals`` (visuals that the encoder saw).
    """

    def __init__(
        self,
        model: Any,
        processor: LlavaProcessor,
        *,
        videos_kwargs: Mapping[str, Any] | None = None,
        store: VisualStore | None = None,
    ) -> None:
        """Take over a model.

        Args:
            model: on its device.
            processor: of its checkpoint.
            videos_kwargs: how videos are shown by default, see ``ClipSettings``.
            store: keeps visuals between requests.
        """
        self.model = model
        self.processor = processor
        self.store = VisualStore() if store is None else store
        self.max_batch = 1
        self.totals = dict.fromkeys(
            ("answers", "prompt_tokens", "visual_tokens", "reused_tokens", "new_tokens"), 0
        ) | {"encoded_visuals": 0}
        self._videos_kwargs = dict(videos_kwargs or {})
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="llava-engine")
        self._line: list[Row] = []
        self._line_lock = threading.Lock()

    @classmethod
    def load(
        cls,
        model_path: str | Path,
        device: str | None = None,
        *,
        dtype: str = "auto",
        videos_kwargs: Mapping[str, Any] | None = None,
    ) -> "Engine":
        """Load a checkpoint folder.

        Args:
            model_path: folder or repository of a checkpoint.
            device: such as ``cuda:1``; None takes a GPU where there is one, else the CPU.
            dtype: dtype of the weights; ``auto`` takes the checkpoint's.
            videos_kwargs: see the constructor.

        Raises:
            ValueError: if it holds no checkpoint of this project.
        """
        chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
        return cls(
            *load_pretrained(model_path, device=chosen, dtype=dtype), videos_kwargs=videos_kwargs
        )

    def clip_settings(self, part: VisualPart) -> ClipSettings:
        """Return how a video is shown: by its own settings, else by the engine's."""
        return ClipSettings.parse({**self._videos_kwargs, **part.settings})

    def show(self, messages: Sequence[Message]) -> list[ShownVisual]:
        """Read the pictures and videos of messages, in order.

        Raises:
            ValueError: if one cannot be read.
        """
        parts = visual_parts(messages)
        images = [part for part in parts if part.kind == "image"]
        keys = [visual_key(part, self._videos_kwargs) for part in parts]
        # Several images of a conversation are sized together: each depends on the others.
        together = tuple(visual_key(part, {}) for part in images)
        return [
            self.store.get(
                (key, together) if part.kind == "image" else key,
                lambda index=index: self._read(parts, index),
            )
            for index, (part, key) in enumerate(zip(parts, keys, strict=True))
        ]

    def _read(self, parts: Sequence[VisualPart], index: int) -> Any:
        if parts[index].kind == "video":
            return self.processor.load_visuals([parts[index]], self._videos_kwargs)[0]
        images = [part for part in parts if part.kind == "image"]
        number = sum(part.kind == "image" for part in parts[:index])
        return self.processor.load_visuals(images)[number]

    def stream(
        self,
        messages: Sequence[Message],
        settings: GenerationSettings | None = None,
        *,
        shown: Sequence[ShownVisual] | None = None,
        memory: PrefixMemory | None = None,
        then: Callable[[str], None] | None = None,
    ) -> AnswerStream:
        """Answer a conversation that ends with a question.

        Args:
            messages: see ``llava.messages``. Answers without text are left out, and questions that
                then follow each other are joined.
            settings: greedy and at most 1024 tokens by default.
            shown: what ``show`` returned for these messages, if it was called.
            memory: of this conversation; what its prompts have in common is read once.
            then: called once with the whole answer, see ``AnswerStream``.

        Returns:
            The answer; the model may still be working on it.

        Raises:
            ValueError: if messages cannot be rendered, a visual cannot be read, or the prompt is
                longer than the model allows.
        """
        started = time.perf_counter()
        settings = settings or GenerationSettings()
        messages = join_questions(messages)
        shown = self.show(messages) if shown is None else shown
        usage = Usage(seconds={"visuals": time.perf_counter() - started})
        ids = self._ids(messages, shown)
        usage.prompt_tokens = len(ids)
        usage.visual_tokens = sum(item.tokens for item in shown)
        room = self.model.config.max_position_embeddings - len(ids)
        if room < 1:
            raise ValueError(
                f"the conversation has {len(ids)} tokens ({usage.visual_tokens} visual) and leaves "
                f"no room in the {room + len(ids)} of the model; show less, or begin a new one"
            )
        if settings.num_beams != 1:
            raise ValueError(
                f"num_beams must be 1 for text that comes in pieces, got {settings.num_beams}"
            )
        settings = replace(settings, max_new_tokens=min(settings.max_new_tokens, room))
        answer = AnswerStream(usage, then)
        with self._line_lock:
            answer.ahead = len(self._line)
            self._line.append(Row(answer, ids, shown, settings, memory))
        self._worker.submit(self._work)
        return answer

    def prefill(self, messages: Sequence[Message], memory: PrefixMemory) -> Usage:
        """Let the model read a question up to its last visual, before its text is known.

        Args:
            messages: a conversation that ends with a question; its text does not matter.
            memory: keeps the keys and values.

        Returns:
            What it took.

        Raises:
            ValueError: as ``stream``.
        """
        started = time.perf_counter()
        shown = self.show(messages)
        read = time.perf_counter()
        ids = self._ids(messages, shown)
        image_token = self.model.config.image_token_id
        while ids and ids[-1] != image_token:
            ids.pop()
        usage = Usage(visual_tokens=sum(item.tokens for item in shown), prompt_tokens=len(ids))
        self._worker.submit(self._prefill, ids, shown, memory, usage).result()
        usage.seconds = {"visuals": read - started, "prompt": time.perf_counter() - read}
        return usage

    def _ids(self, messages: Sequence[Message], shown: Sequence[ShownVisual]) -> list[int]:
        segments = [item.segment for item in shown]
        inputs = self.processor.prepare(
            [to_turns(messages, segments)], [segments], return_tensors=None, padding=False
        )
        return inputs["input_ids"][0]

    def close(self) -> None:
        """Wait for the current answer and end the thread."""
        self._worker.shutdown(cancel_futures=True)

    # What follows runs in the engine's own thread.

    def _work(self) -> None:
        """Answer the next batch of those that wait; some may have been answered before."""
        with self._line_lock:
            waiting = [row for row in self._line if not row.is_taken]
            if not waiting:
                return
            batch = next_batch(waiting, self.max_batch)
            for row in batch:
                row.is_taken, row.answer.ahead = True, 0
        self._answer(batch)

    def _answer(self, batch: list[Row]) -> None:
        asked = [row for row in batch if not row.answer.is_stopped]
        for row in batch:
            if row not in asked:
                row.answer.usage.finish = "cancelled"
                self._end(row)
        try:
            if asked:
                self._generate(asked)
        except Exception as error:  # noqa: BLE001  (the readers of the answers raise it)
            for row in asked:
                if row.memory is not None:
                    row.memory.forget()
            if len(asked) > 1 and not any(row.new for row in asked):
                logger.warning(
                    f"{len(asked)} answers together failed, each is tried alone: {error}"
                )
                for row in asked:
                    self._answer([row])
                return
            for row in asked:
                self._end(row, error)

    def _end(self, row: Row, error: Exception | None = None) -> None:
        """End an answer, unless it has ended."""
        if row.answer.is_over:
            return
        with self._line_lock:
            self._line.remove(row)
            for number, waiting in enumerate(self._line):
                waiting.answer.ahead = 0 if waiting.is_taken else number
        if error is None and row.new:
            row.finish()
            self._count(row.answer.usage)
        row.answer.end(error)

    @torch.inference_mode()
    def _generate(self, batch: list[Row]) -> None:
        model, ends = self.model, self.model.generation_config.eos_token_id
        for row in batch:
            row.begin(self.processor.tokenizer, ends if isinstance(ends, list) else [ends])
        first = batch[0]
        if len(batch) > 1:
            cache: Any = DynamicCache(config=model.config)
            self.totals["encoded_visuals"] += sum(len(row.shown) for row in batch)
        else:
            memory = PrefixMemory() if first.memory is None else first.memory
            first.answer.usage.reused_tokens, _ = self._begin(memory, first.ids, first.shown)
            cache = memory.cache

        def take(tokens: list[int]) -> None:
            for row, token in zip(batch, tokens, strict=True):
                row.take(token)
                if row.is_done and len(batch) > 1:
                    self._end(row)

        longest = max(row.settings.max_new_tokens for row in batch)
        config = GenerationConfig(
            **replace(first.settings, max_new_tokens=longest).to_generate(),
            eos_token_id=ends,
            pad_token_id=self.processor.pad_token_id,
        )
        model.generate(
            **self._inputs([row.ids for row in batch], [row.shown for row in batch]),
            past_key_values=cache,
            generation_config=config,
            stopping_criteria=StoppingCriteriaList([StopRows(lambda: [r.is_done for r in batch])]),
            streamer=TokenSink(take),
        )
        longest_prompt = max(len(row.ids) for row in batch)
        for number, row in enumerate(batch):
            if row.memory is not None:
                # The last token of a row was not read any more.
                start, length = longest_prompt - len(row.ids), len(row.ids) + len(row.new) - 1
                if len(batch) == 1 or row.memory.take_row(cache, number, start, length):
                    row.memory.keep([*row.ids, *row.new], row.shown)
            self._end(row)

    @torch.inference_mode()
    def _prefill(
        self, ids: list[int], shown: Sequence[ShownVisual], memory: PrefixMemory, usage: Usage
    ) -> None:
        kept, known = self._begin(memory, [*ids, -1], shown)
        usage.reused_tokens = kept
        if kept < len(ids):
            inputs = self._inputs([ids], [shown[known:]])
            inputs["input_ids"] = inputs["input_ids"][:, kept:]
            self.model(**inputs, past_key_values=memory.cache, use_cache=True, logits_to_keep=1)
        memory.keep(ids, shown)
        self.totals["reused_tokens"] += kept

    def _begin(
        self, memory: PrefixMemory, ids: Sequence[int], shown: Sequence[ShownVisual]
    ) -> tuple[int, int]:
        """Cut the memory to the prompt; return the tokens and visuals that are in it."""
        image_token = self.model.config.image_token_id
        kept = memory.begin(ids, shown, image_token, self.model.config)
        tokens, known = ids[:kept].count(image_token), 0
        while known < len(shown) and tokens > 0:
            tokens -= shown[known].tokens
            known += 1
        self.totals["encoded_visuals"] += len(shown) - known
        return kept, known

    def _inputs(
        self, prompts: Sequence[Sequence[int]], shown: Sequence[Sequence[ShownVisual]]
    ) -> dict[str, Any]:
        """Return the arguments of the model for prompts, padded on the left."""
        device = self.model.device
        visual = pack_segments([[item.segment for item in row] for row in shown])
        longest = max(map(len, prompts))
        padding = [longest - len(ids) for ids in prompts]
        pad = self.processor.pad_token_id
        rows = [[pad] * count + list(ids) for count, ids in zip(padding, prompts, strict=True)]
        mask = [[0] * count + [1] * (longest - count) for count in padding]
        return {
            "input_ids": torch.tensor(rows, device=device),
            "attention_mask": torch.tensor(mask, device=device),
            "visual": None if visual is None else visual.to(device),
        }

    def _count(self, usage: Usage) -> None:
        self.totals["answers"] += 1
        for name in ("prompt_tokens", "visual_tokens", "reused_tokens", "new_tokens"):
            self.totals[name] += getattr(usage, name)
