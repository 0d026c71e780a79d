"""``scripts/eval/eval_ov_encoder.sh``: the roots it finds, and what it refuses."""

import os
import subprocess
from pathlib import Path

from paths import ROOT

SCRIPT = ROOT / "scripts" / "eval" / "eval_ov_encoder.sh"


def _run(home: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: text for name, text in os.environ.items() if not name.startswith("LLAVA_")}
    defaults = {"DRY_RUN": "1", "MODEL_PATH": "models/my_model", "HF_HOME": str(home)}
    return subprocess.run(
        ["bash", str(SCRIPT), *arguments],
        env={**clean, **defaults, **environment},
        capture_output=True,
        text=True,
    )


def _asset(home: Path, name: str) -> str:
    folder = home / f"{name}_offline" / "assets"
    (folder / "clip").mkdir(parents=True)
    (folder / "clip" / "meta.json").write_text("{}")
    return str(folder)


def test_help_lists_the_environment(tmp_path: Path) -> None:
    result = _run(tmp_path, "--help")
    assert result.returncode == 0
    for name in ("MODEL_PATH", "TASKS", "NUM_GPUS", "CONV_TEMPLATE", "DRY_RUN"):
        assert name in result.stdout


def test_roots_of_video_tasks_are_found_once(tmp_path: Path) -> None:
    roots = [_asset(tmp_path, name) for name in ("videomme", "perceptiontest")]
    tasks = "videomme,docvqa_val,perceptiontest_val_mc,videomme"
    result = _run(tmp_path, "--limit", "4", TASKS=tasks, NUM_GPUS="1", CONV_TEMPLATE="plain")
    assert result.returncode == 0, result.stderr
    assert f"LLAVA_CODEC_OFFLINE_ROOT={':'.join(roots)}\n" in result.stdout
    assert "LLAVA_CODEC_USE_OFFLINE=1\n" in result.stdout
    command = result.stdout.splitlines()[-1].replace("\\", "")
    assert command.startswith("python -m lmms_eval --model llava_ov_encoder ")
    assert "--model_args pretrained=models/my_model,conv_template=plain " in command
    assert f"--tasks {tasks} " in command
    assert "--output_path eval_log/my_model --limit 4" in command


def test_an_empty_root_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mvbench_offline" / "assets").mkdir(parents=True)
    result = _run(tmp_path, TASKS="mvbench")
    assert result.returncode == 2
    assert "no codec assets of mvbench" in result.stderr
    assert "preprocess_video_benchmark.sh mvbench" in result.stderr
    assert _run(tmp_path, TASKS="mvbench", LLAVA_CODEC_USE_OFFLINE="0").returncode == 0
    chosen = _run(tmp_path, TASKS="mvbench", LLAVA_CODEC_OFFLINE_ROOT="/my/assets")
    assert "LLAVA_CODEC_OFFLINE_ROOT=/my/assets\n" in chosen.stdout


def test_image_tasks_need_no_assets(tmp_path: Path) -> None:
    result = _run(tmp_path, TASKS="ai2d,chartqa", NUM_GPUS="8")
    assert result.returncode == 0
    assert "USE_OFFLINE" not in result.stdout
    assert "torch.distributed.run --standalone --nproc_per_node 8 -m lmms_eval" in result.stdout


def test_a_checkpoint_must_be_named(tmp_path: Path) -> None:
    result = _run(tmp_path, MODEL_PATH="")
    assert result.returncode == 2
    assert "set MODEL_PATH" in result.stderr
