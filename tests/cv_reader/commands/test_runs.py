"""Whole runs under trouble: odd names, a full disk, two at once, kills."""

import contextlib
import errno
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from cv_reader.assets.claims import claimed_output
from cv_reader.assets.contract import read_asset
from cv_reader.assets.files import temporary_path
from cv_reader.commands import precompute, stage2, stats, validate, visualize
from cv_reader.select import mosaics as library
from support.corpus import Corpus
from support.media import moving_square, write_video
from support.paths import ROOT
from support.small_disk import remount, small_disk

SMALL = ["--square_size", "64", "--num_images", "2", "--seq_len_frames", "8"]
TOOL = ROOT / "Compressed_Video_Reader" / "tool" / "offline_precompute_llava_codec_assets.py"


def _args(data: Path, out: Path, *extra: str) -> list[str]:
    return ["--jsonl", str(data), "--out_root", str(out), *SMALL, *extra]


def _stages(data: Path, out: Path, *extra: str) -> int:
    return stage2.main_of_both([
        "--dataset_path", str(data), "--visidx_root", str(out / "first"),
        "--out_image_root", str(out / "images"), "--out_jsonl", str(out / "train.jsonl"),
        "--square_size", "64", "--keep_frames_equiv", "2", "--sequence_length", "8",
        "--write_positions", *extra,
    ])  # fmt: skip


def test_odd_names_and_duplicates(corpus: Corpus, tmp_path: Path) -> None:
    for folder in "ab":
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "clip.mp4").symlink_to(corpus.root / "short.mp4")
    names = ["x" * 300, "ä/ö", "..", ".hidden", "a b\n", "日本語" * 60, "*?[1]", "same", "same", 7]
    rows = [corpus.row(f"{'ab'[n % 2]}/clip.mp4", id=name) for n, name in enumerate(names)]
    rows.append(corpus.row("a/clip.mp4", id="same"))
    data = corpus.write(tmp_path / "data.jsonl", *rows)
    assert _stages(data, tmp_path / "out") == 0
    records = [json.loads(line) for line in (tmp_path / "out" / "train.jsonl").open()]
    assert [record["id"] for record in records] == [str(row["id"]) for row in rows]
    folders = [os.path.dirname(record["positions_thw"]) for record in records]
    # The id "same" with b/clip.mp4, with a/clip.mp4, and with a/clip.mp4 once more.
    assert len(set(folders)) == len(rows) - 1
    assert all(os.path.dirname(folder) == str(tmp_path / "out" / "images") for folder in folders)
    for folder in folders:
        assert read_asset(folder).meta["video"].endswith("clip.mp4")


