"""Estimate the GPU memory of a training run from the headers of weight files.

Axis letters: T tokens of a row, H language-model width.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_LENGTH_BYTES = 8
_CHUNK_ROWS = 512


@dataclass(frozen=True)
class ModelSize:
    """The sizes of a model that its memory depends on.

    Attributes:
        parameters: number of weights of the whole model.
        width: width H of the language model.
        layers: number of layers of the language model.
        vocabulary: number of tokens of the vocabulary.
    """

    parameters: int
    width: int
    layers: int
    vocabulary: int


def read_model_size(folder: Path, *others: Path) -> ModelSize:
    """Read the size of the model in ``folder``; the weights of other folders are added to it.

    Raises:
        ValueError: if a configuration or the weights are absent.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(f"{path} does not exist; give the folder of a model")
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return ModelSize(
        parameters=sum(map(count_parameters, (folder, *others))),
        width=config["hidden_size"],
        layers=config["num_hidden_layers"],
        vocabulary=config["vocab_size"],
    )


def count_parameters(folder: Path) -> int:
    """Return the number of weights in a folder's safetensors files, from their headers.

    Raises:
        ValueError: if there are none.
    """
    files = sorted(folder.glob("model*.safetensors"))
    if not files:
        raise ValueError(f"{folder} must hold model*.safetensors, got none")
    total = 0
    for path in files:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            header: dict[str, Any] = json.loads(file.read(size))
        header.pop("__metadata__", None)
        total += sum(math.prod(entry["shape"]) for entry in header.values())
    return total


def training_gigabytes(
    size: ModelSize, *, row_tokens: int, world_size: int, zero_stage: int
) -> dict[str, float]:
    """Return the memory per GPU when everything is tuned in bfloat16 with gradient checkpointing.

    Weights take 2 bytes, gradients 2, and the optimiser 12 (float32 copy and two moments), each
    divided over the ranks from ZeRO stage 3, 2 and 1 on. Activations are one input per layer and
    one layer's inner ones (about 34 times T x H). The logits of a chunk are held three times.

    Returns:
        Gigabytes (10^9 bytes) by use, and their ``sum``.
    """
    weights = 2 * size.parameters / (world_size if zero_stage >= 3 else 1)
    gradients = 2 * size.parameters / (world_size if zero_stage >= 2 else 1)
    optimiser = 12 * size.parameters / (world_size if zero_stage >= 1 else 1)
    activations = 2 * row_tokens * size.width * (size.layers + 34)
    logits = 3 * 4 * min(row_tokens, _CHUNK_ROWS) * size.vocabulary
    parts = {
        "weights": weights,
        "gradients": gradients,
        "optimiser": optimiser,
        "activations": activations,
        "logits": logits,
    }
    parts["sum"] = sum(parts.values())
    return {name: round(value / 1e9, 3) for name, value in parts.items()}
