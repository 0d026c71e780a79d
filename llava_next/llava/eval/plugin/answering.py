"""Samples through the model: batches of prompts and visuals to answers or scores, all counted.

Axis letters: B samples of a batch, T tokens, C tokens of the longest continuation.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import GenerationConfig

from llava.eval.plugin.generation import GenerationSettings, StopAtStrings, cut_at
from llava.eval.plugin.manifest import RunRecord, describe_visuals
from llava.eval.plugin.requests import Sample, write_prompt
from llava.eval.plugin.visuals import VisualLoader
from llava.model.loading import LlavaForCausalLMMixin
from llava.model.processing import LlavaProcessor
from llava.visual.batch import VisualBatch, VisualSegment


class MemoryExhaustedError(ValueError):
    """Samples that did not fit into memory."""


class Inputs(NamedTuple):
    """A batch on the model's device: int64 (B, T), int64 (B, T), padded on the left."""

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
        """Of the model's weights."""
        return self._model.dtype

    @torch.inference_mode()
    def generate(self, samples: Sequence[Sample], settings: GenerationSettings) -> list[str]:
        """Answers, stop strings and what follows them cut off, ends stripped."""
        with _naming_out_of_memory(samples):
            return self._generate(samples, settings)

    def _generate(self, samples: Sequence[Sample], settings: GenerationSettings) -> list[str]:
        inputs = self._inputs(samples)
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
        return [cut_at(text, settings.until).strip() for text in texts]

    @torch.inference_mode()
    def score(self, samples: Sequence[Sample]) -> list[tuple[float, bool]]:
        """For each continuation the mean negative log-likelihood of its tokens, and whether greedy
        decoding would give exactly these.

        Raises:
            ValueError: if a continuation has no tokens.
        """
        with _naming_out_of_memory(samples):
            return self._score(samples)

    def _score(self, samples: Sequence[Sample]) -> list[tuple[float, bool]]:
        inputs = self._inputs(samples)
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
        scores: list[tuple[float, bool]] = []
        for row, tokens in zip(logits, continuations, strict=True):
            row = row[-len(tokens) - 1 : -1]
            loss = torch.nn.functional.cross_entropy(row, tokens)
            scores.append((loss.item(), bool((row.argmax(-1) == tokens).all())))
        return scores

    def _inputs(self, samples: Sequence[Sample]) -> Inputs:
        """Load the visuals of a batch, write its prompts, move both to the device."""
        conversations: list[list[dict[str, str]]] = []
        segments: list[list[VisualSegment]] = []
        for sample in samples:
            try:
                segments.append(self._visuals(sample))
                prompt = write_prompt(sample.context, segments[-1])
            except ValueError as error:
                raise ValueError(f"{sample.name}: {error}") from error
            conversations.append([{"from": "human", "value": prompt}])
        batch = self._processor(conversations, segments)
        inputs = Inputs(batch["input_ids"], batch["attention_mask"], batch["visual"])
        self._count_tokens(inputs)
        return Inputs(
            inputs.input_ids.to(self._model.device),
            inputs.attention_mask.to(self._model.device),
            None if inputs.visual is None else inputs.visual.to(self._model.device),
        )

    def _visuals(self, sample: Sample) -> list[VisualSegment]:
        with self._record.stage("visuals"):
            visuals = self._loader.load(sample.visuals)
        for visual, source in zip(visuals, sample.visuals, strict=True):
            self._record.count_visual(visual, source)
        self._record.shown[sample.name] = describe_visuals(visuals, sample.visuals)
        return [visual.segment for visual in visuals]

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
        """Token ids of a continuation as plain text, int64 (at least 1,)."""
        tokens = self._processor.tokenizer.encode(
            str(sample.second), add_special_tokens=False, split_special_tokens=True
        )
        if not tokens:
            raise ValueError(f"{sample.name}: the continuation to be scored is empty")
        return torch.tensor(tokens)

    def _append(self, inputs: Inputs, continuations: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Prompts with their continuations, int64 (B, T), and the mask; padded on the left."""
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
            "batch_size (BATCH_SIZE), num_frames or max_new_tokens; started again in the same "
            "folder, the run goes on where it stopped"
        ) from error


def _is_exhausted(error: RuntimeError | MemoryError) -> bool:
    """PyTorch has a kind of its own for a GPU's memory, but none for the machine's."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        "can't allocate memory" in str(error)
    )
