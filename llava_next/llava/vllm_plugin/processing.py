"""Prompts and visuals as vLLM takes them: the same tokens and patches as ``LlavaProcessor``.

A video is given as frames, or as a codec asset, see ``llava.vllm_plugin.clips``. Nothing here reads
a video.

Axis letters: P patches, p side of a patch in pixels.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from PIL import Image
from transformers import BatchFeature
from vllm.multimodal.inputs import MultiModalFieldConfig  # pyright: ignore[reportMissingImports]
from vllm.multimodal.parse import MultiModalDataItems, MultiModalDataParser  # pyright: ignore[reportMissingImports]
from vllm.multimodal.processing import (  # pyright: ignore[reportMissingImports]
    BaseDummyInputsBuilder,
    BaseMultiModalProcessor,
    BaseProcessingInfo,
    PromptReplacement,
    PromptUpdate,
    PromptUpdateDetails,
)

from llava.constants import IMAGE_TOKEN, VIDEO_TOKEN
from llava.messages import fill_prompt
from llava.model.processing import LlavaProcessor
from llava.visual.batch import VisualSegment
from llava.visual.config import VisualConfig
from llava.visual.segments import codec_visual, frames_visual, image_visual
from llava.visual.sizes import ImagePlan, plan_images
from llava.visual.time_marks import frame_seconds
from llava.vllm_plugin.clips import picture_bytes
from llava.vllm_plugin.media import LlavaDataParser

MODALITIES = ("image", "video")
_MARK_TOKENS = 24
"""Room for the text between the frames of a dummy video, where a checkpoint has time marks."""


class LlavaProcessingInfo(BaseProcessingInfo):
    """What vLLM asks about a checkpoint before it sees a request."""

    @cached_property
    def processor(self) -> LlavaProcessor:
        """The checkpoint's own processor; no remote code is run."""
        return LlavaProcessor.from_pretrained(self.ctx.model_config.model)

    def get_hf_processor(self, **kwargs: object) -> LlavaProcessor:
        """Return the processor.

        Raises:
            ValueError: if settings are given: a prepared visual has none.
        """
        if kwargs:
            raise ValueError(
                f"mm_processor_kwargs must be empty, got {', '.join(kwargs)}: the checkpoint's "
                "llava_processor.json decides, and videos are prepared before they are sent"
            )
        return self.processor

    def get_supported_mm_processor_kwargs(self) -> dict[str, set[str]]:
        """Return that a request can set nothing."""
        return {}

    def get_data_parser(self) -> MultiModalDataParser:
        """Return what reads the visuals of a request."""
        return LlavaDataParser(self.processor.visual)

    def get_supported_mm_limits(self) -> Mapping[str, int | None]:
        """Return that a prompt may show any number of pictures and videos."""
        return dict.fromkeys(MODALITIES)

    def largest_image_px(self) -> tuple[int, int]:
        """Return a (width, height) whose picture has the most visual tokens."""
        visual = self.processor.visual
        side = visual.patches_per_side * visual.patch_size_px
        native = int(visual.native_max_pixels**0.5) // visual.patch_size_px * visual.patch_size_px
        sizes = [(side, side), *visual.image_grid_pinpoints]
        if visual.image_aspect_ratio == "native":
            sizes.append((native, native))

        def tokens(size: tuple[int, int]) -> int:
            plan = plan_images([size], visual)[0]
            return plan.rows * plan.columns

        return max(sizes, key=tokens)

    def most_frames(self, seq_len: int) -> int:
        """Return the most frames of a video that a prompt of ``seq_len`` tokens can show."""
        visual = self.processor.visual
        tokens = visual.patches_per_side**2 // visual.patches_per_token
        tokens += _MARK_TOKENS if visual.time_marks else 1
        return min(max(seq_len // tokens, 1), visual.virtual_frames)


class LlavaDummyInputs(BaseDummyInputsBuilder[LlavaProcessingInfo]):
    """The largest visuals, with which vLLM measures memory when it starts."""

    def get_dummy_text(self, mm_counts: Mapping[str, int]) -> str:
        """Return a prompt that shows so many of each."""
        return IMAGE_TOKEN * mm_counts.get("image", 0) + VIDEO_TOKEN * mm_counts.get("video", 0)

    def get_dummy_mm_data(
        self, seq_len: int, mm_counts: Mapping[str, int], mm_options: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return pictures and frames of one colour, as large as they can become."""
        width, height = self.info.largest_image_px()
        visual = self.info.processor.visual
        side = visual.patches_per_side * visual.patch_size_px
        videos = self._get_dummy_videos(
            width=side,
            height=side,
            num_frames=self.info.most_frames(seq_len),
            num_videos=mm_counts.get("video", 0),
            overrides=mm_options.get("video"),
        )
        return {
            "image": self._get_dummy_images(
                width=width,
                height=height,
                num_images=mm_counts.get("image", 0),
                overrides=mm_options.get("image"),
            ),
            "video": [
                (frames, {"fps": 1.0, "frames_indices": list(range(len(frames)))})
                for frames in videos
            ],
        }


class LlavaVllmProcessor(BaseMultiModalProcessor[LlavaProcessingInfo]):
    """Turns the visuals of a prompt into patches, and their placeholders into visual tokens.

    Fields of each modality, for the model: ``_patches`` uint8 (P, 3 * p * p), ``_positions`` int64
    (P, 3), ``_lengths`` int64, the patches of each item; and ``_prompt_ids``, the tokens that stand
    for an item in the prompt, which only the processor reads.
    """

    def _apply_hf_processor_main(
        self, mm_items: MultiModalDataItems, hf_kwargs: Mapping[str, object]
    ) -> BatchFeature:
        processor = self.info.get_hf_processor(**hf_kwargs)
        fields: dict[str, Any] = {}
        for modality in MODALITIES:
            if mm_items.get_count(modality, strict=False) == 0:
                continue
            read = _image_segment if modality == "image" else _video_segment
            items = mm_items[modality].get_all()
            self._check_lengths(items, processor.visual)
            segments = [read(item, processor.visual) for item in items]
            fields |= {
                f"{modality}_patches": torch.cat([segment.patches for segment in segments]),
                f"{modality}_positions": torch.cat([segment.positions for segment in segments]),
                f"{modality}_lengths": torch.tensor([len(segment.patches) for segment in segments]),
                f"{modality}_prompt_ids": [
                    torch.tensor(_prompt_ids(modality, segment, processor)) for segment in segments
                ],
            }
        return BatchFeature(fields)

    def _check_lengths(self, items: Sequence[Any], visual: VisualConfig) -> None:
        """Refuse assets that no prompt can hold before memory is taken for their patches."""
        most = self.info.ctx.model_config.max_model_len
        for item in items:
            rows = len(item["positions"]) if isinstance(item, Mapping) else 0
            if rows // visual.patches_per_token > most:
                raise ValueError(
                    f"a codec asset of {rows} positions exceeds the prompt's {most} tokens; make "
                    "it with fewer or smaller mosaics, or raise --max-model-len"
                )

    def _get_mm_fields_config(
        self, hf_inputs: BatchFeature, hf_processor_mm_kwargs: Mapping[str, object]
    ) -> Mapping[str, MultiModalFieldConfig]:
        fields: dict[str, MultiModalFieldConfig] = {}
        for modality in MODALITIES:
            sizes = hf_inputs.get(f"{modality}_lengths")
            if sizes is None:
                continue
            for name in ("patches", "positions"):
                fields[f"{modality}_{name}"] = MultiModalFieldConfig.flat_from_sizes(
                    modality, sizes
                )
            for name in ("lengths", "prompt_ids"):
                fields[f"{modality}_{name}"] = MultiModalFieldConfig.batched(
                    modality, keep_on_cpu=True
                )
        return fields

    def _get_prompt_updates(
        self,
        mm_items: MultiModalDataItems,
        hf_processor_mm_kwargs: Mapping[str, object],
        out_mm_kwargs: Any,
    ) -> Sequence[PromptUpdate]:
        tokenizer = self.info.processor.tokenizer
        image_id, video_id = tokenizer.convert_tokens_to_ids([IMAGE_TOKEN, VIDEO_TOKEN])

        def written(modality: str, place: int) -> PromptUpdateDetails:
            ids = out_mm_kwargs[modality][place].get_data()[f"{modality}_prompt_ids"]
            return PromptUpdateDetails.select_token_id(ids.tolist(), image_id)

        return [
            PromptReplacement(
                modality=modality,
                target=[target],
                replacement=lambda place, modality=modality: written(modality, place),
            )
            for modality, target in zip(MODALITIES, (image_id, video_id), strict=True)
            if mm_items.get_count(modality, strict=False)
        ]


def _image_segment(item: tuple[Image.Image, ImagePlan], visual: VisualConfig) -> VisualSegment:
    picture, plan = item
    return image_visual(picture, visual, ImagePlan(*plan))


def _video_segment(item: Any, visual: VisualConfig) -> VisualSegment:
    """Return a codec asset, or frames with what is known about them, as a segment."""
    if isinstance(item, Mapping):
        seconds = item.get("seconds")
        times = None if seconds is None else dict(enumerate(seconds.tolist()))
        mosaics = [Image.fromarray(mosaic) for mosaic in item["mosaics"]]
        return codec_visual(mosaics, item["positions"], visual, seconds=times)
    frames, about = item
    seconds = None
    if visual.time_marks and about.get("frames_indices") is not None:
        seconds = frame_seconds([int(i) for i in about["frames_indices"]], about.get("fps"))
    pictures = [Image.fromarray(picture_bytes(frame)) for frame in frames]
    return frames_visual(pictures, visual, seconds=seconds)


def _prompt_ids(modality: str, segment: VisualSegment, processor: LlavaProcessor) -> list[int]:
    """Return the tokens that a visual becomes in a prompt, as ``LlavaProcessor`` writes them.

    Special tokens bound them, or a time mark at the start of a line: no tokenizer of Qwen joins a
    line break with the ``<`` behind it.
    """
    if modality == "image":
        text, _ = fill_prompt(IMAGE_TOKEN, [segment], [])
    else:
        text, _ = fill_prompt(VIDEO_TOKEN, [], [segment])
    return processor.tokenizer.encode(text, add_special_tokens=False)
