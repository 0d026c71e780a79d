"""Spherical k-means: against a plain computation, on both backends, streamed and in levels."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from encoder_training.pretrain.concepts.bank import Bank, principal_directions, read_bank
from encoder_training.pretrain.concepts.clustering import ClusterSettings, make_bank
from encoder_training.pretrain.concepts.features import open_features
from encoder_training.pretrain.concepts.kmeans import (
    FeatureRows,
    KMeansState,
    add_by_cluster,
    agreement,
    drawn_centres,
    hierarchical,
    lloyd,
)
from encoder_training.pretrain.concepts.nearest import search_by, unit_rows

Array = NDArray[np.float32]


def blobs(count: int, centres: int, width: int = 12, spread: float = 0.2) -> tuple[Array, Array]:
    """Return rows around centres, and the centre of each."""
    random = np.random.default_rng(3)
    middles = unit_rows(random.normal(size=(centres, width)).astype(np.float32))
    owners = random.integers(0, centres, count)
    noise = random.normal(0, spread, (count, width)).astype(np.float32)
    return (middles[owners] + noise).astype(np.float32), owners


def plain_step(rows: Array, centres: Array) -> Array:
    """One iteration in float64, as a textbook has it."""
    unit = rows.astype(np.float64) / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    owners = (unit @ centres.T.astype(np.float64)).argmax(axis=1)
    sums = np.stack([unit[owners == number].sum(axis=0) for number in range(len(centres))])
    return sums / np.linalg.norm(sums, axis=1, keepdims=True)


@pytest.mark.parametrize("backend", ["torch", "faiss"])
def test_iterations_are_those_of_a_plain_computation(backend: str) -> None:
    pytest.importorskip("faiss")
    data, _ = blobs(700, 9)
    parts = [data[:300].astype(np.float16).astype(np.float32), data[300:]]
    rows = FeatureRows(parts)
    expected = drawn_centres(rows, 9, seed=0)
    state = lloyd(rows, KMeansState(expected.copy()), iterations=3, backend=backend)
    for _ in range(3):
        expected = plain_step(np.concatenate(parts), expected)
    assert np.abs(state.centres - expected).max() < 1e-5
    assert [row["empty"] for row in state.history] == [0, 0, 0]
    cosines = [row["mean_cosine"] for row in state.history]
    assert cosines == sorted(cosines)


def test_backends_agree_on_assignments() -> None:
    pytest.importorskip("faiss")
    rows = unit_rows(np.random.default_rng(0).normal(size=(20_000, 64)).astype(np.float32))
    centres = unit_rows(np.random.default_rng(1).normal(size=(512, 64)).astype(np.float32))
    found = [search_by(name, centres)(rows, 10) for name in ("torch", "faiss")]
    assert agreement(found[0].numbers[:, 0], found[1].numbers[:, 0]) >= 0.999
    assert agreement(found[0].numbers.ravel(), found[1].numbers.ravel()) >= 0.999
    exact = (rows.astype(np.float64) @ centres.T.astype(np.float64)).argmax(axis=1)
    assert agreement(found[0].numbers[:, 0], exact) >= 0.999


@pytest.mark.parametrize("backend", ["torch", "faiss"])
def test_blocks_of_which_no_row_is_drawn_change_nothing(backend: str) -> None:
    pytest.importorskip("faiss")
    data, _ = blobs(300, 5)
    centres = unit_rows(data[:5])
    for count in (1, 3):
        assert search_by(backend, centres)(data[:0], count).numbers.shape == (0, count)
    parts = [FeatureRows([data, data[:0]]), FeatureRows([data])]
    one, two = (lloyd(p, KMeansState(centres), iterations=2, backend=backend) for p in parts)
    assert np.array_equal(one.centres, two.centres)


def test_flash_needs_a_gpu() -> None:
    with pytest.raises(ValueError, match="flash must have a GPU as --device, got cpu"):
        search_by("flash", np.eye(3, dtype=np.float32))


@pytest.mark.slow
def test_flash_agrees_with_the_others_in_the_interpreter() -> None:
    """The kernel of flash-kmeans on a CPU, in a process of its own."""
    pytest.importorskip("triton")
    pytest.importorskip("flash_kmeans")
    code = """
