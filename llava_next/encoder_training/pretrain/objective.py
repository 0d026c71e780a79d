"""Cluster discrimination: each sample is distinguished from the centres of the whole concept bank.

A head holds one centre per concept. Its rows are shared out over the ranks, so that a bank of
millions needs no more memory on each than its part. Every step draws some of a sample's labels, and
each shard compares with the positives and a random part of its other centres (partial FC).

Every drawn label is a problem of its own: a softmax over the sample's label, with a margin, against
the centres sampled for that label's column. The columns differ only in which label is the target
and in which positives were forced into the sample. So the similarities are computed once for all
columns, and a column's sum leaves out its own target. Nothing is subtracted from a sum of
exponentials: in float32 that would lose the small ones.

Axis letters: B rows of all ranks, M rows of the fullest rank, b rows of this rank, R labels of a
sample, K drawn labels (columns), n centres of this rank's shard, P centres sampled from them, D
width of a feature.
"""

import hashlib
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from .collectives import (
    gather_rows,
    group_rank_and_size,
    max_over_ranks,
    sum_over_ranks,
    sum_to_owners,
)

Margin = Literal["cosface", "arcface"]
_BLOCK_CENTRES = 4096
_INITIAL_STD = 0.01
_LEAST_SQUARED_SINE = 1e-12


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What a head computes; the defaults are those of the published encoder.

    Attributes:
        sample_rate: part of a shard's centres that a step compares with, in (0, 1]; 1 is the
            full softmax.
        labels_per_step: K, labels drawn from a sample's R at each step.
        margin_kind: "cosface" takes the margin from the cosine, "arcface" adds it to the angle.
        margin: margin of the target, as a cosine or in radians.
        scale: factor of all cosines.
        filter_above: cosines of other centres above it become 0: they are likely the same concept.
        reference_gradient_scale: multiply the gradient by K. The published training does so without
            meaning to; its learning rates carry over only with this.
    """

    sample_rate: float = 0.1
    labels_per_step: int = 8
    margin_kind: Margin = "cosface"
    margin: float = 0.3
    scale: float = 64.0
    filter_above: float = 0.75
    reference_gradient_scale: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.sample_rate <= 1:
            raise ValueError(f"sample_rate must be in (0, 1], got {self.sample_rate}")
        if self.labels_per_step < 1:
            raise ValueError(f"labels_per_step must be at least 1, got {self.labels_per_step}")
        if self.margin_kind not in ("cosface", "arcface"):
            raise ValueError(f"margin_kind must be cosface or arcface, got {self.margin_kind!r}")

    def target_logits(self, cosines: Tensor) -> Tensor:
        """Return the scaled logits of targets, after the margin."""
        if self.margin_kind == "cosface":
            return (cosines - self.margin) * self.scale
        margin = torch.tensor(self.margin, dtype=cosines.dtype, device=cosines.device)
        sines = (1 - cosines.square()).clamp_min(_LEAST_SQUARED_SINE).sqrt()
        return (cosines * margin.cos() - sines * margin.sin()) * self.scale

    def other_logits(self, cosines: Tensor) -> Tensor:
        """Return the scaled logits of all other centres, after the filter."""
        return cosines.masked_fill(cosines > self.filter_above, 0.0) * self.scale


class HeadLoss(NamedTuple):
    """Loss of a head at one step.

    Attributes:
        own_part: scalar with a gradient. Its sum over the ranks has the gradient of the loss (times
            K with ``reference_gradient_scale``).
        value: scalar without a gradient: the loss itself, the same on every rank.
    """

    own_part: Tensor
    value: Tensor


class Pool(NamedTuple):
    """Centres of this shard that a step compares with.

    Attributes:
        centres: int64 (P,), rising rows of the shard; None for all of them.
        members: bool (K, P), which of them each column compares with; None for all of them.
    """

    centres: Tensor | None
    members: Tensor | None


def shard_bounds(num_centres: int, rank: int, size: int) -> tuple[int, int]:
    """Return the half-open range of centres that a rank holds: the first ranks have one more."""
    share, rest = divmod(num_centres, size)
    first = share * rank + min(rank, rest)
    return first, first + share + (rank < rest)


def stream_seed(*parts: object) -> int:
    """Return a seed for one use of random numbers, from what that use depends on."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:7], "little")


def generator_for(device: torch.device, *parts: object) -> torch.Generator:
    """Return a generator seeded by ``stream_seed``.

    Random numbers are functions of what they are for, not of what was drawn before: a resumed run
    draws the same ones without any state to restore.
    """
    return torch.Generator(device).manual_seed(stream_seed(*parts))


