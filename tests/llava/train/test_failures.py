"""What a run does when data or disk fail it."""

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llava.train.run.bad_samples import BadSampleLog, TooManyBadSamples, read_bad_samples
from llava.train.trainer import LlavaTrainer
from run_kit.checkpoints import checkpoints, find_checkpoint
from run_kit.log import read_log
from support.tolerances import SAME_LOSS


@pytest.fixture
def damaged(tiny_material: Path, tmp_path: Path) -> Path:
    """The mixture with one line that is no JSON and one picture that is absent."""
    lines = (tiny_material / "data" / "train.jsonl").read_text().splitlines()
    lines[2], lines[4] = "{", lines[4].replace("image_1.png", "lost.png")
    path = tiny_material / "data" / f"{tmp_path.name}.jsonl"
    path.write_text("\n".join(lines))
    yield path
    path.unlink()


@pytest.mark.parametrize("packed", [False, True])
def test_skipped_samples_are_replaced_counted_and_listed(
    train: Callable[..., int], tmp_path: Path, damaged: Path, packed: bool
) -> None:
    options = {"on_bad_sample": "skip", "max_bad_fraction": 0.2, "max_steps": 3}
    assert train(tmp_path / "run", data_path=damaged, pack_sequences=packed, **options) == 0
    bad = read_bad_samples(tmp_path / "run")
    assert sorted(row["index"] for row in bad) == [2, 4]
    assert {".jsonl:3:" in row["message"] or ".jsonl:5)" in row["message"] for row in bad} == {True}
    assert read_log(tmp_path / "run")[-1]["bad_samples"] == 2
    if packed:
        return
    # A second run of the same data is replaced by the same samples.
    assert train(tmp_path / "again", data_path=damaged, **options) == 0
    losses = [[row["loss"] for row in read_log(tmp_path / name)] for name in ("run", "again")]
    assert losses[0] == losses[1]


def test_too_many_skipped_samples_end_the_run_with_code_1(
    train: Callable[..., int], tmp_path: Path, damaged: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = {"on_bad_sample": "skip", "max_bad_fraction": 0.1, "max_steps": 3}
    assert train(tmp_path / "run", data_path=damaged, **options) == 1
    assert "2 of 12 samples cannot be used, more than --max_bad_fraction 0.1" in caplog.text


def test_packing_finds_broken_samples_before_it_starts(
    train: Callable[..., int], tmp_path: Path, damaged: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert train(tmp_path / "run", data_path=damaged, pack_sequences=True) == 2
    assert "2 samples cannot be used, the first: " in caplog.text
    assert f"{damaged.name}:3" in caplog.text


def test_a_bad_sample_is_listed_once_whoever_meets_it_and_in_a_resumed_run(tmp_path: Path) -> None:
    bad = ({"index": 3, "message": "a"},)
    log = BadSampleLog(tmp_path, num_samples=10, max_fraction=0.1)
    assert (log.add(bad), log.add(bad)) == (1, 0)
    assert BadSampleLog(tmp_path, num_samples=10, max_fraction=0.1).add(bad) == 0
    log.check(log.count())
    log.add(({"index": 4, "message": "b"},))
    with pytest.raises(TooManyBadSamples, match="2 of 10 .*bad_samples.jsonl"):
        log.check(log.count())


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left"), RuntimeError("writer")])
def test_a_full_disk_keeps_the_last_checkpoint(
    train: Callable[..., int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Any,
) -> None:
    save = LlavaTrainer._save_rng_state

    def fails_at_4(self: Any, output_dir: str) -> None:
        save(self, output_dir)
        if self.state.global_step == 4:
            raise error

    monkeypatch.setattr(LlavaTrainer, "_save_rng_state", fails_at_4)
    options = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "save_total_limit": 1}
    assert train(tmp_path, **options) == 1
    assert "checkpoint-4 cannot be written" in caplog.text and "free some space" in caplog.text
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-2"]
    assert not (tmp_path / "unfinished").exists()
    if isinstance(error, RuntimeError):
        return
    monkeypatch.undo()
    assert train(tmp_path, **options, resume_from_checkpoint="auto") == 0
    assert find_checkpoint(tmp_path, "auto") == tmp_path / "checkpoint-4"


def test_lengths_of_other_data_are_refused(
    train: Callable[..., int], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert train(tmp_path, pack_sequences=True, lengths_file=tmp_path / "none.npz") == 2
    assert "is absent or of other data or settings" in caplog.text


def test_losses_of_data_sets_make_up_the_loss(
    train: Callable[..., int], tiny_material: Path, tmp_path: Path
) -> None:
    mix = tiny_material / "data" / f"{tmp_path.name}.yaml"
    mix.write_text("datasets:\n  - {json_path: train.jsonl}\n  - {json_path: captions.jsonl}\n")
    assert train(tmp_path, data_path=mix, max_steps=1, per_device_train_batch_size=16) == 0
    (row,) = read_log(tmp_path)
    # Answers of the captions occur in both: 12 and 4 samples; tokens of an answer by hand.
    entries = [
        [json.loads(line) for line in (mix.parent / f"{name}.jsonl").read_text().splitlines()]
        for name in ("train", "captions")
    ]
    tokens = [sum(len(e["conversations"][1]["value"]) + 2 for e in rows) for rows in entries]
    losses = row["loss_by_dataset"]
    assert list(losses) == ["train", "captions"]
    mean = (losses["train"] * tokens[0] + losses["captions"] * tokens[1]) / sum(tokens)
    assert row["loss"] == pytest.approx(mean, rel=SAME_LOSS)
    assert row["mfu"] is None and row["flops_per_second"] > 0 and row["data_wait_seconds"] >= 0
    mix.unlink()
