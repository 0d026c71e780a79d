"""Packing of visual segments, row by row."""

import pytest
import torch

from llava.visual.batch import (
    Normalisation,
    VisualBatch,
    VisualSegment,
    normalise_bytes,
    pack_segments,
)

SCALE = Normalisation((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


def _segment(value: float, *tokens: int) -> VisualSegment:
    count = sum(tokens)
    patches = torch.full((count, 12), float(value))
    positions = torch.full((count, 3), int(value), dtype=torch.int32)
    return VisualSegment(patches=patches, positions=positions, placeholder_tokens=tokens)


def _tiny_batch() -> VisualBatch:
    batch = pack_segments([[_segment(1, 4), _segment(2, 3, 3)], [], [_segment(3, 2)]])
    assert batch is not None
    return batch


def test_segments_lie_end_to_end_in_prompt_order() -> None:
    batch = _tiny_batch()
    assert batch.cu_seqlens.tolist() == [0, 4, 10, 12]
    assert batch.cu_seqlens.dtype == torch.int32
    assert batch.sample_index.tolist() == [0, 0, 2]
    assert batch.source_index.tolist() == [0, 1, 0]
    assert batch.patches[:, 0].tolist() == [1] * 4 + [2] * 6 + [3] * 2
    assert batch.positions[:, 2].tolist() == [1] * 4 + [2] * 6 + [3] * 2
    assert batch.positions.dtype == torch.int64
    assert batch.num_segments == 3


def test_tokens_per_sample_counts_text_samples_as_zero() -> None:
    assert _tiny_batch().tokens_per_sample(4).tolist() == [10, 0, 2, 0]


def test_a_batch_without_visuals_is_none() -> None:
    assert pack_segments([[], []]) is None


def test_to_changes_the_dtype_of_patches_alone() -> None:
    moved = _tiny_batch().to("cpu", torch.bfloat16)
    assert moved.patches.dtype == torch.bfloat16
    assert (moved.positions.dtype, moved.cu_seqlens.dtype) == (torch.int64, torch.int32)


@pytest.mark.parametrize("tokens", [(), (3,), (5, -1), (4, 0)])
def test_placeholder_tokens_must_add_up(tokens: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="4 patches"):
        VisualSegment(
            patches=torch.zeros(4, 12),
            positions=torch.zeros(4, 3, dtype=torch.int64),
            placeholder_tokens=tokens,
        )


def test_positions_must_match_the_patches() -> None:
    with pytest.raises(ValueError, match=r"\(5, 3\)"):
        VisualSegment(
            patches=torch.zeros(4, 12), positions=torch.zeros(5, 3), placeholder_tokens=(4,)
        )


def test_a_batch_checks_its_lengths() -> None:
    with pytest.raises(ValueError, match="cu_seqlens"):
        VisualBatch(
            patches=torch.zeros(4, 12),
            positions=torch.zeros(4, 3),
            cu_seqlens=torch.zeros(1),
            sample_index=torch.zeros(1),
            source_index=torch.zeros(1),
        )


def test_negative_positions_are_refused_before_they_reach_the_device() -> None:
    positions = torch.tensor([[0, 0, 0], [0, -1, 0]])
    with pytest.raises(ValueError, match="finite and >= 0, got values from -1.0 to 0.0"):
        VisualSegment(torch.zeros(2, 12), positions, (2,))


def _every_byte() -> torch.Tensor:
    """Patches of 2 x 2 pixels with every byte in every channel: uint8 (64, 12)."""
    return torch.arange(256).view(64, 1, 4).expand(-1, 3, -1).flatten(1).to(torch.uint8)


def _bytes(value: int, tokens: int, scale: Normalisation = SCALE) -> VisualSegment:
    patches = torch.full((tokens, 12), value, dtype=torch.uint8)
    positions = torch.zeros(tokens, 3, dtype=torch.int64)
    return VisualSegment(patches, positions, (tokens,), normalisation=scale)


def test_every_byte_becomes_what_it_was_on_the_host() -> None:
    """To the bit in float32, and so in bfloat16: the cast comes last."""
    mean, std = (torch.tensor(values).view(1, 3, 1) for values in SCALE)
    data = _every_byte()
    expected = data.view(-1, 3, 4).float().div_(255).sub_(mean).div_(std).flatten(1)
    assert torch.equal(normalise_bytes(data, SCALE), expected)
    positions = torch.zeros(64, 3, dtype=torch.int64)
    batch = pack_segments([[VisualSegment(data, positions, (64,), normalisation=SCALE)]])
    assert batch is not None
    assert batch.patches.dtype == torch.uint8 and batch.to("cpu").patches.dtype == torch.uint8
    half = batch.to(dtype=torch.bfloat16)
    assert torch.equal(half.patches, expected.to(torch.bfloat16)) and half.normalisation is None
    assert half.to(dtype=torch.float32).patches.dtype == torch.float32


@pytest.mark.parametrize("other", [_segment(2, 3), _bytes(2, 3, SCALE._replace(std=(1, 1, 1)))])
def test_segments_that_are_normalised_otherwise_become_floats(other: VisualSegment) -> None:
    batch = pack_segments([[_bytes(51, 2)], [other]])
    assert batch is not None and batch.normalisation is None
    expected = [normalise_bytes(_bytes(51, 2).patches, SCALE), other.normalised().patches]
    assert torch.equal(batch.patches, torch.cat(expected))


def test_bytes_need_a_normalisation_and_floats_none() -> None:
    for patches, scale in (
        (torch.zeros(2, 12, dtype=torch.uint8), None),
        (torch.zeros(2, 12), SCALE),
        (torch.zeros(2, 12, dtype=torch.int64), None),
    ):
        with pytest.raises(ValueError, match="bytes need one, floating patches are normalised"):
            VisualSegment(patches, torch.zeros(2, 3), (2,), normalisation=scale)
