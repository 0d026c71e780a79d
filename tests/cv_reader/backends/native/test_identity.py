"""Native motion and residual are exact: the pictures follow from them, bit for bit."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from support.native.clips import (
    EXPLICIT_WEIGHTS,
    FIELD_CODED,
    FILTERED,
    TIER2,
    UNFILTERED,
    Kind,
    make,
)
from support.native.identity import Verdict, check_identity
from support.native.reading import read, read_or_refusal, read_pixels
from support.native.stock import decoded_luma

pytestmark = pytest.mark.usefixtures("native_reader")
Clip = Callable[[str, Kind], Path]


def _verdict(path: Path, kind: Kind, **settings: bool) -> Verdict:
    return check_identity(
        read(path),
        decoded_luma(path, skip_loop_filter=True),
        standard=kind.standard,
        bit_depth=kind.bit_depth,
        **settings,
    )


@pytest.mark.parametrize("name", UNFILTERED)
def test_streams_without_loop_filters_are_exact(name: str, clip: Clip) -> None:
    kind = UNFILTERED[name]
    path = clip(name, kind)
    pictures, skipped = decoded_luma(path), decoded_luma(path, skip_loop_filter=True)
    assert all(map(np.array_equal, pictures, skipped)), "the encoder left a loop filter on"
    verdict = _verdict(path, kind)
    assert verdict.wrong_pixels == 0, verdict
    assert verdict.inter_pixels > 2 * verdict.intra_pixels, verdict


@pytest.mark.parametrize("name", FILTERED)
def test_streams_with_loop_filters_are_exact(name: str, clip: Clip) -> None:
    kind = FILTERED[name]
    path = clip(name, kind)
    normal, skipped = decoded_luma(path), decoded_luma(path, skip_loop_filter=True)
    assert not all(map(np.array_equal, normal, skipped)), "the encoder used no loop filter"
    frames = read(path)
    assert all(map(np.array_equal, (frame.luma() for frame in frames), normal))
    verdict = _verdict(path, kind)
    assert verdict.wrong_pixels == 0, verdict
    assert verdict.inter_pixels > verdict.intra_pixels, verdict


CONTAINERS = {
    "h264": ("h264-b-spatial", ["mp4", "ts", "flv", "avi", "h264"]),
    "hevc": ("hevc-b", ["mp4", "ts", "hevc"]),
}


@pytest.mark.parametrize(
    ("standard", "suffix"), [(s, suffix) for s, row in CONTAINERS.items() for suffix in row[1]]
)
def test_references_are_right_in_every_container(
    standard: str, suffix: str, tmp_path: Path
) -> None:
    kind = UNFILTERED[CONTAINERS[standard][0]]
    verdict = _verdict(make(kind, tmp_path / f"clip.{suffix}"), kind)
    assert verdict.wrong_pixels == 0, verdict
    assert verdict.inter_pixels > 2 * verdict.intra_pixels, verdict


@pytest.mark.parametrize("name", ["h264-fine", "hevc-b"])
def test_every_quarter_phase_occurs_in_both_lists(name: str, clip: Clip) -> None:
    verdict = _verdict(clip(name, UNFILTERED[name]), UNFILTERED[name])
    assert (verdict.phases > 0).all(), verdict.phases


@pytest.mark.parametrize("name", ["h264-b-spatial", "hevc-b"])
def test_several_references_occur_in_both_lists(name: str, clip: Clip) -> None:
    past, future = _verdict(clip(name, UNFILTERED[name]), UNFILTERED[name]).distances
    assert len({step for step in past if step < 0}) >= 3, past
    assert len({step for step in future if step > 0}) >= 2, future


@pytest.mark.parametrize("name", TIER2)
def test_rarer_streams_are_exact_or_refused_by_name(name: str, clip: Clip) -> None:
    kind = TIER2[name]
    path = clip(name, kind)
    frames = read_or_refusal(path)
    if isinstance(frames, str):
        assert _pixels_are_stock(path, kind)
        pytest.skip(f"refused: {frames}")
    verdict = _verdict(path, kind, implicit_weights=kind.implicit_weights)
    assert verdict.wrong_pixels == 0, verdict
    assert verdict.inter_pixels > verdict.intra_pixels, verdict


@pytest.mark.parametrize("name", EXPLICIT_WEIGHTS)
def test_explicitly_weighted_streams_are_exact_or_refused_by_name(name: str, clip: Clip) -> None:
    kind = EXPLICIT_WEIGHTS[name]
    path = clip(name, kind)
    frames = read_or_refusal(path)
    if isinstance(frames, str):
        assert _pixels_are_stock(path, kind)
        pytest.skip(f"refused: {frames}")
    verdict = _verdict(path, kind, fit_weights=True)
    assert verdict.weights, "the encoder used no weights"
    assert verdict.wrong_pixels == 0, (str(verdict), verdict.weights)


@pytest.mark.parametrize("name", FIELD_CODED)
def test_field_coded_motion_is_refused_by_name_and_pixels_stand(name: str, clip: Clip) -> None:
    path = clip(name, FIELD_CODED[name])
    assert isinstance(read_or_refusal(path), str)
    assert _pixels_are_stock(path, FIELD_CODED[name])


def _pixels_are_stock(path: Path, kind: Kind) -> bool:
    shift = kind.bit_depth - 8
    expected = decoded_luma(path)
    return all(
        np.abs(frame.luma() - (picture >> shift).astype(int)).max() <= (shift > 0)
        for frame, picture in zip(read_pixels(path), expected, strict=True)
    )
