"""One price for a data set: still clips get few mosaics, busy ones many, the mean is met."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cv_reader.assets.contract import read_asset
from cv_reader.commands.precompute import main
from cv_reader.errors import SettingsError
from cv_reader.pricing import PRICE_FILE, price_for, priced_config
from cv_reader.reader import ReadOptions
from cv_reader.select.config import AssetConfig
from support.media import moving_square, texture, write_video

CONFIG = AssetConfig(
    square_size=64, patch_size=8, sequence_length=8, num_images=8, select="rate_distortion"
)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("videos")
    still = write_video(folder / "still.mp4", [texture(64, 64)] * 12)
    moving = write_video(folder / "moving.mp4", moving_square(12, 64, 64, (0, 4), square_px=16))
    generator = np.random.default_rng(0)
    noise = (generator.integers(0, 256, (64, 64, 3)).astype(np.uint8) for _ in range(12))
    return [still, moving, write_video(folder / "noise.mp4", noise)]


def test_mosaics_follow_what_clips_need(videos: list[Path], tmp_path: Path) -> None:
    lines = "".join(json.dumps({"video": str(video), "key": video.stem}) + "\n" for video in videos)
    data = tmp_path / "data.jsonl"
    data.write_text(lines)
    arguments = ["--jsonl", str(data), "--out_root", str(tmp_path / "out"), "--num_workers", "1"]
    arguments += ["--seq_len_frames", "8", "--square_size", "64", "--patch_size", "8"]
    arguments += ["--select", "rate_distortion", "--mean_num_images", "3.5"]
    assert main(arguments) == 0
    assets = [read_asset(tmp_path / "out" / "assets" / video.stem) for video in videos]
    counts = [len(asset.images) for asset in assets]
    assert counts[0] == 1
    assert counts[0] < counts[1] < counts[2]
    assert 2.5 <= np.mean(counts) <= 3.5
    assert [len(asset.positions) for asset in assets] == [64 * count for count in counts]
    recorded = json.loads((tmp_path / "out" / PRICE_FILE).read_text())
    assert recorded["videos"] == [str(video) for video in videos]
    assert {asset.meta["cfg"]["token_price"] for asset in assets} == {recorded["token_price"]}
    # The recorded price is used again, even for other videos.
    config = replace(CONFIG, num_images=8)
    again = priced_config(config, 3.5, [], ReadOptions(), tmp_path / "out")
    assert again.token_price == recorded["token_price"]
    with pytest.raises(SettingsError, match="is recorded where"):
        priced_config(config, 3, [], ReadOptions(), tmp_path / "out")


@pytest.mark.parametrize("price", ["NaN", "0", "-1", "Infinity", '"high"', "1e19"])
def test_a_recorded_price_that_is_none_is_refused_by_its_file(tmp_path: Path, price: str) -> None:
    asked = {"mean_num_images": 3.0, "fingerprint": CONFIG.fingerprint}
    text = json.dumps(asked)[:-1] + f', "token_price": {price}}}'
    (tmp_path / PRICE_FILE).write_text(text)
    with pytest.raises(SettingsError, match=f"{PRICE_FILE}: not a recorded price"):
        priced_config(CONFIG, 3, [], ReadOptions(), tmp_path)


def test_the_lowest_price_that_meets_the_mean_is_taken() -> None:
    means = np.linspace(9, 1, 361)
    assert price_for(means, 9) == pytest.approx(1e-4)
    assert price_for(means, 1) == pytest.approx(1e14)
    assert price_for(means, 0.5) == pytest.approx(1e14)
    assert means[0] > 5 > means[-1]
    assert price_for(means, 5) == pytest.approx(1e5)


@pytest.mark.parametrize(
    ("changes", "mean", "message"),
    [
        ({"select": "topk"}, 4, "needs --select rate_distortion"),
        ({"quality_db": 30.0}, 4, "needs --select"),
        ({}, 9, r"in 1..8"),
        ({}, 4, "no sampled video can be read"),
    ],
)
def test_what_cannot_work_is_refused(
    tmp_path: Path, changes: dict[str, Any], mean: int, message: str
) -> None:
    missing = [tmp_path / "missing.mp4"]
    with pytest.raises(SettingsError, match=message):
        priced_config(replace(CONFIG, **changes), mean, missing, ReadOptions(), tmp_path)


def test_without_a_mean_nothing_is_read(tmp_path: Path) -> None:
    assert priced_config(CONFIG, 0, [], ReadOptions(), tmp_path) is CONFIG
