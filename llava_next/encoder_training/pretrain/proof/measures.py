"""How well features group samples by concepts that the training never saw.

Axis letters: N samples, D features.
"""

import numpy as np
from numpy.typing import NDArray

from encoder_training.pretrain.concepts.kmeans import FeatureRows, KMeansState, drawn_centres, lloyd
from encoder_training.pretrain.concepts.nearest import Floats, search_by, unit_rows

NEIGHBOURS = 5
Numbers = NDArray[np.int64]


def neighbour_accuracy(features: Floats, concepts: Numbers) -> float:
    """Return the share of samples whose nearest others mostly have their concept.

    Each of the five nearest, by cosine, votes with its cosine; the sample itself does not.

    Args:
        features: float32 (N, D).
        concepts: int64 (N,).
    """
    rows = unit_rows(features - features.mean(axis=0))
    found = search_by("torch", rows)(rows, NEIGHBOURS + 1)
    right = 0
    for number, (others, cosines) in enumerate(zip(found.numbers, found.cosines, strict=True)):
        kept = others != number
        names = concepts[others[kept][:NEIGHBOURS]]
        votes = np.bincount(names, np.maximum(cosines[kept][:NEIGHBOURS], 1e-6))
        right += int(votes.argmax() == concepts[number])
    return right / len(rows)


def cluster_information(features: Floats, concepts: Numbers, seed: int = 0) -> float:
    """Return the normalised mutual information of k-means clusters and concepts.

    There are as many clusters as concepts; the best of three starts by mean cosine counts.
    """
    rows = FeatureRows([features - features.mean(axis=0)])
    count = len(np.unique(concepts))
    best: tuple[float, Numbers] | None = None
    for start in range(3):
        state = KMeansState(drawn_centres(rows, count, seed + start))
        state = lloyd(rows, state, iterations=15, seed=seed + start, backend="torch")
        nearest = search_by("torch", state.centres)(rows.prepared(features - features.mean(0)), 1)
        cosine = float(nearest.cosines.mean())
        if best is None or cosine > best[0]:
            best = cosine, nearest.numbers[:, 0]
    assert best is not None
    return normalised_mutual_information(best[1], concepts)


def normalised_mutual_information(first: Numbers, second: Numbers) -> float:
    """Return mutual information over the mean of both entropies, in [0, 1]."""
    _, rows = np.unique(first, return_inverse=True)
    _, columns = np.unique(second, return_inverse=True)
    joint = np.zeros((rows.max() + 1, columns.max() + 1))
    np.add.at(joint, (rows, columns), 1 / len(rows))
    by_row, by_column = joint.sum(axis=1), joint.sum(axis=0)
    filled = joint > 0
    ratio = joint[filled] / np.outer(by_row, by_column)[filled]
    information = float((joint[filled] * np.log(ratio)).sum())
    entropies = [-float((part * np.log(part)).sum()) for part in (by_row, by_column)]
    return information / max(sum(entropies) / 2, 1e-12)


def reversal_accuracy(features: Floats, looks: Numbers, motions: Numbers) -> float:
    """Return how often the nearer kind, by mean cosine, is the right one; chance is 0.5.

    Only clips of the same appearance and of the same pair of motions compete, so that nothing but
    the direction of time tells them apart.

    Args:
        features: float32 (N, D).
        looks: int64 (N,), appearance.
        motions: int64 (N,); 2 n and 2 n + 1 are each other's reversal.
    """
    groups = looks * (motions.max() // 2 + 1) + motions // 2
    right = total = 0
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        if len(np.unique(motions[members])) < 2 or len(members) < 4:
            continue
        rows = unit_rows(features[members] - features[members].mean(axis=0))
        cosines = rows @ rows.T
        np.fill_diagonal(cosines, -np.inf)
        own = motions[members]
        for number in range(len(members)):
            same = own == own[number]
            same[number] = False
            other = own != own[number]
            # All of either kind count: the best of a larger kind would be better by chance.
            right += int(cosines[number][same].mean() > cosines[number][other].mean())
            total += 1
    return right / max(total, 1)
