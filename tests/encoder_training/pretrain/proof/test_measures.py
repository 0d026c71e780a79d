"""The judge of the proof: measures whose right answer is known."""

import numpy as np
import pytest

from encoder_training.pretrain.data.made import MOTIONS
from encoder_training.pretrain.proof.measures import (
    cluster_information,
    neighbour_accuracy,
    normalised_mutual_information,
    reversal_accuracy,
)
from encoder_training.pretrain.proof.pictures import axes_of
from encoder_training.pretrain.proof.report import summarise

RANDOM = np.random.default_rng


def test_neighbours_of_made_groups_agree_and_those_of_noise_do_not() -> None:
    concepts = np.arange(200) % 20
    middles = RANDOM(0).normal(size=(20, 16))
    near = (middles[concepts] + 0.1 * RANDOM(1).normal(size=(200, 16))).astype(np.float32)
    noise = RANDOM(2).normal(size=(200, 16)).astype(np.float32)
    assert neighbour_accuracy(near, concepts) == 1
    assert neighbour_accuracy(noise, concepts) < 0.15
    assert cluster_information(near, concepts) > 0.9
    assert cluster_information(noise, concepts) < 0.6


def test_information_of_known_tables() -> None:
    first = np.array([0, 0, 1, 1])
    assert normalised_mutual_information(first, first + 5) == pytest.approx(1)
    assert normalised_mutual_information(first, np.array([0, 1, 0, 1])) == pytest.approx(0)
    # One cluster split in two: I = H(first) = 1 bit, H(second) = 1.5 bit.
    assert normalised_mutual_information(first, np.array([0, 0, 1, 2])) == pytest.approx(1 / 1.25)


def test_reversal_is_judged_among_clips_alike_in_all_else() -> None:
    looks = np.repeat(np.arange(5), 80)
    motions = np.tile(np.arange(8), 50)
    appearance = np.eye(5)[looks] * 50
    pair = np.eye(4)[motions // 2] * 20
    direction = (motions % 2 * 2 - 1)[:, None]
    noise = RANDOM(0).normal(size=(400, 6))
    blind = np.concatenate([appearance, pair, noise], axis=1).astype(np.float32)
    seeing = np.concatenate([appearance, pair, noise, 4 * direction], axis=1).astype(np.float32)
    assert len(MOTIONS) == 8
    assert reversal_accuracy(seeing, looks, motions) > 0.97
    assert 0.38 < reversal_accuracy(blind, looks, motions) < 0.62


def test_axes_separate_the_groups() -> None:
    groups = np.repeat([0, 1, 2], 30)
    features = RANDOM(0).normal(0, 0.05, (90, 10))
    features[:, :3] += np.eye(3)[groups]
    places = features.astype(np.float32) @ axes_of(features.astype(np.float32), groups)
    means = np.stack([places[groups == group].mean(axis=0) for group in range(3)])
    distances = np.linalg.norm(means[:, None] - means[None], axis=-1)
    assert distances[np.triu_indices(3, 1)].min() > 10 * places[groups == 0].std(axis=0).max()


def test_figures_are_summed_up_over_seeds() -> None:
    figures = {seed: {"images": {"stage 1": {"NMI": 0.5 + seed / 10}}} for seed in range(3)}
    assert summarise(figures)["images"]["stage 1"]["NMI"] == pytest.approx([0.6, 0.5, 0.7])
