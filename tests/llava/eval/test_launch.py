"""Early refusals, and exit codes of several processes as one; real processes: test_cli.py."""

import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from llava.eval import launch


def _failed(codes: Sequence[int]) -> ChildFailedError:
    """What the launcher raises for processes that ended with these codes."""
    return ChildFailedError(
        "launch",
        {
            rank: ProcessFailure(local_rank=rank, pid=1000 + rank, exitcode=code, error_file="")
            for rank, code in enumerate(codes)
        },
    )


@pytest.mark.parametrize(
    ("ends", "code"),
    [
        (_failed([2]), 2),
        (_failed([-15, 2]), 2),
        (_failed([1]), 1),
        (_failed([-9, 1]), 1),
        (SignalException("interrupted", signal.SIGINT), 130),
        (SignalException("ended", signal.SIGTERM), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_codes_of_processes_become_one(
    ends: BaseException, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[list[str]] = []

    def run(arguments: list[str]) -> None:
        started.append(arguments)
        raise ends

    monkeypatch.setattr("torch.distributed.run.parse_args", lambda arguments: arguments)
    monkeypatch.setattr("torch.distributed.run.run", run)
    assert launch.main(["--processes", "2", "--tasks", "ai2d"]) == code
    module = ["-m", "llava.eval.launch", "--tasks", "ai2d"]
    assert started == [["--standalone", "--nproc_per_node", "2", *module]]


_REFUSED = """
import sys
from llava.eval.launch import main
try:
    main(sys.argv[1:])
except SystemExit as stopped:
    print(stopped.code, sorted({"torch", "lmms_eval", "transformers", "av"} & set(sys.modules)))
"""


@pytest.mark.parametrize(
    ("model_args", "message"),
    [
        ("pretrained=nowhere", "pretrained=nowhere is no folder"),
        ("pretrained={empty}", "{empty} is no checkpoint: it holds no config.json"),
        ("pretrained={model},codec_mis=online", "unknown model_args codec_mis"),
        ("pretrained={model},online", "model_args must be name=value,name=value..., got 'online'"),
        ("pretrained={model},codec_root={empty}", "codec_root {empty} holds no codec assets"),
    ],
)
def test_wrong_settings_are_refused_before_anything_heavy_is_imported(
    model_args: str, message: str, tmp_path: Path
) -> None:
    folders = {"model": tmp_path / "model", "empty": tmp_path / "empty"}
    for folder in folders.values():
        folder.mkdir()
    (folders["model"] / "config.json").write_text("{}")
    model_args, message = model_args.format(**folders), message.format(**folders)
    flags = ["--model", "llava_ov_encoder", "--model_args", model_args, "--tasks", "ai2d"]
    for processes in ("1", "2"):
        result = subprocess.run(
            [sys.executable, "-c", _REFUSED, "--processes", processes, *flags],
            capture_output=True,
            text=True,
        )
        assert result.stdout == "2 []\n"
        assert message in result.stderr


@pytest.mark.parametrize(
    "arguments", [["--model", "qwen2_5_vl", "--model_args", "pretrained=x"], ["--config", "x.yaml"]]
)
def test_settings_of_other_models_are_left_alone(arguments: list[str]) -> None:
    launch.check_arguments(arguments)


@pytest.mark.parametrize("model", launch.MODELS)
def test_a_name_on_the_hub_may_be_a_checkpoint(model: str) -> None:
    launch.check_arguments(["--model", model, "--model_args", "pretrained=owner/name"])
