"""The made actions, and the proof on a few of them."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from encoder_training.probe.datasets import read_clips
from encoder_training.probe.proof.__main__ import main
from encoder_training.probe.proof.actions import ACTIONS, CLASSES, draw_action, write_actions
from encoder_training.probe.proof.comparison import clip_interval, interval, verdict
from encoder_training.probe.proof.plan import FRAMES, PUBLISHED, RATE_DISTORTION, InputSizes
from encoder_training.probe.report import ProbeRun


def _centres(action: str) -> np.ndarray:
    """Return where a clip differs most from its mean picture, frame by frame."""
    frames = np.stack(list(draw_action(action, np.random.default_rng(5), 48, 24))).astype(float)
    changes = np.abs(frames - np.median(frames, axis=0)).sum(-1)
    strong = changes * (changes > 60)
    grid = np.indices((48, 48))
    return (strong[:, None] * grid).sum((2, 3)) / np.maximum(strong.sum((1, 2)), 1)[:, None]


def test_pairs_are_each_other_in_reverse() -> None:
    assert len(ACTIONS) == 14 and len(set(CLASSES)) == 16
    for first, second in (("left", "right"), ("grow", "shrink"), ("appear", "vanish")):
        pictures = [
            np.stack(list(draw_action(name, np.random.default_rng(1), 32, 9))).astype(int)
            for name in (first, second)
        ]
        # The same thing on the same ground: the last frame of one is the first of the other.
        noise = np.abs(pictures[0][-1] - pictures[1][0]).mean()
        assert noise < 6 and np.abs(pictures[0][0] - pictures[0][-1]).mean() > noise + 1.5


def test_a_thing_that_goes_left_moves_left() -> None:
    columns = _centres("left")[:, 1]
    assert columns[2] - columns[-2] > 10


def test_the_lists_name_every_class(tmp_path: Path) -> None:
    write_actions(tmp_path / "clips", train=3, val=2, size_px=16, num_frames=3)
    part = read_clips(tmp_path / "clips" / "train_new.csv", tmp_path / "clips")
    assert [clip.video for clip in part.clips][1:] == [
        "right/train_00001.mp4", "up/train_00002.mp4",
    ]  # fmt: skip
    assert part.file(2).is_file()
    with pytest.raises(ValueError, match="must be a new or an empty folder"):
        write_actions(tmp_path / "clips", train=1, val=1)


def test_all_inputs_have_the_same_tokens() -> None:
    found = {name: values["input"] for name, values in InputSizes().arms().items()}
    assert InputSizes().tokens == 72 and found == {
        "frames": "frames:8", "codec, published": "codec:72",
        "codec, rate-distortion": "codec:72", "random patches": "random:72",
    }  # fmt: skip
    large = InputSizes(frames=8, frame_tokens=256, slots=64)
    assert large.arms()[PUBLISHED] == {"input": "codec:2048", "num_frames": 64}
    assert interval([1.0, 2.0, 3.0]) == pytest.approx((2.0, 2 - 2.483, 2 + 2.483), abs=1e-3)


def _runs(*hits: list[bool]) -> list[ProbeRun]:
    """Return a run of each seed from whether each clip is correct."""
    return [ProbeRun("", {}, {str(n): hit for n, hit in enumerate(own)}) for own in hits]


def test_intervals_over_clips_take_the_mean_of_the_seeds() -> None:
    first, other = [True, True, False, False], [True, False, False, False]
    # Clips are 1, 0.5, 0 and 0: their deviation is that of the sample.
    half = 196 * np.std([1, 0.5, 0, 0], ddof=1) / 2
    assert clip_interval(_runs(first, other)) == pytest.approx((37.5, 37.5 - half, 37.5 + half))
    assert clip_interval(_runs(first), _runs(first)) == (0, 0, 0)
    assert clip_interval(_runs(first), _runs(other))[0] == 25


@pytest.mark.parametrize(
    ("codec", "word"), [(80, "Goal met"), (60, "+10.0 points"), (30, "-20.0 points")]
)
def test_the_verdict_asks_for_points_and_for_disjoint_intervals(codec: int, word: str) -> None:
    def of(percent: int) -> list[ProbeRun]:
        return _runs([number < percent for number in range(100)])

    runs = {FRAMES: of(50), PUBLISHED: of(codec), RATE_DISTORTION: of(20)}
    found = verdict(runs)
    assert word in found and found.startswith("Goal met" if codec == 80 else "Goal missed")


@pytest.mark.slow
def test_seeds_pretrain_side_by_side(tmp_path: Path) -> None:
    sizes = ["--train", "32", "--val", "16", "--epochs", "1", "--images", "48", "--clips", "96"]
    sizes += ["--stage1_steps", "2", "--stage2_steps", "2", "--num_workers", "2"]
    command = [sys.executable, "-m", "encoder_training.probe.proof", str(tmp_path), "--quick"]
    subprocess.run([*command, *sizes, "--seeds", "0", "1"], check=True)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "2 seeds" in text


@pytest.mark.slow
def test_the_proof_writes_its_table(tmp_path: Path) -> None:
    sizes = ["--train", "64", "--val", "32", "--epochs", "1", "--images", "48", "--clips", "16"]
    steps = ["--stage1_steps", "2", "--stage2_steps", "2"]
    command = [sys.executable, "-m", "encoder_training.probe.proof", str(tmp_path), "--quick"]
    subprocess.run([*command, *sizes, *steps, "--num_workers", "2"], check=True)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Inputs at equal tokens" in text and "codec, rate-distortion" in text
    assert (tmp_path / "pretraining" / "seed-0" / "stage2" / "final" / "config.json").is_file()
    # One process gives what two have given, to the last digit.
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "clips").symlink_to(tmp_path / "clips")
    shared = ["--pretraining", str(tmp_path / "pretraining"), "--num_workers", "1"]
    assert main([str(alone), "--quick", *sizes, *steps, *shared]) == 0
    for arm in ("frames", "codec_published", "codec_rate-distortion", "random_patches"):
        part = Path("seed-0") / arm / "predictions.jsonl"
        assert (alone / part).read_bytes() == (tmp_path / part).read_bytes()
    again = [str(tmp_path / "other"), "--quick", "--data", str(tmp_path / "clips")]
    trained = tmp_path / "pretraining" / "seed-0" / "stage2" / "final"
    again += ["--encoder", str(trained), "--epochs", "1", "--slots", "16"]
    assert main(again) == 0
    text = (tmp_path / "other" / "report.html").read_text(encoding="utf-8")
    assert "appearance controls" not in text and "Goal m" in text
