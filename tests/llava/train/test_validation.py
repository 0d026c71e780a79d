"""Loss on held-out data: equal to the model's own loss, and without influence on the run."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from llava.model.loading import load_pretrained
from llava.train.arguments import parse_arguments
from llava.train.train import prepare
from llava.train.validation import rank_batches
from run_kit.log import read_log, read_validation
from support.tolerances import SAME_LOSS


@pytest.fixture(scope="module")
def held_out(tiny_material: Path) -> str:
    """Two data sets of all kinds of samples, five in all."""
    folder = tiny_material / "data"
    lines = (folder / "train.jsonl").read_text().splitlines()
    (folder / "first.jsonl").write_text("\n".join(lines[:3]))
    (folder / "second.jsonl").write_text("\n".join(lines[3:5]))
    return folder / "{first,second}.jsonl"


def test_the_loss_is_that_of_the_model_and_training_goes_on_as_without(
    train: Callable[..., int],
    run_arguments: Callable[..., list[str]],
    held_out: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = {"max_steps": 4, "lora_enable": True, "lora_dropout": 0.5}
    assert train(tmp_path / "without", **options) == 0
    validating = {"eval_strategy": "steps", "eval_steps": 2, "per_device_eval_batch_size": 2}
    assert train(tmp_path / "with", **options, **validating, eval_data_path=held_out) == 0
    logs = [read_log(tmp_path / name) for name in ("without", "with")]
    assert [row["loss"] for row in logs[0]] == [row["loss"] for row in logs[1]]
    rows = read_validation(tmp_path / "with")
    assert [row["step"] for row in rows] == [2, 4]
    assert "held-out" in capsys.readouterr().err

    trainer, _ = prepare(
        parse_arguments(
            run_arguments(tmp_path / "again", **options, **validating, eval_data_path=held_out)
        )
    )
    model, _ = load_pretrained(tmp_path / "with")
    expected, totals = {}, [0.0, 0]
    for number in range(5):
        item = trainer.eval_dataset[number]
        batch = trainer.data_collator([item])
        info = batch.pop("info")
        with torch.no_grad():
            logits = model(**batch).logits[0, :-1]
        labels = batch["labels"][0, 1:]
        loss = torch.nn.functional.cross_entropy(logits, labels, reduction="sum").item()
        count = int((labels != -100).sum())
        name = ("first", "second")[int(info.set_index[0, 0])]
        sums = expected.setdefault(name, [0.0, 0])
        for pair in (sums, totals):
            pair[0] += loss
            pair[1] += count
    found = rows[-1]
    assert found["tokens"] == totals[1]
    assert found["loss"] == pytest.approx(totals[0] / totals[1], rel=SAME_LOSS)
    assert found["loss_by_dataset"] == pytest.approx(
        {name: loss / count for name, (loss, count) in expected.items()}, rel=SAME_LOSS
    )


def test_a_resumed_run_repeats_its_validations(
    train: Callable[..., int], held_out: str, tmp_path: Path
) -> None:
    options = {"eval_strategy": "steps", "eval_steps": 1, "eval_data_path": held_out}
    options |= {"max_steps": 3, "save_strategy": "steps", "save_steps": 2}
    assert train(tmp_path, **options) == 0
    rows = read_validation(tmp_path)
    (tmp_path / "checkpoint-3" / "complete.json").unlink(missing_ok=True)
    assert train(tmp_path, **options, resume_from_checkpoint="auto") == 0
    again = read_validation(tmp_path)
    assert [(row["step"], row["loss"]) for row in again] == [
        (row["step"], row["loss"]) for row in rows
    ]
    json.loads((tmp_path / "trainer_state.json").read_text())


@pytest.mark.parametrize(("samples", "size", "ranks"), [(5, 2, 2), (1, 1, 4), (8, 2, 2), (7, 3, 1)])
def test_ranks_share_all_samples_out_in_as_many_steps(samples: int, size: int, ranks: int) -> None:
    plans = [rank_batches(samples, size, ranks, rank) for rank in range(ranks)]
    assert len({len(batches) for batches, _ in plans}) == 1
    counted = [n for batches, count in plans for batch in batches[:count] for n in batch]
    assert sorted(counted) == list(range(samples))
    assert all(batch for batches, _ in plans for batch in batches)
