"""Pretrain an encoder by cluster discrimination.

    python -m encoder_training.pretrain.train --output_dir runs/base --image_set shards/images

alone or under torchrun. docs/pretraining.md explains the data; ``--help`` explains every setting.

The encoder is replicated, with the gradients averaged by DistributedDataParallel; the centres are
shared out, each rank having its rows. A step runs the encoder once on all its visuals, then each
head on its own; gradients come back to the features, and from there through the encoder.

Exit codes: 0 done; 1 failed during training (checkpoints remain); 2
settings, data or installation wrong, nothing started; 130 interrupted.
"""

import contextlib
import math
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from encoder_training.pretrain.collectives import gather_counts, sum_over_ranks
from encoder_training.pretrain.data.samples import Kind, PretrainBatch, normalise
from encoder_training.pretrain.data.shard_set import ShardSet, open_set
from encoder_training.pretrain.model import PooledEncoder, build_encoder, join, step_flops
from encoder_training.pretrain.objective import CentreHead, stream_seed
from encoder_training.pretrain.record import (
    PretrainRecord,
    StepResult,
    write_embeddings,
    write_final,
)
from encoder_training.pretrain.schedule import rate_factor
from encoder_training.pretrain.settings import Settings
from encoder_training.pretrain.state import TrainingState, load_centres, load_state, save_state
from onevision_encoder import OneVisionEncoderModel
from onevision_encoder.checks import check_positions
from run_kit.arguments import parse_settings
from run_kit.checkpoints import check_sharing, find_checkpoint
from run_kit.exits import FAILED_SAMPLES, INTERRUPTED, OK, USAGE, ExitOnError
from run_kit.ranks import gather, join_group, leave, rank_and_size


class DivergedRun(RuntimeError):
    """The loss became NaN or infinite."""


class NoUsableSamples(RuntimeError):
    """All samples of a step were skipped, on all ranks."""


