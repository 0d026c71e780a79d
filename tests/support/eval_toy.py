"""Material of a small evaluation: its settings, its questions, a local lmms-eval task."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CODEC_ARGUMENTS = {
    "codec_seq_len_frames": 8,
    "codec_num_images": 2,
    "codec_square_size": 64,
    "codec_patch_size": 8,
}
"""Small assets: 2 mosaics of 8 x 8 cells from 8 frames, the tiny model's own grid."""


@dataclass(frozen=True)
class Toy:
    """Material of a small evaluation.

    Attributes:
        model: tiny checkpoint.
        videos: made clips; ``b/clip.mp4`` and ``a/clip.mp4`` share a stem.
        images: two pictures.
        assets: folder that holds an asset for each clip, keys relative to ``video_root``.
        video_root: folder that holds the clips.
    """

    model: Path
    videos: tuple[Path, ...]
    images: tuple[Path, ...]
    assets: Path
    video_root: Path

    def arguments(self, **changes: object) -> dict[str, Any]:
        """Arguments of the plug-in that evaluate on these assets."""
        values: dict[str, object] = {
            "pretrained": self.model,
            "codec_root": self.assets,
            "max_new_tokens": 6,
            "device": "cpu",
            **CODEC_ARGUMENTS,
            **changes,
        }
        return {name: value for name, value in values.items() if value is not None}

    @property
    def documents(self) -> list[dict[str, Any]]:
        """Three questions on videos, one on two images, one without visuals."""
        on_videos = [
            {"media": [str(video)], "question": f"What moves in clip {number}?"}
            for number, video in enumerate(self.videos)
        ]
        on_images = {"media": [str(image) for image in self.images], "question": "What differs?"}
        return [*on_videos, on_images, {"media": [], "question": "Name a colour."}]


KILLS_RANK_1 = "Does this question kill a process?"

_UTILS = """
import os
import signal

from PIL import Image


def doc_to_visual(doc):
    if doc["question"] == "Does this question kill a process?" and os.environ.get("RANK") == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    return [Image.open(path) if path.endswith(".png") else path for path in doc["media"]]


def doc_to_text(doc):
    return doc["question"]


def process_results(doc, results):
    return {"length": float(len(results[0]))}
"""

_TASK = """
task: toy_video
dataset_path: json
dataset_kwargs:
  data_files:
    test: {documents}
test_split: test
output_type: generate_until
doc_to_visual: !function utils.doc_to_visual
doc_to_text: !function utils.doc_to_text
doc_to_target: question
process_results: !function utils.process_results
generation_kwargs:
  max_new_tokens: 6
  do_sample: false
metric_list:
  - metric: length
    aggregation: mean
    higher_is_better: true
"""


def write_toy_task(folder: Path, documents: list[dict[str, Any]]) -> Path:
    """Write the local task ``toy_video`` over documents; returns the folder to include."""
    folder.mkdir()
    listing = folder / "documents.jsonl"
    listing.write_text("".join(json.dumps(document) + "\n" for document in documents))
    (folder / "utils.py").write_text(_UTILS)
    (folder / "toy_video.yaml").write_text(_TASK.format(documents=listing))
    return folder
