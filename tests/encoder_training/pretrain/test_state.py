from pathlib import Path

import pytest
import torch

from encoder_training.pretrain.objective import shard_bounds
from support.pretrain_runs import IMAGE_CENTRES, load_numbered, save_numbered
from support.process_group import on_ranks


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
