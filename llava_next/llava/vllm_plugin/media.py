"""What a request to vLLM shows, in the forms that the processor takes.

Pictures become (picture, plan), frames (frames, what is known about them), codec assets a mapping.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image
from vllm.multimodal.media import MediaWithBytes  # pyright: ignore[reportMissingImports]
from vllm.multimodal.parse import (  # pyright: ignore[reportMissingImports]
    ImageProcessorItems,
    ModalityDataItems,
    MultiModalDataParser,
    ProcessorBatchItems,
    VideoProcessorItems,
)
from vllm.multimodal.video import VIDEO_LOADER_REGISTRY, VideoLoader  # pyright: ignore[reportMissingImports]

from llava.visual.config import VisualConfig
from llava.visual.pictures import to_rgb
from llava.visual.sizes import plan_images
from llava.vllm_plugin.clips import checked_item, is_packed_asset, picture_bytes, unpack_asset

VIDEO_BACKEND = "llava_codec"
"""``--media-io-kwargs '{"video": {"video_backend": "llava_codec"}}'`` chooses the loader."""

_POSITIONS = "positions"


@VIDEO_LOADER_REGISTRY.register(VIDEO_BACKEND)
class CodecAssetLoader(VideoLoader):
    """Reads packed codec assets from ``video_url``; vLLM's own loader reads any other video."""

    @classmethod
    def load_bytes(cls, data: bytes, **kwargs: Any) -> tuple[np.ndarray, dict[str, Any]]:
        """Return mosaics or frames, and what is known about them."""
        if not is_packed_asset(data):
            return VIDEO_LOADER_REGISTRY.load("opencv").load_bytes(data, **kwargs)
        item = unpack_asset(data)
        return item.pop("mosaics"), item


class PlannedImages(ProcessorBatchItems[Any]):
    """Pictures with their plans: how large one becomes depends on the others of its prompt.

    Both are in an item's hash, so that no cache confuses two sizes of a picture.
    """

    def __init__(self, data: Sequence[Any]) -> None:
        super().__init__(data, "image")


class LlavaDataParser(MultiModalDataParser):
    """Reads pictures, frames and codec assets."""

    def __init__(self, visual: VisualConfig) -> None:
        super().__init__()
        self.visual = visual

    def _parse_image_data(self, data: Any) -> ModalityDataItems[Any, Any] | None:
        if isinstance(data, list) and any(isinstance(item, tuple) for item in data):
            return PlannedImages(data)  # those of a prompt that vLLM's cache did not have
        # vLLM clips 16-bit pictures; those that arrive here whole are converted by our rule.
        given = [_upright(item) for item in data] if isinstance(data, list) else _upright(data)
        items = super()._parse_image_data(given)
        if items is None:
            return None
        if not isinstance(items, ImageProcessorItems) or any(item is None for item in items.data):
            raise ValueError(
                "images must be pictures; embeddings, and a UUID alone, are not supported"
            )
        pictures = [
            to_rgb(item) if isinstance(item, Image.Image) else Image.fromarray(picture_bytes(item))
            for item in items.get_all()
        ]
        plans = plan_images([picture.size for picture in pictures], self.visual)
        return PlannedImages(list(zip(pictures, plans, strict=True)))

    def _parse_video_data(self, data: Any) -> ModalityDataItems[Any, Any] | None:
        given = data if isinstance(data, list) else [data]
        if not any(isinstance(item, Mapping) for item in given):
            return self._parse_frames(data)
        items: list[Any] = []
        for item in given:
            if isinstance(item, Mapping):
                items.append(checked_item(item))
            else:
                items += self._parse_frames([item]).data
        return VideoProcessorItems(items)

    def _parse_frames(self, data: Any) -> VideoProcessorItems:
        items = super()._parse_video_data(data)
        if not isinstance(items, VideoProcessorItems) or any(item is None for item in items.data):
            raise ValueError(
                "a video must be frames, or a codec asset with mosaics and positions; embeddings, "
                "and a UUID alone, are not supported"
            )
        known = items.metadata if isinstance(items.metadata, list) else [items.metadata]
        return VideoProcessorItems(
            [
                _clip(item.media if isinstance(item, MediaWithBytes) else item, about or {})
                for item, about in zip(items.data, known, strict=True)
            ]
        )


def _clip(frames: Any, about: Mapping[str, Any]) -> Any:
    """Return frames with what is known about them, or the codec asset that they are."""
    if _POSITIONS in about:
        return checked_item({"mosaics": frames, **about})
    return frames, dict(about)


def _upright(item: Any) -> Any:
    return to_rgb(item) if isinstance(item, Image.Image) else item
