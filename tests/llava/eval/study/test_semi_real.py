"""Rendered people: what is asked, and that training and test clips are made apart."""

import numpy as np
import pytest

from llava.eval.study.drawing import NUM_FRAMES
from llava.eval.study.scenes import ACTIONS
from llava.eval.study.semi_real import FIRST_TRAINING_SEED, compose_person

pytest.importorskip("pybullet")


@pytest.mark.slow
@pytest.mark.parametrize("seed", [3, FIRST_TRAINING_SEED + 3])
def test_a_clip_shows_a_person_who_moves(seed: int, capfd: pytest.CaptureFixture[str]) -> None:
    person, (question,), _ = compose_person(seed)
    assert capfd.readouterr() == ("", "")
    assert question.answer in ACTIONS
    assert person.picture(0).shape == (96, 96, 3)
    assert all(question.evidence)
    steps = np.diff(person.pictures[:: NUM_FRAMES // 8].astype(int), axis=0)
    assert abs(steps).max() > 40
    again, _, _ = compose_person(seed)
    assert np.array_equal(person.pictures, again.pictures)
