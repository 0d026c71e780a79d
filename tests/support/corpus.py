"""A folder of videos, and data sets that name them."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Corpus:
    """A folder of videos, and rows that name them."""

    root: Path

    def row(self, video: str, **fields: Any) -> dict[str, Any]:
        """A sample with one question about a video."""
        turns = [
            {"from": "human", "value": "<video>\nWhat moves?"},
            {"from": "gpt", "value": "A square."},
        ]
        return {"id": Path(video).stem, "video": video, "conversations": turns, **fields}

    def write(self, path: Path, *rows: object) -> Path:
        """A ``.json`` or ``.jsonl`` data set; strings are written as they are."""
        if path.suffix == ".json":
            path.write_text(json.dumps(rows))
        else:
            lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
            path.write_text("".join(f"{line}\n" for line in lines))
        return path
