"""What two ranks work out together: the loss on held-out data, and the lengths of the samples."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from run_kit.log import read_log, read_validation
from support.ranks import finish, finish_machines, launcher

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.mark.parametrize("stage", [None, 3])
def test_two_ranks_find_the_held_out_loss_of_one_process(
    stage: int | None,
    train: Callable[..., int],
    run_arguments: Callable[..., list[str]],
    tiny_material: Path,
    tmp_path: Path,
) -> None:
    """Five samples: the second rank has fewer batches, and joins the last step for nothing."""
    lines = (tiny_material / "data" / "train.jsonl").read_text().splitlines()
    parts = {"first": lines[:3], "second": lines[3:5]}
    for name, rows in parts.items():
        path = tiny_material / "data" / f"{tmp_path.name}_{name}.jsonl"
        path.write_text("\n".join(rows))
    held_out = tiny_material / "data" / f"{tmp_path.name}_{{first,second}}.jsonl"
    options = {"max_steps": 4, "eval_strategy": "steps", "eval_steps": 2}
    options |= {"eval_data_path": held_out, "per_device_eval_batch_size": 2}
    assert train(tmp_path / "alone", **options, per_device_train_batch_size=2) == 0
    sharding = {} if stage is None else {"deepspeed": f"scripts/zero{stage}.json"}
    arguments = run_arguments(
        tmp_path / "ranks", **options, **sharding, per_device_train_batch_size=1
    )
    errors = finish([*launcher(2), *arguments])
    assert "held-out" in errors
    alone, ranks = (read_validation(tmp_path / name) for name in ("alone", "ranks"))
    assert [row["step"] for row in ranks] == [2, 4] == [row["step"] for row in alone]
    for one, two in zip(alone, ranks, strict=True):
        assert two["tokens"] == one["tokens"]
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-4)
        assert two["loss_by_dataset"] == pytest.approx(one["loss_by_dataset"], rel=1e-4)
        assert len(two["loss_by_dataset"]) == 2
    losses = [[row["loss"] for row in read_log(tmp_path / name)] for name in ("alone", "ranks")]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_the_first_rank_measures_the_lengths_once_for_all(
    run_arguments: Callable[..., list[str]], tiny_material: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_material / "data", tmp_path / "data")
    data = tmp_path / "data" / "train.jsonl"
    options = {"data_path": data, "balance_lengths": True, "per_device_train_batch_size": 2}
    errors = finish([*launcher(2), *run_arguments(tmp_path / "measured", **options)])
    assert errors.count("measuring the lengths of 12 samples") == 1
    [kept] = data.parent.glob("train.jsonl.lengths-*.npz")
    before = kept.stat().st_mtime_ns
    errors = finish([*launcher(2), *run_arguments(tmp_path / "read", **options)])
    assert "measuring the lengths" not in errors
    assert errors.count(f"lengths of 12 samples read from {kept}") == 1
    assert kept.stat().st_mtime_ns == before
    logs = [read_log(tmp_path / name) for name in ("measured", "read")]
    for key in ("loss", "tokens", "visual_tokens"):
        assert [row[key] for row in logs[0]] == [row[key] for row in logs[1]]
    # Twelve samples in three steps of four: each step holds samples of one kind.
    assert len({row["visual_tokens"] for row in logs[0]}) == 3


def test_machines_with_copies_of_the_data_share_the_lengths_of_the_first(
    run_arguments: Callable[..., list[str]], tiny_material: Path, tmp_path: Path
) -> None:
    for name in ("here", "there"):
        shutil.copytree(tiny_material / "data", tmp_path / name)
    arguments = [
        run_arguments(
            tmp_path / "run",
            data_path=tmp_path / name / "train.jsonl",
            balance_lengths=True,
            per_device_train_batch_size=2,
        )
        for name in ("here", "there")
    ]
    assert [text[:7] for text in finish_machines(arguments)] == ["code 0\n"] * 2
    assert len(list((tmp_path / "here").glob("*.lengths-*.npz"))) == 1
    assert not list((tmp_path / "there").glob("*.lengths-*.npz"))
    assert len({row["visual_tokens"] for row in read_log(tmp_path / "run")}) == 3
