"""A run's record, and what a resumed run may change."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from llava.data.mixture import Mixture
from llava.train.run.config import fingerprint
from run_kit.log import read_log, read_run_config
from run_kit.versions import code_state

LINES = ['{"a": 1}', '{"bb": 2}', '{"ccc": 3}']


@pytest.fixture
def mixture(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "one.jsonl").write_text("\n".join(LINES) + "\n")
    (tmp_path / "data" / "two.jsonl").write_text("\n".join(LINES[:2]) + "\n")
    path = tmp_path / "data" / "mix.yaml"
    path.write_text(
        "datasets:\n  - {json_path: one.jsonl, sampling_strategy: 'first:2'}\n"
        "  - {json_path: two.jsonl, type: text}\n"
    )
    return path


def test_the_fingerprint_lists_files_and_what_is_taken_of_them(mixture: Path) -> None:
    found = fingerprint(Mixture(mixture))
    one, two = found["datasets"]
    assert (one["name"], one["entries"], one["samples"]) == ("one", 3, 2)
    assert (one["sampling_strategy"], two["sampling_strategy"]) == ("first:2", "all")
    assert (one["type"], two["type"], found["samples"]) == (None, "text", 4)
    assert one["size_bytes"] == sum(map(len, LINES)) + 3
    assert one["modified"] == (mixture.parent / "one.jsonl").stat().st_mtime_ns


def _edit(folder: Path) -> None:
    stat = (folder / "one.jsonl").stat()
    # The same size and time, entries elsewhere.
    (folder / "one.jsonl").write_text("\n".join(reversed(LINES)) + "\n")
    os.utime(folder / "one.jsonl", ns=(stat.st_atime_ns, stat.st_mtime_ns))


CHANGES = {
    "touched": lambda folder: os.utime(folder / "one.jsonl", (1, 1)),
    "entries": _edit,
    "sampling": lambda folder: (folder / "mix.yaml").write_text(
        (folder / "mix.yaml").read_text().replace("first:2", "end:2")
    ),
    "type": lambda folder: (folder / "mix.yaml").write_text(
        (folder / "mix.yaml").read_text().replace("text", "image")
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_fingerprint_changes_with_the_data_but_not_with_its_place(
    mixture: Path, tmp_path: Path, change: str
) -> None:
    before = fingerprint(Mixture(mixture))
    shutil.copytree(mixture.parent, tmp_path / "moved")  # keeps times of change
    moved = fingerprint(Mixture(tmp_path / "moved" / "mix.yaml"))
    assert moved["digest"] == before["digest"] and moved != before
    CHANGES[change](mixture.parent)
    assert fingerprint(Mixture(mixture))["digest"] != before["digest"]


def test_a_resumed_run_keeps_its_data_and_settings_unless_changes_are_asked_for(
    train: Callable[..., int], tiny_material: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = tmp_path / "train.jsonl"
    shutil.copy(tiny_material / "data" / "train.jsonl", data)
    options = {"data_path": data, "image_folder": tiny_material / "data", "save_steps": 1}
    options |= {"max_steps": 1, "save_strategy": "steps"}
    run = tmp_path / "run"
    assert train(run, **options) == 0
    first = read_run_config(run)
    assert first["data_fingerprint"]["datasets"][0]["path"] == str(data)
    assert first["versions"]["torch"] and first["versions"]["python"]
    assert [start["first_step"] for start in first["starts"]] == [1]

    again = options | {"resume_from_checkpoint": "auto", "max_steps": 2}
    caplog.clear()
    assert train(run, **again, learning_rate=1e-4, logging_steps=2) == 2
    for text in (
        "training, max_steps: 1 before, 2 now",
        "training, learning_rate: 0.002 before, 0.0001 now",
        "add --resume_with_changes true",
    ):
        assert text in caplog.text
    assert "logging_steps" not in caplog.text
    assert read_run_config(run) == first, "a refused run leaves no trace"

    lines = data.read_text().splitlines()
    data.write_text("\n".join(lines[:-1]) + "\n")
    size = data.stat().st_size
    caplog.clear()
    assert train(run, **options, resume_from_checkpoint="auto") == 2
    before = first["data_fingerprint"]
    assert f"data fingerprint: {before['digest']} before" in caplog.text
    assert "data set train, samples: 12 before, 11 now" in caplog.text
    old_size = before["datasets"][0]["size_bytes"]
    assert f"data set train, size_bytes: {old_size} before, {size} now" in caplog.text

    assert train(run, **again, resume_with_changes=True) == 0
    assert [row["step"] for row in read_log(run)] == [1, 2]
    starts = read_run_config(run)["starts"]
    assert [start["first_step"] for start in starts] == [1, 2]
    assert "training, max_steps: 1 before, 2 now" in starts[1]["changes"]


def test_rates_of_parts_and_memory_of_the_process_are_logged(
    train: Callable[..., int], tmp_path: Path
) -> None:
    rates = {"mm_vision_tower_lr": 1e-4, "mm_projector_lr": 5e-3, "lr_scheduler_type": "linear"}
    assert train(tmp_path, max_steps=2, **rates) == 0
    expected = {"mm_vision_tower": 1e-4, "mm_mlp_adapter": 5e-3, "mm_language_model": 2e-3}
    for row, left in zip(read_log(tmp_path), (1, 0.5), strict=True):
        assert row["lr_by_part"] == pytest.approx({k: v * left for k, v in expected.items()})
        assert row["peak_host_memory_bytes"] > 1e8


def test_the_state_of_the_code_is_named(tmp_path: Path) -> None:
    def git(*words: str) -> str:
        identity = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
        command = ["git", "-C", str(tmp_path), *identity, *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    assert code_state(tmp_path) is None
    git("init", "-q")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-q", "-m", "first")
    commit = git("rev-parse", "HEAD")
    assert code_state(tmp_path) == commit
    (tmp_path / "a").write_text("2")
    assert code_state(tmp_path) == f"{commit}-dirty"
