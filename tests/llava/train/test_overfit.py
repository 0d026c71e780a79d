"""32 mixed samples are learnt by heart, by a run that is killed half-way, and answered exactly."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llava.data.dataset import SupervisedDataset, load_segments
from llava.model.loading import load_pretrained
from llava.model.tiny import write_tiny_checkpoint
from llava.train.run.config import read_run_config
from llava.train.smoke import write_mixture
from run_kit.checkpoints import checkpoints
from run_kit.log import read_log
from support.paths import ROOT

KINDS = ("codec", "images", "image", "text")
STEPS = 400
BATCH = 4


def _command(folder: Path) -> list[str]:
    flags = {
        "model_name_or_path": folder / "model",
        "data_path": folder / "data" / "train.jsonl",
        "output_dir": folder / "run",
        "use_cpu": True,
        "max_steps": STEPS,
        "per_device_train_batch_size": BATCH,
        "learning_rate": 2e-3,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 20,
        "save_strategy": "steps",
        "save_steps": 50,
        "save_total_limit": 1,
        "resume_from_checkpoint": "auto",
    }
    words = [str(word) for name, value in flags.items() for word in (f"--{name}", value)]
    return [sys.executable, "-m", "llava.train.train", *words]


def _train_killed_half_way(folder: Path) -> None:
    process = subprocess.Popen(_command(folder), cwd=ROOT, stderr=subprocess.DEVNULL)
    while len(read_log(folder / "run")) < STEPS // 2 or not checkpoints(folder / "run"):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    subprocess.run(_command(folder), cwd=ROOT, check=True, stderr=subprocess.DEVNULL)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_mixed_samples_are_learnt_by_heart_and_generated_exactly(tmp_path: Path) -> None:
    write_tiny_checkpoint(tmp_path / "model")
    path = write_mixture(tmp_path / "data", kinds=KINDS, samples_per_kind=8)
    answers = [
        json.loads(line)["conversations"][1]["value"] for line in path.read_text().splitlines()
    ]
    assert len(answers) == len(set(answers)) == 32
    _train_killed_half_way(tmp_path)

    rows = read_log(tmp_path / "run")
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert len(read_run_config(tmp_path / "run")["starts"]) == 2
    last_epoch = [row["loss"] for row in rows[-len(answers) // BATCH :]]
    assert rows[0]["loss"] > 5 and max(last_epoch) < 0.05

    model, processor = load_pretrained(tmp_path / "run")
    dataset = SupervisedDataset(path, processor.tokenizer, processor.visual, max_length=4096)
    records = [dataset.record(index) for index in range(len(dataset))]
    given: list[str] = []
    for start in range(0, len(records), BATCH):  # one of each kind, padded on the left
        batch = records[start : start + BATCH]
        inputs = processor(
            [record.turns[:-1] for record in batch],
            [load_segments(record, processor.visual) for record in batch],
        )
        tokens = model.generate(**inputs, max_new_tokens=16, do_sample=False)
        given += processor.decode(tokens[:, inputs["input_ids"].shape[1] :])
    assert given == answers
