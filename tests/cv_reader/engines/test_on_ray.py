"""Tasks on a Ray cluster: refusals by name, and equal bytes although nodes are killed meanwhile."""

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from cv_reader.commands import precompute
from cv_reader.engines import on_ray
from cv_reader.engines.on_ray import RayChoice, check_ray, refuse_versions, run_tasks
from cv_reader.engines.tasks import Limits
from cv_reader.errors import SettingsError
from support.command_runs import failures_of, run_commands
from support.media import moving_square, write_video
from support.ray_nodes import ray_cluster, versions_of_node

SMALL = ["--square_size", "64", "--num_images", "2", "--seq_len_frames", "8"]
QUICK, FAIL, CRASH = "1 + 1", "1 / 0", "__import__('os')._exit(3)"
HANG = "__import__('time').sleep(600)"
GREEDY = "(bytearray(600 << 20), __import__('time').sleep(600))"


def test_nothing_at_the_address_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_ray.importlib.util, "find_spec", lambda _name: object())
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        check_ray(f"127.0.0.1:{port}")
    with pytest.raises(SettingsError, match=f"nothing answers at 127.0.0.1:{port}.*ray start"):
        check_ray(f"127.0.0.1:{port}")
    with pytest.raises(SettingsError, match="HOST:PORT, got 'host:99999'"):
        check_ray("host:99999")
    with pytest.raises(SettingsError, match="Ray Client is not supported"):
        check_ray("ray://127.0.0.1:10001")


def test_a_missing_extra_is_refused_before_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(on_ray.importlib.util, "find_spec", lambda _name: None)
    data = tmp_path / "v.jsonl"
    data.write_text('{"video": "clip.mp4"}\n')
    arguments = ["--jsonl", str(data), "--out_root", str(tmp_path / "out"), "--engine", "ray"]
    assert precompute.main(arguments) == 2
    assert "pip install -e '.[ray]'" in capsys.readouterr().err
    assert precompute.main([*arguments[:-1], "local", "--address", "10.0.0.1"]) == 2
    assert "--address has no meaning with --engine local" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_other_versions_of_a_node_are_named() -> None:
    refuse_versions("node a", {"x": "1"}, {"x": "1", "y": "2"})
    with pytest.raises(SettingsError, match="node a has x 2 where this machine has 1"):
        refuse_versions("node a", {"x": "1"}, {"x": "2"})
    with pytest.raises(SettingsError, match="node a has x missing"):
        refuse_versions("node a", {"x": "1"}, {})


def test_a_busy_machine_gets_more_time_to_start_ray() -> None:
    late = RuntimeError("The current node timed out during startup.")
    for errors, num_calls, is_started in (
        ([late, late, None], 3, True),
        ([late] * 4, 4, False),
        ([RuntimeError("no memory"), None], 1, False),
    ):
        init = Mock(side_effect=errors)
        with contextlib.nullcontext() if is_started else pytest.raises(RuntimeError):
            on_ray._start(Mock(init=init), {"num_cpus": 1})
        assert init.call_count == num_calls


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with ray_cluster(2) as made:
        yield made


@pytest.mark.slow
def test_failures_cost_their_own_task_and_keep_the_order(cluster: Any) -> None:
    tasks = [QUICK, FAIL, CRASH, HANG, GREEDY, QUICK, "__import__('os').getcwd()"]
    limits = Limits(num_workers=2, timeout_seconds=2, memory_mib=400)
    choice = RayChoice(address=cluster.address, versions=versions_of_node)
    outcomes = list(run_tasks(eval, tasks, limits, choice))
    assert [outcome.task for outcome in outcomes] == tasks
    assert [outcome.value for outcome in outcomes] == [2, None, None, None, None, 2, os.getcwd()]
    assert [outcome.failure.kind for outcome in outcomes[1:5]] == [
        "ZeroDivisionError", "WorkerDied", "TimeoutError", "MemoryError",
    ]  # fmt: skip


