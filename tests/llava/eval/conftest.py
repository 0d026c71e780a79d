"""A tiny checkpoint, made clips and their assets, shared by the tests of evaluation."""

from pathlib import Path

import pytest
from PIL import Image

from cv_reader.assets import evaluation_key
from cv_reader.assets.make import write_evaluation_asset
from llava.eval.settings import EvalSettings
from llava.model.tiny import write_tiny_checkpoint
from support.eval_toy import CODEC_ARGUMENTS, Toy
from support.media import moving_square, texture, write_video


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    folder = tmp_path_factory.mktemp("toy")
    write_tiny_checkpoint(folder / "model")
    config = EvalSettings(pretrained="", **CODEC_ARGUMENTS).asset_config()
    videos: list[Path] = []
    for seed, name in enumerate(("a/clip.mp4", "b/clip.mp4", "long walk.mkv")):
        path = folder / "videos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, moving_square(12 + seed, 48, 64, seed=seed))
        key = evaluation_key(path, folder / "videos")
        write_evaluation_asset(path, key=key, out_root=folder / "offline", config=config)
        videos.append(path)
    images = tuple(folder / f"picture_{seed}.png" for seed in range(2))
    for seed, path in enumerate(images):
        Image.fromarray(texture(40, 56, seed=10 + seed)).save(path)
    return Toy(
        folder / "model", tuple(videos), images, folder / "offline" / "assets", folder / "videos"
    )
