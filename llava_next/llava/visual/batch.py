"""What passes between data and model: visual segments, and a batch of them laid end to end.

A segment is one sample's visual whose tokens attend to each other: one image, one stack of frames,
or all mosaics of one codec clip. Segments of any shape share one packed batch.

Axis letters: P patches of the whole batch, S segments, p side of a patch in pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from llava.constants import Expansion
from llava.visual.time_marks import TimeMark, expansions
from onevision_encoder.checks import check_positions


class Normalisation(NamedTuple):
    """What bytes become before the encoder, per channel: (byte / 255 - mean) / std."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def normalise_bytes(patches: Tensor, normalisation: Normalisation) -> Tensor:
    """Return bytes as the encoder takes them, on their device.

    Args:
        patches: uint8 (P, 3 * p * p), element order (channel, row, column).
        normalisation: mean and standard deviation of each channel.

    Returns:
        float32 (P, 3 * p * p).
    """
    pixels = patches.unflatten(1, (3, -1)).to(torch.float32).div_(255)
    # Numbers are arguments of the operations; tensors would have to be copied to the device.
    for channel, (mean, std) in enumerate(zip(*normalisation, strict=True)):
        pixels[:, channel].sub_(mean).div_(std)
    return pixels.flatten(1)


@dataclass(frozen=True)
class VisualSegment:
    """One visual, ready for the encoder.

    Attributes:
        patches: uint8 (P, 3 * p * p) with a normalisation, or floating and normalised; element
            order (channel, row, column). Bytes are a quarter of what floats take, and are
            normalised on the device.
        positions: int64 (P, 3), rows (t, h, w), all >= 0.
        placeholder_tokens: language tokens that each ``<image>`` of the prompt becomes, in
            order. One entry for an image, one per frame or mosaic otherwise.
        patches_per_token: consecutive patches that become one language token; the sum of
            ``placeholder_tokens`` times this is P.
        normalisation: of bytes; None for floating patches.
        time_marks: texts between the visual tokens, see ``llava.visual.time_marks``.
    """

    patches: Tensor
    positions: Tensor
    placeholder_tokens: tuple[int, ...]
    patches_per_token: int = 1
    normalisation: Normalisation | None = None
    time_marks: tuple[TimeMark, ...] = ()

    def __post_init__(self) -> None:
        count = self.patches.shape[0]
        check_dtype(self.patches, self.normalisation)
        if self.patches.ndim != 2 or self.positions.shape != (count, 3):
            raise ValueError(
                "a segment needs patches (P, 3*p*p) and positions (P, 3), got "
                f"{tuple(self.patches.shape)} and {tuple(self.positions.shape)}"
            )
        tokens = sum(self.placeholder_tokens)
        if tokens * self.patches_per_token != count or min(self.placeholder_tokens, default=0) < 1:
            raise ValueError(
                f"placeholder_tokens must be positive and sum to the {count} patches of the "
                f"segment, {self.patches_per_token} per token, got {self.placeholder_tokens}"
            )
        if self.positions.device.type == "cpu":  # elsewhere the host would wait for the values
            check_positions(self.positions, [(count, 3)])

    @property
    def expansions(self) -> list[Expansion]:
        """What each placeholder of the prompt becomes, in order."""
        return expansions(self.placeholder_tokens, self.time_marks)

    def normalised(self) -> "VisualSegment":
        """Return the segment with floating patches."""
        if self.normalisation is None:
            return self
        patches = normalise_bytes(self.patches, self.normalisation)
        return replace(self, patches=patches, normalisation=None)


def check_dtype(patches: Tensor, normalisation: Normalisation | None) -> None:
    """Refuse bytes without a normalisation, and anything else with one."""
    expected = torch.uint8 if normalisation is not None else "floating"
    if (patches.dtype == torch.uint8) != (normalisation is not None) or not (
        normalisation is not None or patches.is_floating_point()
    ):
        raise ValueError(
            f"patches must be {expected} {'with' if normalisation else 'without'} a normalisation, "
            f"got {patches.dtype}; bytes need one, floating patches are normalised already"
        )


