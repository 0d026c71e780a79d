"""Packing of visual segments, row by row."""

import pytest
import torch

from llava.visual.batch import VisualBatch, VisualSegment, pack_segments


def _segment(value: float, *tokens: int) -> VisualSegment:
    count = sum(tokens)
    patches = torch.full((count, 12), value)
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