class Pretraining:
    """A run: encoder, heads, optimiser and data, and what one step does with them."""

    def __init__(self, settings: Settings, device: torch.device) -> None:
        """Build everything, with the weights that the settings name.

        Raises:
            ValueError: naming the flag or the file, its rule and its value.
        """
        self.settings, self.device = settings, device
        self.rank, self.size = rank_and_size()
        self.num_steps = settings.num_steps(self.size)
        self.sets: dict[Kind, ShardSet] = {
            kind: open_set(
                paths,
                view=settings.view(kind),
                batch_size=getattr(settings, f"{kind}_batch"),
                rank=self.rank,
                world_size=self.size,
                seed=stream_seed(settings.seed, kind),
                num_workers=settings.num_workers,
                on_bad=settings.on_bad_sample,
            )
            for kind, paths in settings.sets().items()
        }
        self.samples_to_embed: dict[Kind, ShardSet] = {
            kind: open_set(
                paths,
                view=settings.plain_view(kind),
                batch_size=32,
                shuffle=False,
                num_epochs=1,
                on_bad=settings.on_bad_sample,
            )
            for kind, paths in settings.sets().items()
        }
        torch.manual_seed(settings.seed)
        encoder = build_encoder(
            settings.size,
            patch_size=settings.patch_size,
            image_px=settings.image_px,
            clip_frames=settings.clip_frames,
            init=settings.init,
            attn_implementation=settings.attn_implementation,
        )
        nn.Module.to(encoder, device)
        heads = {kind: self._head(kind, encoder) for kind in self.sets}
        self.state = TrainingState(
            encoder=encoder, heads=heads, optimizer=_optimizer(encoder, heads, settings, device)
        )
        if settings.ema_decay:
            self.state.average = {k: v.detach().clone() for k, v in encoder.named_parameters()}
        if settings.gradient_checkpointing:
            encoder.gradient_checkpointing_enable()
        if settings.compile:
            for layer in encoder.encoder.layers:
                layer.compile()
        self._model: nn.Module = PooledEncoder(encoder).train()
        if self.size > 1:
            self._model = DistributedDataParallel(
                self._model,
                device_ids=[device] if device.type == "cuda" else None,
                gradient_as_bucket_view=True,
            )

    def _head(self, kind: Kind, encoder: OneVisionEncoderModel) -> CentreHead:
        settings, info = self.settings, self.sets[kind].info
        if info.labels_per_sample < settings.labels_per_step:
            raise ValueError(
                f"--labels_per_step must be at most the {info.labels_per_sample} labels of a "
                f"sample in {settings.sets()[kind][0]}, got {settings.labels_per_step}"
            )
        width = encoder.config.hidden_size
        head = CentreHead(
            kind, info.num_centres, width, settings.objective(), seed=settings.seed
        ).to(self.device)
        if settings.init_centres:
            load_centres(Path(settings.init_centres), kind, head)
        return head

    @torch.no_grad()
    def embed(self, batch: PretrainBatch) -> Tensor:
        """Return the features (S, D) of a batch, without a gradient."""
        return PooledEncoder(self.state.encoder)(*self._inputs([batch]))

    def start_data(self) -> None:
        """Begin to read each set, at the position of the state."""
        for kind, data in self.sets.items():
            if kind in self.state.positions:
                data.load_state_dict(self.state.positions[kind])
        self._batches = {kind: data.batches() for kind, data in self.sets.items()}

    def step(self) -> StepResult:
        """Do one step of the optimiser; every rank must call it.

        Raises:
            DivergedRun: on all ranks, if the loss is not finite, before any weight changes.
            NoUsableSamples: on all ranks, if every sample of the step was skipped.
        """
        settings, state = self.settings, self.state
        factor = rate_factor(
            settings.schedule,
            state.step,
            num_steps=self.num_steps,
            warmup_steps=round(settings.warmup_ratio * self.num_steps),
        )
        for group in state.optimizer.param_groups:
            group["lr"] = group["highest_rate"] * factor
        losses: dict[str, Tensor] = {}
        samples, tokens, flops = 0, 0, 0.0
        waited = -self._waited()
        for part in range(settings.accumulation_steps):
            is_last = part == settings.accumulation_steps - 1
            batches = [next(batches) for batches in self._batches.values()]
            found, compared = self._micro_step(batches, part, is_last)
            for kind, loss in found.items():
                losses[kind] = losses.get(kind, 0) + loss / settings.accumulation_steps
            lengths = [length for batch in batches for length in batch.cu_seqlens.diff().tolist()]
            samples, tokens = samples + len(lengths), tokens + sum(lengths)
            flops += step_flops(state.encoder, lengths, compared)
        if not losses:
            skipped = sum((data.skipped for data in self.sets.values()), Counter[str]())
            raise NoUsableSamples(
                f"step {state.step + 1} must have a sample that can be used, all of all ranks were "
                f"skipped; skipped so far on this rank: {dict(skipped)}. Repair the shards, then "
                "continue with --resume_from_checkpoint auto"
            )
        norm = self._clip()
        state.optimizer.step()
        state.optimizer.zero_grad(set_to_none=True)
        for name, weight in state.encoder.named_parameters() if state.average else ():
            state.average[name].lerp_(weight.detach(), 1 - settings.ema_decay)
        state.step += 1
        state.positions = {kind: data.state_dict() for kind, data in self.sets.items()}
        return StepResult(
            losses={kind: float(loss) for kind, loss in losses.items()},
            grad_norm=float(norm),
            learning_rate=settings.learning_rate * factor,
            samples=samples,
            tokens=tokens,
            flops=flops,
            wait_seconds=waited + self._waited(),
            bad_samples=[error for data in self.sets.values() for error in data.take_bad()],
        )

    def _waited(self) -> float:
        return sum(data.wait_seconds for data in self.sets.values())

    def _micro_step(
        self, batches: Sequence[PretrainBatch], part: int, is_last: bool
    ) -> tuple[dict[str, Tensor], list[tuple[int, int]]]:
        """Add the gradients of one micro-batch; return the loss and the cost of each head."""
        settings, state = self.settings, self.state
        by_kind = {batch.kind: batch for batch in batches}
        own = [len(by_kind[kind].labels) for kind in state.heads]
        counts = gather_counts(own, self.device)
        autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=settings.bf16)
        model = self._model
        is_shared = isinstance(model, DistributedDataParallel)
        with contextlib.nullcontext() if is_last or not is_shared else model.no_sync():
            with autocast:
                features = model(*self._inputs(batches))
            leaf = features.detach().requires_grad_()
            total, losses, compared, start = leaf.sum() * 0, {}, [], 0
            for index, kind in enumerate(self.sets):
                head, rows = state.heads[kind], [row[index] for row in counts]
                if not any(rows):
                    continue
                loss = head(
                    leaf[start : start + own[index]],
                    by_kind[kind].labels.to(self.device, non_blocking=True),
                    rows,
                    step=(state.step, part),
                    compute_dtype=torch.bfloat16 if settings.bf16 else None,
                )
                start += own[index]
                weight = getattr(settings, f"{kind}_loss_weight")
                total = total + loss.own_part * (weight / settings.accumulation_steps)
                losses[kind] = loss.value
                share = head.end - head.first
                compared.append((sum(rows), max(1, int(share * settings.sample_rate))))
            self._check_finite(losses, features, batches)
            total.backward()
            assert leaf.grad is not None
            # DistributedDataParallel takes the mean over the ranks; the loss is a sum of parts.
            features.backward(leaf.grad * self.size)
        return losses, compared

    def _inputs(self, batches: Sequence[PretrainBatch]) -> tuple[Tensor, Tensor, Tensor, list[int]]:
        batches = [batch for batch in batches if batch.keys]
        if not batches:  # a rank without samples still takes part
            width = 3 * self.settings.patch_size**2
            bounds = torch.tensor([0, 1], dtype=torch.int32)
            return (
                torch.zeros(1, width, device=self.device),
                torch.zeros(1, 3, dtype=torch.int64, device=self.device),
                bounds,
                [1],
            )
        patches, positions, cu_seqlens, lengths = join(batches)
        check_positions(positions, [(len(patches), 3)])  # while they are on the host
        patches = patches.to(self.device, non_blocking=True)
        return (
            normalise(patches, self.settings.patch_size),
            positions.to(self.device, non_blocking=True),
            cu_seqlens,
            lengths,
        )

    def _check_finite(
        self, losses: Mapping[str, Tensor], features: Tensor, batches: Sequence[PretrainBatch]
    ) -> None:
        """Stop before the weights change, naming the samples whose features are not finite."""
        values = {kind: float(loss) for kind, loss in losses.items()}
        if all(map(math.isfinite, values.values())):
            return
        keys = [f"{batch.kind} {key}" for batch in batches for key in batch.keys]
        finite = features.detach().isfinite().all(dim=1).tolist()
        own = [key for key, is_finite in zip(keys, finite, strict=False) if not is_finite]
        names = [name for found in gather(own) for name in found]
        raise DivergedRun(
            f"the loss of step {self.state.step + 1} is not finite ({values}); samples with "
            f"features that are NaN or infinite: {', '.join(names[:16]) or 'none'}. Look at these "
            "samples, or lower --learning_rate; then continue with --resume_from_checkpoint auto"
        )

    def _clip(self) -> Tensor:
        """Clip the gradient of the encoder, and of each head's centres on all ranks together."""
        limit = self.settings.max_grad_norm or math.inf
        norm = nn.utils.clip_grad_norm_(self.state.encoder.parameters(), limit)
        for head in self.state.heads.values():
            if head.centres.grad is not None:
                squares = sum_over_ranks(head.centres.grad.square().sum())
                head.centres.grad *= (limit / (squares.sqrt() + 1e-6)).clamp(max=1)
        return norm


