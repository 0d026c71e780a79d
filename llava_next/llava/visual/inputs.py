"""What passes to the model by name, and the pictures in it: by the conventions of transformers."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import BatchFeature
from transformers.image_processing_base import ImageProcessingMixin

from llava.visual.batch import VisualBatch, VisualSegment, pack_segments
from llava.visual.config import VisualConfig
from llava.visual.fetch import fetch, is_url
from llava.visual.pictures import read_picture
from llava.visual.segments import image_visuals


class LlavaInputs(BatchFeature):
    """What the model takes: ``input_ids``, ``attention_mask`` and ``visual``, by name."""

    def to(self, *args: Any, **kwargs: Any) -> "LlavaInputs":
        """Move to a device, or convert what is not whole numbers; takes what a tensor's does."""
        super().to(*args, **kwargs)
        visual = self.data.get("visual")
        if isinstance(visual, VisualBatch):
            given = {"dtype" if isinstance(arg, torch.dtype) else "device": arg for arg in args}
            self.data["visual"] = visual.to(**given, **kwargs)
        return self


class LlavaImageProcessor(ImageProcessingMixin):
    """Pictures to the encoder's patches, as the checkpoint's settings say.

    Attributes:
        visual: how pixels become patches.
    """

    model_input_names = ["visual"]

    def __init__(self, visual: VisualConfig | None = None, **settings: Any) -> None:
        super().__init__()
        self.visual = VisualConfig.from_dict(settings) if visual is None else visual

    def __call__(self, images: Any, **_: Any) -> LlavaInputs:
        """Turn the pictures of one sample into ``visual``, a ``VisualBatch``."""
        given = list(images) if isinstance(images, list | tuple) else [images]
        return LlavaInputs({"visual": pack_segments([self.segments(given)])})

    def segments(self, images: Sequence[Any]) -> list[VisualSegment]:
        """Return a segment per picture of one sample; they are sized together, as in training.

        Args:
            images: PIL images, arrays, paths, ``data:`` or other URLs, or contents of files.

        Raises:
            ValueError: if a picture cannot be read or has no size that fits.
        """
        return image_visuals([_read(image) for image in images], self.visual)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings by name."""
        return {"image_processor_type": type(self).__name__, **self.visual.to_dict()}


def _read(image: Any) -> Image.Image:
    """Read a picture, from the web if it is an address."""
    if not is_url(image):
        return read_picture(image)
    with tempfile.TemporaryDirectory(prefix="llava_image_") as folder:
        target = Path(folder) / "image"
        fetch(image, target)
        return read_picture(target)
