"""A Ray cluster of this machine, and a function that its nodes import by name."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


def versions_of_node() -> dict[str, str]:
    """Return versions that the environment of a process decides."""
    return {"decoder": os.environ.get("DECODER_OF_NODE", "1")}


@contextmanager
def ray_cluster(num_nodes: int) -> Generator[Any, None, None]:
    """Start a head without CPUs, and nodes with one CPU each, all processes of this machine."""
    pytest.importorskip("ray", reason="the extra ray is not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        tests = str(Path(__file__).resolve().parents[1])
        patch.setenv("PYTHONPATH", os.pathsep.join([os.environ.get("PYTHONPATH", ""), tests]))
        from ray.cluster_utils import Cluster

        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
        try:
            for _ in range(num_nodes):
                cluster.add_node(num_cpus=1)
            cluster.wait_for_nodes()
            yield cluster
        finally:
            cluster.shutdown()
