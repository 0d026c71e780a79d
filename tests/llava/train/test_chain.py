"""Both stages of docs/training.md, run as the page says, on a tiny model."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from llava.model.loading import load_pretrained
from llava.train.run.config import read_run_config
from llava.train.smoke import write_mixture
from run_kit.log import read_log
from support.paths import ROOT

TEXT = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
PROJECTOR = "mm_projector.safetensors"


def _blocks() -> list[list[str]]:
    blocks = re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL)
    joined = (block.replace("\\\n", " ") for block in blocks)
    return [
        [line for line in block.splitlines() if line and not line.startswith("#")]
        for block in joined
    ]


def _run(command: str, **variables: str) -> str:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {"PATH": path, "DS_ACCELERATOR": "cpu", **variables}
    result = subprocess.run(
        ["bash", "-c", command], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ...]:
    """The page's first block with this folder's names; the validator's output."""
    folder = tmp_path_factory.mktemp("chain")
    write_mixture(folder / "data")
    (folder / "mixture.yaml").write_text("datasets:\n  - {json_path: data/train.jsonl}\n")
    names = {
        "blip_laion_cc_sbu_558k.json": folder / "data" / "captions.jsonl",
        "images": folder / "data",
        "data": folder / "data",
        "mixture.yaml": folder / "mixture.yaml",
        "checkpoints/projector": folder / "projector",
        "checkpoints/llava_ov": folder / "llava_ov",
        # The validator needs a model's tokenizer: that of the first stage.
        "Qwen3-4B-Instruct-2507": folder / "projector" / "smoke" / "model",
        "validation": folder / "validation",
    }

    def renamed(command: str) -> str:
        pattern = "|".join(sorted(map(re.escape, names), key=len, reverse=True))
        return re.sub(
            rf"(?<=[= ])({pattern})(?=[ /]|$)", lambda match: str(names[match[1]]), command
        )

    first, validate, second = map(renamed, _blocks()[0])
    _run(first, SMOKE="1")
    report = _run(validate)
    _run(second, SMOKE="1")
    return folder, report, second


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_first_stage_tunes_the_projector_alone(chain: tuple[Any, ...]) -> None:
    folder, _, _ = chain
    before = load_file(folder / "projector" / "smoke" / "model" / "model.safetensors")
    after = load_file(folder / "projector" / "model.safetensors")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == set(load_file(folder / "projector" / PROJECTOR))
    config = read_run_config(folder / "projector")
    assert (config["model"]["version"], config["training"]["lr_scheduler_type"]) == (
        "plain",
        "cosine",
    )
    assert config["deepspeed_settings"]["zero_optimization"]["stage"] == 2


@pytest.mark.slow
def test_the_validator_counts_the_data_of_the_second_stage(chain: tuple[Any, ...]) -> None:
    folder, report, _ = chain
    assert re.search(r"^train +12 +0 ", report, re.MULTILINE)
    assert (folder / "validation" / "lengths.npz").is_file()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_second_stage_starts_from_that_projector_and_tunes_everything(
    chain: tuple[Any, ...],
) -> None:
    folder, _, second = chain
    rows, config = read_log(folder / "llava_ov"), read_run_config(folder / "llava_ov")
    assert len(rows) == 6 and set(rows[0]["lr_by_part"]) == set(config["trainable_parameters"])
    assert all(config["trainable_parameters"].values())
    assert config["model"]["pretrain_mm_mlp_adapter"] == str(folder / "projector" / PROJECTOR)
    assert config["deepspeed_settings"]["zero_optimization"]["stage"] == 3
    load_pretrained(folder / "llava_ov")

    # With rates of zero the weights at the end are those at the start.
    still = {"LEARNING_RATE": "0", "MM_VISION_TOWER_LR": "0", "MAX_STEPS": "1"}
    command = second.replace(str(folder / "llava_ov"), str(folder / "still"))
    _run(command, SMOKE="1", **still)
    projector = load_file(folder / "projector" / PROJECTOR)
    kept = load_file(folder / "still" / "model.safetensors")
    tuned = load_file(folder / "llava_ov" / "model.safetensors")
    assert all(torch.equal(kept[name], projector[name]) for name in projector)
    assert not any(torch.equal(tuned[name], projector[name]) for name in projector)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_smoke_chain_of_the_page_runs_as_it_is_written(tmp_path: Path) -> None:
    commands = _blocks()[1]
    assert all("SMOKE=1" in command for command in commands[:2])
    for command in commands:
        _run(command.replace("outputs/", f"{tmp_path}/"))
    page = (tmp_path / "chain.html").read_text()
    assert "Settings that differ" in page and shlex.quote("mm_mlp_adapter") in page