def _optimizer(
    encoder: nn.Module, heads: Mapping[str, CentreHead], settings: Settings, device: torch.device
) -> torch.optim.AdamW:
    rate = settings.learning_rate
    groups: list[dict[str, Any]] = [
        {
            "params": list(encoder.parameters()),
            "weight_decay": settings.weight_decay,
            "highest_rate": rate,
        }
    ]
    groups += [
        {
            "params": [head.centres],
            "weight_decay": settings.centre_weight_decay,
            "highest_rate": rate * settings.centre_rate,
        }
        for head in heads.values()
    ]
    return torch.optim.AdamW(groups, lr=rate, fused=device.type == "cuda")


def pretrain(run: Pretraining, record: PretrainRecord) -> None:
    """Train to the last step, and write the finished encoder."""
    settings, state, output_dir = run.settings, run.state, Path(run.settings.output_dir)
    run.start_data()
    record.start(state.step)
    while True:
        if settings.embedding_steps and state.step % settings.embedding_steps == 0:
            _save_embeddings(run, output_dir)
        if state.step >= run.num_steps:
            break
        result = run.step()
        record.add(state.step, result)
        is_last = state.step == run.num_steps
        if settings.save_steps and (state.step % settings.save_steps == 0 or is_last):
            save_state(output_dir, state, record.about, settings.save_total_limit)
    write_final(state, record)


def _save_embeddings(run: Pretraining, output_dir: Path) -> None:
    """Embed the first samples of each set, not augmented, and write them; on rank 0."""
    if run.rank:
        return
    keys, kinds, features = [], [], []
    for kind, data in run.samples_to_embed.items():
        left = run.settings.embedding_samples
        for batch in data.batches():
            if not batch.keys:
                continue
            features.append(run.embed(batch)[:left])
            keys += batch.keys[:left]
            kinds += [kind] * min(left, len(batch.keys))
            left -= len(batch.keys)
            if left <= 0:
                break
        data.load_state_dict({"position": 0})
        data.take_bad()  # training lists them when it comes to them
    if features:
        write_embeddings(output_dir, run.state.step, keys, kinds, torch.cat(features))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see the module's text for the exit codes."""
    with ExitOnError(USAGE) as state:
        (settings,) = parse_settings(
            "encoder_training.pretrain.train",
            (Settings,),
            argv,
            description=__doc__,
            required="--output_dir DIR --image_set DIR ...",
        )
        device = join_group(settings.use_cpu)
        output_dir = Path(settings.output_dir)
        check_sharing(output_dir)
        checkpoint = find_checkpoint(output_dir, settings.resume_from_checkpoint or None)
        torch.backends.cuda.matmul.allow_tf32 = settings.tf32
        run = Pretraining(settings, device)
        record = PretrainRecord(
            settings,
            {kind: data.info for kind, data in run.sets.items()},
            num_steps=run.num_steps,
            device=device,
            checkpoint=checkpoint,
        )
        if checkpoint is not None:
            load_state(checkpoint, run.state)
        state.code = FAILED_SAMPLES
        try:
            pretrain(run, record)
        except KeyboardInterrupt:
            return INTERRUPTED
    leave()
    return OK


if __name__ == "__main__":
    sys.exit(main())
