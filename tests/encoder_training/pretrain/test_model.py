"""The pooled encoder reads no value of the device where lengths are given."""

import pytest
import torch

from encoder_training.pretrain.model import PooledEncoder, build_encoder
from support.waiting import NoWaiting, WaitingOperationError


def test_lengths_on_the_host_keep_it_from_waiting_for_the_device() -> None:
    torch.manual_seed(0)
    model = PooledEncoder(build_encoder("tiny", patch_size=8, image_px=32))
    lengths = [4, 4, 6, 4]
    patches, positions = torch.randn(18, 192), torch.randint(0, 4, (18, 3))
    bounds = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
    expected = model(patches, positions, bounds)
    with NoWaiting() as mode:
        pooled = model(patches, positions, bounds, lengths)
        pooled.sum().backward()
    assert mode.operations > 50 and torch.equal(pooled, expected)
    with pytest.raises(WaitingOperationError), NoWaiting():
        model(patches, positions, bounds)
