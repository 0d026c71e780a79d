"""The training scripts: their command lines, launches and smoke runs."""

import glob
import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from llava.train.arguments import parse_arguments
from llava.train.smoke import write_mixture
from run_kit.log import read_log
from support.paths import ROOT

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
def test_help_explains_the_variables_and_starts_nothing(script: str) -> None:
    text = _bash(script, "--help")
    assert "DRY_RUN=1" in text and "SMOKE=1" in text and "NUM_GPUS" in text
    listed = dict(re.findall(r"^  ([A-Z0-9_]+) +(\S.*)$", text, re.MULTILINE))
    files = [ROOT / "scripts" / name for name in (script, "shared_flags.sh")]
    source = "".join(path.read_text() for path in files)
    used = set(re.findall(r"\$\{?([A-Z][A-Z0-9_]+)", source)) - {
        "VENV",
        "PATH",
        "PWD",
        "BASH_SOURCE",
    }
    assert used == set(listed)
    defaults = _flags(_bash(script, DRY_RUN="1"))
    flags = {name.lower(): value for name, value in listed.items()}
    renamed = {"prompt_version": "version", "resume": "resume_from_checkpoint"}
    for name, value in flags.items():
        expected = defaults.get(f"--{renamed.get(name, name)}", "(not set)")
        assert value == expected, name


