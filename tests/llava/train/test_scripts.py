import os
import shlex
import subprocess

import pytest

from llava.train.arguments import parse_arguments
from paths import ROOT

SCRIPTS = ("pretrain_ov_encoder.sh", "sft_ov_encoder.sh")


def _bash(script: str, *flags: str, **variables: str) -> str:
    environment = {"PATH": os.environ["PATH"], **variables}
    result = subprocess.run(
        ["bash", str(ROOT / "scripts" / script), *flags],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return result.stdout


def _flags(dry_run: str) -> dict[str, str]:
    words = shlex.split(dry_run)
    words = words[words.index("llava.train.train") + 1 :]
    return dict(zip(words[::2], words[1::2], strict=True))


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_explains_the_variables_and_starts_nothing(script):
    text = _bash(script, "--help")
    assert "DRY_RUN=1" in text and "SMOKE=1" in text and "NUM_GPUS" in text


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_dry_run_prints_a_command_that_the_trainer_understands(script, tmp_path):
    flags = _flags(_bash(script, DRY_RUN="1", SMOKE="1", OUTPUT_DIR=str(tmp_path)))
    flags.pop("--deepspeed", None)
    arguments = parse_arguments([word for pair in flags.items() for word in pair])
    assert arguments[2].output_dir == str(tmp_path)
    assert not any(tmp_path.iterdir())


def test_the_defaults_are_the_published_ones():
    pretraining = _flags(_bash("pretrain_ov_encoder.sh", DRY_RUN="1"))
    tuning = _flags(_bash("sft_ov_encoder.sh", DRY_RUN="1"))
    assert (pretraining["--learning_rate"], tuning["--learning_rate"]) == ("1e-3", "1e-5")
    assert tuning["--mm_vision_tower_lr"] == "2e-6"
    assert (pretraining["--version"], tuning["--version"]) == ("plain", "qwen_1_5")
    assert (pretraining["--mm_tunable_parts"], pretraining["--warmup_ratio"]) == (
        "mm_mlp_adapter",
        "0.03",
    )
    batches = ("--per_device_train_batch_size", "--gradient_accumulation_steps")
    assert [pretraining[name] for name in batches] == ["16", "2"]
    assert [tuning[name] for name in batches] == ["1", "16"]


def test_variables_and_further_flags_reach_the_command():
    text = _bash(
        "sft_ov_encoder.sh",
        "--seed",
        "7",
        DRY_RUN="1",
        LEARNING_RATE="3e-5",
        IMAGE_FOLDER="with space",
        NUM_GPUS="4",
        VISION_TOWER="",
        PRETRAIN_MM_MLP_ADAPTER="",
    )
    flags = _flags(text)
    assert (flags["--learning_rate"], flags["--image_folder"]) == ("3e-5", "with space")
    assert flags["--seed"] == "7" and "--nproc_per_node 4" in text
    assert not {"--vision_tower", "--pretrain_mm_mlp_adapter"} & set(flags)


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_smoke_run_trains_on_the_cpu(script, tmp_path):
    _bash(script, SMOKE="1", OUTPUT_DIR=str(tmp_path), MASTER_PORT="29631")
    assert len((tmp_path / "train_log.jsonl").read_text().splitlines()) == 6
