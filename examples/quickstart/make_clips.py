"""Make clips with known answers, by real encoders (H.264 with B frames, and HEVC).

In each clip a bright or dark disc moves over a still, textured background, and a striped coloured
square crosses a part of the picture in four of the 64 frames. Two questions follow: is the disc
bright or dark (any frame tells), and which colour appeared for a moment (only those four frames
tell).

    python examples/quickstart/make_clips.py --out DIR [--num_clips 8] [--first_seed 0]
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from run_kit.clips import encode_clip

SIZE_PX = 256
NUM_FRAMES = 64
FRAME_RATE = 25
EVENT_FRAMES = 4
EVENT_SIZE_PX = 48
EVENT_STEP_PX = 10
STRIPE_PX = 8
DISC_RADIUS_PX = 24
DISC_LUMA = {"bright": 235, "dark": 20}
COLOURS = {
    "red": (225, 40, 40),
    "green": (40, 190, 60),
    "blue": (45, 75, 235),
    "yellow": (240, 220, 40),
}
DISC_QUESTION = "Is the moving disc bright or dark?"
EVENT_QUESTION = "Which colour appears for a moment?"
ENCODERS = (
    ("h264", "libx264", {"preset": "veryfast", "crf": "23", "bf": "2", "threads": "1"}),
    (
        "hevc",
        "libx265",
        {"preset": "ultrafast", "crf": "26", "x265-params": "pools=none:log-level=none"},
    ),
)


def background(rng: np.random.Generator) -> np.ndarray:
    """Return a smooth grey texture, float32 (SIZE_PX, SIZE_PX, 3)."""
    coarse = Image.fromarray(rng.normal(128, 18, (12, 12)).astype(np.float32))
    grey = np.asarray(coarse.resize((SIZE_PX, SIZE_PX), Image.Resampling.BICUBIC))
    return np.repeat(grey[..., None], 3, axis=2)


def disc_path(rng: np.random.Generator) -> np.ndarray:
    """Return the centres (y, x) of a disc that moves straight and bounces, (NUM_FRAMES, 2)."""
    low, high = DISC_RADIUS_PX, SIZE_PX - DISC_RADIUS_PX
    start = rng.uniform(low, high, 2)
    angle = rng.uniform(0, 2 * np.pi)
    travelled = start + np.outer(
        np.arange(NUM_FRAMES), 2.5 * np.array([np.sin(angle), np.cos(angle)])
    )
    folded = (travelled - low) % (2 * (high - low))
    return low + np.minimum(folded, 2 * (high - low) - folded)


def clip_frames(seed: int, disc: str, colour: str) -> Iterator[np.ndarray]:
    """Yield the pictures of one clip, uint8 (SIZE_PX, SIZE_PX, 3)."""
    rng = np.random.default_rng(seed)
    scene = background(rng)
    centres = disc_path(rng)
    first_event_frame = int(rng.integers(2, NUM_FRAMES - EVENT_FRAMES - 1))
    travel = EVENT_STEP_PX * (EVENT_FRAMES - 1)
    top = int(rng.integers(8, SIZE_PX - EVENT_SIZE_PX - 8))
    left = int(rng.integers(8, SIZE_PX - EVENT_SIZE_PX - travel - 8))
    striped = np.full((EVENT_SIZE_PX, EVENT_SIZE_PX, 3), COLOURS[colour], np.float32)
    striped[:, np.arange(EVENT_SIZE_PX) // STRIPE_PX % 2 == 1] *= 0.4
    rows, columns = np.mgrid[:SIZE_PX, :SIZE_PX]
    for index, (y, x) in enumerate(centres):
        picture = scene.copy()
        distance = np.hypot(rows - y, columns - x)
        cover = np.clip(DISC_RADIUS_PX + 0.5 - distance, 0, 1)[..., None]
        picture += cover * (DISC_LUMA[disc] - picture)
        step = index - first_event_frame
        if 0 <= step < EVENT_FRAMES:
            x_px = left + EVENT_STEP_PX * step
            picture[top : top + EVENT_SIZE_PX, x_px : x_px + EVENT_SIZE_PX] = striped
        yield np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def make_clips(folder: Path, num_clips: int, first_seed: int = 0) -> list[dict[str, str]]:
    """Encode clips that are not there yet.

    Returns:
        One entry per clip: ``id``, ``video`` (file name below ``folder``), ``codec``, ``disc`` and
        ``colour``. Every codec, disc and colour is equally frequent in each run of 16 clips.
    """
    folder.mkdir(parents=True, exist_ok=True)
    clips = []
    for seed in range(first_seed, first_seed + num_clips):
        name, codec, options = ENCODERS[seed % 2]
        disc = list(DISC_LUMA)[seed // 2 % 2]
        colour = list(COLOURS)[seed // 4 % 4]
        path = folder / f"clip_{seed:04d}_{name}.mp4"
        if not path.exists():
            frames = clip_frames(seed, disc, colour)
            encode_clip(path, frames, codec=codec, frame_rate=FRAME_RATE, options=options)
        clips.append(
            {
                "id": f"clip_{seed:04d}",
                "video": path.name,
                "codec": name,
                "disc": disc,
                "colour": colour,
            }
        )
    return clips


def conversation(clip: dict[str, str]) -> list[dict[str, str]]:
    """Return both questions about a clip with their answers; the order depends on the clip."""
    pairs = [(DISC_QUESTION, clip["disc"]), (EVENT_QUESTION, clip["colour"])]
    if np.random.default_rng(int(clip["id"].removeprefix("clip_"))).random() < 0.5:
        pairs.reverse()
    turns = [
        {"from": speaker, "value": value}
        for question, answer in pairs
        for speaker, value in (("human", question), ("gpt", answer))
    ]
    turns[0]["value"] = f"<video>\n{turns[0]['value']}"
    return turns


def main() -> None:
    parser = argparse.ArgumentParser(description="Make clips and their raw training JSON.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--num_clips", type=int, default=8, help="number of clips")
    parser.add_argument(
        "--first_seed", type=int, default=0, help="seed of the first clip; each next one counts up"
    )
    options = parser.parse_args()
    clips = make_clips(options.out, options.num_clips, options.first_seed)
    records = [
        {"id": clip["id"], "video": clip["video"], "conversations": conversation(clip)}
        for clip in clips
    ]
    target = options.out / "raw_videos.json"
    target.write_text(json.dumps(records, indent=2) + "\n", encoding="utf-8")
    print(f"{len(records)} clips and {target}")


if __name__ == "__main__":
    main()