def draw_labels(labels: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Draw ``count`` of the labels (b, R) of each sample, without repetition: (b, count).

    Raises:
        ValueError: if a sample has fewer labels.
    """
    if labels.shape[1] < count:
        raise ValueError(
            f"samples must have at least --labels_per_step {count} labels, got {labels.shape[1]}"
        )
    scores = torch.rand(labels.shape, generator=generator, device=labels.device)
    return labels.gather(1, scores.argsort(dim=1)[:, :count])


class CentreHead(nn.Module):
    """The centres of a concept bank, this rank's shard of them, and the loss against them."""

    def __init__(
        self,
        name: str,
        num_centres: int,
        feature_size: int,
        objective: Objective,
        *,
        seed: int = 0,
        group: Any = None,
    ) -> None:
        """Start the centres from a normal distribution.

        Args:
            name: name of the head, for its random numbers and its files.
            num_centres: centres of the whole bank.
            feature_size: D.
            objective: what to compute.
            seed: seed of all random numbers. The centres do not depend on the number of ranks.
            group: process group that shares the centres; None for all processes.
        """
        super().__init__()
        self.name, self.num_centres, self.objective = name, num_centres, objective
        self._seed, self._group = seed, group
        self.rank, self.size = group_rank_and_size(group)
        self.first, self.end = shard_bounds(num_centres, self.rank, self.size)
        initial = initial_centres(name, self.first, self.end, feature_size, seed)
        self.centres = nn.Parameter(initial)

    def forward(
        self,
        features: Tensor,
        labels: Tensor,
        counts: list[int],
        *,
        step: object = 0,
        compute_dtype: torch.dtype | None = None,
    ) -> HeadLoss:
        """Compute the loss of a global batch; every rank of the group must call it.

        Args:
            features: (b, D), not normalised; b may be 0.
            labels: int64 (b, R), numbers of centres of the whole bank.
            counts: b of every rank, at least one of them above 0.
            step: what identifies this call: it alone decides what is drawn.
            compute_dtype: dtype of the products; None for that of the features.

        Raises:
            ValueError: if a label is outside the bank.
        """
        rank, size, most_rows = self.rank, self.size, max(counts)
        device, seeds = features.device, (self._seed, self.name, step)
        self._check_labels(labels)
        count = self.objective.labels_per_step
        drawn = draw_labels(labels, count, generator_for(device, *seeds, "labels", rank, size))
        rows = gather_rows(functional.normalize(features), most_rows, group=self._group)
        all_drawn = gather_rows(drawn, most_rows, fill=-1, group=self._group)

        local = all_drawn - self.first
        owned = (all_drawn >= self.first) & (all_drawn < self.end)
        pool = self._sample(local, owned, generator_for(device, *seeds, "negatives", rank, size))
        cosines = self._cosines(rows, pool, compute_dtype)
        columns = _columns(local, owned, pool)
        target, others, highest = self._shard_sums(cosines, columns, owned, all_drawn, pool)
        both = sum_to_owners(torch.cat((target, others), dim=1), self._group)
        own = len(features)
        target, others = both[:own].split(count, dim=1)
        own_highest = highest.unflatten(0, (size, most_rows))[rank, :own]

        least = torch.finfo(others.dtype).tiny
        other_sum = others.clamp_min(least).log() + own_highest
        difference = other_sum - self.objective.target_logits(target)
        # Not softplus, which is linear above 20: that is an error of 2e-9.
        losses = torch.logaddexp(difference, torch.zeros_like(difference))
        own_part = losses.sum() / (sum(counts) * count)
        value = sum_over_ranks(own_part, self._group)
        if self.objective.reference_gradient_scale:
            own_part = own_part * count
        return HeadLoss(own_part, value)

    def _check_labels(self, labels: Tensor) -> None:
        if not labels.numel():
            return
        lowest, highest = (int(value) for value in labels.aminmax())
        if lowest < 0 or highest >= self.num_centres:
            raise ValueError(
                f"labels of the head {self.name} must be in [0, {self.num_centres}), the number of "
                f"centres of its bank, got values from {lowest} to {highest}; label the data with "
                "the bank that set.json names"
            )

    def _sample(self, local: Tensor, owned: Tensor, generator: torch.Generator) -> Pool:
        """Choose the centres of each column: its positives, then others at random.

        Every column has ``int(sample_rate * n)`` centres, or its positives where these are more.
        The random order is one for all columns, so that their union stays small; each column by
        itself is a uniform sample.
        """
        total = len(self.centres)
        if self.objective.sample_rate >= 1 or total == 0:
            return Pool(None, None)
        members = torch.zeros((local.shape[1], total), dtype=torch.bool, device=local.device)
        row, column = owned.nonzero(as_tuple=True)
        members[column, local[row, column]] = True
        quota = int(self.objective.sample_rate * total)
        scores = torch.rand(total, generator=generator, device=local.device)
        candidates = scores.topk(quota).indices
        free = ~members[:, candidates]
        wanted = (quota - members.sum(dim=1)).clamp_min(0)
        taken = free & (free.cumsum(dim=1) <= wanted[:, None])
        members[:, candidates] |= taken
        centres = members.any(dim=0).nonzero()[:, 0]
        return Pool(centres, members[:, centres])

    def _cosines(self, rows: Tensor, pool: Pool, compute_dtype: torch.dtype | None) -> Tensor:
        """Return the cosines (B, P) of normalised rows and sampled centres."""
        centres = self.centres if pool.centres is None else self.centres[pool.centres]
        centres = functional.normalize(centres)
        dtype = compute_dtype or rows.dtype
        cosines = (rows.to(dtype) @ centres.to(dtype).T).to(rows.dtype)
        return cosines.clamp(-1, 1)

    def _shard_sums(
        self, cosines: Tensor, columns: Tensor, owned: Tensor, drawn: Tensor, pool: Pool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return what this shard contributes to the softmax of every row and column.

        Args:
            cosines: (B, P).
            columns: int64 (B, K), where a row's labels are among the P; 0 where not owned.
            owned: bool (B, K), which labels this shard has.
            drawn: int64 (B, K), the labels.
            pool: the sampled centres.

        Returns:
            Cosines of the targets (B, K), 0 where not owned; sums (B, K) of exp(logit - highest) of
            all other centres; highest (B, 1) of all ranks.
        """
        logits = self.objective.other_logits(cosines)
        if cosines.shape[1] == 0:
            # Zeros that depend on the rows: the backward pass must reach the other ranks.
            nothing = cosines.sum(dim=1, keepdim=True).expand(owned.shape)
            lowest = cosines.new_full((len(owned), 1), -torch.inf)
            return nothing, nothing, max_over_ranks(lowest, self._group)
        highest = max_over_ranks(logits.amax(dim=1, keepdim=True), self._group)
        # A row's own labels are left out here, and come back below for the columns of the others.
        is_own = torch.zeros_like(logits, dtype=torch.bool)
        row, column = owned.nonzero(as_tuple=True)
        is_own[row, columns[row, column]] = True
        weights = (logits - highest).exp().masked_fill(is_own, 0.0)
        if pool.members is None:
            sums = weights.sum(dim=1, keepdim=True).expand(owned.shape)
        else:
            sums = weights @ pool.members.T.to(weights.dtype)
        target = cosines.gather(1, columns).masked_fill(~owned, 0.0)
        own_weights = (self.objective.other_logits(target) - highest).exp()
        counted = _counted_labels(columns, owned, drawn, pool.members).to(weights.dtype)
        return target, sums + torch.einsum("bl,blk->bk", own_weights, counted), highest


def initial_centres(name: str, first: int, end: int, feature_size: int, seed: int) -> Tensor:
    """Return rows [first, end) of a head's initial centres, float32, from any rank."""
    parts = [torch.empty(0, feature_size)]
    for block in range(first // _BLOCK_CENTRES, -(-end // _BLOCK_CENTRES)):
        generator = generator_for(torch.device("cpu"), seed, name, "centres", block)
        rows = torch.randn(_BLOCK_CENTRES, feature_size, generator=generator) * _INITIAL_STD
        start = block * _BLOCK_CENTRES
        parts.append(rows[max(first - start, 0) : end - start])
    return torch.cat(parts)


def _columns(local: Tensor, owned: Tensor, pool: Pool) -> Tensor:
    """Return where each label (B, K) is among the sampled centres, 0 where it is not owned."""
    local = local.masked_fill(~owned, 0)
    if pool.centres is not None:
        local = torch.searchsorted(pool.centres, local)
    return local.masked_fill(~owned, 0)


def _counted_labels(
    columns: Tensor, owned: Tensor, drawn: Tensor, members: Tensor | None
) -> Tensor:
    """Return which of a row's other labels are ordinary centres of a column: bool (B, K, K).

    Entry [b, l, k]: label l is in column k's sample, is not its target, and is not counted yet
    because an earlier label is the same centre.
    """
    same = drawn[:, :, None] == drawn[:, None, :]
    is_repeated = same.tril(-1).any(dim=2)
    counted = (owned & ~is_repeated)[:, :, None] & ~same
    if members is not None:
        counted = counted & members.T[columns]
    return counted
