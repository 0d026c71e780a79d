"""Answers: time to the first token, and tokens per second with a static cache."""

import time
from collections.abc import Callable
from typing import Any

import torch

from gpu_parts.bench import COMPILED, FIRST, LAST, THEN, Bench, Figures, LeftOutError
from gpu_parts.material import build, dataset, image_token
from llava.visual.batch import pack_segments

NEW_TOKENS, TINY_NEW_TOKENS = 64, 4
INPUTS = {
    "codec, 10368 visual tokens": (0, 8),
    "frames, 10368 visual tokens": (2, 8),
    "codec, 2592 visual tokens": (1, 2),
    "frames, 2592 visual tokens": (2, 2),
}
"""Line of ``generation.jsonl``, and how many of its pictures."""


def run(bench: Bench) -> None:
    """Measure every input with a dynamic cache, then with a static one that is compiled."""
    models: list[Any] = []
    for cache in ("dynamic", "static"):
        for name in INPUTS:
            is_first, is_compiled = name == next(iter(INPUTS)), cache == "static"
            stage = (COMPILED if is_first else LAST) if is_compiled else FIRST if is_first else THEN
            case = _case(bench, name, cache, models)
            seconds = 45 if is_compiled else 15
            bench.case(f"{name}, {cache} cache", case, seconds=seconds, stage=stage)


def _case(bench: Bench, name: str, cache: str, models: list[Any]) -> Callable[[], Figures]:
    return lambda: measure(bench, name, cache, models)


def measure(bench: Bench, name: str, cache: str, models: list[Any]) -> Figures:
    """Return the figures of one input.

    Args:
        bench: this part of the run.
        name: key of ``INPUTS``.
        cache: ``dynamic``, or ``static``, which the library compiles for on a GPU.
        models: holds the model, which is built once.

    Raises:
        LeftOutError: if nothing is computed, or there are no data.
    """
    if bench.device.type == "meta":
        raise LeftOutError("nothing is computed on meta")
    line, pictures = INPUTS[name]
    prepared = time.perf_counter()
    item = dataset(bench, "generation.jsonl")[line]
    [segment] = item["segments"]
    prepared = time.perf_counter() - prepared
    cells = len(segment.patches) // len(segment.placeholder_tokens)
    ids = item["input_ids"]
    before, after = _text_around(ids)
    ids = torch.cat((before, torch.full((pictures * cells,), image_token()), after))[None]
    kept = slice(0, pictures * cells)
    segment = type(segment)(
        segment.patches[kept],
        segment.positions[kept],
        segment.placeholder_tokens[:pictures],
        segment.patches_per_token,
        segment.normalisation,
    )
    visual = pack_segments([[segment]])
    assert visual is not None
    if not models:
        models.append(build(bench, "1.7b").eval())
    model = models[0]
    model.config.use_cache = True
    count = TINY_NEW_TOKENS if bench.tiny else NEW_TOKENS
    ids, visual = ids.to(bench.device), visual.to(bench.device)

    def generate(new_tokens: int) -> None:
        model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            visual=visual,
            do_sample=False,
            max_new_tokens=new_tokens,
            min_new_tokens=new_tokens,
            **({"cache_implementation": "static"} if cache == "static" else {}),
        )

    first = bench.seconds(lambda: generate(1), most=5)
    whole = bench.seconds(lambda: generate(count), most=3)
    assert first is not None and whole is not None
    return {
        "visual_tokens": pictures * cells,
        "first_token_seconds": round(first, 4),
        "tokens_per_second": round((count - 1) / max(whole - first, 1e-6), 1),
        "prepare_seconds": round(prepared, 4),
        "peak_gigabytes": bench.peak_gigabytes(lambda: generate(count)),
    }


def _text_around(ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the text before and behind the visual tokens."""
    places = (ids == image_token()).nonzero()[:, 0]
    return ids[: int(places[0])], ids[int(places[-1]) + 1 :]
