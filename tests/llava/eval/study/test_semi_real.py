"""Rendered people: what is asked, and that training and test clips are made apart."""

import json
from pathlib import Path

import numpy as np
import pytest

from llava.eval.study.drawing import NUM_FRAMES
from llava.eval.study.scenes import ACTIONS
from llava.eval.study.semi_real import FIRST_TRAINING_SEED, Motion, compose_person, main

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


def test_other_paces_are_those_of_no_training_clip() -> None:
    recording = np.zeros((30, 44))
    recording[:, 0] = 0.04
    paces: dict[bool, list[float]] = {
        other: [
            Motion(recording, np.random.default_rng(seed), has_other_pace=other).pace
            for seed in range(60)
        ]
        for other in (False, True)
    }
    assert 0.8 <= min(paces[False]) < max(paces[False]) <= 1.25
    assert all(0.56 <= pace < 0.7 or 1.3 <= pace <= 1.625 for pace in paces[True])
    assert min(paces[True]) < 0.7 < 1.3 <= max(paces[True])


@pytest.mark.slow
def test_clips_become_a_data_set_that_grows(tmp_path: Path) -> None:
    sizes = ["--val", "1", "--num_workers", "1"]
    assert main([str(tmp_path), "--train", "1", *sizes]) == 0
    first = tmp_path / "train" / f"clip_{FIRST_TRAINING_SEED}.mp4"
    made = first.stat().st_mtime_ns
    assert main([str(tmp_path), "--train", "2", *sizes]) == 0
    assert first.stat().st_mtime_ns == made
    classes = (tmp_path / "classes.txt").read_text().splitlines()
    assert len(classes) == len(set(classes)) == 15
    assert len((tmp_path / "val_new.csv").read_text().splitlines()) == 1
    for line in (tmp_path / "train_new.csv").read_text().splitlines():
        name, _, label = line.rpartition(",")
        description = json.loads((tmp_path / name).with_suffix(".json").read_text())
        assert description["questions"][0]["answer"] == classes[int(label)]
