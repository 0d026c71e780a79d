"""Peers' scores against their formulas."""

from pathlib import Path

import numpy as np
import pytest

from cv_reader.assets.make import select_from_video
from cv_reader.reader import ReadOptions
from cv_reader.select.config import SIGNALS, AssetConfig
from cv_reader.select.peers import pixel_scores
from cv_reader.select.rate_distortion.clip import SmallClip
from support.media import moving_square, write_video


@pytest.fixture(scope="module")
def clip() -> SmallClip:
    generator = np.random.default_rng(0)
    return SmallClip(
        luma=generator.integers(0, 256, (3, 8, 16)).astype(np.uint8),
        chroma=generator.integers(0, 256, (3, 2, 4, 8)).astype(np.uint8),
        rows=slice(1, 2),
        columns=slice(0, 2),
        grid=2,
    )


def _vector(clip: SmallClip, slot: int, column: int) -> np.ndarray:
    luma = clip.luma[slot, :, column * 8 : column * 8 + 8].astype(float).ravel()
    chroma = clip.chroma[slot, :, :, column * 4 : column * 4 + 4].astype(float).ravel()
    return np.concatenate([luma, chroma.repeat(4)])


@pytest.mark.parametrize("signal", ["rlt", "evs"])
def test_scores_are_those_of_the_formulas(clip: SmallClip, signal: str) -> None:
    scores = pixel_scores(clip, signal)
    assert not scores[:, 0].any()
    for slot in (1, 2):
        for column in (0, 1):
            here, before = _vector(clip, slot, column), _vector(clip, slot - 1, column)
            expected = ((here - before) ** 2).mean()
            if signal == "evs":
                expected = 1 - here @ before / np.linalg.norm(here) / np.linalg.norm(before)
            assert scores[slot, 1, column] == pytest.approx(expected, rel=1e-5)
    assert (scores[0, 1] > scores[1:].max()).all()


@pytest.mark.parametrize("signal", SIGNALS)
def test_every_signal_chooses_from_a_video(tmp_path: Path, signal: str) -> None:
    path = write_video(tmp_path / "clip.mp4", moving_square(21, 64, 64, (0, 3)))
    config = AssetConfig(
        square_size=64, patch_size=16, num_images=2, sequence_length=6, signal=signal
    )
    backend = "native" if signal.startswith("bits") else "auto"
    selection = select_from_video(path, config, ReadOptions(backend=backend))
    assert len(np.unique(selection.rows, axis=0)) == 32
    assert selection.scores.any()
