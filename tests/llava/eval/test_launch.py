"""Exit codes of several processes as one; real processes are in test_cli.py."""

import signal
from collections.abc import Sequence

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

    monkeypatch.setattr(launch, "parse_args", lambda arguments: arguments)
    monkeypatch.setattr(launch, "run", run)
    assert launch.main(["--processes", "2", "--tasks", "ai2d"]) == code
    module = ["-m", "llava.eval.launch", "--tasks", "ai2d"]
    assert started == [["--standalone", "--nproc_per_node", "2", *module]]