@pytest.mark.skipif(bool(glob.glob("/dev/nvidia[0-9]*")), reason="this machine has a GPU")
@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("variables", [{}, {"NUM_GPUS": "2"}])
def test_a_machine_without_a_gpu_is_told_what_to_do(
    script: str, variables: dict[str, Any], tmp_path: Path
) -> None:
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text("#!/bin/sh\nexit 1\n")  # answers as torch without a GPU does
    python.chmod(0o755)
    environment = {"PATH": os.environ["PATH"], "VENV": str(tmp_path), **variables}
    command = ["bash", str(ROOT / "scripts" / script)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr.startswith("error: no GPU found on this machine")
    assert "SMOKE=1" in result.stderr and "NUM_GPUS=1 USE_CPU=true" in result.stderr


def test_the_cpu_needs_no_other_variables(tmp_path: Path) -> None:
    text = _bash("sft_ov_encoder.sh", DRY_RUN="1", USE_CPU="true", OUTPUT_DIR=str(tmp_path))
    flags = _flags(text)
    assert (flags["--use_cpu"], flags["--bf16"], flags["--tf32"]) == ("true", "false", "false")
    assert "torch.distributed.run" not in text


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_dry_run_prints_a_command_that_the_trainer_understands(
    script: str, tmp_path: Path
) -> None:
    flags = _flags(_bash(script, DRY_RUN="1", SMOKE="1", OUTPUT_DIR=str(tmp_path)))
    flags.pop("--deepspeed", None)
    arguments = parse_arguments([word for pair in flags.items() for word in pair])
    assert arguments[2].output_dir == str(tmp_path)
    assert not arguments[2].dataloader_drop_last  # data of a single sample run, too
    assert not any(tmp_path.iterdir())


def test_the_defaults_are_the_published_ones() -> None:
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


def test_variables_and_further_flags_reach_the_command() -> None:
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


def _launch(dry_run: str) -> list[str]:
    words = shlex.split(dry_run)
    return words[: words.index("llava.train.train") + 1]


TORCHRUN = ["python", "-m", "torch.distributed.run"]
MACHINES = {"NNODES": "2", "NODE_RANK": "1", "MASTER_ADDR": "gpu-a", "MASTER_PORT": "4000"}
LAUNCHES = {
    "one process needs no launcher": ({"NUM_GPUS": "1"}, "python -m llava.train.train"),
    "all GPUs": ({}, "--nproc_per_node gpu --nnodes 1"),
    "some GPUs": ({"NUM_GPUS": "4"}, "--nproc_per_node 4 --nnodes 1"),
    "several machines": (
        MACHINES,
        "--nproc_per_node gpu --nnodes 2 --node_rank 1 --master_addr gpu-a --master_port 4000",
    ),
    "one process on each of several machines": (
        MACHINES | {"NUM_GPUS": "1"},
        "--nproc_per_node 1 --nnodes 2 --node_rank 1",
    ),
}


@pytest.mark.parametrize("case", LAUNCHES)
def test_variables_say_how_many_processes_run_where(case: str) -> None:
    variables, expected = LAUNCHES[case]
    command = _launch(_bash("sft_ov_encoder.sh", DRY_RUN="1", **variables))
    assert expected in " ".join(command)
    assert (command[:3] == TORCHRUN) == (case != "one process needs no launcher")
    assert command[-2] == "-m"


def test_a_hostfile_goes_to_the_launcher_of_deepspeed(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("gpu-a slots=8\ngpu-b slots=8\n")
    text = _bash("sft_ov_encoder.sh", DRY_RUN="1", HOSTFILE=str(hosts), MASTER_ADDR="gpu-a")
    assert _launch(text) == [
        *("python", "-m", "deepspeed.launcher.runner", "--hostfile", str(hosts)),
        *("--master_port", "29500", "--master_addr", "gpu-a", "--no_local_rank"),
        *("--module", "llava.train.train"),
    ]
    # It hands words on to a shell by ssh, unquoted where they hold no blank.
    canvases = _flags(text)["--image_grid_pinpoints"]
    assert shlex.split(canvases) == [
        _flags(_bash("sft_ov_encoder.sh", DRY_RUN="1"))["--image_grid_pinpoints"]
    ]
    assert "(" not in canvases.replace("\\(", "")


SLURM = {
    "SLURM_JOB_ID": "123456",
    "SLURM_STEP_NUM_NODES": "3",
    "SLURM_STEP_NUM_TASKS": "3",
    "SLURM_STEP_NODELIST": "gpu[07-09]",
    "SLURM_NODEID": "2",
}


def test_under_slurm_every_machine_finds_its_place(tmp_path: Path) -> None:
    scontrol = tmp_path / "scontrol"
    scontrol.write_text('#!/bin/sh\n[ "$*" = "show hostnames gpu[07-09]" ] && seq -f gpu%02g 7 9\n')
    scontrol.chmod(0o755)
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = " ".join(_launch(_bash("sft_ov_encoder.sh", DRY_RUN="1", **SLURM, **path)))
    assert "--nproc_per_node gpu --nnodes 3 --node_rank 2 --master_addr gpu07" in command
    assert "--master_port 23456" in command
    given = {"MASTER_ADDR": "other", "MASTER_PORT": "1"}
    command = " ".join(_launch(_bash("sft_ov_encoder.sh", DRY_RUN="1", **SLURM, **given)))
    assert "--node_rank 2 --master_addr other --master_port 1" in command


WRONG = {
    "NUM_GPUS must be a number": {"NUM_GPUS": "many"},
    "NNODES must be a number": {"NNODES": "0"},
    "NODE_RANK must be a number from 0 to 1": {"NNODES": "2", "MASTER_ADDR": "a"},
    "got '2'": {"NNODES": "2", "MASTER_ADDR": "a", "NODE_RANK": "2"},
    "MASTER_ADDR must be set": {"NNODES": "2", "NODE_RANK": "0"},
    "HOSTFILE none does not exist": {"HOSTFILE": "none"},
    "16 tasks on 3 machines; add --ntasks-per-node 1": SLURM | {"SLURM_STEP_NUM_TASKS": "16"},
}


@pytest.mark.parametrize("message", WRONG)
def test_a_launch_that_cannot_work_ends_with_code_2(message: str) -> None:
    with pytest.raises(subprocess.CalledProcessError) as caught:
        _bash("sft_ov_encoder.sh", DRY_RUN="1", **WRONG[message])
    assert caught.value.returncode == 2
    assert message in caught.value.stderr and not caught.value.stdout


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_value_can_be_set_from_outside(script: str) -> None:
    text = (ROOT / "scripts" / script).read_text()
    flags = text[text.index("launch ") :]
    named = dict(re.findall(r"--(\w+) \"\$\{?([A-Z0-9_]+)", flags))
    assert {name.upper() for name in named} - {"VERSION", "RESUME_FROM_CHECKPOINT"} <= set(
        named.values()
    )
    # MASTER_* and numbers would be refused; text reaches the command as it is.
    values = {variable: f"{number}x" for number, variable in enumerate(named.values())}
    seen = _flags(_bash(script, DRY_RUN="1", **values))
    assert {name: seen[f"--{name}"] for name in named} == {
        name: values[variable] for name, variable in named.items()
    }


def _two_machines(tmp_path: Path, extra: dict[str, str]) -> tuple[list[int], list[str]]:
    """The script as two machines would run it, here both on this one."""
    environment = {"PATH": os.environ["PATH"], "SMOKE": "1", "OUTPUT_DIR": str(tmp_path), **extra}
    environment |= {"NNODES": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29641"}
    environment |= {"GLOO_SOCKET_IFNAME": "lo"}
    machines = [
        subprocess.Popen(
            ["bash", str(ROOT / "scripts" / "sft_ov_encoder.sh")],
            env=environment | {"NODE_RANK": rank},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "10"
    ]
    errors = [machine.communicate(timeout=250)[1] for machine in machines]
    return [machine.returncode for machine in machines], errors


@pytest.mark.slow
def test_two_machines_train_together_and_stop_together(tmp_path: Path) -> None:
    codes, _ = _two_machines(tmp_path, {"SAVE_STRATEGY": "steps", "SAVE_STEPS": "3"})
    assert codes == [0, 0]
    assert len((tmp_path / "train_log.jsonl").read_text().splitlines()) == 6
    assert '"world_size": 2' in (tmp_path / "run_config.json").read_text()
    # The data was made again later: the second run refuses to continue, on both machines.
    codes, errors = _two_machines(tmp_path, {"LEARNING_RATE": "1e-3"})
    assert all(code != 0 for code in codes)
    assert all("learning_rate: 0.002 before, 0.001 now" in text for text in errors)


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_smoke_run_trains_on_the_cpu_and_prints_the_loss_of_each_step(
    script: str, tmp_path: Path
) -> None:
    result = _smoke(script, tmp_path)
    assert len(read_log(tmp_path / "run")) == 6
    lines = result.stderr.splitlines()
    head = next(number for number, line in enumerate(lines) if line.split()[:1] == ["step"])
    column = lines[head].split().index("loss")
    printed = [float(line.split()[column]) for line in lines[head + 1 : head + 7]]
    assert printed == pytest.approx([row["loss"] for row in read_log(tmp_path / "run")], abs=1e-4)


@pytest.mark.slow
def test_a_smoke_run_takes_the_mixture_of_the_user(tmp_path: Path) -> None:
    write_mixture(tmp_path / "mine")
    mixture = tmp_path / "mixture.yaml"
    mixture.write_text(
        "datasets:\n  - {json_path: mine/train.jsonl, name: clips, sampling_strategy: 'first:9'}\n"
        "  - {json_path: mine/captions.jsonl, name: pictures}\n"
    )
    folder = str(tmp_path / "mine")
    _smoke("sft_ov_encoder.sh", tmp_path, DATA_PATH=str(mixture), IMAGE_FOLDER=folder)
    sets = {name for row in read_log(tmp_path / "run") for name in row["loss_by_dataset"]}
    assert sets == {"clips", "pictures"}


def _smoke(script: str, folder: Path, **variables: Any) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "SMOKE": "1", "OUTPUT_DIR": str(folder / "run")}
    return subprocess.run(
        ["bash", str(ROOT / "scripts" / script)],
        env=environment | variables,
        capture_output=True,
        text=True,
        check=True,
    )
