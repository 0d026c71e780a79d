"""Every command with ``--engine``, on a few small videos, and what they write."""

import json
from pathlib import Path

from cv_reader.commands.main import main
from support.corpus import Corpus
from support.media import moving_square, write_video

_SIZE = ["--square_size", "64", "--num_images", "2", "--sequence_length", "8"]


def run_commands(root: Path, name: str, *engine: str) -> dict[str, bytes]:
    """Run stage 1, stage 2, both at once and index into ``root / name``.

    Four videos, the third of them broken.

    Returns:
        Path below the output to content, of all but ledgers and summaries.
    """
    corpus, out = Corpus(root), root / name
    for number in range(4):
        if not (root / f"{number}.mp4").exists():
            write_video(root / f"{number}.mp4", moving_square(9, 48, 64, seed=number))
    (root / "2.mp4").write_bytes(b"no video")
    data = corpus.write(root / "d.jsonl", *(corpus.row(f"{number}.mp4") for number in range(4)))
    first, second, both = (str(out / part) for part in ("first", "second", "both"))
    lines = ["--write_positions", "--video_root", str(root), "--num_workers", "2", *engine]
    for command, code in (
        (["stage1", "--out_root", first, "--video_root", str(root), *lines[3:]], 1),
        (["stage2", "--visidx_root", first, "--skip_missing", *_places(second), *lines], 0),
        (["precompute", "--stage", "1,2", "--visidx_root", both, *_places(both), *lines], 1),
        (["index", "--out", str(out / "index.jsonl"), *lines[1:]], 1),
    ):
        size = [*_SIZE, "--patch_size", "16"] if command[0] == "index" else _SIZE
        assert main([*command[:1], "--dataset_path", str(data), *command[1:], *size]) == code
    left_out = ("ledger", "summary", "failed", ".fail.")
    return {
        str(path.relative_to(out)): path.read_bytes().replace(f"{out}/".encode(), b"")
        for path in out.rglob("*")
        if path.is_file() and not any(word in path.name for word in left_out)
    }


def _places(folder: str) -> list[str]:
    return ["--out_image_root", f"{folder}/images.v1", "--out_jsonl", f"{folder}/train.jsonl"]


def failures_of(root: Path, name: str) -> list[str]:
    """Return the videos of the failure files, with their reasons."""
    files = sorted((root / name).rglob("*fail*"))
    rows = [json.loads(line) for path in files for line in path.read_text().splitlines()]
    return [f"{row['video']}: {row['reason']}" for row in rows]
