"""Read weight files: safetensors only, one file or an indexed set of shards."""

import json
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors.torch import load_file
from torch import Tensor

WEIGHTS_FILE = "model.safetensors"
PROJECTOR_FILE = "mm_projector.safetensors"
_HUB_PATTERNS = ["*.safetensors", "*.json", "*.txt", "*.jinja", "*.model"]


def resolve_folder(name: str) -> Path:
    """Return the folder of a checkpoint: ``name`` itself, or the Hub repository of that name.

    Raises:
        ValueError: if it is neither a folder nor a repository that can be reached.
    """
    if Path(name).is_dir():
        return Path(name)
    try:
        return Path(snapshot_download(name, allow_patterns=_HUB_PATTERNS))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, ConnectionError) as error:
        raise ValueError(
            f"{name!r} must be a folder or a repository on the hub, and is neither here; check "
            f"the path, or download it first ({type(error).__name__})"
        ) from error


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Read all weights of a folder by name, on the CPU.

    Raises:
        ValueError: if the folder holds no safetensors weights.
    """
    index = folder / f"{WEIGHTS_FILE}.index.json"
    if (folder / WEIGHTS_FILE).is_file():
        return load_file(folder / WEIGHTS_FILE)
    if index.is_file():
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        weights: dict[str, Tensor] = {}
        for shard in sorted(shards):
            weights |= load_file(folder / shard)
        return weights
    raise ValueError(
        f"{folder} must hold {WEIGHTS_FILE} or its index, got none; weights in other formats are "
        "never unpickled: convert them with safetensors first"
    )


def read_projector(path: Path) -> dict[str, Tensor]:
    """Read the weights of a projector-only file, under the full model's names.

    Args:
        path: a safetensors file whose names contain ``mm_projector.``.

    Raises:
        ValueError: if the file is absent, of another format, or holds something else.
    """
    if path.suffix != ".safetensors":
        raise ValueError(
            f"{path} must be a .safetensors file (pickles are never read); convert it: "
            "safetensors.torch.save_file(torch.load(path, weights_only=True), "
            f"'{path.stem}.safetensors')"
        )
    if not path.is_file():
        raise ValueError(
            f"{path} does not exist; projector training writes {PROJECTOR_FILE} into its output "
            "folder"
        )
    weights: dict[str, Tensor] = {}
    for name, tensor in load_file(path).items():
        _, found, rest = name.partition("mm_projector.")
        if not found:
            raise ValueError(f"{path} must hold projector weights only, got {name!r}")
        weights[f"model.mm_projector.{rest}"] = tensor
    return weights
