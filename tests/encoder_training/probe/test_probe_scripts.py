"""The probe's scripts: their command lines and, slow, a smoke run."""

import glob
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from transformers import HfArgumentParser

from encoder_training.probe.datasets import BENCHMARKS
from encoder_training.probe.settings import ProbeSettings
from support.paths import ROOT

FOLDER = ROOT / "scripts" / "encoder"
_LAUNCH = {"NUM_GPUS", "OMP_NUM_THREADS"}
SCRIPTS = ("attentive_probe.sh", *sorted(path.name for path in FOLDER.glob("eval_ov_encoder_*.sh")))


def _bash(script: str, *flags: str, code: int = 0, **variables: str) -> str:
    result = subprocess.run(
        ["bash", str(FOLDER / script), *flags],
        env={"PATH": os.environ["PATH"], **variables},
        capture_output=True,
        text=True,
    )
    assert result.returncode == code, result.stderr
    return result.stdout if code == 0 else result.stderr


def _settings(dry_run: str) -> list[ProbeSettings]:
    found: list[ProbeSettings] = []
    for line in dry_run.splitlines():
        words = shlex.split(line)
        words = words[words.index("encoder_training.probe") + 1 :]
        parser = HfArgumentParser(ProbeSettings)  # pyright: ignore[reportArgumentType]
        found += parser.parse_args_into_dataclasses(words)
    return found


def test_the_published_probe_scripts_are_there() -> None:
    assert SCRIPTS[1:] == (
        "eval_ov_encoder_large_16frames.sh",
        "eval_ov_encoder_large_2kpatches_codec.sh",
        "eval_ov_encoder_large_4kpatches_codec.sh",
        "eval_ov_encoder_large_8frames.sh",
    )


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_lists_every_variable_of_the_probe(script: str) -> None:
    text = _bash(script, "--help")
    assert "DRY_RUN=1" in text and "SMOKE=1" in text and "docs/probe.md" in text
    listed = dict(re.findall(r"^  ([A-Z0-9_]+) +(\S.*)$", text, re.MULTILINE))
    used: set[str] = set()
    for path in (FOLDER / script, FOLDER / "probing.sh"):
        used |= set(re.findall(r"\$\{?([A-Z][A-Z0-9_]+)", path.read_text(encoding="utf-8")))
    assert used - {"VENV", "PATH", "BASH_SOURCE", "DRY_RUN", *_LAUNCH} <= set(listed)
    assert all(name in text for name in _LAUNCH)


def test_the_probe_recipes_are_the_published_ones() -> None:
    text = _bash("eval_ov_encoder_large_2kpatches_codec.sh", "some/model", DRY_RUN="1")
    runs = _settings(text)
    assert [run.dataset for run in runs] == list(BENCHMARKS)
    assert {(run.input, run.num_frames, run.model_weight) for run in runs} == {
        ("codec:2048", 64, "some/model")
    }
    assert [run.default_epoch for run in runs] == [10, 30, 30, 10, 10, 10, 10, 30]
    assert {(tuple(run.default_lr_list), run.label_smoothing) for run in runs} == {((1e-4,), 0.1)}
    frames = _settings(_bash("eval_ov_encoder_large_8frames.sh", DRY_RUN="1", DATASETS="k400"))
    assert (frames[0].input, frames[0].frames_token_num) == ("frames:8", 256)
    one = _settings(
        _bash("attentive_probe.sh", DRY_RUN="1", DATASET="ucf101", MODEL="m", INPUT="codec:512",
              LEARNING_RATES="1e-3 1e-4", WEIGHT_DECAYS="0 0.1", SELECTION="signal=bits")
    )  # fmt: skip
    assert (one[0].dataset, one[0].input, len(one[0].probes())) == ("ucf101", "codec:512", 4)
    assert one[0].selection == ["signal=bits"]
    message = _bash("eval_ov_encoder_large_4kpatches_codec.sh", code=2, DRY_RUN="1")
    assert "MODEL must be a folder" in message


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_smoke_run_has_a_folder_of_its_own(script: str) -> None:
    runs = _settings(_bash(script, DRY_RUN="1", SMOKE="1"))
    folder = f"outputs/smoke_{script.removesuffix('.sh')}"
    assert [run.output_dir for run in runs] == [f"{folder}/custom"]
    assert runs[0].model_weight == f"{folder}/smoke/encoder"
    assert runs[0].num_frames <= 16 and runs[0].save_report in ("", folder)
    run = _settings(_bash(script, DRY_RUN="1", MODEL="m"))[0]
    assert run.output_dir.startswith("results/attentive_probe")


@pytest.mark.skipif(bool(glob.glob("/dev/nvidia[0-9]*")), reason="this machine has a GPU")
def test_a_machine_without_a_gpu_is_told_once_for_all_data_sets(tmp_path: Path) -> None:
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text("#!/bin/sh\nexit 1\n")  # answers as torch without a GPU does
    python.chmod(0o755)
    message = _bash("eval_ov_encoder_large_8frames.sh", code=2, VENV=str(tmp_path))
    assert message.count("no GPU found on this machine") == 1


@pytest.mark.slow
def test_a_smoke_run_ends_with_a_result(tmp_path: Path) -> None:
    _bash("attentive_probe.sh", SMOKE="1", OUTPUT_DIR=str(tmp_path), INPUT="codec:2048")
    assert (tmp_path / "custom" / "report.html").is_file()
