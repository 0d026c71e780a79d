"""When a model is asked: more than the stream usually shows, and no sooner."""

from pathlib import Path

import numpy as np

import cv_reader
from cv_reader.streams.gate import EventGate
from support.media import moving_square, write_video

from .conftest import RATE, small


def test_what_repeats_is_no_event() -> None:
    gate = EventGate()
    values = [gate.value(50_000 + 1000 * (k % 3), 40 + k % 2) for k in range(60)]
    assert values[:8] == [1.0] * 8
    assert not any(gate.is_event(value) for value in values)


def test_more_of_either_is_an_event_and_becomes_usual() -> None:
    for more in ((4.0, 1.0), (1.0, 4.0)):
        gate = EventGate()
        for _ in range(30):
            gate.value(50_000, 40)
        values = [gate.value(50_000 * more[0], 40 * more[1]) for _ in range(60)]
        assert gate.is_event(values[0]) and values[0] == 4.0
        assert not gate.is_event(values[-1])


def test_noise_of_a_still_scene_is_no_event() -> None:
    gate = EventGate()
    for _ in range(20):
        gate.value(0, 0)
    assert not gate.is_event(gate.value(1500, 1.9))
    assert gate.is_event(gate.value(0, 48))


def test_a_new_scene_after_a_calm_one_is_an_event(tmp_path: Path) -> None:
    """Ten seconds of a still scene, then another one; key frames alone are no event."""
    calm, other = moving_square(250, 48, 64, (0, 0)), moving_square(30, 48, 64, (0, 0), seed=7)
    path = write_video(
        tmp_path / "a.mp4",
        [*calm, *other],
        frame_rate=RATE,
        options={"x264-params": "keyint=50:min-keyint=1:scenecut=40"},
    )
    with cv_reader.stream(path, small(config={"sequence_length": 64})) as live:
        found = list(live)
    events = [window for window in found if window.is_event]
    assert len(events) == 1
    assert events[0].times_seconds[0] <= 10.08 <= events[0].end_seconds + 1 / RATE
    assert np.sum([len(w.rows) for w in found]) <= 4 * 48
