"""How prompts and pixels are prepared: the settings that a checkpoint carries.

They are kept in ``llava_processor.json``, which names every rule, so that a rule that changes for
new checkpoints changes nothing for those that exist.
"""

import ast
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

from llava.constants import CLIP_IMAGE_MEAN, CLIP_IMAGE_STD, VIRTUAL_FRAMES
from run_kit.files import write_json

IMAGE_MODES = ("square", "pad", "anyres", "native")
CANVAS_RULES = ("most_detail", "llava_next")
MULTI_IMAGE_RULES = ("base", "each")
NATIVE_MIN_SIDE_PATCHES = 4

PROCESSOR_FILE = "llava_processor.json"
_SCHEMA_VERSION = 1

PUBLISHED_RULES: Mapping[str, Any] = {
    "canvas_rule": "llava_next",
    "multi_image": "each",
    "enlarge_small_images": True,
    "max_image_tokens": 0,
}
"""How LLaVA-NeXT and the published checkpoints size images; for checkpoints in their format."""

_EARLIER_RULES = {**PUBLISHED_RULES, "canvas_rule": "most_detail"}
"""What files that name no rules were written with."""


@dataclass(frozen=True, kw_only=True)
class VisualConfig:
    """How pixels become patches; saved with a checkpoint, equal in training and evaluation.

    Attributes:
        patch_size_px: side of an encoder patch.
        patches_per_side: grid of a square or padded image, and of each frame of a stack.
        image_aspect_ratio: one of ``IMAGE_MODES``: ``square`` distorts to the square, ``pad``
            keeps the aspect on a black square, ``anyres`` on the best-fitting pinpoint, ``native``
            rounds the image's own size to whole patches.
        image_grid_pinpoints: canvases of ``anyres`` as (width, height) in pixels.
        canvas_rule: which canvas fits best, see ``llava.visual.sizes.best_canvas``.
        multi_image: how ``anyres`` and ``native`` treat a sample of several images: ``base`` pads
            each to the square of ``patches_per_side`` (as LLaVA-OneVision does), ``each`` treats
            each like a single one.
        enlarge_small_images: whether ``anyres`` and ``base`` enlarge an image that is smaller than
            its canvas; otherwise it keeps its own size in whole patches.
        max_image_tokens: most language tokens that the images of one sample of several images may
            have together; they shrink by one factor to fit. 0 for no limit. The default is what a
            codec clip of eight mosaics has.
        native_max_pixels: upper limit of ``native``; the lower one is 4 x 4 patches.
        merge_side_patches: side of the block of patches that one language token represents: 1, or
            2 for the projector ``spatial_merge``. Grids are then whole blocks, and the patches of
            a block follow each other.
        virtual_frames: length of the virtual time line that frames are spread over.
        time_marks: whether the prompt tells the time of a video's visual tokens, see
            ``llava.visual.time_marks``.
        image_mean: mean of each channel, on pixels scaled to 0..1.
        image_std: standard deviation of each channel, on pixels scaled to 0..1.

    Raises:
        ValueError: A mode is unknown, or a size or pinpoint is out of range.
    """

    patch_size_px: int = 14
    patches_per_side: int = 36
    image_aspect_ratio: str = "square"
    image_grid_pinpoints: tuple[tuple[int, int], ...] = ()
    canvas_rule: str = "most_detail"
    multi_image: str = "base"
    enlarge_small_images: bool = False
    max_image_tokens: int = 8 * 36 * 36
    native_max_pixels: int = 1600 * 1600
    merge_side_patches: int = 1
    virtual_frames: int = VIRTUAL_FRAMES
    time_marks: bool = False
    image_mean: tuple[float, float, float] = CLIP_IMAGE_MEAN
    image_std: tuple[float, float, float] = CLIP_IMAGE_STD

    def __post_init__(self) -> None:
        for name in ("patch_size_px", "patches_per_side", "merge_side_patches", "virtual_frames"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.patches_per_side % self.merge_side_patches:
            raise ValueError(
                f"patches_per_side must be a multiple of the {self.merge_side_patches} patches "
                f"that are merged, got {self.patches_per_side}"
            )
        if not isinstance(self.time_marks, bool):
            raise ValueError(f"time_marks must be true or false, got {self.time_marks!r}")
        choices = {
            "image_aspect_ratio": IMAGE_MODES,
            "canvas_rule": CANVAS_RULES,
            "multi_image": MULTI_IMAGE_RULES,
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}"
                )
        if self.max_image_tokens < 0:
            raise ValueError(f"max_image_tokens must be at least 0, got {self.max_image_tokens}")
        if self.image_aspect_ratio == "anyres" and not self.image_grid_pinpoints:
            raise ValueError("image_aspect_ratio 'anyres' needs image_grid_pinpoints, got none")
        self._check_pinpoints()
        if self.native_max_pixels < self.native_min_pixels:
            raise ValueError(
                f"native_max_pixels must be at least {self.native_min_pixels} "
                f"(4 x 4 patches), got {self.native_max_pixels}"
            )
        if len(self.image_mean) != 3 or len(self.image_std) != 3 or min(self.image_std) <= 0:
            raise ValueError(
                "image_mean and image_std must have three values, image_std above 0, "
                f"got {self.image_mean} and {self.image_std}"
            )

    def _check_pinpoints(self) -> None:
        patch = self.patch_size_px
        for width, height in self.image_grid_pinpoints:
            if min(width, height) < patch or width % patch or height % patch:
                raise ValueError(
                    f"image_grid_pinpoints must be multiples of the patch size {patch}, "
                    f"got ({width}, {height})"
                )

    @property
    def patches_per_token(self) -> int:
        """The number of patches behind one language token."""
        return self.merge_side_patches**2

    @property
    def native_min_pixels(self) -> int:
        """The smallest area of ``native``: 4 x 4 patches."""
        return (NATIVE_MIN_SIDE_PATCHES * self.patch_size_px) ** 2

    def to_dict(self) -> dict[str, Any]:
        """Return all settings as plain values, which ``from_dict`` takes back, also after JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "VisualConfig":
        """Build from ``to_dict``'s values, with lists in place of tuples.

        Raises:
            ValueError: A name is no setting.
        """
        unknown = sorted(set(values) - {field.name for field in fields(cls)})
        if unknown:
            raise ValueError(f"unknown visual settings: {', '.join(unknown)}")
        return cls(**{name: _as_tuple(value) for name, value in values.items()})


def _as_tuple(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(_as_tuple(item) for item in value)
    return value


def parse_pinpoints(text: str) -> tuple[tuple[int, int], ...]:
    """Read ``(574,1120),(1120,574)``, also in brackets: (width, height) pairs in pixels.

    Raises:
        ValueError: The text is anything else.
    """
    try:
        pairs = ast.literal_eval(f"[{text}]")
        pairs = pairs[0] if len(pairs) == 1 and isinstance(pairs[0], list) else pairs
        return tuple((int(width), int(height)) for width, height in pairs)
    except (SyntaxError, TypeError, ValueError) as error:
        raise ValueError(
            f"--image_grid_pinpoints must look like '(574,1120),(1120,574)', got {text!r}"
        ) from error


class ProcessorSettings(NamedTuple):
    """The content of ``llava_processor.json``.

    Attributes:
        visual: how pixels become patches.
        template: name of the prompt template.
    """

    visual: VisualConfig
    template: str


def write_processor_settings(folder: Path, settings: ProcessorSettings) -> None:
    """Write ``llava_processor.json`` into a folder."""
    values = {
        "schema_version": _SCHEMA_VERSION,
        "template": settings.template,
        "visual": settings.visual.to_dict(),
    }
    write_json(folder / PROCESSOR_FILE, values, sort_keys=True)


def read_processor_settings(folder: Path) -> ProcessorSettings:
    """Read what ``write_processor_settings`` wrote; files without rules get the earlier ones.

    Raises:
        ValueError: if the file is absent, damaged or of another schema.
    """
    path = folder / PROCESSOR_FILE
    if not path.is_file():
        raise ValueError(
            f"{path} does not exist: the folder is no LLaVA checkpoint of this project; "
            "training and `python -m llava.model.tiny` write it"
        )
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        version, visual, template = (
            values["schema_version"],
            dict(values["visual"]),
            values["template"],
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error!r}); copy it again") from error
    if version != _SCHEMA_VERSION:
        raise ValueError(
            f"{path}: schema_version must be {_SCHEMA_VERSION}, got {version!r}; "
            "use the version of this project that wrote the checkpoint"
        )
    return ProcessorSettings(VisualConfig.from_dict({**_EARLIER_RULES, **visual}), template)
