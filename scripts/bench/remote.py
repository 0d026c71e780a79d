"""What precompute reads of long videos of an object store, against their size.

    python scripts/bench/remote.py [VIDEO ...] [--store s3://BUCKET/FOLDER]

Without videos, a clip of 360p is made, and repeated for a minute and for an hour. Without
``--store``, a folder of this machine serves as one, by ``file://``: bytes and requests are the same
with every store. Each video is uploaded, and an asset of it made twice: by ranges
(``--fetch_whole_mib 0``), and on this machine; their mosaics and positions must be the same. Prints
a Markdown table.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Generator
from pathlib import Path

from clips import looped, made_clip

COMMAND = [sys.executable, "-m", "cv_reader.commands.main", "precompute", "--num_workers", "1"]
MIB = 1 << 20


def main() -> None:
    """Measure each video, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("videos", nargs="*", type=Path, help="videos to measure")
    parser.add_argument("--store", help="folder of a store to use (default: one of this machine)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        store = args.store or f"file://{folder}/store"
        print("| 64 frames of | size | read | of the size | requests |\n|---|---|---|---|---|")
        for path in args.videos or _made(root):
            print(_row(path, store, root), flush=True)


def _made(root: Path) -> Generator[Path]:
    clip = made_clip(root, "h264", 360, 640, 300)
    for times in (6, 360):
        yield looped(clip, times)


def _row(path: Path, store: str, root: Path) -> str:
    from cv_reader.remote.transfer import put_file

    size = path.stat().st_size
    put_file(path, f"{store}/{path.name}")
    row = json.dumps({"video": path.name, "key": "x"}) + "\n"
    outputs: list[Path] = []
    for name, place, more in (
        ("remote", store, ["--fetch_whole_mib", "0", "--cache_root", str(root / "cache")]),
        ("local", str(path.parent), []),
    ):
        out = root / f"{path.stem}_{name}"
        (root / "list.jsonl").write_text(row)
        command = [*COMMAND, "--jsonl", str(root / "list.jsonl"), "--video_root", place, *more]
        subprocess.run([*command, "--out_root", str(out)], check=True, stderr=subprocess.DEVNULL)
        outputs.append(out)
    remote, local = (_files(out / "assets" / "x") for out in outputs)
    assert remote == local, "an asset made by ranges differs from one made on this machine"
    moved = json.loads((outputs[0] / "summary.shard00of01.json").read_text())["remote"]
    read = moved["bytes_read"]
    return (
        f"| {path.name} | {size / MIB:.1f} MiB | {read / MIB:.1f} MiB | {read / size:.1%} |"
        f" {moved['requests']} |"
    )


def _files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name != "meta.json"}


if __name__ == "__main__":
    main()
