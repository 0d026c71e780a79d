"""The identity check itself: it accepts what is exact, and finds a single wrong value."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from cv_reader.media.frames import CodecFrame
from support.native.clips import Kind, make
from support.native.compensator import Compensator, Weight, explicit_weighting
from support.native.identity import check_identity, fit_weight
from support.native.stock import decoded_luma, exported_motion

SIMPLE = Kind(
    codec="libx264", params="no-deblock=1:weightp=0:scenecut=0:bframes=0:ref=1:subme=9:crf=30"
)


@dataclass(frozen=True)
class _Stored:
    """Pixels that are already there."""

    pixels: np.ndarray

    @property
    def height_px(self) -> int:
        return self.pixels.shape[0]

    @property
    def width_px(self) -> int:
        return self.pixels.shape[1]

    @property
    def num_rows(self) -> int:
        return self.pixels.shape[0]

    @property
    def num_columns(self) -> int:
        return self.pixels.shape[1]

    def rgb(self, size_px: tuple[int, int] | None = None) -> np.ndarray:
        return self.pixels[..., None].repeat(3, 2)

    def luma(self) -> np.ndarray:
        return self.pixels


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[CodecFrame], list[np.ndarray]]:
    """Frames of a simple stream from stock vectors, with the residual that they leave."""
    path: Path = make(SIMPLE, tmp_path_factory.mktemp("exact") / "clip.mkv")
    pictures = decoded_luma(path)
    compensator = Compensator(codec="h264", references=dict(enumerate(pictures)))
    frames = []
    for index, motion in enumerate(exported_motion(path)):
        distance = -(motion.direction != 0).astype(np.int16)
        predicted, _ = compensator.predict(index, motion.vectors, distance)
        frames.append(
            CodecFrame(
                index=index,
                pts_seconds=index / 25,
                duration_seconds=1 / 25,
                pict_type=motion.pict_type,
                is_key=index == 0,
                packet_bytes=1,
                picture=_Stored(pictures[index]),
                motion=motion.vectors,
                motion_ref=distance,
                residual_y=(pictures[index] - predicted).astype(np.int16),
            )
        )
    return frames, pictures


def test_exact_frames_pass(exact: tuple[list[CodecFrame], list[np.ndarray]]) -> None:
    verdict = check_identity(*exact, standard="h264")
    assert verdict.wrong_pixels == 0
    assert verdict.inter_pixels > 100_000
    assert verdict.distances == ({-1}, set())


@pytest.mark.parametrize("field", ["motion", "motion_ref", "residual_y"])
def test_one_wrong_value_is_found(
    field: str, exact: tuple[list[CodecFrame], list[np.ndarray]]
) -> None:
    frames, pictures = exact
    values = getattr(frames[8], field).copy()
    place = np.argwhere(frames[8].motion_ref[0] != 0)[40]
    at = tuple(4 * place) if field == "residual_y" else (0, *place)
    values[at] += -1 if field == "motion_ref" else 3
    broken = [*frames[:8], replace(frames[8], **{field: values}), *frames[9:]]
    verdict = check_identity(broken, pictures, standard="h264")
    assert 0 < verdict.wrong_pixels <= 16
    assert verdict.first_wrong.startswith("frame 8 (P)")


@pytest.mark.parametrize(("standard", "shift"), [("h264", 0), ("hevc", 6)])
@pytest.mark.parametrize(
    "weight",
    [
        Weight(log2_denominator=5, scale=37, offset=-4),
        Weight(log2_denominator=7, scale=130, offset=3),
        Weight(log2_denominator=0, scale=1, offset=-1),
        Weight(log2_denominator=6, scale=50, offset=20),
    ],
    ids=str,
)
def test_explicit_weights_are_recovered(standard: str, shift: int, weight: Weight) -> None:
    generator = np.random.default_rng(0)
    samples = generator.integers(10, 190 << shift, 3000).astype(np.int32)
    target = explicit_weighting(samples, weight, 255, shift)
    compensator = Compensator(codec=standard, references={})
    found = fit_weight(compensator, samples, target)
    assert np.array_equal(explicit_weighting(samples, found, 255, shift), target)
