"""The pretraining scripts: their command lines and launches; the dry run itself is slow."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from transformers import HfArgumentParser

from encoder_training.pretrain.settings import Settings
from run_kit.log import read_log
from support.paths import ROOT

FOLDER = ROOT / "scripts" / "encoder"
SCRIPTS = sorted(path.name for path in FOLDER.glob("ov_encoder_*.sh"))
NODES = {"NODE_RANK": "3", "MASTER_ADDR": "gpu-00"}


def _bash(script: str, *flags: str, code: int = 0, **variables: str) -> str:
    result = subprocess.run(
        ["bash", str(FOLDER / script), *flags],
        env={"PATH": os.environ["PATH"], **variables},
        capture_output=True,
        text=True,
    )
    assert result.returncode == code, result.stderr
    return result.stdout if code == 0 else result.stderr


def _settings(dry_run: str) -> Settings:
    words = shlex.split(dry_run)
    words = words[words.index("encoder_training.pretrain.train") + 1 :]
    parser = HfArgumentParser(Settings)  # pyright: ignore[reportArgumentType]
    (settings,) = parser.parse_args_into_dataclasses(words)
    return settings


def test_the_published_scripts_are_there() -> None:
    assert SCRIPTS == [
        "ov_encoder_base_stage1_si.sh",
        "ov_encoder_base_stage1_si_dry_run.sh",
        "ov_encoder_huge_stage2_residual_128gpus.sh",
        "ov_encoder_large_stage2_residual_128gpus.sh",
        "ov_encoder_large_stage2_residual_8gpus.sh",
    ]


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_lists_every_variable_with_its_default(script: str) -> None:
    text = _bash(script, "--help")
    assert "DRY_RUN=1" in text and "NUM_GPUS" in text and "docs/pretraining.md" in text
    listed = dict(re.findall(r"^  ([A-Z0-9_]+) +(\S.*)$", text, re.MULTILINE))
    used: set[str] = set()
    for path in (FOLDER / script, FOLDER / "pretraining.sh"):
        used |= set(re.findall(r"\$\{?([A-Z][A-Z0-9_]+)", path.read_text(encoding="utf-8")))
    assert used - {"VENV", "PATH", "BASH_SOURCE", "DRY_RUN"} <= set(listed)
    settings = _settings(_bash(script, DRY_RUN="1", **NODES))
    for name in ("size", "schedule", "margin_kind", "ratio_reading"):
        assert listed[name.upper()] == getattr(settings, name)


def test_the_recipes_are_the_published_ones() -> None:
    large = _settings(_bash("ov_encoder_large_stage2_residual_8gpus.sh", DRY_RUN="1"))
    assert (large.image_batch, large.video_batch, large.accumulation_steps) == (10, 10, 4)
    assert (large.residual_ratio, large.frame_sampling_ratio) == (0.1, 0.8)
    assert (large.learning_rate, large.warmup_ratio, large.num_samples) == (5e-5, 1e-3, 1.28e9)
    assert large.sets() == {"image": ["data/pretrain/images"], "video": ["data/pretrain/videos"]}
    text = _bash("ov_encoder_huge_stage2_residual_128gpus.sh", DRY_RUN="1", **NODES)
    assert "--nproc_per_node 8 --nnodes 16 --node_rank 3 --master_addr gpu-00" in text
    huge = _settings(text)
    assert (huge.image_loss_weight, huge.image_batch, huge.ocr_batch) == (10, 16, 8)
    base = _settings(_bash("ov_encoder_base_stage1_si.sh", DRY_RUN="1", IMAGE_SET="a b"))
    assert base.sets() == {"image": ["a", "b"]} and base.num_steps(8) == 12695312


def test_slurm_and_wrong_numbers_as_in_fine_tuning() -> None:
    script = "ov_encoder_base_stage1_si.sh"
    message = _bash(script, code=2, DRY_RUN="1", NUM_GPUS="none")
    assert "NUM_GPUS must be a number from 1 on, got 'none'" in message
    message = _bash(script, code=2, DRY_RUN="1", NNODES="2")
    assert "NODE_RANK must be a number from 0 to 1" in message
    message = _bash(script, code=2, SMOKE="1")
    assert "ov_encoder_base_stage1_si_dry_run.sh" in message


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_dry_run_ends_with_a_lower_loss(tmp_path: Path) -> None:
    _bash("ov_encoder_base_stage1_si_dry_run.sh", OUTPUT_DIR=str(tmp_path / "run"))
    losses = [row["loss"] for row in read_log(tmp_path / "run")]
    assert losses[-1] < 0.8 * losses[0]
    assert (tmp_path / "run" / "final" / "config.json").is_file()