@pytest.mark.slow
def test_a_node_that_differs_is_refused_by_name(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = RayChoice(
        address=cluster.address, versions=versions_of_node, shared=[tmp_path / "only here"]
    )
    with pytest.raises(SettingsError, match="does not see .*only here"):
        next(run_tasks(eval, [QUICK], Limits(), gone))
    monkeypatch.setenv("DECODER_OF_NODE", "2")  # of this process; the nodes have run since before
    other = RayChoice(address=cluster.address, versions=versions_of_node)
    with pytest.raises(SettingsError, match="has decoder 1 where this machine has 2"):
        next(run_tasks(eval, [QUICK], Limits(), other))


@pytest.mark.slow
def test_every_command_makes_the_same_bytes(cluster: Any, tmp_path: Path) -> None:
    alone = run_commands(tmp_path, "alone")
    found = run_commands(tmp_path, "ray", "--engine", "ray", "--address", cluster.address)
    assert found == alone
    assert failures_of(tmp_path, "ray") == failures_of(tmp_path, "alone")


def _tree(folder: Path) -> dict[str, bytes]:
    """All that is finished: the next run removes what a killed worker left."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
        and not path.name.startswith(("summary", ".cv_reader.ledger"))
        and ".tmp-" not in str(path)
    }


def _processes(text: str) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if text in line and int(path.parent.name) != os.getpid():
            found.append(int(path.parent.name))
    return found


def _kill(kind: str, cluster: Any, run: "subprocess.Popen[str]", chance: random.Random) -> None:
    if kind == "driver":
        run.kill()
    elif kind == "raylet":
        node = chance.choice([node for node in cluster.worker_nodes if node.live_processes()])
        cluster.remove_node(node, allow_graceful=False)
        cluster.add_node(num_cpus=1)
    else:
        # Ray's workers rename themselves by what they run.
        pids = _processes("ray::_run_one")
        for pid in pids[:1]:
            os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_kills_at_random_moments_change_no_byte(cluster: Any, tmp_path: Path) -> None:
    for number in range(6):
        write_video(tmp_path / f"{number}.mp4", moving_square(20, 48, 64, seed=number))
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    names = [f"{number % 6}.mp4" for number in range(30)] + ["broken.mp4"]
    data = tmp_path / "v.jsonl"
    lines = [json.dumps({"video": v, "key": f"k{n}"}) for n, v in enumerate(names)]
    data.write_text("\n".join(lines) + "\n")
    base = [sys.executable, "-m", "cv_reader.commands.main", "precompute", "--jsonl", str(data)]
    alone = [*base, *SMALL, "--num_workers", "2", "--out_root", str(tmp_path / "alone")]
    assert subprocess.run(alone, check=False, capture_output=True).returncode == 1
    chance, kinds = random.Random(7), ["worker", "raylet", "driver"]
    rounds = int(os.environ.get("RAY_KILL_ROUNDS", "6"))
    for number in range(rounds):
        out = tmp_path / f"out{number}"
        engine = ["--engine", "ray", "--address", cluster.address, "--num_workers", "2"]
        command = [*base, *SMALL, *engine, "--out_root", str(out), "--log_every", "1"]
        kind, moment = kinds[number % 3], chance.randrange(1, 25)
        run = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert run.stderr is not None
        for line in run.stderr:
            if f" {moment} of 31" in line:
                time.sleep(chance.random() * 0.1)
                _kill(kind, cluster, run, chance)
                break
        shown = run.stderr.read()
        if kind == "driver":
            assert run.wait() == -signal.SIGKILL
            ended = subprocess.run(command, capture_output=True, text=True, check=False)
            shown, code = ended.stderr, ended.returncode
        else:
            code = run.wait()
        print(f"round {number}: {kind} killed after {moment} of 31")
        assert code == 1, f"{kind} after {moment}: {shown}"
        assert _tree(out) == _tree(tmp_path / "alone"), f"{kind} after {moment}"
        (failure,) = [line for line in (out / "precompute_failed.shard00of01.txt").open()]
        assert json.loads(failure)["key"] == "k30"
