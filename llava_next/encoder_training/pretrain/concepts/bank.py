"""A concept bank on disk: centres, how features become comparable with them, and a fingerprint.

    bank.json             settings, history, fingerprint
    centres.safetensors   centres float32 (k, d); mean (D,) and projection (D, d) where there is one

The fingerprint covers the arrays and the settings of the features: labels carry it, and labels of
different banks are never mixed.
"""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from encoder_training.pretrain.concepts.nearest import Floats
from run_kit.files import replace_file, write_json

BANK_FILE = "bank.json"
CENTRES_FILE = "centres.safetensors"


@dataclass(frozen=True)
class Projection:
    """Makes features of the extractor's width comparable with the centres.

    Attributes:
        mean: float32 (D,), subtracted first.
        matrix: float32 (D, d), principal directions, scaled to equal spread where whitened.
    """

    mean: Floats
    matrix: Floats

    def __call__(self, rows: Floats) -> Floats:
        """Return rows (N, d)."""
        return np.asarray((rows - self.mean) @ self.matrix, np.float32)


@dataclass(frozen=True)
class Bank:
    """Centres and where they come from.

    Attributes:
        centres: float32 (k, d), of length one.
        features: settings of the features.
        projection: None where centres have the features' own width.
        facts: settings and history of the clustering.
    """

    centres: Floats
    features: dict[str, Any]
    projection: Projection | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """Return 16 hexadecimal digits."""
        digest = hashlib.sha256(json.dumps(self.features, sort_keys=True).encode())
        for name, array in sorted(self._arrays().items()):
            digest.update(f"{name} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()[:16]

    @property
    def feature_size(self) -> int:
        """Return the width of features before projection."""
        source = self.centres.T if self.projection is None else self.projection.matrix
        return source.shape[0]

    def _arrays(self) -> dict[str, Floats]:
        arrays = {"centres": self.centres}
        if self.projection is not None:
            arrays |= {"mean": self.projection.mean, "projection": self.projection.matrix}
        return arrays

    def save(self, folder: Path) -> None:
        """Write the bank; ``bank.json`` comes last."""
        with replace_file(folder / CENTRES_FILE) as temporary:
            save_file(self._arrays(), temporary)
        facts = {
            "version": 1,
            "fingerprint": self.fingerprint,
            "num_centres": len(self.centres),
            "feature_size": self.feature_size,
            "features": self.features,
            **self.facts,
        }
        write_json(folder / BANK_FILE, facts)


def read_bank(folder: Path) -> Bank:
    """Read a bank and check its fingerprint.

    Raises:
        ValueError: naming the folder and what is wrong.
    """
    path = folder / BANK_FILE
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        arrays = load_file(folder / CENTRES_FILE)
        projection = None
        if "projection" in arrays:
            projection = Projection(arrays["mean"], arrays["projection"])
        bank = Bank(arrays["centres"], facts["features"], projection, facts)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder} must be a concept bank, got {error!r}") from error
    if bank.fingerprint != facts.get("fingerprint"):
        raise ValueError(
            f"{folder}: the centres have fingerprint {bank.fingerprint}, {BANK_FILE} says "
            f"{facts.get('fingerprint')}; make the bank again"
        )
    return bank


def principal_directions(rows: Floats, size: int, *, whiten: bool) -> Projection:
    """Return the projection onto the ``size`` directions of largest spread of rows (N, D).

    Args:
        rows: a sample; more than a few thousand are not needed.
        size: d, at most D.
        whiten: scale all directions to the same spread.
    """
    if not 1 <= size <= rows.shape[1]:
        raise ValueError(f"components must be in [1, {rows.shape[1]}], got {size}")
    mean = rows.mean(axis=0, dtype=np.float64)
    centred = rows.astype(np.float64) - mean
    values, vectors = np.linalg.eigh(centred.T @ centred / len(rows))
    matrix = vectors[:, ::-1][:, :size]
    # Signs of eigenvectors are arbitrary: the largest part of each becomes positive.
    matrix = matrix * np.sign(matrix[np.abs(matrix).argmax(axis=0), np.arange(size)])
    if whiten:
        spread = np.maximum(values[::-1][:size], 0)
        matrix = matrix / np.sqrt(spread + 1e-3 * spread.mean())
    return Projection(mean.astype(np.float32), np.ascontiguousarray(matrix, np.float32))
