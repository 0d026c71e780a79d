"""Write the files of a smoke run: a tiny checkpoint and a small mixed data set of random pictures.

Run: ``python -m llava.train.smoke --out DIR``. It writes ``DIR/model``, ``DIR/data/train.jsonl``
with codec, image and text samples, and ``DIR/data/captions.jsonl`` with its images alone.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from llava.model.tiny import write_tiny_checkpoint
from run_kit.arguments import command_parser
from run_kit.exits import OK

GRID_PATCHES = 8
CELL_PX = 16
NUM_MOSAICS = 2


def write_mixture(
    folder: Path,
    *,
    kinds: Sequence[str] = ("codec", "image", "text"),
    samples_per_kind: int = 4,
    seed: int = 0,
) -> Path:
    """Write samples of all kinds in turn, with their files next to them.

    Args:
        folder: folder to write to.
        kinds: kinds of samples: ``codec``, ``image``, ``images`` (two of them) and ``text``.
        samples_per_kind: number of samples of each kind; each has an answer of its own.
        seed: seed of pictures and positions.

    Returns:
        ``train.jsonl``; ``captions.jsonl`` next to it holds the single images alone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    entries = [
        _KINDS[kind](folder, f"{kind}_{number}", random)
        for number in range(samples_per_kind)
        for kind in kinds
    ]
    _write_jsonl(folder / "captions.jsonl", [row for row in entries if _has_one_image(row)])
    return _write_jsonl(folder / "train.jsonl", entries)


def _has_one_image(entry: dict[str, Any]) -> bool:
    return isinstance(entry.get("image"), str)


def _write_jsonl(path: Path, entries: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")
    return path


def _entry(name: str, question: str, answer: str, **fields: Any) -> dict[str, Any]:
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"id": name, "conversations": turns, **fields}


def _image_entry(folder: Path, name: str, random: np.random.Generator) -> dict[str, Any]:
    image = _write_picture(folder / f"{name}.png", random)
    return _entry(name, "<image>\nWhich picture?", name, image=image)


def _images_entry(folder: Path, name: str, random: np.random.Generator) -> dict[str, Any]:
    images = [_write_picture(folder / f"{name}_{i}.png", random) for i in range(2)]
    return _entry(name, "<image>\n<image>\nWhich pair?", name, image=images)


def _text_entry(folder: Path, name: str, random: np.random.Generator) -> dict[str, Any]:
    number = int(name.rpartition("_")[2])
    return _entry(name, f"Count on from {number}.", f"{number + 1}, {number + 2}")


def _codec_entry(folder: Path, name: str, random: np.random.Generator) -> dict[str, Any]:
    images = [_write_picture(folder / f"{name}_{i:03d}.png", random) for i in range(NUM_MOSAICS)]
    cells = GRID_PATCHES**2
    chosen = random.choice(64 * cells, NUM_MOSAICS * cells, replace=False)
    t, cell = np.divmod(np.sort(chosen), cells)
    positions = np.stack((t, cell // GRID_PATCHES, cell % GRID_PATCHES), axis=1)
    np.save(folder / f"{name}.npy", positions.astype(np.int32))
    question = "<image>\n" * NUM_MOSAICS + "Which clip?"
    return _entry(name, question, name, image=images, positions_thw=f"{name}.npy")


def _write_picture(path: Path, random: np.random.Generator) -> str:
    side = GRID_PATCHES * CELL_PX
    colours = random.integers(0, 256, (GRID_PATCHES, GRID_PATCHES, 3), dtype=np.uint8)
    Image.fromarray(colours).resize((side, side), Image.Resampling.NEAREST).save(path)
    return path.name


_KINDS = {
    "codec": _codec_entry,
    "image": _image_entry,
    "images": _images_entry,
    "text": _text_entry,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = command_parser("llava.train.smoke", "Write the files of a smoke run.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    args = parser.parse_args(argv)
    write_tiny_checkpoint(args.out / "model", patches_per_side=GRID_PATCHES)
    write_mixture(args.out / "data")
    sys.stdout.write(f"{args.out}\n")
    return OK


if __name__ == "__main__":
    sys.exit(main())
