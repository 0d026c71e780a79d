"""Full fine-tuning through scripts/sft_ov_encoder.sh, on the made mixture."""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gpu_parts.bench import FIRST, LAST, Bench, Figures, LeftOutError
from gpu_parts.material import ROW_TOKENS, TINY_ROW_TOKENS, write_checkpoint
from llava.data.training_memory import read_model_size, training_gigabytes
from run_kit.log import read_log

ROOT = Path(__file__).parents[3]
STEPS, TINY_STEPS, FIRST_COUNTED = 30, 3, 5
WORKERS = 12
RUNS = {
    "1.7b, packed, checkpointed": {"PACK_SEQUENCES": "true", "GRADIENT_CHECKPOINTING": "true"},
    "1.7b, packed": {"PACK_SEQUENCES": "true", "GRADIENT_CHECKPOINTING": "false"},
    "1.7b, one sample a step, checkpointed": {"GRADIENT_CHECKPOINTING": "true"},
    "1.7b, one sample a step, checkpointed, without cuDNN": {
        "GRADIENT_CHECKPOINTING": "true",
        "TORCH_CUDNN_SDPA_DEPRIORITIZED": "1",
    },
}
"""cuDNN, which torch prefers on Hopper where a row is one sample, plans anew for every length."""


def run(bench: Bench) -> None:
    """Run the script once for each of ``RUNS``."""
    for name, settings in RUNS.items():
        is_last = "TORCH_CUDNN_SDPA_DEPRIORITIZED" in settings
        stage = LAST if is_last else FIRST
        bench.case(name, _case(bench, name, settings), seconds=75, stage=stage)


def _case(bench: Bench, name: str, settings: dict[str, str]) -> Callable[[], Figures]:
    return lambda: train(bench, name, settings)


def train(bench: Bench, name: str, settings: dict[str, str]) -> Figures:
    """Train for some steps and read the figures from the run's own log.

    What the runs print is in ``OUT/sft.log``.

    Raises:
        LeftOutError: if there are no data, or nothing is computed.
    """
    data = bench.assets / "mixture.jsonl"
    if not data.is_file():
        raise LeftOutError(f"{data} is absent; make it with scripts/bench/gpu_parts/assets.py")
    if bench.device.type == "meta":
        raise LeftOutError("nothing is computed on meta")
    model, out = bench.work / "model", bench.work / "sft"
    write_checkpoint(bench, "1.7b", model)
    log = bench.out / "sft.log"
    strategies = ["ZeRO-2"] * (find_spec("deepspeed") is not None) + ["plain"]
    strategy = strategies[0]
    for strategy in strategies:
        shutil.rmtree(out, ignore_errors=True)
        command, environment = launch(bench, settings, model, data, out, strategy)
        with log.open("a", encoding="utf-8") as file:
            file.write(f"\n{name}, {strategy}: {shlex.join(command)}\n")
            file.flush()
            done = subprocess.run(command, cwd=ROOT, env=environment, stdout=file, stderr=file)
        if done.returncode == 0:
            break
        if strategy == strategies[-1]:
            raise RuntimeError(f"exit code {done.returncode}: {_tail(log)}; see {log.name}")
    rows = read_log(out)
    shutil.rmtree(out)
    shown = {"ZeRO-2": "ZeRO-2", "plain": "plain: DeepSpeed is not installed, or failed"}
    return {"strategy": shown[strategy], **figures(bench, rows, model)}


def launch(
    bench: Bench, settings: dict[str, str], model: Path, data: Path, out: Path, strategy: str
) -> tuple[list[str], dict[str, str]]:
    """Return command and environment of a run by ZeRO-2, or plain: without DeepSpeed."""
    row_tokens = TINY_ROW_TOKENS if bench.tiny else ROW_TOKENS
    variables = {
        "MODEL_NAME_OR_PATH": model,
        "VISION_TOWER": "",
        "PRETRAIN_MM_MLP_ADAPTER": "",
        "DATA_PATH": data,
        "IMAGE_ASPECT_RATIO": "square" if bench.tiny else "anyres",
        "OUTPUT_DIR": out,
        "DEEPSPEED": "scripts/zero2.json",
        "MAX_STEPS": TINY_STEPS if bench.tiny else STEPS,
        "GRADIENT_ACCUMULATION_STEPS": 1,
        "MODEL_MAX_LENGTH": row_tokens,
        "SAVE_STRATEGY": "no",
        "RESUME": "",
        "DATALOADER_NUM_WORKERS": 0 if bench.tiny else WORKERS,
        "NUM_GPUS": 1,
        "NCCL_SOCKET_IFNAME": "lo",  # a machine without a network has no other
        "OMP_NUM_THREADS": 1 if bench.tiny else 8,
        "VENV": _python_folder(bench.work),
        **settings,
    }
    if bench.device.type == "cpu":
        variables |= {"USE_CPU": "true", "BF16": "false", "TF32": "false"}
    environment = {**os.environ, **{name: str(value) for name, value in variables.items()}}
    command = ["bash", "scripts/sft_ov_encoder.sh"]
    if strategy == "ZeRO-2":
        return command, environment
    # What the script would run, without the flag that needs the package.
    shown = subprocess.run(
        command, cwd=ROOT, env={**environment, "DRY_RUN": "1"}, capture_output=True, text=True
    )
    words = shlex.split(shown.stdout)
    at = words.index("--deepspeed")
    environment["PYTHONPATH"] = os.pathsep.join(
        [str(ROOT / "llava_next"), str(ROOT / "Compressed_Video_Reader"), *_paths(environment)]
    )
    words = [sys.executable, *words[1:at], *words[at + 2 :]]
    return words, environment


def _paths(environment: dict[str, str]) -> list[str]:
    return [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]


def _python_folder(work: Path) -> Path:
    """Return a folder whose ``bin/python`` is this interpreter, for the script's PATH."""
    program = work / "interpreter" / "bin" / "python"
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    return program.parents[1].resolve()


def figures(bench: Bench, rows: list[dict[str, Any]], model: Path) -> Figures:
    """Return rates of the steps after the first ones, and memory as predicted and as measured."""
    counted = rows[1:] if bench.tiny else rows[FIRST_COUNTED:]
    seconds = sum(row["seconds"] for row in counted)
    shares = [row["mfu"] for row in counted if row["mfu"] is not None]
    weighted = sum(row["flops_per_second"] * row["seconds"] for row in counted) / seconds
    peaks = [row["peak_memory_bytes"] for row in rows if row["peak_memory_bytes"]]
    row_tokens = TINY_ROW_TOKENS if bench.tiny else ROW_TOKENS
    predicted = training_gigabytes(
        read_model_size(model), row_tokens=row_tokens, world_size=1, zero_stage=2
    )
    return {
        "steps": len(rows),
        "tokens_per_second": round(sum(row["tokens"] for row in counted) / seconds),
        "visual_tokens_per_second": round(sum(row["visual_tokens"] for row in counted) / seconds),
        "tflops": round(weighted / 1e12, 3),
        "mfu": round(weighted / bench.peak, 4) if bench.peak and shares else None,
        "data_wait": round(sum(row["data_wait_seconds"] for row in counted) / seconds, 4),
        "last_loss": rows[-1]["loss"],
        "peak_gigabytes": round(max(peaks) / 1e9, 2) if peaks else None,
        "predicted_gigabytes": predicted["sum"],
    }


def _tail(log: Path) -> str:
    return " | ".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-4:])
