"""What a pretraining run leaves behind: its settings, its log, embeddings, the finished encoder."""

import dataclasses
import json
import platform
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from encoder_training.pretrain.collectives import sum_over_ranks
from encoder_training.pretrain.data.samples import BadSampleError
from encoder_training.pretrain.data.set_info import SetInfo
from encoder_training.pretrain.settings import Settings
from encoder_training.pretrain.state import TrainingState, read_about
from onevision_encoder.export import export
from run_kit.exits import say
from run_kit.files import (
    append_json_lines,
    read_json_lines,
    replace_file,
    write_json,
    write_text,
)
from run_kit.log import CONFIG_FILE, TrainLog
from run_kit.pages.text import duration_text, short_number
from run_kit.ranks import rank_and_size
from run_kit.speed import peak_flops
from run_kit.versions import code_state, package_versions

FINAL_FOLDER = "final"
AVERAGE_FOLDER = "final_average"
EMBEDDINGS_FOLDER = "embeddings"
BAD_SAMPLES_FILE = "bad_samples.jsonl"
_PACKAGES = ("torch", "transformers", "safetensors", "numpy", "pillow", "av", "flash-attn")
_FREE = frozenset((
    "output_dir", "image_set", "ocr_set", "video_set", "num_workers", "on_bad_sample", "init",
    "init_centres", "use_cpu", "peak_tflops", "resume_from_checkpoint", "resume_with_changes",
    "save_steps", "save_total_limit", "logging_steps", "tensorboard", "embedding_steps",
    "embedding_samples", "compile", "gradient_checkpointing",
))  # fmt: skip
"""Settings that a resumed run may change: none changes what is computed. Folders of data may move;
the description of the data says whether it is the same."""


class StepResult(NamedTuple):
    """What a step of the optimiser did.

    Attributes:
        losses: loss of each head that had data, over all ranks.
        grad_norm: norm of the encoder's gradient, before clipping.
        learning_rate: learning rate of the encoder.
        samples: samples of this rank.
        tokens: tokens of this rank.
        flops: operations of this rank.
        wait_seconds: time in which this rank had no batch.
        bad_samples: samples of this rank that were left out.
    """

    losses: dict[str, float]
    grad_norm: float
    learning_rate: float
    samples: int
    tokens: int
    flops: float
    wait_seconds: float
    bad_samples: Sequence[BadSampleError] = ()


