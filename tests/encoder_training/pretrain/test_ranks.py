"""Pretraining on several ranks, whose processes share one server (see `support.process_group`)."""

import signal
import time
from pathlib import Path

import pytest
import torch

from encoder_training.pretrain.objective import shard_bounds
from encoder_training.pretrain.train import main
from run_kit.log import read_log
from support.pretrain_heads import (
    assert_equal_to_the_full_softmax,
    sampled_centres,
    sharded_gradients,
    tiny_objective,
    tiny_problem,
)
from support.pretrain_runs import (
    IMAGE_CENTRES,
    assert_equal_checkpoints,
    flags,
    largest_difference,
    load_numbered,
    micro_step_gradients,
    moments,
    run_command,
    save_numbered,
    tiny_settings,
    with_videos,
)
from support.process_group import forking_context, on_ranks


@pytest.mark.parametrize("rows", [[5, 2], pytest.param([4, 0, 2, 1], marks=pytest.mark.slow)])
def test_loss_and_gradients_equal_the_full_softmax(rows: list[int]) -> None:
    """The rows of each rank are ragged, and one rank has none."""
    answers = on_ranks(sharded_gradients, len(rows), rows, tiny_objective())
    assert_equal_to_the_full_softmax(answers)


def test_every_shard_samples_its_own_centres() -> None:
    (first, held, used), (second, _, others) = on_ranks(sampled_centres, 2)
    assert first == second
    positives = set(tiny_problem(8)[1].flatten().tolist())
    assert set(used) | set(others) >= positives
    quota = int(0.4 * held)
    assert len(used) >= quota and len(set(used) - positives) <= quota


@pytest.mark.parametrize(
    ("before", "after"), [pytest.param(4, 2, marks=pytest.mark.slow), (2, 4), (1, 2)]
)
def test_centres_and_moments_go_to_another_number_of_ranks(
    before: int, after: int, tmp_path: Path
) -> None:
    on_ranks(save_numbered, before, tmp_path)
    assert len(list((tmp_path / "checkpoint-7").glob("centres_image_*"))) == before
    for rank, answer in enumerate(on_ranks(load_numbered, after, tmp_path)):
        first, end, rows, step, positions = answer
        assert (first, end) == shard_bounds(IMAGE_CENTRES, rank, after)
        numbers = torch.arange(first, end, dtype=torch.float32)
        for found, offset in zip(rows, (0, 0.25, 0.5), strict=True):
            assert torch.equal(found, (numbers + offset)[:, None].expand(-1, 32))
        assert step == 7 and positions == {"image": {"position": 56}}


def test_missing_shards_are_named(tmp_path: Path) -> None:
    on_ranks(save_numbered, 2, tmp_path)
    next((tmp_path / "checkpoint-7").glob("centres_image_00001*")).unlink()
    with pytest.raises(ValueError, match=r"centres \[0, 21\) of the head image, got them up to 11"):
        load_numbered(0, tmp_path)


def test_a_killed_run_resumes_bit_equal(sets: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert main(flags(tiny_settings(sets, whole, max_steps=6))) == 0
    arguments = flags(tiny_settings(sets, killed, max_steps=6))
    process = forking_context().Process(target=run_command, args=(0, arguments))
    process.start()
    marker = killed / "checkpoint-2" / "complete.json"
    end = time.monotonic() + 120
    while not marker.is_file() and process.is_alive() and time.monotonic() < end:
        time.sleep(0.002)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL and not (killed / "final").exists()
    assert main([*arguments, "--resume_from_checkpoint", "auto"]) == 0
    assert_equal_checkpoints(whole, killed, 6)


def test_two_ranks_train_as_one_does(sets: Path, tmp_path: Path) -> None:
    same = {"labels_per_step": 3, "sample_rate": 1.0, "max_steps": 2}
    one = tiny_settings(sets, tmp_path / "one", **same, image_batch=4)
    two = tiny_settings(sets, tmp_path / "two", **same, image_batch=2)
    assert main(flags(one)) == 0
    assert on_ranks(run_command, 2, flags(two)) == [0, 0]
    found = [moments(tmp_path / name, 2) for name in ("one", "two")]
    assert largest_difference(*found) < 1e-3
    losses = [[row["loss"] for row in read_log(tmp_path / name)] for name in ("one", "two")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)

    # What two ranks began, one rank continues: the same samples, centres and moments.
    more = {"max_steps": 4, "resume_from_checkpoint": "auto", "resume_with_changes": True}
    for name in ("one", "two"):
        assert main(flags(one | more | {"output_dir": str(tmp_path / name)})) == 0
    later = [[row["loss"] for row in read_log(tmp_path / name)[2:]] for name in ("one", "two")]
    assert len(later[0]) == 2 and later[0] == pytest.approx(later[1], rel=1e-4)


def test_a_rank_without_videos_takes_part(sets: Path, tmp_path: Path) -> None:
    settings = tiny_settings(sets, tmp_path, **with_videos(sets), sample_rate=1.0)
    answers = on_ranks(micro_step_gradients, 2, settings, [["image", "video"], ["image"]], True)
    (losses, encoder, _), (same, copied, _) = answers
    assert losses == same and set(losses) == {"image", "video"}
    assert all(torch.equal(one, two) for one, two in zip(encoder, copied, strict=True))
    answers = on_ranks(micro_step_gradients, 2, settings, [["image", "video"], []], True)
    assert answers[0][0] == answers[1][0]


def test_only_the_last_micro_batch_syncs(sets: Path, tmp_path: Path) -> None:
    settings = tiny_settings(sets, tmp_path)
    one, two = on_ranks(micro_step_gradients, 2, settings, [["image"], ["image"]], False)
    assert not any(torch.equal(first, second) for first, second in zip(one[1], two[1], strict=True))
    one, two = on_ranks(micro_step_gradients, 2, settings, [["image"], ["image"]], True)
    assert all(torch.equal(first, second) for first, second in zip(one[1], two[1], strict=True))
