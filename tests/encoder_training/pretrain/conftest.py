"""Shard sets that the tests of pretraining share."""

from pathlib import Path

import pytest

from support.pretrain_runs import make_sets


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of made images and videos as shard sets."""
    folder = tmp_path_factory.mktemp("sets")
    make_sets(folder)
    return folder