class PretrainRecord:
    """``run_config.json``, ``train_log.jsonl`` and the lines on the console of one run.

    Attributes:
        about: settings, data and versions, as JSON values; checkpoints hold them as well.
    """

    def __init__(
        self,
        settings: Settings,
        infos: Mapping[str, SetInfo],
        *,
        num_steps: int,
        device: torch.device,
        checkpoint: Path | None,
    ) -> None:
        """Describe the run, and compare it with the one that wrote the checkpoint.

        Raises:
            ValueError: if settings or data have changed, without ``resume_with_changes``.
        """
        self._settings, self._num_steps, self._device = settings, num_steps, device
        self._folder, self._checkpoint = Path(settings.output_dir), checkpoint
        self._rank, self._size = rank_and_size()
        self._peak = peak_flops(device, settings.peak_tflops)
        self.about: dict[str, Any] = {
            "settings": dataclasses.asdict(settings),
            "data": {kind: _data_row(info) for kind, info in infos.items()},
            "num_steps": num_steps,
            "versions": package_versions(_PACKAGES),
            "code": code_state(Path(__file__).parent),
        }
        if checkpoint is not None and not settings.resume_with_changes:
            changes = _changes(read_about(checkpoint), self.about)
            if changes:
                raise ValueError(
                    f"{checkpoint} was made by another run than this one:\n  "
                    + "\n  ".join(changes)
                    + "\nUse the same data and settings, or add --resume_with_changes true"
                )
        self.last: StepResult | None = None
        self._log: TrainLog | None = None
        self._writer: Any = None

    def start(self, step: int) -> None:
        """Begin: write ``run_config.json``, and drop lines of the log after ``step``."""
        self._first_step, self._lines = step, 0
        self._began = self._since = time.perf_counter()
        self._sums = torch.zeros(4, dtype=torch.float64, device=self._device)
        self._count, self._losses = 0, dict[str, float]()
        self._shown: tuple[float, ...] = ()
        self._bad = {row["sample"] for row in read_json_lines(self._folder / BAD_SAMPLES_FILE)}
        if self._rank:
            return
        self._log = TrainLog(self._folder, first_step=step + 1)
        path = self._folder / CONFIG_FILE
        before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        start = {
            "first_step": step + 1,
            "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "command": shlex.join([sys.executable, *sys.argv]),
            "host": platform.node(),
            "num_ranks": self._size,
        }
        starts = [*(before.get("starts", []) if step else []), start]
        write_json(path, {**self.about, "num_ranks": self._size, "starts": starts})
        if self._settings.tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self._folder / "tensorboard"))

    def add(self, step: int, result: StepResult) -> None:
        """Count a step, and write a line where one is due; every rank must call it."""
        self.last = result
        self._list_bad(step, result.bad_samples)
        counted = [result.samples, result.tokens, result.flops, result.wait_seconds]
        self._sums += torch.tensor(counted, dtype=torch.float64, device=self._device)
        self._count += 1
        for kind, loss in result.losses.items():
            self._losses[kind] = self._losses.get(kind, 0.0) + loss
        if step % self._settings.logging_steps and step not in (1, self._num_steps):
            return
        samples, tokens, flops, wait = sum_over_ranks(self._sums).tolist()
        now = time.perf_counter()
        seconds, self._since = now - self._since, now
        losses = {kind: loss / self._count for kind, loss in self._losses.items()}
        weights = {kind: getattr(self._settings, f"{kind}_loss_weight") for kind in losses}
        row = {
            "step": step,
            "loss": sum(loss * weights[kind] for kind, loss in losses.items()),
            **{f"loss_{kind}": loss for kind, loss in losses.items()},
            "learning_rate": result.learning_rate,
            "grad_norm": result.grad_norm,
            "samples": round(samples),
            "seconds": round(seconds, 4),
            "samples_per_second": round(samples / seconds, 2),
            "tokens_per_second": round(tokens / seconds, 1),
            "data_wait_seconds": round(wait / self._size, 4),
            "mfu": None
            if self._peak is None
            else round(flops / seconds / self._peak / self._size, 4),
        }
        if self._device.type == "cuda":
            row["peak_memory_bytes"] = torch.cuda.max_memory_allocated(self._device)
        self._sums.zero_()
        self._count, self._losses = 0, {}
        self._shown = (*self._shown[:1], row["loss"])
        if self._rank == 0:
            self._write(step, row | {"bad_samples": self._count_bad()})

    def _list_bad(self, step: int, errors: Sequence[BadSampleError]) -> None:
        """Add the samples that are not listed yet to ``bad_samples.jsonl``."""
        rows = [
            {"sample": error.place, "rule": error.rule, "detail": error.detail, "step": step}
            for error in {error.place: error for error in errors}.values()
            if error.place not in self._bad
        ]
        if rows:
            append_json_lines(self._folder / BAD_SAMPLES_FILE, rows)
            self._bad |= {row["sample"] for row in rows}

    def _count_bad(self) -> int:
        """Return how many different samples all ranks have listed."""
        rows = read_json_lines(self._folder / BAD_SAMPLES_FILE)
        return len({row["sample"] for row in rows})

    def say_result(self, step: int) -> None:
        """Print what was done; on rank 0."""
        if self._rank == 0 and self._shown:
            seconds = duration_text(time.perf_counter() - self._began)
            first, last = self._shown[0], self._shown[-1]
            say(
                f"{step - self._first_step} steps in {seconds}; loss {first:.4f} -> {last:.4f}; "
                f"curves: python -m encoder_training.pretrain.run_page {self._folder}"
            )
            if count := self._count_bad():
                say(f"{count} bad samples were left out: {self._folder / BAD_SAMPLES_FILE}")

    def _write(self, step: int, row: dict[str, Any]) -> None:
        assert self._log is not None
        self._log.append(row)
        if self._writer is not None:
            for name, value in row.items():
                if isinstance(value, (int, float)):
                    self._writer.add_scalar(name, value, step)
            self._writer.flush()
        left = (time.perf_counter() - self._began) / (step - self._first_step)
        heads = {name: value for name, value in row.items() if name.startswith("loss_")}
        cells = {
            "step": f"{step}/{self._num_steps}".rjust(2 * len(str(self._num_steps)) + 1),
            "loss": f"{row['loss']:8.4f}",
            **{name[5:].rjust(8): f"{value:8.4f}" for name, value in heads.items()},
            "rate": f"{row['learning_rate']:8.2e}",
            "gradient": f"{row['grad_norm']:8.3f}",
            "samples/s": f"{row['samples_per_second']:9.1f}",
            "tokens/s": short_number(row["tokens_per_second"]).rjust(8),
            "wait s": f"{row['data_wait_seconds']:6.2f}",
            "MFU %": "-".rjust(5) if row["mfu"] is None else f"{100 * row['mfu']:5.1f}",
            "bad": f"{row['bad_samples']:5}",
            "left": duration_text(left * (self._num_steps - step)).rjust(8),
        }
        if self._lines % 25 == 0:
            say("  ".join(title.rjust(len(cell)) for title, cell in cells.items()))
        self._lines += 1
        say("  ".join(cells.values()))