@dataclass(frozen=True)
class VisualBatch:
    """All visual tokens of a batch, of any shapes, concatenated.

    Segments are in the order of their placeholders in the batch: by sample, then by
    place in the sample's prompt.

    Attributes:
        patches: uint8 or floating (P, 3 * p * p), see ``VisualSegment``.
        positions: int64 (P, 3).
        cu_seqlens: int32 (S + 1,), first 0, last P: segment s is rows cu[s]..cu[s + 1].
        sample_index: int64 (S,), the row of the batch that segment s belongs to.
        source_index: int64 (S,), its place among that sample's visuals, from 0.
        patches_per_token: patches of one visual token, the same for all segments; see
            ``VisualSegment``.
        segment_lengths: patches of each segment, on the host; None where only ``cu_seqlens`` has
            them. With them the encoder reads nothing back from the device, and takes the positions
            as checked.
        normalisation: of bytes; None for floating patches.
    """

    patches: Tensor
    positions: Tensor
    cu_seqlens: Tensor
    sample_index: Tensor
    source_index: Tensor
    patches_per_token: int = 1
    segment_lengths: tuple[int, ...] | None = None
    normalisation: Normalisation | None = None

    def __post_init__(self) -> None:
        check_dtype(self.patches, self.normalisation)
        count, segments = self.patches.shape[0], self.sample_index.shape[0]
        if self.positions.shape != (count, 3) or self.cu_seqlens.shape != (segments + 1,):
            raise ValueError(
                "a visual batch needs patches (P, 3*p*p), positions (P, 3), cu_seqlens (S + 1,) "
                f"and sample_index (S,), got {tuple(self.patches.shape)}, "
                f"{tuple(self.positions.shape)}, {tuple(self.cu_seqlens.shape)}, "
                f"{tuple(self.sample_index.shape)}"
            )

    @property
    def num_segments(self) -> int:
        """S."""
        return self.sample_index.shape[0]

    def tokens_per_sample(self, batch_size: int) -> Tensor:
        """Return the language tokens of each sample's visuals, int64 (batch_size,)."""
        lengths = self.cu_seqlens.diff().to(torch.int64) // self.patches_per_token
        counts = torch.zeros(batch_size, dtype=torch.int64, device=lengths.device)
        return counts.index_add_(0, self.sample_index, lengths)

    def to(
        self,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        non_blocking: bool = False,
    ) -> "VisualBatch":
        """Copy to a device.

        Args:
            device: where to; None leaves everything where it is.
            dtype: of the patches alone; bytes are normalised after they have been copied. None
                leaves bytes as they are.
            non_blocking: do not wait for the copies, where the memory is page-locked.
        """

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device=device, non_blocking=non_blocking)

        patches, normalisation = move(self.patches), self.normalisation
        if dtype is not None and normalisation is not None:
            patches, normalisation = normalise_bytes(patches, normalisation), None
        return replace(
            self,
            patches=patches if dtype is None else patches.to(dtype),
            normalisation=normalisation,
            positions=move(self.positions),
            cu_seqlens=move(self.cu_seqlens),
            sample_index=move(self.sample_index),
            source_index=move(self.source_index),
        )

    def pin_memory(self) -> "VisualBatch":
        """Copy to page-locked memory (called by ``torch.utils.data.DataLoader``)."""
        return replace(
            self,
            patches=self.patches.pin_memory(),
            positions=self.positions.pin_memory(),
            cu_seqlens=self.cu_seqlens.pin_memory(),
            sample_index=self.sample_index.pin_memory(),
            source_index=self.source_index.pin_memory(),
        )


def pack_segments(samples: Sequence[Sequence[VisualSegment]]) -> VisualBatch | None:
    """Lay the segments of a batch end to end.

    Args:
        samples: per sample of the batch, its segments in prompt order (none for a text sample).

    Returns:
        The batch, or None where no sample has a segment.

    Raises:
        ValueError: if segments differ in patches per token.

    Bytes stay bytes where all segments have one normalisation.
    """
    rows = [
        (segment, sample_index, source_index)
        for sample_index, segments in enumerate(samples)
        for source_index, segment in enumerate(segments)
    ]
    if not rows:
        return None
    merged = {segment.patches_per_token for segment, _, _ in rows}
    if len(merged) > 1:
        raise ValueError(f"a batch needs one number of patches per token, got {sorted(merged)}")
    normalisations = {segment.normalisation for segment, _, _ in rows}
    if len(normalisations) > 1:
        rows = [(segment.normalised(), sample, source) for segment, sample, source in rows]
    lengths = tuple(segment.patches.shape[0] for segment, _, _ in rows)
    patches = [segment.patches for segment, _, _ in rows]
    return VisualBatch(
        patches=torch.cat(patches) if len(patches) > 1 else patches[0],
        positions=torch.cat([segment.positions for segment, _, _ in rows]).to(torch.int64),
        cu_seqlens=torch.tensor((0, *lengths)).cumsum(0).to(torch.int32),
        sample_index=torch.tensor([sample for _, sample, _ in rows]),
        source_index=torch.tensor([source for _, _, source in rows]),
        patches_per_token=merged.pop(),
        segment_lengths=lengths,
        normalisation=rows[0][0].normalisation,
    )
