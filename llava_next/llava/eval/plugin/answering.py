"""Samples through the model: batches of prompts and visuals to answers or scores, all counted.

Axis letters: B samples of a batch, T tokens, C tokens of the longest continuation.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import GenerationConfig

from llava.eval.plugin.manifest import RunRecord, describe_visuals
from llava.eval.plugin.requests import Sample, write_prompt
from llava.eval.plugin.visuals import Visual, VisualLoader
from llava.generation import GenerationSettings, StopAtStrings, cut_at
from llava.messages import to_turns
from llava.model.loading import LlavaForCausalLMMixin
from llava.model.processing import LlavaProcessor
from llava.visual.batch import VisualBatch, VisualSegment

_MOST_ROUNDS = 100


class MemoryExhaustedError(ValueError):
    """Samples that did not fit into memory."""


Content = TypeVar("Content")


@dataclass(frozen=True)
class Answer(Generic[Content]):
    """The answer to one request, with what the model was shown for it.

    Attributes:
        content: the generated text; for a request for a score, the pair of loss and greediness.
        shown: where the visuals came from and how many tokens they are, ready for JSON.
    """

    content: Content
    shown: dict[str, Any]


class Inputs(NamedTuple):
    """The arguments of the model for one batch, on its device.

    Attributes:
        input_ids: int64 (B, T), padded on the left.
        attention_mask: int64 (B, T), 0 at padding.
        visual: the visuals of the batch, or None where it has none.
    """

    input_ids: Tensor
    attention_mask: Tensor
    visual: VisualBatch | None


class Answerer:
    """A loaded checkpoint with the visuals and the counters of one run."""

    def __init__(
        self,
        model: LlavaForCausalLMMixin,
        processor: LlavaProcessor,
        loader: VisualLoader,
        record: RunRecord,
    ) -> None:
        """Take over the model; its generation settings are replaced by greedy ones.

        Args:
            model: the checkpoint's model, on its device.
            processor: tokenizer, template and preprocessing of the checkpoint.
            loader: turns the visuals of a sample into segments.
            record: receives the counts of the run.
        """
        self._model: Any = model
        self._processor = processor
        self._loader = loader
        self._record = record
        # Only which tokens end and pad an answer is taken over: a checkpoint's own sampling
        # defaults must not leak into greedy runs.
        self._model.generation_config = GenerationConfig(
            eos_token_id=self._model.generation_config.eos_token_id,
            pad_token_id=processor.tokenizer.pad_token_id,
        )

    @property
    def dtype(self) -> torch.dtype:
        """Return the dtype of the model's weights."""
        return self._model.dtype

    @torch.inference_mode()
    def generate(
        self, samples: Sequence[Sample], settings: GenerationSettings
    ) -> list[Answer[str]]:
        """Generate the answers of a batch.

        Stop strings and what follows them are cut off, and blanks are removed from both ends.
        """
        with _naming_out_of_memory(samples):
            return self._generate(samples, settings)

    def generate_rounds(
        self, samples: Sequence[Sample], settings: GenerationSettings
    ) -> list[Answer[list[str]]]:
        """Generate the answers of all rounds of a batch; each task says when its last round is.

        Returns:
            Per sample the answers of its rounds, and what the model was shown in the first.
        """
        first = self.generate(samples, settings)
        rounds = [[answer.content] for answer in first]
        told: list[Any] = [None] * len(samples)
        asked: dict[int, Sample] = dict(enumerate(samples))
        for _ in range(_MOST_ROUNDS):
            for index in list(asked):
                following, rounds[index], told[index] = asked[index].after(
                    rounds[index], told[index]
                )
                if following is None:
                    del asked[index]
                else:
                    asked[index] = following
            if not asked:
                return [
                    Answer(texts, answer.shown) for texts, answer in zip(rounds, first, strict=True)
                ]
            answers = self.generate(list(asked.values()), settings)
            for index, answer in zip(asked, answers, strict=True):
                rounds[index].append(answer.content)
        raise ValueError(
            f"{next(iter(asked.values())).name}: the task asked for more than {_MOST_ROUNDS} "
            "rounds; its doc_to_text must say when the last one is"
        )

    def _generate(
        self, samples: Sequence[Sample], settings: GenerationSettings
    ) -> list[Answer[str]]:
        inputs, shown = self._inputs(samples)
        tokenizer, prompt_tokens = self._processor.tokenizer, inputs.input_ids.shape[1]
        arguments = settings.to_generate()
        if settings.until:
            arguments["stopping_criteria"] = [
                StopAtStrings(settings.until, tokenizer, prompt_tokens)
            ]
        with self._record.stage("model"):
            output = self._model.generate(**inputs._asdict(), **arguments)
        tokens = output[:, prompt_tokens:].cpu()
        self._record.new_tokens += (tokens != tokenizer.pad_token_id).sum(1).tolist()
        texts = tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return [
            Answer(cut_at(text, settings.until).strip(), what)
            for text, what in zip(texts, shown, strict=True)
        ]

    @torch.inference_mode()
    def score(self, samples: Sequence[Sample]) -> list[Answer[tuple[float, bool]]]:
        """Score the continuations of a batch.

        Returns:
            For each continuation the mean negative log-likelihood of its tokens, and whether
            greedy decoding would give exactly these.

        Raises:
            ValueError: if a continuation has no tokens.
        """
        with _naming_out_of_memory(samples):
            return self._score(samples)

    def _score(self, samples: Sequence[Sample]) -> list[Answer[tuple[float, bool]]]:
        inputs, shown = self._inputs(samples)
        continuations = [self._continuation(sample).to(self._model.device) for sample in samples]
        ids, mask = self._append(inputs, continuations)
        length = max(map(len, continuations))  # C
        with self._record.stage("model"):
            logits = self._model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=(mask.cumsum(1) - 1).clamp(min=0),
                visual=inputs.visual,
                logits_to_keep=length + 1,
                use_cache=False,
            ).logits.float()  # (B, C + 1, vocabulary)
        scores: list[Answer[tuple[float, bool]]] = []
        for row, tokens, what in zip(logits, continuations, shown, strict=True):
            row = row[-len(tokens) - 1 : -1]
            loss = torch.nn.functional.cross_entropy(row, tokens)
            is_greedy = bool((row.argmax(-1) == tokens).all())
            scores.append(Answer((loss.item(), is_greedy), what))
        return scores

    def _inputs(self, samples: Sequence[Sample]) -> tuple[Inputs, list[dict[str, Any]]]:
        """Load the visuals of a batch, write its prompts and move both to the device.

        Returns:
            The arguments of the model, and for each sample what it is shown.
        """
        conversations: list[list[Mapping[str, Any]]] = []
        segments: list[list[VisualSegment]] = []
        shown: list[dict[str, Any]] = []
        for sample in samples:
            try:
                visuals = self._load_visuals(sample)
                segments.append([visual.segment for visual in visuals])
                shown.append(describe_visuals(visuals, sample.visuals))
                if sample.messages is None:
                    prompt = write_prompt(sample.context, segments[-1])
                    conversations.append([{"from": "human", "value": prompt}])
                else:
                    conversations.append(to_turns(sample.messages, segments[-1]))
            except ValueError as error:
                raise ValueError(f"{sample.name}: {error}") from error
        batch = self._processor.prepare(conversations, segments)
        inputs = Inputs(batch["input_ids"], batch["attention_mask"], batch["visual"])
        self._count_tokens(inputs)
        device = self._model.device
        moved = Inputs(
            inputs.input_ids.to(device),
            inputs.attention_mask.to(device),
            None if inputs.visual is None else inputs.visual.to(device),
        )
        return moved, shown

    def _load_visuals(self, sample: Sample) -> list[Visual]:
        with self._record.stage("visuals"):
            visuals = self._loader.load(sample.visuals)
        for visual, source in zip(visuals, sample.visuals, strict=True):
            self._record.count_visual(visual, source)
        return visuals

    def _count_tokens(self, inputs: Inputs) -> None:
        batch_size = len(inputs.input_ids)
        visual = (
            torch.zeros(batch_size, dtype=torch.int64)
            if inputs.visual is None
            else inputs.visual.tokens_per_sample(batch_size)
        )
        self._record.visual_tokens += visual.tolist()
        self._record.text_tokens += (inputs.attention_mask.sum(1) - visual).tolist()

    def _continuation(self, sample: Sample) -> Tensor:
        """Return the token ids of a continuation as plain text: int64 (at least 1,)."""
        tokens = self._processor.tokenizer.encode(
            str(sample.second), add_special_tokens=False, split_special_tokens=True
        )
        if not tokens:
            raise ValueError(f"{sample.name}: the continuation to be scored is empty")
        return torch.tensor(tokens)

    def _append(self, inputs: Inputs, continuations: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Join prompts and continuations: int64 (B, T) and its mask, padded on the left."""
        rows = [
            torch.cat([ids[mask.bool()], continuation])
            for ids, mask, continuation in zip(
                inputs.input_ids, inputs.attention_mask, continuations, strict=True
            )
        ]
        pad_id: Any = self._processor.tokenizer.pad_token_id
        ids = pad_sequence(rows, True, pad_id, padding_side="left")
        mask = pad_sequence([torch.ones_like(row) for row in rows], True, 0, padding_side="left")
        return ids, mask


@contextmanager
def _naming_out_of_memory(samples: Sequence[Sample]) -> Iterator[None]:
    """Turn exhausted memory into an error that names the samples and the ways out.

    Raises:
        MemoryExhaustedError: instead of the library's error.
    """
    names = [sample.name for sample in samples]
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not _is_exhausted(error):
            raise
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise MemoryExhaustedError(
            f"out of memory in a batch of {len(names)} ({', '.join(names)}): {reason}; lower "
            "batch_size (BATCH_SIZE), num_frames or max_new_tokens, then start the run again in "
            "the same folder: it continues with the samples that have no answer yet"
        ) from error


def _is_exhausted(error: RuntimeError | MemoryError) -> bool:
    """PyTorch has a kind of its own for a GPU's memory, but none for the machine's."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        "can't allocate memory" in str(error)
    )