import types, numpy as np, torch
from encoder_training.pretrain.concepts.nearest import _flash_search, search_by, unit_rows
torch.Tensor.is_cuda = property(lambda tensor: True)
card = types.SimpleNamespace(name="NVIDIA H200", shared_memory_per_block_optin=232448)
torch.cuda.get_device_properties = lambda device: card
draw = np.random.default_rng(0).normal
rows, centres = (unit_rows(draw(size=(n, 64)).astype(np.float32)) for n in (3001, 300))
flash = _flash_search(centres, torch.device("cpu"))
exact = (rows.astype(np.float64) @ centres.T.astype(np.float64)).argmax(axis=1)
found = flash(rows, 1)
assert (found.numbers[:, 0] == exact).mean() >= 0.999
for name in ("torch", "faiss"):
    other = search_by(name, centres)(rows, 1)
    assert (found.numbers == other.numbers).mean() >= 0.999
    assert np.abs(found.cosines - other.cosines).max() < 1e-6
assert np.array_equal(flash(rows, 10).numbers, search_by("torch", centres)(rows, 10).numbers)
"""
    path = os.pathsep.join(filter(None, sys.path))
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": path}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


def test_made_clusters_are_found() -> None:
    data, owners = blobs(2000, 8, spread=0.1)
    rows = FeatureRows([data])
    state = lloyd(rows, KMeansState(drawn_centres(rows, 40, 1)), iterations=10, backend="torch")
    numbers = search_by("torch", state.centres)(unit_rows(data), 1).numbers[:, 0]
    # Every cluster found is within one made cluster.
    pure = sum(np.bincount(owners[numbers == number]).max() for number in np.unique(numbers))
    assert pure / len(data) > 0.99


def test_a_centre_without_rows_takes_half_of_the_largest() -> None:
    data, _ = blobs(400, 2, spread=0.15)
    far = -unit_rows(data[:1])
    rows = FeatureRows([data])
    start = np.concatenate([unit_rows(data[:1]), far, unit_rows(far + 1e-4)])
    state = lloyd(rows, KMeansState(unit_rows(start)), iterations=6, backend="torch")
    assert state.history[0]["empty"] >= 1 and state.history[-1]["empty"] == 0


def test_minibatches_see_a_part_of_the_rows() -> None:
    data, _ = blobs(5000, 5)
    rows = FeatureRows([data])
    options = {"iterations": 2, "backend": "torch", "fraction": 0.3, "seed": 4}
    state = lloyd(rows, KMeansState(drawn_centres(rows, 5, 0)), **options)
    assert all(1300 < row["rows"] < 1700 for row in state.history)
    again = lloyd(rows, KMeansState(drawn_centres(rows, 5, 0)), **options)
    assert np.array_equal(state.centres, again.centres)


def test_levels_come_close_to_the_full_clustering() -> None:
    data, _ = blobs(4000, 30)
    rows = FeatureRows([data[:1000], data[1000:]])
    full = lloyd(rows, KMeansState(drawn_centres(rows, 60, 0)), iterations=8, backend="torch")
    levels = hierarchical(rows, 60, iterations=8, backend="torch")
    assert levels.centres.shape == full.centres.shape
    found = [
        search_by("torch", one.centres)(unit_rows(data), 1).cosines.mean() for one in (full, levels)
    ]
    assert found[1] > found[0] - 0.03
    small = hierarchical(rows, 60, iterations=8, backend="torch", memory_bytes=20_000)
    assert np.array_equal(small.centres, levels.centres)


def test_bad_rows_are_left_out_and_too_few_rows_refused() -> None:
    data, _ = blobs(50, 4)
    data[7] = np.nan
    rows = FeatureRows([data])
    assert sum(len(block) for block in rows.blocks()) == 49
    with pytest.raises(ValueError, match="as many good rows as centres, got 49 for 50"):
        drawn_centres(rows, 50, 0)


def test_sums_by_cluster() -> None:
    rows = np.arange(12, dtype=np.float32).reshape(6, 2)
    sums, counts = np.zeros((4, 2)), np.zeros(4, np.int64)
    add_by_cluster(sums, counts, rows, np.array([3, 0, 3, 1, 0, 3]))
    assert counts.tolist() == [2, 1, 0, 3]
    assert sums.tolist() == [[10, 12], [6, 7], [0, 0], [14, 17]]


def test_a_stopped_clustering_continues_to_the_same_bank(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", blobs(600, 6)[0])
    features = open_features(tmp_path / "rows.npy")
    settings = ClusterSettings(centres=12, iterations=5, backend="torch")
    whole = make_bank(features, settings, tmp_path / "whole", lambda text: None)

    def stop(text: str) -> None:
        if text.startswith("iteration 3"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_bank(features, settings, tmp_path / "stopped", stop)
    said: list[str] = []
    bank = make_bank(features, settings, tmp_path / "stopped", said.append)
    assert len(said) == 2
    assert bank.fingerprint == whole.fingerprint == read_bank(tmp_path / "stopped").fingerprint
    with pytest.raises(ValueError, match="already holds a bank"):
        make_bank(features, settings, tmp_path / "stopped", said.append)


def test_a_stopped_division_continues(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", blobs(600, 6)[0])
    features = open_features(tmp_path / "rows.npy")
    settings = ClusterSettings(centres=16, iterations=4, hierarchical=True, backend="torch")
    whole = make_bank(features, settings, tmp_path / "whole", lambda text: None)

    def stop(text: str) -> None:
        if text.startswith("divided"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_bank(features, settings, tmp_path / "stopped", stop)
    said: list[str] = []
    bank = make_bank(features, settings, tmp_path / "stopped", said.append)
    assert said == [] and bank.fingerprint == whole.fingerprint
    names = {path.name for path in (tmp_path / "stopped").iterdir()}
    assert names == {"bank.json", "centres.safetensors"}


def test_groups_that_were_divided_are_not_divided_again() -> None:
    rows = FeatureRows([blobs(600, 6)[0]])
    options: dict[str, Any] = {"iterations": 4, "backend": "torch", "memory_bytes": 2_000}
    groups: list[dict[int, np.ndarray]] = []
    whole = hierarchical(rows, 16, keep=groups.append, **options)
    assert len(groups) > 1
    rest: list[dict[int, np.ndarray]] = []
    again = hierarchical(rows, 16, divided=groups[0], keep=rest.append, **options)
    assert [list(group) for group in rest] == [list(group) for group in groups[1:]]
    assert np.array_equal(again.centres, whole.centres)


def test_a_changed_bank_is_refused(tmp_path: Path) -> None:
    centres = unit_rows(blobs(6, 6)[0])
    Bank(centres, {"model": "array"}).save(tmp_path)
    assert np.array_equal(read_bank(tmp_path).centres, centres)
    Bank(centres[::-1].copy(), {"model": "array"}).save(tmp_path / "other")
    (tmp_path / "centres.safetensors").write_bytes(
        (tmp_path / "other" / "centres.safetensors").read_bytes()
    )
    with pytest.raises(ValueError, match="make the bank again"):
        read_bank(tmp_path)


def test_whitened_directions_have_equal_spread() -> None:
    data = np.random.default_rng(0).normal(size=(3000, 6)).astype(np.float32) * [5, 4, 3, 2, 1, 0.1]
    projection = principal_directions(data.astype(np.float32), 4, whiten=True)
    spread = projection(data.astype(np.float32)).std(axis=0)
    assert np.allclose(spread, 1, atol=0.02)
    plain = principal_directions(data.astype(np.float32), 4, whiten=False)
    assert np.allclose(plain(data.astype(np.float32)).std(axis=0), [5, 4, 3, 2], rtol=0.05)
