"""Train the heads of a run on features, choose the best, and score it.

Batches are global: their clips are shared out over the ranks and gradients added up, so that a run
does the same steps on any number of ranks with the same clips a step. Scored clips are cut into
chunks whose content does not depend on the ranks, and predictions are gathered by the clip's
number: each counts once, and the score is the same to the last digit.

Axis letters: N probes, B clips, C classes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from encoder_training.probe.clips import ClipView
from encoder_training.probe.features import stack
from encoder_training.probe.heads import HeadShape, ProbeHeads
from encoder_training.probe.inputs import Key
from encoder_training.probe.optimiser import StackedAdamW
from encoder_training.probe.scores import score_clips
from encoder_training.probe.settings import ProbeSettings
from run_kit.ranks import gather, rank_and_size


class FeatureSource(Protocol):
    """Where features come from: ``CachedFeatures`` or ``StreamedFeatures``."""

    broken: dict[str, str]

    def batches(self, batches: Sequence[Sequence[Key]]) -> Iterator[list[Tensor | None]]:
        """Yield the tokens (T, D) of each clip of each batch; None for clips that are broken."""
        ...


@dataclass
class Labelled:
    """Clips with features and labels.

    Attributes:
        source: of the features.
        labels: bool (clips of the list, C).
        indices: numbers of the clips that are used.
        views: views of each clip.
    """

    source: FeatureSource
    labels: Tensor
    indices: list[int]
    views: list[ClipView]


class Best(NamedTuple):
    """The best head so far.

    Attributes:
        score: top-1 or mAP of the clips to choose by, in percent; NaN without such clips.
        epoch: epochs done.
        probe: number of the probe.
    """

    score: float
    epoch: int
    probe: int


@dataclass
class TrainingProgress:
    """Where a run is: all but weights and moments.

    Attributes:
        epoch: epochs done.
        step: steps of the present epoch done.
        loss_sum: sum of the losses of each probe over this epoch's steps.
        best: the best head; None before the first look.
        history: one row per look.
        seconds: spent in training by earlier starts of the run.
    """

    epoch: int = 0
    step: int = 0
    loss_sum: list[float] = field(default_factory=list[float])
    best: Best | None = None
    history: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    seconds: float = 0.0


class ProbeTraining:
    """Heads, optimiser and data of a run.

    Args:
        settings: of the run.
        train: clips to train on.
        choice: clips to choose the best head by; no indices: the last epoch counts.
        width: D.
        device: where.
        has_several_labels: whether clips may have several labels.
    """

    def __init__(
        self,
        settings: ProbeSettings,
        train: Labelled,
        choice: Labelled,
        *,
        width: int,
        device: torch.device,
        has_several_labels: bool,
    ) -> None:
        self.settings, self.train, self.choice, self.device = settings, train, choice, device
        self.has_several_labels = has_several_labels
        self.probes = settings.probes()
        shape = HeadShape(
            width=width, num_classes=train.labels.shape[1], num_blocks=settings.head_blocks
        )
        self.heads = ProbeHeads(shape, len(self.probes), seed=settings.seed).to(device)
        self.best_head = ProbeHeads(shape, 1, seed=settings.seed).to(device)
        _, self._size = rank_and_size()
        self.steps_per_epoch = -(-len(train.indices) // (settings.batch_size * self._size))
        self.optimiser = StackedAdamW(
            self.heads,
            rates=[rate for rate, _ in self.probes],
            decays=[decay for _, decay in self.probes],
            max_grad_norm=settings.clip_grad,
            schedule=settings.schedule,
            num_steps=max(self.steps_per_epoch * settings.default_epoch, 1),
        )
        self.progress = TrainingProgress(loss_sum=[0.0] * len(self.probes))

    @property
    def is_done(self) -> bool:
        """Return whether all epochs are done."""
        return self.progress.epoch >= self.settings.default_epoch

    def epoch(self) -> Iterator[int]:
        """Train to the end of the present epoch; yields the number of steps of it after each."""
        progress, settings = self.progress, self.settings
        own = self._own_batches(progress.epoch)[progress.step :]
        for keys, found in zip(own, self.train.source.batches(own), strict=True):
            pairs = [
                (tokens, key.clip)
                for key, tokens in zip(keys, found, strict=True)
                if tokens is not None
            ]
            losses = self._step(pairs)
            progress.loss_sum = [
                total + loss for total, loss in zip(progress.loss_sum, losses, strict=True)
            ]
            progress.step += 1
            yield progress.step
        progress.epoch += 1
        row = {
            "step": progress.epoch,
            "loss": [total / max(progress.step, 1) for total in progress.loss_sum],
            "diverged": self.optimiser.diverged.tolist(),
        }
        progress.step, progress.loss_sum = 0, [0.0] * len(self.probes)
        is_last = progress.epoch == settings.default_epoch
        if progress.epoch % settings.eval_freq == 0 or is_last:
            row["choice"] = self._look()
        progress.history.append(row)

    def _own_batches(self, epoch: int) -> list[list[Key]]:
        """Return this rank's part of each batch of an epoch."""
        rank, size = rank_and_size()
        random = np.random.default_rng([self.settings.seed, epoch])
        order = random.permutation(np.array(self.train.indices))
        views = self.train.views
        draws = len(views) > 1 or views[0].draw is not None
        step = self.settings.batch_size
        batches: list[list[Key]] = []
        for number in range(self.steps_per_epoch):
            start = (number * size + rank) * step
            part = order[start : start + step].tolist()
            if draws and len(views) == 1:  # streamed: drawn again in every epoch
                view = views[0]._replace(draw=epoch)
            else:
                view = views[epoch % len(views)]
            batches.append([Key(index, view) for index in part])
        return batches

    def _step(self, pairs: Sequence[tuple[Tensor, int]]) -> list[float]:
        """Do one step on this rank's clips; returns the loss of each probe over all ranks."""
        counts = torch.tensor([float(len(pairs))], device=self.device)
        if self._size > 1:
            dist.all_reduce(counts)
        total = max(float(counts), 1.0)
        sums = torch.zeros(len(self.probes), device=self.device)
        if pairs:
            logits = self._logits(self.heads, [tokens for tokens, _ in pairs])
            labels = self.train.labels[[index for _, index in pairs]].to(self.device)
            sums = self._losses(logits, labels).sum(dim=1)
            (sums.sum() / total).backward()
        if self._size > 1:
            for value in self.heads.parameters():
                if value.grad is None:
                    value.grad = torch.zeros_like(value)
                dist.all_reduce(value.grad)
            sums = sums.detach().clone()
            dist.all_reduce(sums)
        self.optimiser.step()
        return (sums.detach() / total).tolist()

    def _losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of each probe and clip, (N, B)."""
        count = len(logits)
        if self.has_several_labels:
            truth = labels.to(logits.dtype).expand(count, -1, -1)
            return F.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean(dim=2)
        truth = labels.to(torch.int8).argmax(dim=1).repeat(count)
        losses = F.cross_entropy(
            logits.flatten(0, 1), truth, reduction="none",
            label_smoothing=self.settings.label_smoothing,
        )  # fmt: skip
        return losses.view(count, -1)

    def _logits(self, heads: ProbeHeads, clips: Sequence[Tensor]) -> Tensor:
        batch = stack(clips)
        tokens = batch.tokens.to(self.device, non_blocking=True)
        mask = None if batch.mask is None else batch.mask.to(self.device)
        enabled = self.settings.bf16 and self.device.type == "cuda"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=enabled):
            return heads(tokens, mask)

    def _look(self) -> list[float]:
        """Score all probes on the clips to choose by, and keep the best."""
        progress = self.progress
        if not self.choice.indices:
            progress.best = Best(float("nan"), progress.epoch, 0)
            self.heads.copy_to(0, self.best_head)
            return []
        indices, predictions = self.predict(self.heads, self.choice)
        labels = self.choice.labels[indices]
        values = []
        for row in predictions:
            found = score_clips(row, labels, has_several_labels=self.has_several_labels)
            values.append(
                found.top1 if found.mean_average_precision is None else found.mean_average_precision
            )
        stopped = self.optimiser.diverged.tolist()
        sound = [number for number in range(len(values)) if not stopped[number]]
        if sound:
            number = max(sound, key=lambda number: values[number])
            # Of equal scores the later epoch counts: its head has seen more.
            if progress.best is None or values[number] >= progress.best.score:
                progress.best = Best(values[number], progress.epoch, number)
                self.heads.copy_to(number, self.best_head)
        return values

    @torch.no_grad()
    def predict(self, heads: ProbeHeads, data: Labelled) -> tuple[list[int], Tensor]:
        """Return the predictions of clips; every rank must call it, and gets all.

        Returns:
            numbers of the clips that could be read, ascending, and float32 (N, clips, C),
            probabilities that are averaged over the views.
        """
        rank, size = rank_and_size()
        step = self.settings.batch_size
        indices = sorted(data.indices)
        chunks = [indices[start : start + step] for start in range(0, len(indices), step)]
        own = chunks[rank::size]
        keys = [[Key(index, view) for index in chunk for view in data.views] for chunk in own]
        done: list[tuple[list[int], Tensor]] = []
        for chunk, found in zip(own, data.source.batches(keys), strict=True):
            count = len(data.views)
            is_there = [all(part is not None for part in found[row * count : (row + 1) * count])
                        for row in range(len(chunk))]  # fmt: skip
            kept = [index for index, there in zip(chunk, is_there, strict=True) if there]
            if not kept:
                continue
            clips = [
                part
                for row, there in enumerate(is_there)
                for part in found[row * count : (row + 1) * count]
                if there and part is not None
            ]
            logits = self._logits(heads, clips)
            values = logits.sigmoid() if self.has_several_labels else logits.softmax(dim=2)
            done.append((kept, values.unflatten(1, (len(kept), count)).mean(dim=2).cpu()))
        parts = [part for rows in gather(done) for part in rows]
        by_index = {
            index: (p, r) for p, (kept, _) in enumerate(parts) for r, index in enumerate(kept)
        }
        if len(by_index) != sum(len(kept) for kept, _ in parts):
            raise AssertionError("a clip was counted twice")
        scored = sorted(by_index)
        if not scored:
            return [], torch.zeros(heads.num_probes, 0, data.labels.shape[1])
        order = torch.tensor([by_index[index] for index in scored])
        starts = torch.tensor([0] + [len(kept) for kept, _ in parts]).cumsum(0)
        together = torch.cat([values for _, values in parts], dim=1)
        return scored, together[:, starts[order[:, 0]] + order[:, 1]]


def split_for_choice(labels: Tensor, share: float, seed: int) -> tuple[list[int], list[int]]:
    """Split training clips into those to train on and those to choose by, class by class.

    Args:
        labels: bool (clips, C); a clip belongs to its first class.
        share: part of each class to choose by, rounded; a class of one clip is trained on.
        seed: of the split.

    Returns:
        numbers of the clips to train on, and to choose by.
    """
    classes = labels.to(torch.int8).argmax(dim=1).tolist()
    by_class: dict[int, list[int]] = {}
    for index, label in enumerate(classes):
        by_class.setdefault(label, []).append(index)
    random = np.random.default_rng([seed, 77])
    choice: list[int] = []
    for label in sorted(by_class):
        own = by_class[label]
        count = min(round(share * len(own)) or int(share > 0), len(own) - 1)
        choice += random.permutation(own)[:count].tolist()
    chosen = set(choice)
    return [index for index in range(len(classes)) if index not in chosen], sorted(chosen)
