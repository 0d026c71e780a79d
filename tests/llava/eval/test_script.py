"""The evaluation scripts: the roots they find, the command they start, what they refuse."""

import os
import subprocess
from pathlib import Path

from support.paths import ROOT

SCRIPT = ROOT / "scripts" / "eval" / "eval_ov_encoder.sh"
LOCAL = SCRIPT.with_name("local_eval_ov_encoder.sh")
PREPARE = ROOT / "scripts" / "precompute_codec_patch" / "preprocess_video_benchmark.sh"


def _run(
    home: Path, *arguments: str, script: Path = SCRIPT, **environment: str
) -> subprocess.CompletedProcess[str]:
    clean = {name: text for name, text in os.environ.items() if not name.startswith("LLAVA_")}
    defaults = {"DRY_RUN": "1", "MODEL_PATH": "models/my_model", "HF_HOME": str(home)}
    return subprocess.run(
        ["bash", str(script), *arguments],
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


def test_help_of_the_other_scripts(tmp_path: Path) -> None:
    local = _run(tmp_path, "--help", script=LOCAL)
    assert (local.returncode, "without a network" in local.stdout) == (0, True)
    assert "MODEL_PATH" in local.stdout
    prepare = _run(tmp_path, "--help", script=PREPARE)
    assert prepare.returncode == 0
    for name in ("HF_HOME", "NUM_WORKERS", "SEQ_LEN_FRAMES", "DRY_RUN", "Exit codes"):
        assert name in prepare.stdout


def test_preparation_takes_its_settings_from_the_environment(tmp_path: Path) -> None:
    (tmp_path / "videomme" / "data").mkdir(parents=True)
    result = _run(
        tmp_path, "videomme", "--overwrite", script=PREPARE, NUM_WORKERS="2", SEQ_LEN_FRAMES="32"
    )
    assert result.returncode == 0, result.stderr
    assert "--num_workers 2 --seq_len_frames 32 --num_images 8" in result.stdout
    assert result.stdout.endswith("--overwrite\n")


def test_the_local_script_takes_what_has_assets(tmp_path: Path) -> None:
    none = _run(tmp_path, script=LOCAL)
    assert none.returncode == 2
    assert "no benchmark has codec assets" in none.stderr
    for name in ("perceptiontest", "tomato"):
        _asset(tmp_path, name)
    result = _run(tmp_path, script=LOCAL, NUM_GPUS="1")
    assert "--tasks perceptiontest_val_mc,tomato " in result.stdout
    assert "--tasks ai2d " in _run(tmp_path, script=LOCAL, TASKS="ai2d").stdout


def test_roots_of_video_tasks_are_found_once(tmp_path: Path) -> None:
    roots = [_asset(tmp_path, name) for name in ("videomme", "perceptiontest")]
    tasks = "videomme,docvqa_val,perceptiontest_val_mc,mvbench_episodic_reasoning"
    given = tasks.replace("perceptiontest_val_mc", "perceptiontest")
    result = _run(tmp_path, "--limit", "4", TASKS=given, NUM_GPUS="1", CONV_TEMPLATE="plain")
    assert result.returncode == 0, result.stderr
    assert f"LLAVA_CODEC_OFFLINE_ROOT={':'.join(roots)}\n" in result.stdout
    assert "LLAVA_CODEC_USE_OFFLINE=1\n" in result.stdout
    command = result.stdout.splitlines()[-1]
    assert "python -m llava.eval.launch --processes 1 --model llava_ov_encoder " in command
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
    online = _run(tmp_path, TASKS="mvbench", MODEL_ARGS="codec_miss=online")
    assert online.returncode == 0
    assert "conv_template=qwen_1_5,codec_miss=online " in online.stdout


def test_image_tasks_need_no_assets(tmp_path: Path) -> None:
    result = _run(tmp_path, TASKS="ai2d,chartqa", NUM_GPUS="8")
    assert result.returncode == 0
    assert "USE_OFFLINE" not in result.stdout
    assert _run(tmp_path, TASKS="ai2d", NUM_GPUS="many").returncode == 2
    assert "-m llava.eval.launch --processes 8 --model llava_ov_encoder" in result.stdout


def test_a_checkpoint_must_be_named(tmp_path: Path) -> None:
    result = _run(tmp_path, MODEL_PATH="")
    assert result.returncode == 2
    assert "set MODEL_PATH" in result.stderr