def test_failures_name_their_sample(
    corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = corpus.write(tmp_path / "d.jsonl", corpus.row("text.mp4", id="some id"))
    assert _stages(data, tmp_path / "out", "--video_root", str(corpus.root)) == 1
    shown = capsys.readouterr().err
    assert f"failed: id 'some id', video 'text.mp4', where '{data}:1': " in shown


def test_a_full_disk_stops_the_run_and_it_can_go_on(
    corpus: Corpus,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    videos = [{"video": str(corpus.root / f"{name}.mp4")} for name in ("good", "short", "other")]
    data = corpus.write(tmp_path / "v.jsonl", *videos)
    write, calls = library.write_mosaics, []

    def until_full(*args: Any, **settings: Any) -> Any:
        calls.append(args)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(*args, **settings)

    monkeypatch.setattr(library, "write_mosaics", until_full)
    assert precompute.main(_args(data, tmp_path / "out")) == 1
    assert len(calls) == 2
    shown = capsys.readouterr().err
    assert "No space left on device; make room" in shown
    assert [path.name for path in (tmp_path / "out" / "assets").iterdir()] == ["good"]
    assert precompute.main(_args(data, tmp_path / "out")) == 0
    assert "2 made, 1 kept" in capsys.readouterr().err


def test_a_failure_file_on_a_full_disk_stops_the_run(
    corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = corpus.write(tmp_path / "v.jsonl", {"video": str(corpus.root / "text.mp4")})
    assert precompute.main(_args(data, tmp_path / "out", "--fail_txt", "/dev/full")) == 1
    assert "No space left" in capsys.readouterr().err


@pytest.mark.parametrize("target", ["/proc/assets", "/dev/null/assets"])
def test_a_target_that_cannot_be_written_starts_nothing(
    corpus: Corpus, tmp_path: Path, target: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data = corpus.write(tmp_path / "v.jsonl", {"video": str(corpus.root / "short.mp4")})
    assert precompute.main(_args(data, target)) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_two_runs_on_one_output_are_kept_apart(
    corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = corpus.write(tmp_path / "v.jsonl", {"video": str(corpus.root / "short.mp4")})
    with claimed_output(tmp_path / "out", "shard00of01"):
        assert precompute.main(_args(data, tmp_path / "out")) == 2
        assert "another run is at work" in capsys.readouterr().err
        shards = ["--num_shards", "2", "--shard_id", "0"]
        assert precompute.main(_args(data, tmp_path / "out", *shards)) == 0


def test_leftovers_of_killed_workers_go_with_the_next_run(corpus: Corpus, tmp_path: Path) -> None:
    data = corpus.write(tmp_path / "v.jsonl", {"video": str(corpus.root / "short.mp4")})
    temporary_path(tmp_path / "out" / "assets").mkdir(parents=True)
    assert precompute.main(_args(data, tmp_path / "out")) == 0
    assert [path.name for path in (tmp_path / "out" / "assets").iterdir()] == ["short"]


def _tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not any(word in path.name for word in ("summary", "ledger"))
    }


def _evaluation_command(data: Path, out: Path) -> list[str]:
    return [sys.executable, str(TOOL), *_args(data, out, "--num_workers", "2")]


def _packing_command(data: Path, out: Path) -> list[str]:
    return [*_evaluation_command(data, out), "--output", "tar", "--shard_samples", "6"]


def _training_command(data: Path, out: Path) -> list[str]:
    return [
        sys.executable, "-m", "cv_reader.commands.main", "precompute", "--stage", "1,2",
        "--dataset_path", str(data), "--visidx_root", str(out / "first"),
        "--out_image_root", "images", "--out_jsonl", str(out / "train.jsonl"), *SMALL,
        "--write_positions", "--num_workers", "2",
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command_of", "num_files"),
    [(_evaluation_command, 40 * 6), (_training_command, 40 * 6), (_packing_command, 7 * 2)],
)
def test_kills_at_any_moment_leave_no_trace(
    corpus: Corpus, tmp_path: Path, command_of: Any, num_files: int
) -> None:
    for number in range(40):
        frames = moving_square(20, 48, 64, seed=number)
        write_video(tmp_path / f"{number}.mp4", frames)
    data = corpus.write(tmp_path / "v.jsonl", *(corpus.row(f"{n}.mp4") for n in range(40)))
    chance, seconds = random.Random(0), 0.0
    trees, progress = [], []
    for name, num_kills in (("whole", 0), ("killed", 20)):
        out = tmp_path / name
        out.mkdir()
        command = command_of(data, out)
        for kill in range(num_kills):
            process = subprocess.Popen(
                command, start_new_session=True, stderr=subprocess.DEVNULL, cwd=out
            )
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(chance.uniform(0.1, seconds))
            # Every second time the workers outlive their parent for a moment.
            target = os.killpg if kill % 2 else os.kill
            with contextlib.suppress(ProcessLookupError):
                target(process.pid, signal.SIGKILL)
            process.wait()
            progress.append(len(list(out.glob("assets/*")) + list(out.glob("images/*"))))
        started = time.monotonic()
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL, cwd=out)
        seconds = time.monotonic() - started
        trees.append(_tree(out))
    assert trees[0] == trees[1]
    assert len(trees[0]) >= num_files
    assert progress[-1] > 0


@pytest.mark.slow
def test_a_disk_that_fills_up_keeps_what_is_finished(tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4", moving_square(20, 48, 64))
    lines = [{"video": "clip.mp4", "key": f"k{number}"} for number in range(12)]
    data = tmp_path / "v.jsonl"
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with small_disk(tmp_path / "small", "size=160k") as disk:
        arguments = _args(data, disk / "out", "--num_workers", "2")
        command = [sys.executable, str(TOOL), *arguments]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        assert ended.returncode == 1
        assert "No space left on device; make room" in ended.stderr
        finished = sorted((disk / "out" / "assets").iterdir())
        assert 0 < len(finished) < 12
        for folder in finished:
            read_asset(folder)
        remount(disk, "size=8m")
        ended = subprocess.run(command, capture_output=True, text=True, check=True)
        assert f"{12 - len(finished)} made, {len(finished)} kept" in ended.stderr


@pytest.mark.slow
def test_a_read_only_target_is_refused(
    corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video = str(corpus.root / "short.mp4")
    data = corpus.write(tmp_path / "v.jsonl", {"video": video})
    with small_disk(tmp_path / "small", "size=1m") as disk:
        assert precompute.main(_args(data, disk / "out")) == 0
        remount(disk, "ro")
        assert precompute.main(_args(data, disk / "out")) == 2
        assert precompute.main(_args(data, disk / "other")) == 2
        shown = ["-o", str(disk / "x.png"), "--sequence_length", "4", "--num_images", "2"]
        assert visualize.main([video, *shown]) == 2
        assert stats.main([str(disk / "out"), "-o", str(disk / "x.html")]) == 2
        assert capsys.readouterr().err.count("Read-only file system") == 4
        assert validate.main([str(disk / "out")]) == 0


@pytest.mark.slow
def test_a_data_set_of_gigabytes_is_read_in_constant_memory(tmp_path: Path) -> None:
    # A quarter of a million rows of 8 KB: 2 GB, written as they are read.
    pipe = tmp_path / "data.json"
    os.mkfifo(pipe)
    row = json.dumps({"id": "x", "video": "v.mp4", "text": "y" * 8000})

    def write() -> None:
        with pipe.open("w") as stream:
            stream.write("[" + row)
            for _ in range(249_999):
                stream.write(",\n" + row)
            stream.write("]")

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from cv_reader.assets.samples import read_samples\n"
        "count = sum(1 for _ in read_samples(Path(sys.argv[1])))\n"
        # getrusage would begin with this process's own peak.
        "status = Path('/proc/self/status').read_text().split()\n"
        "print(count, int(status[status.index('VmHWM:') + 1]) // 1024)\n"
    )
    command = [sys.executable, "-c", program, str(pipe)]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    writer.join()
    count, peak_mib = map(int, ended.stdout.split())
    assert count == 250_000
    assert peak_mib < 100


@pytest.mark.slow
def test_two_runs_without_locks_do_no_harm(tmp_path: Path) -> None:
    for number in range(6):
        write_video(tmp_path / f"{number}.mp4", moving_square(20, 48, 64, seed=number))
    data = tmp_path / "v.jsonl"
    data.write_text("".join(json.dumps({"video": f"{n}.mp4"}) + "\n" for n in range(6)))
    # As some network file systems answer; the second run may not be kept out then.
    program = (
        "import errno, fcntl, sys\n"
        "from cv_reader.commands.main import main\n"
        "def no_locks(*_):\n"
        "    raise OSError(errno.ENOLCK, 'No locks available')\n"
        "fcntl.flock = no_locks\n"
        "if __name__ == '__main__':\n"
        "    sys.exit(main(['precompute', *sys.argv[1:]]))\n"
    )
    script = tmp_path / "run.py"
    script.write_text(program)
    command = [sys.executable, str(script), *_args(data, tmp_path / "both", "--overwrite")]
    runs = [subprocess.Popen(command, stderr=subprocess.DEVNULL) for _ in range(2)]
    assert [run.wait() for run in runs] == [0, 0]
    assert precompute.main(_args(data, tmp_path / "whole")) == 0
    assert _tree(tmp_path / "both") == _tree(tmp_path / "whole")
