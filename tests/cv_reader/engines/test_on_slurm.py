"""Tasks as jobs of Slurm: order, lost jobs, refusals, and the same bytes as on one machine."""

import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from cv_reader.engines import on_slurm
from cv_reader.engines.on_slurm import SlurmChoice, check_slurm, run_tasks
from cv_reader.engines.tasks import Limits, Settled, TaskOutcome
from cv_reader.errors import SettingsError
from support.command_runs import failures_of, run_commands
from support.media import moving_square, write_video
from support.ray_nodes import versions_of_node
from support.slurm_node import slurm_node, stand_in

TESTS = Path(__file__).resolve().parents[2]
KEPT = Settled(TaskOutcome("kept before", "kept", None))


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Programs in Slurm's place, on the PATH."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(stand_in(tmp_path / "bin")), prepend=":")
    monkeypatch.setenv("PYTHONPATH", str(TESTS), prepend=":")
    monkeypatch.setattr(on_slurm, "_ASK_SECONDS", 0.0)
    monkeypatch.setattr(on_slurm, "_LOST_SECONDS", 0.0)
    return tmp_path


@pytest.mark.slow
def test_outcomes_come_in_order_though_a_job_is_lost(
    programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOST", str(programs / "lost"))
    choice = SlurmChoice(spool=programs / "spool", chunk_tasks=2, versions=versions_of_node)
    tasks = ["1 + 1", KEPT, "1 / 0", "'SLURM_ARRAY_TASK_ID' in __import__('os').environ", KEPT]
    outcomes = list(run_tasks(eval, tasks, Limits(), choice))
    assert [outcome.value for outcome in outcomes] == [2, "kept", None, True, "kept"]
    assert outcomes[2].failure is not None and outcomes[2].failure.kind == "ZeroDivisionError"
    assert (programs / "lost").exists()
    assert not list((programs / "spool").iterdir())


def test_what_cannot_work_is_refused_by_name(
    programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    choice = SlurmChoice(spool=programs / "spool", versions=versions_of_node)
    (programs / "bin" / "sbatch").write_text("#!/bin/sh\necho no such partition >&2; exit 1\n")
    with pytest.raises(SettingsError, match="sbatch failed: no such partition"):
        next(run_tasks(eval, ["1"], Limits(), choice))
    monkeypatch.setenv("PATH", str(programs))
    with pytest.raises(SettingsError, match="Slurm's sbatch, which is not on the PATH"):
        check_slurm()


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        (None, "3 times, nor output; do all machines see .*/spool .--out_root, --cache_root"),
        ("slurmstepd: exceeded memory", "3 times; its last line: slurmstepd: exceeded memory"),
    ],
)
def test_a_job_that_gives_no_result_says_why(
    programs: Path, monkeypatch: pytest.MonkeyPatch, output: str | None, reason: str
) -> None:
    monkeypatch.setattr(on_slurm, "_POLL_SECONDS", 0.0)
    text = "#!/bin/sh\necho 1\n"
    if output:
        text += f"for f in {programs}/spool/.cv*; do for n in 0 1 2; do "
        text += f"echo '{output}' > $f/${{n}}_0.log; done; done\n"
    (programs / "bin" / "sbatch").write_text(text)
    choice = SlurmChoice(spool=programs / "spool", versions=versions_of_node)
    (outcome,) = run_tasks(eval, ["1"], Limits(), choice)
    assert outcome.failure is not None and re.search(reason, outcome.failure.reason)


@pytest.mark.slow
def test_other_versions_of_a_machine_are_named(programs: Path) -> None:
    sbatch = programs / "bin" / "sbatch"
    sbatch.write_text(
        sbatch.read_text().replace("#!/bin/sh", "#!/bin/sh\nexport DECODER_OF_NODE=2")
    )
    choice = SlurmChoice(spool=programs / "spool", versions=versions_of_node)
    with pytest.raises(SettingsError, match="has decoder 2 where the machine that started .* 1"):
        next(run_tasks(eval, ["1"], Limits(), choice))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_command_makes_the_same_bytes(tmp_path: Path) -> None:
    alone = run_commands(tmp_path, "alone")
    assert len(alone) > 3 * (3 + 6)
    place = tempfile.TemporaryDirectory(prefix="slurm", ignore_cleanup_errors=True)
    with place as folder, slurm_node(Path(folder)):
        found = run_commands(tmp_path, "slurm", "--engine", "slurm", "--chunk_tasks", "2")
    assert found == alone
    assert failures_of(tmp_path, "slurm") == failures_of(tmp_path, "alone")


def _tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_real_slurm_makes_the_same_bytes_though_jobs_are_cancelled(tmp_path: Path) -> None:
    for number in range(6):
        write_video(tmp_path / f"{number}.mp4", moving_square(20, 48, 64, seed=number))
    (tmp_path / "6.mp4").write_bytes(b"no video")
    data = tmp_path / "v.jsonl"
    lines = [json.dumps({"video": f"{n % 7}.mp4", "key": f"k{n}"}) for n in range(28)]
    data.write_text("\n".join(lines) + "\n")
    small = ["--square_size", "64", "--num_images", "2", "--seq_len_frames", "8"]
    base = [sys.executable, "-m", "cv_reader.commands.main", "precompute", "--jsonl", str(data)]
    base += [*small, "--num_workers", "2", "--out_root"]
    assert subprocess.run([*base, str(tmp_path / "alone")], check=False).returncode == 1
    # A short path: those of sockets have 108 bytes.
    place = tempfile.TemporaryDirectory(prefix="slurm", ignore_cleanup_errors=True)
    with place as folder, slurm_node(Path(folder)):
        command = [*base, str(tmp_path / "out"), "--engine", "slurm", "--chunk_tasks", "4"]
        run = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        cancelled = 0
        while run.poll() is None and cancelled < 2:
            time.sleep(1.0)
            listed = subprocess.run(
                ["squeue", "--noheader", "--array", "--states=R", "--format=%i"],
                capture_output=True, text=True, check=True,
            ).stdout.split()  # fmt: skip
            if listed:
                subprocess.run(["scancel", listed[0]], check=True)
                cancelled += 1
        shown = run.stderr.read() if run.stderr else ""
        assert run.wait() == 1, shown
    assert cancelled == 2
    assert _tree(tmp_path / "out" / "assets") == _tree(tmp_path / "alone" / "assets")
    failed = (tmp_path / "out" / "precompute_failed.shard00of01.txt").read_text().splitlines()
    assert [json.loads(line)["key"] for line in failed] == ["k6", "k13", "k20", "k27"]
