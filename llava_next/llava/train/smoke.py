"""Write what a smoke run needs: a tiny checkpoint and a small mixed data set of random pictures.

Run: ``python -m llava.train.smoke --out DIR``: makes ``DIR/model``, ``DIR/data/train.jsonl`` with
codec, image and text samples, and ``DIR/data/captions.jsonl`` with its images alone.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from llava.model.tiny import write_tiny_checkpoint

GRID_PATCHES = 8
CELL_PX = 16
NUM_MOSAICS = 2


def write_mixture(folder: Path, *, samples_per_kind: int = 4, seed: int = 0) -> Path:
    """Write codec, image and text samples in turn, with their files beside them.

    Returns:
        ``train.jsonl``; ``captions.jsonl`` beside it holds the images alone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    entries: list[dict[str, Any]] = []
    for number in range(samples_per_kind):
        entries += [
            _codec_entry(folder, f"codec_{number}", random),
            _image_entry(folder, f"image_{number}", random),
            _entry(f"text_{number}", "Count on.", f"{number}, {number + 1}"),
        ]
    _write_jsonl(folder / "captions.jsonl", entries[1::3])
    return _write_jsonl(folder / "train.jsonl", entries)


def _write_jsonl(path: Path, entries: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")
    return path


def _entry(name: str, question: str, answer: str, **fields: Any) -> dict[str, Any]:
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"id": name, "conversations": turns, **fields}


def _image_entry(folder: Path, name: str, random: np.random.Generator) -> dict[str, Any]:
    image = _write_picture(folder / f"{name}.png", random)
    return _entry(name, "<image>\nWhich picture?", name, image=image)


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


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Write what a smoke run needs.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    args = parser.parse_args(argv)
    write_tiny_checkpoint(args.out / "model", patches_per_side=GRID_PATCHES)
    write_mixture(args.out / "data")
    sys.stdout.write(f"{args.out}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
