"""Feature extractors: pixel statistics, or any vision model of transformers, this encoder included.

A video's feature is that of its evenly spaced frames: each scaled to length one, then side by side
(``concat``) or averaged (``mean``).
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cv_reader import open_video
from encoder_training.pretrain.concepts.nearest import Floats
from encoder_training.pretrain.concepts.statistics import (
    NUM_FRAMES,
    SIDE_PX,
    image_statistics,
    video_statistics,
)
from encoder_training.pretrain.data.images import ImageView, image_pixels
from encoder_training.pretrain.data.samples import BadSampleError
from encoder_training.pretrain.data.sources import SourceItem
from encoder_training.pretrain.data.videos import bad_video
from onevision_encoder.patches import uniform_slots

STATISTICS = "statistics"
_BATCH = 64
"""Pictures that are computed together."""


@dataclass(frozen=True, kw_only=True)
class FeatureSettings:
    """What decides the features of a sample.

    Attributes:
        model: ``statistics``, or a folder or name that transformers loads.
        num_frames: evenly spaced frames of a video that a model sees.
        pool: how the features of frames join.
        layer: ``pooled`` takes the model's pooled output where it has one; ``mean`` the mean of its
            tokens.
    """

    model: str = STATISTICS
    num_frames: int = 8
    pool: Literal["concat", "mean"] = "concat"
    layer: Literal["pooled", "mean"] = "pooled"


Extractor = Callable[[Sequence[SourceItem], Callable[[SourceItem, BadSampleError], None]], Floats]
"""From items, and what to call for a bad one, to features (N, D); rows of bad ones are NaN."""


def load_extractor(settings: FeatureSettings, device: str = "cpu") -> Extractor:
    """Return the extractor.

    Raises:
        ValueError: if the model cannot be loaded.
    """
    if settings.model == STATISTICS:
        return _statistics
    return _Model(settings, device)


def read_frames(item: SourceItem, num_frames: int) -> list[Image.Image]:
    """Return evenly spaced frames of a video, some repeated where it has fewer.

    Raises:
        BadSampleError: if it cannot be read.
    """
    with bad_video(item.place), item.opened() as path, open_video(path) as video:
        ids = uniform_slots(num_frames, len(video)).tolist()
        frames = [Image.fromarray(frame.rgb()) for frame in video.at(ids, signals=False)]
        if len(frames) != num_frames:
            raise BadSampleError(
                item.place, "broken video", f"only {len(frames)} of {num_frames} frames decode"
            )
    return frames


def read_image(item: SourceItem, size_px: int = 0) -> Image.Image:
    """Return an image as RGB; its middle as a square of ``size_px`` unless that is 0.

    Raises:
        BadSampleError: if it cannot be decoded.
    """
    data = item.read()
    if size_px:
        view = ImageView(patch_size=size_px, size_px=size_px, augment=False, flip=False)
        return Image.fromarray(image_pixels(data, view, np.random.default_rng(0), item.place))
    try:
        return Image.open(io.BytesIO(data)).convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        detail = f"cannot be decoded: {error}"
        raise BadSampleError(item.place, "broken image", detail) from error


def _filled(found: dict[int, Floats], count: int) -> Floats:
    """Return the rows found by their number, and NaN for the others."""
    width = len(next(iter(found.values()))) if found else 0
    rows = np.full((count, width), np.nan, np.float32)
    for number, row in found.items():
        rows[number] = row
    return rows


def _tensor(pictures: Sequence[Image.Image]) -> Tensor:
    return torch.from_numpy(np.stack([np.asarray(one) for one in pictures])).permute(0, 3, 1, 2)


@torch.inference_mode()
def _statistics(
    items: Sequence[SourceItem], report: Callable[[SourceItem, BadSampleError], None]
) -> Floats:
    found: dict[int, Floats] = {}
    images: dict[int, Image.Image] = {}
    for number, item in enumerate(items):
        try:
            if item.kind == "image":
                images[number] = read_image(item, SIDE_PX)
                continue
            frames = [
                frame.resize((SIDE_PX, SIDE_PX), Image.Resampling.BILINEAR)
                for frame in read_frames(item, NUM_FRAMES)
            ]
        except BadSampleError as error:
            report(item, error)
            continue
        found[number] = video_statistics(_tensor(frames)).numpy()
    numbers = list(images)
    for start in range(0, len(numbers), _BATCH):
        some = numbers[start : start + _BATCH]
        rows = image_statistics(_tensor([images[number] for number in some])).numpy()
        found.update(zip(some, rows, strict=True))
    return _filled(found, len(items))


class _Model:
    """A vision model of transformers with its image processor."""

    def __init__(self, settings: FeatureSettings, device: str) -> None:
        import transformers

        import onevision_encoder  # noqa: F401  # registers this project's encoder

        self._settings, self._device = settings, device
        try:
            self._processor: Any = transformers.AutoImageProcessor.from_pretrained(settings.model)
            model: Any = transformers.AutoModel.from_pretrained(settings.model)
        except (OSError, ValueError, ImportError) as error:
            raise ValueError(
                f"model must be {STATISTICS!r} or a vision model that transformers loads, "
                f"got {settings.model!r} ({error})"
            ) from error
        # Of a model for images and text, the half for images.
        self._model = getattr(model, "vision_model", model).to(device).eval()

    def __call__(
        self, items: Sequence[SourceItem], report: Callable[[SourceItem, BadSampleError], None]
    ) -> Floats:
        pictures: list[Image.Image] = []
        spans: dict[int, slice] = {}
        for number, item in enumerate(items):
            try:
                if item.kind == "image":
                    new = [read_image(item)]
                else:
                    new = read_frames(item, self._settings.num_frames)
            except BadSampleError as error:
                report(item, error)
                continue
            spans[number] = slice(len(pictures), len(pictures) + len(new))
            pictures += new
        if not pictures:
            return np.full((len(items), 0), np.nan, np.float32)
        vectors = np.concatenate(
            [
                self._encode(pictures[start : start + _BATCH])
                for start in range(0, len(pictures), _BATCH)
            ]
        )
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)

        def feature(number: int) -> Floats:
            frames = vectors[spans[number]]
            return frames.mean(axis=0) if self._settings.pool == "mean" else frames.flatten()

        return _filled({number: feature(number) for number in spans}, len(items))

    @torch.inference_mode()
    def _encode(self, pictures: Sequence[Image.Image]) -> Floats:
        inputs = self._processor(images=list(pictures), return_tensors="pt").to(self._device)
        output = self._model(**inputs)
        pooled = getattr(output, "pooler_output", None)
        if pooled is None or self._settings.layer == "mean":
            pooled = output.last_hidden_state.flatten(1, -2).mean(1)
        return pooled.flatten(1).float().cpu().numpy()
