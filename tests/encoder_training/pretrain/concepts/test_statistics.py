"""Statistics of pixels: what they must see, and what must not matter to them."""

import numpy as np
import torch
from torch import Tensor

from encoder_training.pretrain.concepts.statistics import image_statistics, video_statistics


def _picture(shape: str, x: int, y: int, *, seed: int, stripes: bool = False) -> Tensor:
    """Return a red disc or square of 22 px on a grey ground of its own brightness."""
    random = np.random.default_rng(seed)
    columns, rows = np.meshgrid(np.arange(48), np.arange(48))
    ground = random.uniform(60, 180) + (50 * np.sin(columns) if stripes else 0 * columns)
    picture = np.repeat(ground[..., None], 3, axis=-1)
    if shape == "disc":
        inside = np.hypot(columns - x, rows - y) < 12
    else:
        inside = np.maximum(np.abs(columns - x), np.abs(rows - y)) < 11
    picture[inside] = (220, 50, 40)
    noisy = np.clip(picture + random.normal(0, 3, picture.shape), 0, 255)
    return torch.from_numpy(noisy.astype(np.uint8)).permute(2, 0, 1)


def test_the_nearest_picture_shows_the_same_thing_at_another_place() -> None:
    kinds = [("disc", False), ("square", False), ("disc", True), ("square", True)]
    numbers = np.repeat(np.arange(4), 5)
    pictures = []
    for seed, kind in enumerate(numbers):
        shape, stripes = kinds[kind]
        x, y = np.random.default_rng(seed).integers(17, 31, 2)
        pictures.append(_picture(shape, x, y, seed=seed, stripes=stripes))
    features = image_statistics(torch.stack(pictures))
    distances = torch.cdist(features, features).fill_diagonal_(torch.inf)
    assert (numbers[distances.argmin(dim=1).numpy()] == numbers).mean() > 0.75


def test_a_clip_and_its_reversal_differ_in_their_motion_alone() -> None:
    frames = torch.stack([_picture("disc", 14 + 2 * n, 24, seed=0) for n in range(10)])
    forward, backward = video_statistics(frames), video_statistics(frames.flip(0))
    width = image_statistics(frames[:1]).shape[1]
    looks, motion = (forward - backward).split([width, len(forward) - width])
    assert looks.norm() < 0.1
    # Parts of length one, two for each of histogram and turning: opposite ones are far apart.
    assert motion.norm() > 1