def _data_row(info: SetInfo) -> dict[str, Any]:
    row = dataclasses.asdict(info)
    row["num_samples"] = info.num_samples
    row["shards"] = [shard["sha256"] for shard in row["shards"]]
    return row


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    found: list[str] = []
    for group in ("settings", "data"):
        old, new = before.get(group, {}), json.loads(json.dumps(now[group]))
        for key in dict.fromkeys((*old, *new)):
            free = group == "settings" and key in _FREE
            if not free and old.get(key) != new.get(key):
                what = f"--{key}" if group == "settings" else f"data of the head {key}"
                found.append(f"{what}: {_short(old.get(key))} before, {_short(new.get(key))} now")
    return found


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 200 else text[:197] + "..."


def write_final(state: TrainingState, record: PretrainRecord) -> None:
    """Write the finished encoder as a folder for the Hub, with its model card; on rank 0."""
    if rank_and_size()[0]:
        return
    record.say_result(state.step)
    folder = Path(record.about["settings"]["output_dir"])
    export(state.encoder, folder / FINAL_FOLDER)
    write_text(folder / FINAL_FOLDER / "README.md", model_card(state, record, FINAL_FOLDER))
    if state.average:
        kept = {name: tensor.clone() for name, tensor in state.encoder.named_parameters()}
        state.encoder.load_state_dict(state.average)
        export(state.encoder, folder / AVERAGE_FOLDER)
        card = model_card(state, record, AVERAGE_FOLDER)
        write_text(folder / AVERAGE_FOLDER / "README.md", card)
        state.encoder.load_state_dict(kept)
    say(f"the encoder is in {folder / FINAL_FOLDER}; AutoModel loads it")


def model_card(state: TrainingState, record: PretrainRecord, name: str) -> str:
    """Return the text of the model card, filled in from the run."""
    settings, config = record.about["settings"], state.encoder.config
    rows = [
        f"| {kind} | {row['num_samples']:,} | {row['num_centres']:,} | {row['labels_per_sample']} "
        f"| `{row['bank_fingerprint'][:16]}` | {_loss(record.last, kind)} |"
        for kind, row in record.about["data"].items()
    ]
    shown = (
        "learning_rate", "schedule", "warmup_ratio", "weight_decay", "max_grad_norm",
        "accumulation_steps", "sample_rate", "labels_per_step", "margin_kind", "margin", "scale",
        "filter_above", "reference_gradient_scale", "bf16", "ema_decay", "seed",
    )  # fmt: skip
    parameters = sum(weight.numel() for weight in state.encoder.parameters())
    average = " These weights are the moving average." if name == AVERAGE_FOLDER else ""
    versions = ", ".join(
        f"{key} {value}" for key, value in record.about["versions"].items() if value
    )
    return "\n".join(
        [
            "---",
            "library_name: transformers",
            "pipeline_tag: image-feature-extraction",
            "license: apache-2.0",
            "---",
            "",
            "# OneVision Encoder",
            "",
            f"A vision encoder of {parameters:,} parameters: {config.num_hidden_layers} blocks of "
            f"width {config.hidden_size}, patches of {config.patch_size} px. It was "
            f"{'continued' if settings['init'] else 'trained'} by cluster discrimination for "
            f"{state.step:,} steps.{average}",
            "",
            "| data | samples | centres | labels a sample | bank | last loss |",
            "|---|---|---|---|---|---|",
            *rows,
            "",
            "```python",
            "from transformers import AutoImageProcessor, AutoModel",
            "",
            'model = AutoModel.from_pretrained("FOLDER", trust_remote_code=True)',
            'processor = AutoImageProcessor.from_pretrained("FOLDER", trust_remote_code=True)',
            'inputs = processor(images=image, return_tensors="pt")',
            "features = model(**inputs).pooler_output",
            "```",
            "",
            "| setting | value |",
            "|---|---|",
            *(f"| {key} | {settings[key]} |" for key in shown),
            "",
            f"Made with {versions}; code {record.about['code'] or 'without a commit'}.",
            "",
        ]
    )


def _loss(last: StepResult | None, kind: str) -> str:
    return f"{last.losses[kind]:.4f}" if last and kind in last.losses else "-"


def write_embeddings(
    folder: Path, step: int, keys: Sequence[str], kinds: Sequence[str], features: torch.Tensor
) -> None:
    """Write ``embeddings/step-N.npz``: features float32 (K, D) of the same samples at each step."""
    path = folder / EMBEDDINGS_FOLDER / f"step-{step}.npz"
    with replace_file(path) as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            features=features.float().cpu().numpy(),
            keys=np.array(keys),
            kinds=np.array(kinds),
        )
