"""Make training data from a large made-up data set with faults, and check the list of failures.

A few small clips serve thousands of rows. One row in a hundred has one of the faults of ``FAULTS``;
every other row must become a sample, and every faulty one a line of the failure file. A second run
over damaged output must make exactly the damaged samples again.

Run: ``python scripts/fuzz/data_set.py --rows 20000 --out FOLDER``. Exit code 0: all as expected.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np

SIZES = ["--square_size", "64", "--num_images", "2", "--sequence_length", "8"]
CLIPS = 6
FAULT_SHARE = 0.01

Row = dict[str, Any]


def turns(question: str, answer: str = "A square.") -> list[dict[str, str]]:
    """Return a conversation of one question and one answer."""
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


def nested(depth: int) -> list[Any]:
    """Return lists inside each other."""
    content: list[Any] = []
    for _ in range(depth):
        content = [content]
    return content


FAULTS: dict[str, Callable[[Row], Row | str]] = {
    "broken line": lambda row: json.dumps(row)[:-5],
    "no object": lambda row: "[1, 2]",
    "no UTF-8": lambda row: '{"id": "\udcff\udcfe"}',
    "no id": lambda row: row | {"id": None},
    "id of another type": lambda row: row | {"id": [1]},
    "no video": lambda row: row | {"video": ""},
    "video .": lambda row: row | {"video": "."},
    "video /": lambda row: row | {"video": "/"},
    "video with NUL": lambda row: row | {"video": "a\0.mp4"},
    "lone surrogate in a path": lambda row: row | {"video": "\ud83d.mp4"},
    "row index infinite": lambda row: row | {"_row_idx": float("inf")},
    "row index huge": lambda row: row | {"_row_idx": 10**400},
    "missing file": lambda row: row | {"video": "missing.mp4"},
    "long name": lambda row: row | {"video": "n" * 5000 + ".mp4"},
    "folder": lambda row: row | {"video": "folder.mp4"},
    "empty file": lambda row: row | {"video": "empty.mp4"},
    "text file": lambda row: row | {"video": "text.mp4"},
    "cut file": lambda row: row | {"video": "cut.mp4"},
    "noise": lambda row: row | {"video": "noise.mp4"},
    "no conversation": lambda row: row | {"conversations": "none"},
    "no human turn": lambda row: row | {"conversations": [{"from": "gpt", "value": "x"}]},
    "two videos": lambda row: row | {"conversations": turns("<video> or <video>?")},
    "three images": lambda row: row | {"conversations": turns("<image>" * 3)},
    "huge id": lambda row: row | {"id": "i" * 10_000_000, "video": "missing.mp4"},
    "deep row": lambda row: row | {"id": None, "x": nested(900)},
    "endless nesting": lambda row: '{"id": "deep", "x": ' + "[" * 100_000,
    "line of 40 MB": lambda row: json.dumps(row | {"x": "y" * 40_000_000}),
}
"""Name of a fault to what makes a sound row faulty."""

VARIANTS: list[Callable[[Row], Row]] = [
    lambda row: row | {"conversations": [*turns("Hi", "Hello."), *turns("<video>\nWhat?")]},
    lambda row: row | {"conversations": turns("<video>\nWhich tag?", "The <image> tag.")},
    lambda row: row | {"conversations": turns("<image>\nWhat?")},
    lambda row: row | {"conversations": turns("What moves?")},
    lambda row: row | {"conversations": turns("<video>\nNice \ud83d")},
    lambda row: row | {"id": f"../{row['id']}/ä*?"},
]
"""Rows of unusual form that are sound."""


def write_clips(folder: Path) -> None:
    """Write small clips of a moving square, and files that are no videos."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(CLIPS):
        with av.open(str(folder / f"{number}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for index in range(12 + number):
                pixels = np.full((48, 64, 3), 40, np.uint8)
                pixels[8:24, 2 * index : 2 * index + 16] = 220
                picture = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                container.mux(stream.encode(picture))
            container.mux(stream.encode(None))
    (folder / "folder.mp4").mkdir(exist_ok=True)
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("no video\n" * 100)
    whole = (folder / "0.mp4").read_bytes()
    (folder / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (folder / "noise.mp4").write_bytes(random.Random(0).randbytes(4096))


def write_rows(path: Path, num_rows: int) -> tuple[dict[int, str], list[str]]:
    """Write the data set.

    Returns:
        Line number to fault, and the ids of the sound rows in order.
    """
    chance = random.Random(1)
    names = list(FAULTS)
    faulty = sorted(chance.sample(range(1, num_rows + 1), int(num_rows * FAULT_SHARE)))
    faults = {line: names[number % len(names)] for number, line in enumerate(faulty)}
    sound: list[str] = []
    with path.open("w", encoding="utf-8", errors="surrogateescape") as stream:
        for line in range(1, num_rows + 1):
            row: Row = {
                "id": f"s{line}",
                "video": f"{line % CLIPS}.mp4",
                "conversations": turns("<video>\nWhat moves?"),
            }
            if line in faults:
                made = FAULTS[faults[line]](row)
            else:
                made = VARIANTS[line % 50](row) if line % 50 < len(VARIANTS) else row
                sound.append(str(made["id"]))
            stream.write((made if isinstance(made, str) else json.dumps(made)) + "\n")
    return faults, sound


def run(arguments: list[str]) -> tuple[int, float, int, str]:
    """Run ``cv_reader``: exit code, seconds, peak memory of the parent in MiB, messages."""
    command = [sys.executable, "-m", "cv_reader.commands.main", *arguments]
    log = Path(arguments[-1] + ".log")
    started, peak = time.monotonic(), 0
    with log.open("w") as stream:
        process = subprocess.Popen(command, stderr=stream)
        while process.poll() is None:
            status = Path(f"/proc/{process.pid}/status").read_text().split()
            if "VmHWM:" in status:
                peak = max(peak, int(status[status.index("VmHWM:") + 1]) // 1024)
            time.sleep(0.2)
    return process.returncode, time.monotonic() - started, peak, log.read_text(errors="replace")


def damage(folders: list[Path]) -> None:
    """Damage assets in several ways."""
    ways: list[Callable[[Path], object]] = [
        lambda folder: (folder / "meta.json").write_bytes(b""),
        lambda folder: (folder / "meta.json").write_text("[" * 100_000),
        lambda folder: (folder / "meta.json").unlink(),
        lambda folder: (folder / "meta.json").write_text('{"schema_version": 1, "cfg": []}'),
        lambda folder: _zero(next(folder.glob("*_001.jpg"))),
        lambda folder: _zero(folder / "positions_thw.npy"),
        lambda folder: (folder / "frame_ids.npy").unlink(),
    ]
    for number, folder in enumerate(folders):
        ways[number % len(ways)](folder)


def _zero(path: Path) -> None:
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:200] + b"\0" * (size - 200))


def main() -> int:
    """Run the check, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000, help="number of rows of the data set")
    parser.add_argument("--out", type=Path, required=True, help="empty folder to write to")
    args = parser.parse_args()
    out: Path = args.out.resolve()
    write_clips(out / "videos")
    data = out / "data.jsonl"
    faults, sound = write_rows(data, args.rows)
    lines, failures = out / "train.jsonl", out / "failures.jsonl"
    command = ["precompute", "--stage", "1,2", "--dataset_path", str(data), *SIZES]
    command += ["--video_root", str(out / "videos"), "--visidx_root", str(out / "first")]
    command += ["--out_image_root", str(out / "images"), "--write_positions"]
    command += ["--num_workers", str(os.cpu_count() or 1), "--log_every", "5000"]
    command += ["--fail_txt", str(failures), "--out_jsonl", str(lines)]
    wrong: list[str] = []

    def check(what: str, holds: bool) -> None:
        print(f"{'ok' if holds else 'WRONG'}: {what}")
        if not holds:
            wrong.append(what)

    def check_lists(name: str) -> None:
        failed = [json.loads(line) for line in failures.open(encoding="utf-8")]
        places = [int(record["where"].rpartition(":")[2]) for record in failed]
        check(f"{name}: {len(places)} failures, those of the {len(faults)} faults, in order",
              places == sorted(faults))  # fmt: skip
        unexpected = {r["reason"][:200] for r in failed if "details" in r}
        check(f"{name}: no failure has a traceback {sorted(unexpected)}", not unexpected)
        ids = [json.loads(line)["id"] for line in lines.open(encoding="utf-8")]
        check(f"{name}: {len(ids)} samples, the {len(sound)} sound rows in order", ids == sound)

    code, seconds, peak_mib, shown = run(command)
    print(f"first run: exit code {code}, {seconds:.1f} s, "
          f"{len(sound) / seconds:.1f} samples/s, parent {peak_mib} MiB")  # fmt: skip
    check("first run: exit code 1, no traceback", code == 1 and "Traceback" not in shown)
    check_lists("first run")
    folders = sorted((out / "images").iterdir())
    damaged = random.Random(2).sample(folders, max(len(folders) // 100, 1))
    damage(damaged)
    code, seconds, peak_mib, shown = run(command)
    print(f"second run: exit code {code}, {seconds:.1f} s, parent {peak_mib} MiB")
    check("second run: exit code 1, no traceback", code == 1 and "Traceback" not in shown)
    summary = json.loads(Path(f"{lines}.summary.json").read_text())
    check(f"second run: {summary['remade']} made again of {len(damaged)} damaged",
          summary["made"] == summary["remade"] == len(damaged))  # fmt: skip
    check_lists("second run")
    code, seconds, _, _ = run(["validate", str(out / "images")])
    print(f"validate: exit code {code}, {seconds:.1f} s")
    check("validate: all sound", code == 0)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
