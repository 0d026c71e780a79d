"""Evaluate a checkpoint: choose tasks, codec assets and processes, then start lmms-eval.

Run: ``MODEL_PATH=DIR TASKS=videomme,docvqa_val python -m llava.eval.run``, mostly through
``scripts/eval/eval_ov_encoder.sh``, whose help lists the variables. Further arguments go to
lmms-eval. Tasks may be given by their short names (``llava.eval.benchmarks.table``).
"""

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from llava.eval.benchmarks.table import PREPARE_SCRIPT, VIDEO_BENCHMARKS, find_benchmark, task_of
from llava.eval.environment import hf_home, switch, variable, variables
from llava.eval.settings import EvalSettings, EvalSettingsError, has_assets, uses_codec
from run_kit.exits import OK, USAGE, say

DEFAULT_TASKS = "ai2d,chartqa,docvqa_val"
_LIMITS = ("seq_len_frames", "num_images", "square_size", "patch_size")


def main(argv: list[str] | None = None) -> int:
    """Print the command (``DRY_RUN=1``) or replace this process by it."""
    arguments = sys.argv[1:] if argv is None else argv
    try:
        tasks = _tasks()
        codec = _codec_variables(tasks)
        command = _command(tasks, arguments)
    except EvalSettingsError as error:
        say(f"error: {error}")
        return USAGE
    if switch("DRY_RUN"):
        lines = [f"{name}={value}" for name, value in sorted(codec.items())]
        sys.stdout.write("\n".join([*lines, shlex.join(command)]) + "\n")
        return OK
    kept = {name: text for name, text in variables().items() if not name.startswith("LLAVA_CODEC_")}
    os.execvpe(command[0], command, {**kept, "HF_HOME": str(hf_home()), **codec})


def _tasks() -> list[str]:
    """Return the tasks by lmms-eval's names; ``LOCAL=1`` without TASKS takes all with assets."""
    text = variable("TASKS")
    if not text and switch("LOCAL"):
        homes = {item.name: _assets(item.name) for item in VIDEO_BENCHMARKS}
        found = [name for name, folder in homes.items() if folder and has_assets(folder)]
        if not found:
            raise EvalSettingsError(
                f"no benchmark has codec assets in {hf_home()}; make some with "
                f"`bash {PREPARE_SCRIPT} TASK`, or set TASKS"
            )
        text = ",".join(found)
    names = [name.strip() for name in (text or DEFAULT_TASKS).split(",")]
    return [task_of(name) for name in names if name]


def _assets(task: str) -> Path | None:
    """Return the folder of a task's codec assets; None for a task without."""
    benchmark = find_benchmark(task)
    if benchmark is None or not benchmark.is_video or task in benchmark.frame_folder_tasks:
        return None
    return benchmark.assets_folder(hf_home())


def _codec_variables(tasks: Sequence[str]) -> dict[str, str]:
    """Return the ``LLAVA_CODEC_*`` variables of the run, all explicit.

    Raises:
        EvalSettingsError: a task has no assets, although codec input is asked for.
    """
    given = {
        name: text for name, text in variables().items() if name.startswith("LLAVA_CODEC_") and text
    }
    sizes = {
        f"LLAVA_CODEC_{name.upper()}": str(getattr(EvalSettings, f"codec_{name}"))
        for name in _LIMITS
    }
    codec = {**sizes, "LLAVA_CODEC_VISIDX_MODE": "pack_topk", **given}
    if not uses_codec(given):
        return {**codec, "LLAVA_CODEC_USE_OFFLINE": "0"}
    if "LLAVA_CODEC_OFFLINE_ROOT" in given:
        return {**codec, "LLAVA_CODEC_USE_OFFLINE": "1"}
    roots = _roots(tasks, given)
    if not roots:
        # Nothing here needs assets, and "use them" without a folder is refused.
        codec.pop("LLAVA_CODEC_USE_OFFLINE", None)
        return codec
    return {
        **codec,
        "LLAVA_CODEC_USE_OFFLINE": "1",
        "LLAVA_CODEC_OFFLINE_ROOT": ":".join(map(str, roots)),
    }


def _roots(tasks: Sequence[str], given: Mapping[str, str]) -> list[Path]:
    roots: list[Path] = []
    for task in tasks:
        folder = _assets(task)
        if folder is None or folder in roots:
            continue
        if has_assets(folder):
            roots.append(folder)
        elif "codec_miss=" not in variable("MODEL_ARGS"):
            benchmark = find_benchmark(task)
            name = benchmark.name if benchmark else task
            raise EvalSettingsError(
                f"no codec assets of {task} in {folder}; make them:\n"
                f"  bash {PREPARE_SCRIPT} {name}\n"
                "or set LLAVA_CODEC_OFFLINE_ROOT, or MODEL_ARGS=codec_miss=online to compute them "
                "in the run, or LLAVA_CODEC_USE_OFFLINE=0 for uniform frames"
            )
    return roots


def _command(tasks: Sequence[str], arguments: Sequence[str]) -> list[str]:
    model = variable("MODEL_PATH")
    if not model:
        raise EvalSettingsError("set MODEL_PATH to a checkpoint folder")
    template = variable("CONV_TEMPLATE", default=EvalSettings.conv_template)
    model_args = ",".join(
        filter(None, [f"pretrained={model}", f"conv_template={template}", variable("MODEL_ARGS")])
    )
    output = variable("OUTPUT_PATH", default=f"eval_log/{Path(model).name}")
    return [
        *(sys.executable, "-m", "llava.eval.launch", "--processes", _processes()),
        *("--model", "llava_ov_encoder", "--model_args", model_args),
        *("--tasks", ",".join(tasks), "--batch_size", variable("BATCH_SIZE", default="1")),
        *("--log_samples", "--output_path", output),
        *arguments,
    ]


def _processes() -> str:
    """Return the number of processes: ``NUM_GPUS``, else one per GPU, else one."""
    text = variable("NUM_GPUS", default=str(_visible_gpus()))
    if not text.isdecimal():
        raise EvalSettingsError(f"NUM_GPUS must be a number, got {text!r}")
    return str(max(1, int(text)))


def _visible_gpus() -> int:
    """Count the GPUs of this machine without loading a deep-learning library."""
    chosen = variables().get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return len([name for name in chosen.split(",") if name.strip() not in ("", "-1")])
    try:
        listing = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True)
    except FileNotFoundError:
        return 0
    return listing.stdout.count("GPU ") if listing.returncode == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
