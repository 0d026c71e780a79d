"""Image processor of the OneVision Encoder: CLIP's preprocessing, or native resolution.

Axis letters: B images, C channels, H and W pixels.
"""

from collections.abc import Sequence
from typing import Any

import torch
from transformers.image_processing_base import BatchFeature
from transformers.image_utils import get_image_size, make_flat_list_of_images, to_numpy_array

try:
    from transformers.models.clip.image_processing_pil_clip import (
        CLIPImageProcessorPil as CLIPProcessor,
    )
except ImportError:  # transformers 4 has one numpy processor under the plain name
    from transformers import CLIPImageProcessor as CLIPProcessor


class OneVisionEncoderImageProcessor(CLIPProcessor):  # pyright: ignore[reportGeneralTypeIssues]
    """CLIP's bicubic resize, centre crop and normalisation; needs no torchvision.

    Args:
        do_native_resolution: keep each image's size and aspect instead of resizing and cropping,
            but for rounding both sides to multiples of ``patch_size``.
        patch_size: side of a patch in pixels.
        size: length of the shortest edge after resizing; default 448 px.
        crop_size: size of the crop from the middle; default 448 x 448 px.
        kwargs: arguments of CLIP's processor.
    """

    def __init__(
        self,
        *,
        do_native_resolution: bool = False,
        patch_size: int = 14,
        size: dict[str, int] | None = None,
        crop_size: dict[str, int] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            size=size or {"shortest_edge": 448},
            crop_size=crop_size or {"height": 448, "width": 448},
            **kwargs,
        )
        self.do_native_resolution = do_native_resolution
        self.patch_size = patch_size

    def __call__(self, images: Any, **kwargs: Any) -> BatchFeature:
        """See ``preprocess``."""
        return self.preprocess(images, **kwargs)

    def preprocess(
        self, images: Any, *, do_native_resolution: bool | None = None, **kwargs: Any
    ) -> BatchFeature:
        """Turn images into normalised pixels.

        Args:
            images: an image or a list: PIL images, arrays or tensors.
            do_native_resolution: overrides the processor's own setting for this call.
            kwargs: arguments of CLIP's processor, for example ``return_tensors="pt"``.

        Returns:
            ``pixel_values``: (B, C, H, W); at native resolution, where sizes may differ, a list of
            (C, H, W).

        Raises:
            ValueError: if native resolution is combined with a size or a crop.
        """
        if do_native_resolution is None:
            do_native_resolution = self.do_native_resolution
        if not do_native_resolution:
            return super().preprocess(images, **kwargs)
        refused = {"do_resize", "size", "do_center_crop", "crop_size"} & kwargs.keys()
        if refused:
            raise ValueError(
                "do_native_resolution=True keeps each image's size and takes no "
                f"{', '.join(sorted(refused))}; drop one of the two"
            )
        pixels = []
        flat: Any = make_flat_list_of_images(images)
        for image in flat:
            height, width = self.native_size(image)
            native = {"height": height, "width": width}
            batch = super().preprocess(image, size=native, do_center_crop=False, **kwargs)
            pixels.append(batch["pixel_values"][0])
        return BatchFeature({"pixel_values": _stacked(pixels)})

    def native_size(self, image: Any) -> tuple[int, int]:
        """Return an image's height and width in pixels, rounded to multiples of the patch size."""
        array = to_numpy_array(image)
        height, width = array.shape if array.ndim == 2 else get_image_size(array)
        return self._rounded(height), self._rounded(width)

    def _rounded(self, side_px: int) -> int:
        return max(round(side_px / self.patch_size), 1) * self.patch_size


def _stacked(pixels: Sequence[Any]) -> Any:
    """One tensor where all images are tensors of one size, else the list as it is."""
    is_uniform = len({tuple(image.shape) for image in pixels}) == 1
    if is_uniform and isinstance(pixels[0], torch.Tensor):
        return torch.stack(list(pixels))
    return list(pixels)
