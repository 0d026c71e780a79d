"""Write one training file with every kind of record: codec, uniform frames, image, text."""

import json
from pathlib import Path
from typing import Any

from PIL import Image

from make_clips import COLOURS

NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
PICTURE_SIZE_PX = 112


def picture_records(folder: Path) -> list[dict[str, Any]]:
    """Write a picture of each colour on three grounds; returns records with a question each."""
    folder.mkdir(parents=True, exist_ok=True)
    records = []
    for name, colour in COLOURS.items():
        for ground in (96, 128, 160):
            picture = Image.new("RGB", (PICTURE_SIZE_PX, PICTURE_SIZE_PX), (ground,) * 3)
            quarter = PICTURE_SIZE_PX // 4
            picture.paste(colour, (quarter, quarter, 3 * quarter, 3 * quarter))
            path = folder / f"{name}_{ground}.png"
            picture.save(path)
            records.append(
                {
                    "id": f"picture_{name}_{ground}",
                    "image": str(path),
                    "conversations": [
                        {"from": "human", "value": "<image>\nWhich colour is the square?"},
                        {"from": "gpt", "value": name},
                    ],
                }
            )
    return records


def text_records() -> list[dict[str, Any]]:
    """Return sums in words, samples without pictures."""
    return [
        {
            "id": f"sum_{a}_{b}",
            "conversations": [
                {"from": "human", "value": f"What is {NUMBER_WORDS[a]} plus {NUMBER_WORDS[b]}?"},
                {"from": "gpt", "value": NUMBER_WORDS[a + b]},
            ],
        }
        for a in range(5)
        for b in range(5)
    ]


def write_mixture(
    target: Path, codec: Path, records: list[dict[str, Any]], num_frames: int
) -> Path:
    """Write one JSONL: codec samples, the same videos as uniform frames, pictures, text.

    Few videos are repeated, so that they make up at least half of the mixture.
    """
    videos = [json.loads(line) for line in codec.read_text(encoding="utf-8").splitlines()]
    videos += [{**row, "id": f"{row['id']}_frames", "num_frames": num_frames} for row in records]
    others = picture_records(target.parent / "pictures") + text_records()
    rows = videos * max(1, round(len(others) / len(videos))) + others
    target.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return target
