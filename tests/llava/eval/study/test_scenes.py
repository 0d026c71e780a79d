"""Made clips: what they ask, and whether the evidence is where it is said to be."""

from collections import Counter

import numpy as np
import pytest

from llava.eval.study.drawing import NUM_FRAMES, USUAL_SIZES, WORLD_PX, Patch, Scene, Shot, Sizes
from llava.eval.study.scenes import KINDS, compose


def pictures(scene: Scene) -> np.ndarray:
    return np.stack([scene.picture(frame) for frame in range(NUM_FRAMES)])


def test_a_seed_fixes_a_clip() -> None:
    first, again, other = (compose(seed) for seed in (3, 3, 4))
    assert first[1] == again[1]
    assert np.array_equal(first[0].picture(20), again[0].picture(20))
    assert not np.array_equal(first[0].picture(20), other[0].picture(20))


@pytest.mark.slow
def test_every_kind_is_asked_and_every_answer_is_about_equally_frequent() -> None:
    answers: dict[str, Counter[str]] = {}
    for seed in range(150):
        for question in compose(seed)[1]:
            answers.setdefault(question.kind, Counter())[question.answer] += 1
    assert set(answers) == set(KINDS) - {"action"}
    for kind, counts in answers.items():
        assert set(counts) == set(KINDS[kind].choices)
        expected = sum(counts.values()) / len(counts)
        # Four standard deviations of a binomial count.
        assert all(abs(count - expected) < 4 * expected**0.5 for count in counts.values()), kind


def test_all_answers_can_be_seen() -> None:
    for seed in range(30):
        for question in compose(seed)[1]:
            assert question.evidence
            assert all(question.evidence), f"seed {seed}, {question.kind}"
            for t, h, w in frozenset[tuple[int, int, int]]().union(*question.evidence):
                assert 0 <= t < NUM_FRAMES
                assert 0 <= h < USUAL_SIZES.grid > w >= 0


@pytest.mark.parametrize("kind", ["event", "symbol", "count", "order"])
def test_evidence_is_where_brief_things_are_drawn(kind: str) -> None:
    """Without its brief things, a clip differs in the cells of evidence."""
    seed = next(s for s in range(200) if any(q.kind == kind for q in compose(s)[1]))
    scene, questions, _ = compose(seed)
    question = next(q for q in questions if q.kind == kind)
    cells = frozenset[tuple[int, int, int]]().union(*question.evidence)
    frames = sorted({cell[0] for cell in cells})
    before = {frame: scene.picture(frame).astype(int) for frame in frames}
    for shot in scene.shots:
        shot.patches[:] = [p for p in shot.patches if len(p.frames) > 4]
    for frame in frames:
        changed = abs(before[frame] - scene.picture(frame)).max(axis=2) > 0
        grid = changed.reshape(4, 24, 4, 24)
        touched = {(frame, *map(int, cell)) for cell in np.argwhere(grid.any(axis=(1, 3)))}
        assert {cell for cell in cells if cell[0] == frame} <= touched


def test_a_larger_picture_shows_the_same() -> None:
    small, large = (compose(5, sizes) for sizes in (USUAL_SIZES, Sizes(view_px=192, cell_px=48)))
    picture = large[0].picture(30).reshape(96, 2, 96, 2, 3).mean(axis=(1, 3))
    assert abs(picture - small[0].picture(30)).mean() < 12
    assert [(row.kind, row.answer) for row in small[1]] == [
        (row.kind, row.answer) for row in large[1]
    ]


def test_what_another_thing_hides_shows_nothing() -> None:
    world = np.zeros((WORLD_PX, WORLD_PX, 3), np.float32)
    scene = Scene([Shot(0, NUM_FRAMES - 1, world)], np.full((NUM_FRAMES, 2), 48.0), 0.0, 0)
    square = np.ones((16, 16), bool)
    below = Patch(square, (9, 9, 9), range(4), (48.0,), (48.0,))
    over = Patch(square, (99, 99, 99), range(1, 2), (50.0,), (50.0,))
    faint = Patch(square, (99, 99, 99), range(2, 3), (48.0,), (48.0,), (0.2,))
    partly = Patch(square, (99, 99, 99), range(3, 4), (56.0,), (48.0,))
    seen = scene.cells(below, [over, faint, partly])
    assert seen == {(0, 0, 0), (2, 0, 0), (3, 0, 0)}
