"""The engines by name: their arguments, early checks, and the call of the chosen one."""

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from cv_reader.engines import local, on_ray, on_slurm
from cv_reader.engines.tasks import Limits, TaskOutcome
from cv_reader.errors import SettingsError
from cv_reader.remote.addresses import is_address
from cv_reader.remote.choice import local_output

ENGINES = ("local", "ray", "slurm")

_PLACES = ("dataset_path", "video_root", "out_root", "out_image_root", "visidx_root")
"""Arguments of commands that name files and folders which every node must see."""


_AT_LEAST_0 = (
    *("num_workers", "timeout_seconds", "memory_limit_mib", "maxtasks_per_child"),
    *("max_samples", "max_tries"),
)


def add_scheduler_arguments(parser: argparse.ArgumentParser) -> None:
    """Add where tasks run."""
    group = parser.add_argument_group("engine")
    group.add_argument(
        "--engine",
        choices=ENGINES,
        default="local",
        help="what runs the workers: processes of this machine, a Ray cluster, or jobs of Slurm",
    )
    group.add_argument(
        "--address",
        default="auto",
        help="Ray cluster: auto (this machine is a node of it), HOST or HOST:PORT of the head node,"
        " or local (start Ray here for this run)",
    )
    group.add_argument(
        "--task_cpus",
        type=float,
        default=1.0,
        help="number of CPUs that a cluster reserves for a sample",
    )
    group.add_argument(
        "--task_memory_mib",
        type=int,
        default=0,
        help="memory that a cluster reserves for a sample, in MiB; 0 = its default",
    )
    group.add_argument(
        "--sbatch_arguments",
        default="",
        metavar="TEXT",
        help="further arguments of Slurm's sbatch, such as '--partition=cpu --time=4:00:00'",
    )
    group.add_argument(
        "--chunk_tasks", type=int, default=100, help="number of samples of one job of Slurm"
    )


def check_engine(args: argparse.Namespace) -> None:
    """Refuse an engine that cannot work, before a run looks at its data.

    Raises:
        SettingsError: It is not installed, not reachable, or its settings make no sense.
    """
    for name in _AT_LEAST_0:
        if not getattr(args, name, 0) >= 0:
            raise SettingsError(f"--{name} must be at least 0, got {getattr(args, name):g}")
    if args.engine != "local":
        if args.task_cpus < 0 or args.task_memory_mib < 0:
            raise SettingsError(
                "--task_cpus and --task_memory_mib must be at least 0, got "
                f"{args.task_cpus:g} and {args.task_memory_mib}"
            )
        if args.chunk_tasks < 1:
            raise SettingsError(f"--chunk_tasks must be at least 1, got {args.chunk_tasks}")
        if args.engine == "slurm":
            on_slurm.check_slurm()
        else:
            on_ray.check_ray(args.address)
        return
    for name, default in (("address", "auto"), ("task_cpus", 1.0), ("task_memory_mib", 0)):
        if getattr(args, name) != default:
            raise SettingsError(f"--{name} has no meaning with --engine local; drop it")


def run_by_engine(
    function: Callable[[Any], Any],
    tasks: Iterable[Any],
    args: argparse.Namespace,
    versions: Callable[[], on_ray.Versions],
) -> Iterable[TaskOutcome[Any, Any]]:
    """Run tasks by the engine and limits of a command; outcomes come in the order of the tasks.

    Args:
        function: importable by name.
        tasks: consumed lazily.
        args: arguments of the command; those of no engine mean ``local``.
        versions: importable by name; names of what decides over bytes to their versions.
    """
    limits = limits_from(args)
    if getattr(args, "engine", "local") == "local":
        return local.run_tasks(function, tasks, limits)
    places = (getattr(args, name, None) for name in _PLACES)
    if args.engine == "slurm":
        jobs = on_slurm.SlurmChoice(
            # With an output in a store: below the cache, which machines must share.
            spool=local_output(args, _output(args))[0],
            sbatch_arguments=args.sbatch_arguments,
            chunk_tasks=args.chunk_tasks,
            task_cpus=args.task_cpus,
            task_memory_mib=args.task_memory_mib,
            versions=versions,
        )
        return on_slurm.run_tasks(function, tasks, limits, jobs)
    choice = on_ray.RayChoice(
        address=args.address,
        task_cpus=args.task_cpus,
        task_memory_mib=args.task_memory_mib,
        versions=versions,
        shared=[Path.cwd(), *(p for p in (_output(args), *places) if p and not is_address(p))],
    )
    return on_ray.run_tasks(function, tasks, limits, choice)


def _output(args: argparse.Namespace) -> Path:
    """Return the folder that a command writes to."""
    for name in ("out_image_root", "out_root"):
        if getattr(args, name, None):
            return getattr(args, name)
    return args.out.parent


def limits_from(args: argparse.Namespace) -> Limits:
    """Return the limits of a command's workers."""
    return Limits(
        num_workers=args.num_workers,
        timeout_seconds=args.timeout_seconds,
        memory_mib=args.memory_limit_mib,
        tasks_per_worker=args.maxtasks_per_child,
    )
