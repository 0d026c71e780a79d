"""Samples and batches of pretraining: patches with positions and labels, packed end to end.

Axis letters: P patches, S samples, R labels of a sample, C channels, p side of a patch in pixels,
(t, h, w) frame slot, patch row, patch column.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Kind = Literal["image", "ocr", "video"]
Mode = Literal["image", "codec", "chunk", "collage"]
KINDS: tuple[Kind, ...] = ("image", "ocr", "video")

MEAN = (0.48145466, 0.4578275, 0.40821073)
STANDARD_DEVIATION = (0.26862954, 0.26130258, 0.27577711)
"""CLIP's, of RGB in [0, 1]: what the encoder's image processor uses."""


class BadSampleError(ValueError):
    """A sample that breaks a rule.

    Attributes:
        place: file and key of the sample.
        rule: short name of the rule, under which skipped samples are counted.
    """

    def __init__(self, place: str, rule: str, detail: str) -> None:
        super().__init__(
            f"{place}: {detail} ({rule}); repair or remove the sample, or skip such samples with "
            "--on_bad skip, which counts them"
        )
        self.place = place
        self.rule = rule
        self.detail = detail

    def __reduce__(self) -> tuple[type, tuple[str, str, str]]:
        return BadSampleError, (self.place, self.rule, self.detail)


@dataclass(frozen=True)
class TokenSample:
    """One labelled visual, cut into the tokens that the encoder gets.

    Attributes:
        key: its name in the set.
        kind: which head it trains.
        mode: ``image``, or how its video became tokens.
        patches: uint8 (P, C * p * p) RGB, element order (channel, row, column).
        positions: int64 (P, 3), rows (t, h, w).
        labels: int64 (R,), centres of the bank.
    """

    key: str
    kind: Kind
    mode: Mode
    patches: Tensor
    positions: Tensor
    labels: Tensor


class PretrainBatch(NamedTuple):
    """Samples of one set, end to end, as ``OneVisionEncoderModel.forward_packed`` takes them.

    Attributes:
        patches: uint8 (P, C * p * p); see ``normalise``.
        positions: int64 (P, 3).
        cu_seqlens: int32 (S + 1,), first 0, last P.
        labels: int64 (S, R).
        keys: S names.
        modes: S modes.
        kind: kind of all samples.
    """

    patches: Tensor
    positions: Tensor
    cu_seqlens: Tensor
    labels: Tensor
    keys: list[str]
    modes: list[Mode]
    kind: Kind


def collate(samples: Sequence[TokenSample]) -> PretrainBatch:
    """Pack samples of one kind into a batch.

    Raises:
        ValueError: if there is none, or kinds differ.
    """
    kinds = {sample.kind for sample in samples}
    if len(kinds) != 1:
        raise ValueError(f"a batch must hold samples of one kind, got {sorted(kinds) or 'none'}")
    lengths = torch.tensor([0] + [len(sample.patches) for sample in samples])
    return PretrainBatch(
        torch.cat([sample.patches for sample in samples]),
        torch.cat([sample.positions for sample in samples]),
        lengths.cumsum(0).to(torch.int32),
        torch.stack([sample.labels for sample in samples]),
        [sample.key for sample in samples],
        [sample.mode for sample in samples],
        samples[0].kind,
    )


def empty_batch(kind: Kind, patch_size: int, labels_per_sample: int) -> PretrainBatch:
    """Return a batch without samples: what a rank has when all its samples were skipped.

    Args:
        kind: kind of its set.
        patch_size: side of a patch in pixels.
        labels_per_sample: R.
    """
    return PretrainBatch(
        torch.empty(0, 3 * patch_size * patch_size, dtype=torch.uint8),
        torch.empty(0, 3, dtype=torch.int64),
        torch.zeros(1, dtype=torch.int32),
        torch.empty(0, labels_per_sample, dtype=torch.int64),
        [],
        [],
        kind,
    )


def normalise(patches: Tensor, patch_size: int) -> Tensor:
    """Return uint8 patches (P, 3 * p * p) as float32 in CLIP's normalisation, on their device."""
    area = patch_size * patch_size
    if patches.shape[-1] != 3 * area:
        raise ValueError(
            f"patches must hold 3 * {patch_size} * {patch_size} = {3 * area} values each, "
            f"got shape {tuple(patches.shape)}"
        )
    mean = torch.tensor(MEAN, device=patches.device).repeat_interleave(area) * 255
    scale = 1 / (torch.tensor(STANDARD_DEVIATION, device=patches.device) * 255)
    return (patches.float() - mean) * scale.repeat_interleave(area)
