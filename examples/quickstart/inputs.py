"""Turn what the user named into raw training records and questions.

A raw record has the published format: ``id``, ``video`` (absolute here), ``conversations``. A
question is one line of the evaluation task: ``id``, ``video``, ``question``, ``answer``, ``kind``.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cv_reader import read_index
from make_clips import DISC_QUESTION, EVENT_QUESTION, conversation, make_clips

DESCRIPTION_REQUEST = "Describe the video."
VIDEO_SUFFIXES = {
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".mts", ".m2ts", ".flv", ".wmv",
    ".mpg", ".mpeg", ".3gp", ".ogv", ".h264", ".264", ".hevc", ".h265", ".265",
}  # fmt: skip


@dataclass(frozen=True)
class Material:
    """Records to train on, and questions to evaluate with."""

    records: list[dict[str, Any]]
    questions: list[dict[str, str]]

    @property
    def keys(self) -> dict[str, str]:
        """Return the asset key of each video that a question is about, in order."""
        videos = dict.fromkeys(question["video"] for question in self.questions)
        return {video: f"video_{number:04d}" for number, video in enumerate(videos)}


def made_material(folder: Path, num_train: int, num_test: int) -> Material:
    """Make clips with known answers; no question is about a clip of the training records."""
    train = make_clips(folder, num_train)
    test = make_clips(folder, num_test, first_seed=num_train)
    records = [
        {
            "id": clip["id"],
            "video": str(folder / clip["video"]),
            "conversations": conversation(clip),
        }
        for clip in train
    ]
    questions = [
        {
            "id": f"{clip['id']}_{kind}",
            "video": str(folder / clip["video"]),
            "question": question,
            "answer": answer,
            "kind": kind,
        }
        for clip in test
        for kind, question, answer in (
            ("disc", DISC_QUESTION, clip["disc"]),
            ("event", EVENT_QUESTION, clip["colour"]),
        )
    ]
    return Material(records, questions)


def find_videos(arguments: list[Path]) -> list[Path]:
    """Return the video files among files and folders; folders are searched by suffix."""
    found: list[Path] = []
    for argument in arguments:
        if argument.is_dir():
            inside = sorted(p for p in argument.rglob("*") if p.suffix.lower() in VIDEO_SUFFIXES)
            if not inside:
                raise SystemExit(f"error: no video below {argument}; name files or another folder")
            found += inside
        elif argument.is_file():
            found.append(argument)
        else:
            raise SystemExit(f"error: {argument} does not exist; name video files or folders")
    return list(dict.fromkeys(found))


def describe(path: Path) -> str:
    """Describe a video by what its container says; its pictures are not looked at."""
    index = read_index(path)
    return (
        f"A video of {index.duration_seconds:.1f} seconds, {index.width_px} by {index.height_px} "
        f"pixels, {index.num_frames} frames, coded as {index.codec_name}."
    )


def described_material(videos: list[Path]) -> Material:
    """Return the user's videos, with their containers' descriptions as the answers to learn."""
    records, questions = [], []
    for number, path in enumerate(videos):
        answer = describe(path)
        sample_id = f"user_{number:04d}"
        request = {"from": "human", "value": f"<video>\n{DESCRIPTION_REQUEST}"}
        records.append(
            {
                "id": sample_id,
                "video": str(path),
                "conversations": [request, {"from": "gpt", "value": answer}],
            }
        )
        questions.append(
            {
                "id": sample_id,
                "video": str(path),
                "question": DESCRIPTION_REQUEST,
                "answer": answer,
                "kind": "user",
            }
        )
    return Material(records, questions)


def dataset_material(path: Path) -> Material:
    """Read a raw training file (JSON array); each question becomes a record of its own."""
    root = Path(os.environ.get("VIDEO_ROOT") or path.parent)
    records, questions = [], []
    for record in json.loads(path.read_text(encoding="utf-8")):
        video = str((root / record["video"]).resolve())
        turns = record["conversations"]
        for number, (human, answer) in enumerate(zip(turns[::2], turns[1::2], strict=True)):
            sample_id = f"{record['id']}_{number}"
            question = human["value"].replace("<video>", "").strip()
            request = {"from": "human", "value": f"<video>\n{question}"}
            records.append({"id": sample_id, "video": video, "conversations": [request, answer]})
            questions.append(
                {
                    "id": sample_id,
                    "video": video,
                    "question": question,
                    "answer": answer["value"],
                    "kind": "user",
                }
            )
    return Material(records, questions)


def user_material(arguments: list[Path]) -> Material:
    """Return the material of the named raw training files, videos and folders."""
    datasets = [path for path in arguments if path.suffix.lower() == ".json"]
    parts = [dataset_material(path) for path in datasets]
    videos = [path for path in arguments if path not in datasets]
    if videos:
        parts.append(described_material(find_videos(videos)))
    return Material(
        [record for part in parts for record in part.records],
        [question for part in parts for question in part.questions],
    )
