"""Encode the clips of the study with real encoders, and describe each next to it.

A clip is ``clip_000012.mp4`` with ``clip_000012.json``: questions, answers, the cells that show
the answers, codec, key-frame interval and quality. Everything follows from the clip's seed.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from llava.eval.study.drawing import NUM_FRAMES, USUAL_SIZES, Sizes
from llava.eval.study.scenes import Question, compose
from run_kit.clips import encode_clip
from run_kit.files import replace_file

FRAME_RATE = 25
KEY_FRAME_INTERVALS = (12, 30, 250)


class Drawable(Protocol):
    """What can be encoded."""

    def picture(self, frame: int) -> NDArray[np.uint8]:
        """Return one picture: uint8 (height, width, 3)."""
        ...


Composer = Callable[[int, Sizes], tuple[Drawable, list[Question], str]]


@dataclass(frozen=True)
class Encoding:
    """How a clip is encoded.

    Attributes:
        codec: ``h264`` or ``hevc``.
        key_frame_interval: frames from one key frame to the next.
        quality: the encoder's constant rate factor; lower is better.
    """

    codec: str
    key_frame_interval: int
    quality: int


@dataclass(frozen=True)
class Clip:
    """An encoded clip and what is known about it.

    Attributes:
        seed: seed of everything about it.
        path: the video.
        camera: "still", "sway", "shake" or "pan".
        encoding: how it was encoded.
        questions: questions in the order in which they are asked.
        sizes: of its pictures and cells.
    """

    seed: int
    path: Path
    camera: str
    encoding: Encoding
    questions: tuple[Question, ...]
    sizes: Sizes = USUAL_SIZES


def choose_encoding(seed: int, key_frame_interval: int | None = None) -> Encoding:
    """Return the encoding of a clip: two thirds H.264, one third HEVC, intervals equally often.

    Args:
        seed: seed of the clip.
        key_frame_interval: interval of the key frames of all clips; None varies it.
    """
    interval = key_frame_interval or KEY_FRAME_INTERVALS[seed // 3 % len(KEY_FRAME_INTERVALS)]
    quality = (20, 25, 30)[seed // 9 % 3]
    return Encoding("hevc" if seed % 3 == 2 else "h264", interval, quality)


def write_clip(
    folder: Path,
    seed: int,
    key_frame_interval: int | None = None,
    composer: Composer = compose,
    sizes: Sizes = USUAL_SIZES,
) -> Clip:
    """Compose and encode a clip, or read it where it exists.

    Args:
        folder: exists; receives the video and its description.
        seed: seed of the clip.
        key_frame_interval: see ``choose_encoding``.
        composer: makes scene, questions and a word for the camera from a seed and sizes.
        sizes: of its pictures and cells.
    """
    path = folder / f"clip_{seed:06d}.mp4"
    description = path.with_suffix(".json")
    if description.exists():
        return read_clip(description)
    scene, questions, camera = composer(seed, sizes)
    encoding = choose_encoding(seed, key_frame_interval)
    _encode(scene, path, encoding)
    clip = Clip(seed, path, camera, encoding, tuple(questions), sizes)
    with replace_file(description) as partial:
        partial.write_text(json.dumps(_to_json(clip)), encoding="utf-8")
    return clip


def _encode(scene: Drawable, path: Path, encoding: Encoding) -> None:
    """Write the video; x264 and x265 run on one thread, so that equal scenes give equal files."""
    options = {"preset": "veryfast", "crf": str(encoding.quality), "threads": "1"}
    if encoding.codec == "hevc":
        settings = f"pools=none:frame-threads=1:log-level=none:keyint={encoding.key_frame_interval}"
        options = {"preset": "ultrafast", "crf": str(encoding.quality), "x265-params": settings}
    else:
        options["g"] = str(encoding.key_frame_interval)
    codec = {"h264": "libx264", "hevc": "libx265"}[encoding.codec]
    pictures = (scene.picture(frame) for frame in range(NUM_FRAMES))
    encode_clip(path, pictures, codec=codec, frame_rate=FRAME_RATE, options=options)


def _to_json(clip: Clip) -> dict[str, Any]:
    return {
        "seed": clip.seed,
        "camera": clip.camera,
        "codec": clip.encoding.codec,
        "key_frame_interval": clip.encoding.key_frame_interval,
        "quality": clip.encoding.quality,
        "sizes": asdict(clip.sizes),
        "questions": [
            {
                "kind": question.kind,
                "answer": question.answer,
                "evidence": [sorted(group) for group in question.evidence],
            }
            for question in clip.questions
        ],
    }


def read_clip(description: Path) -> Clip:
    """Read a clip's description; the video has the same name but for the suffix."""
    content = json.loads(description.read_text(encoding="utf-8"))
    questions = tuple(
        Question(
            row["kind"],
            row["answer"],
            tuple(frozenset((t, h, w) for t, h, w in group) for group in row["evidence"]),
        )
        for row in content["questions"]
    )
    encoding = Encoding(content["codec"], content["key_frame_interval"], content["quality"])
    path = description.with_suffix(".mp4")
    # Descriptions of the first studies have no sizes: theirs were the usual ones.
    sizes = Sizes(**content.get("sizes", {}))
    return Clip(content["seed"], path, content["camera"], encoding, questions, sizes)


def covered(question: Question, rows: np.ndarray) -> bool:
    """Return whether kept cells can show the answer: at least one cell of every group is kept.

    Args:
        question: a question with its evidence.
        rows: int (N, 3), kept cells (t, h, w).
    """
    kept = set(map(tuple, rows.tolist()))
    return all(not kept.isdisjoint(group) for group in question.evidence)
