"""A Slurm of one node on the loopback, where Slurm is installed, and a stand-in where it is not."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

_CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
ReturnToService=2
MpiDefault=none
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=2000 State=UNKNOWN
PartitionName=cpu Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
_DAEMONS = ("munged", "slurmctld", "slurmd")

_SBATCH = """#!/bin/sh
# Runs the elements of an array one after the other; $LOST ends the first without a result.
for argument; do
  case "$argument" in --array=*) last=${argument#--array=0-}; last=${last%%%*};; esac
done
for script; do :; done
n=0
while [ "$n" -le "$last" ]; do
  if [ -n "$LOST" ] && [ ! -e "$LOST" ]; then touch "$LOST"
  else SLURM_ARRAY_TASK_ID=$n sh -c "$script" || true; fi
  n=$((n + 1))
done
echo 1
"""


def stand_in(folder: Path) -> Path:
    """Write programs that take Slurm's place; returns the folder for PATH."""
    for name, text in (("sbatch", _SBATCH), ("squeue", "#!/bin/sh\n"), ("scancel", "#!/bin/sh\n")):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return folder


@contextmanager
def slurm_node(folder: Path) -> Generator[None, None, None]:
    """Run munge and Slurm's two daemons as this user, in a folder of their own."""
    if os.geteuid() != 0 or not all(map(shutil.which, _DAEMONS)):
        pytest.skip("Slurm and munge are not installed, or the tests do not run as root")
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2)]
        ports = [server.getsockname()[1] for server in sockets]
    host = socket.gethostname().partition(".")[0]
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    (folder / "slurm.conf").write_text(_CONFIG.format(host=host, folder=folder, ports=ports))
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    settings = {"key-file": key, "socket": folder / "munge.socket", "seed-file": folder / "seed"}
    settings |= {"pid-file": folder / "munged.pid", "log-file": folder / "munged.log"}
    flags = [f"--{name}={value}" for name, value in settings.items()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        try:
            subprocess.run(["munged", "--force", *flags], check=True)
            subprocess.run(["slurmctld"], check=True)
            subprocess.run(["slurmd"], check=True)
            end = time.monotonic() + 60
            while b"idle" not in subprocess.run(["sinfo"], capture_output=True).stdout:
                assert time.monotonic() < end, (folder / "slurmctld.log").read_text()
                time.sleep(0.5)
            yield
        finally:
            for name in reversed(_DAEMONS):
                _end(folder / f"{name}.pid")


def _end(pid_file: Path) -> None:
    """End a daemon, and wait until it writes nothing any more: it removes its file of the pid."""
    if not pid_file.exists():
        return
    subprocess.run(["kill", pid_file.read_text().strip()], check=False)
    end = time.monotonic() + 20
    while pid_file.exists() and time.monotonic() < end:
        time.sleep(0.2)
    time.sleep(1.0)
