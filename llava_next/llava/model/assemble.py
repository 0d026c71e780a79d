"""Make the model that a training run starts from: a LLaVA checkpoint, or its parts.

Parts are a plain Qwen language model, an encoder folder and, where it was trained before, a
projector file. All weights go through one load, so that ZeRO-3 can partition them as they come.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer, GenerationConfig, PreTrainedConfig

from llava.constants import IMAGE_TOKEN
from llava.model.configuration import LlavaConfigFields
from llava.model.llava_arch import LlavaForCausalLMMixin
from llava.model.llava_qwen import (
    LlavaQwen3Config,
    LlavaQwen3ForCausalLM,
    LlavaQwenConfig,
    LlavaQwenForCausalLM,
)
from llava.model.processing import LlavaProcessor
from llava.model.projector import MERGE_SIDE_PATCHES, build_projector
from llava.model.weights import read_projector, read_weights, resolve_folder
from llava.visual.config import PUBLISHED_RULES, VisualConfig, parse_pinpoints
from onevision_encoder import OneVisionEncoderConfig

_CONFIG_OF_LANGUAGE_MODEL = {"qwen3": LlavaQwen3Config, "qwen2": LlavaQwenConfig}
_MODEL_OF_CONFIG = {
    LlavaQwen3Config.model_type: LlavaQwen3ForCausalLM,
    LlavaQwenConfig.model_type: LlavaQwenForCausalLM,
}


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """Where a model comes from. None leaves a setting to the checkpoint, else to the default.

    Attributes:
        model_name_or_path: a LLaVA checkpoint or a plain Qwen2/Qwen3 language model.
        vision_tower: encoder folder; needed for a plain language model, refused otherwise.
        projector_file: file of projector weights; without one a new projector is random.
        projector_type: type of a new projector.
        select_layer: encoder layer whose output a new model uses.
        patches_per_side: side of a square image in patches.
        image_aspect_ratio: preprocessing mode of images.
        image_grid_pinpoints: canvases of mode ``anyres``, (width, height) in pixels.
        time_marks: whether prompts tell the times of videos.
        template: prompt template.
        seed: seed of a new projector's weights.
    """

    model_name_or_path: str
    vision_tower: str | None = None
    projector_file: str | None = None
    projector_type: str | None = None
    select_layer: int | None = None
    patches_per_side: int | None = None
    image_aspect_ratio: str | None = None
    image_grid_pinpoints: tuple[tuple[int, int], ...] | None = None
    time_marks: bool | None = None
    template: str | None = None
    seed: int = 0


def load_model(
    source: ModelSource, *, dtype: torch.dtype, attn_implementation: str | None = None
) -> tuple[LlavaForCausalLMMixin, LlavaProcessor]:
    """Load or assemble the model and its processor.

    Raises:
        ValueError: if a part is absent, does not fit, or is of an unknown kind.
    """
    folder = resolve_folder(source.model_name_or_path)
    config = AutoConfig.from_pretrained(folder)
    is_language_model = not isinstance(config, LlavaConfigFields)
    if isinstance(config, LlavaConfigFields) and config.vision_config is None:
        config, processor, weights = _complete(source, folder, config)
    elif isinstance(config, LlavaConfigFields):
        _refuse_parts(source)
        processor = LlavaProcessor.from_pretrained(folder)
        weights = read_weights(folder)
    else:
        config, processor, weights = _assemble(source, folder, config)
    if source.projector_file is not None:
        weights |= read_projector(Path(source.projector_file))
    processor = _with_overrides(processor, source)
    config.mm_patches_per_side = processor.visual.patches_per_side
    config.image_aspect_ratio = processor.visual.image_aspect_ratio
    config.image_grid_pinpoints = [list(pair) for pair in processor.visual.image_grid_pinpoints]
    config.mm_time_marks = processor.visual.time_marks
    model = _load(config, weights, dtype, attn_implementation)
    if (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    if is_language_model:
        model.generation_config = _greedy(model.generation_config)
    return model, processor


def _greedy(config: GenerationConfig) -> GenerationConfig:
    """Return greedy settings with a language model's own special tokens.

    Temperature and the like were chosen for chats with that language model alone; answers about
    visuals are compared, so the same question must get the same answer.
    """
    return GenerationConfig(
        do_sample=False,
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
    )


def _refuse_parts(source: ModelSource) -> None:
    given = {
        "--vision_tower": source.vision_tower,
        "--mm_projector_type": source.projector_type,
        "--mm_vision_select_layer": source.select_layer,
    }
    names = [name for name, value in given.items() if value is not None]
    if names:
        raise ValueError(
            f"{source.model_name_or_path} is a LLaVA checkpoint with its own tower and projector; "
            f"leave out {', '.join(names)}, or give a plain language model"
        )


def _with_overrides(processor: LlavaProcessor, source: ModelSource) -> LlavaProcessor:
    changes: dict[str, Any] = {
        "patches_per_side": source.patches_per_side,
        "image_aspect_ratio": source.image_aspect_ratio,
        "image_grid_pinpoints": source.image_grid_pinpoints,
        "time_marks": source.time_marks,
    }
    changes = {name: value for name, value in changes.items() if value is not None}
    return LlavaProcessor(
        processor.tokenizer,
        replace(processor.visual, **changes),
        source.template or processor.template,
    )


def needs_tower(folder: Path) -> bool:
    """Return whether a folder is a LLaVA checkpoint without the configuration of its encoder."""
    if not (folder / "config.json").is_file():
        return False
    config = AutoConfig.from_pretrained(folder)
    return isinstance(config, LlavaConfigFields) and config.vision_config is None


def _complete(
    source: ModelSource, folder: Path, config: Any
) -> tuple[Any, LlavaProcessor, dict[str, Tensor]]:
    """Complete a checkpoint of LLaVA-NeXT with the tower's settings, and weights if it has none."""
    name = source.vision_tower or config.mm_vision_tower
    if name is None:
        raise ValueError(
            f"{folder} names no encoder (mm_vision_tower in config.json); give --vision_tower"
        )
    tower = resolve_folder(name)
    vision_config = OneVisionEncoderConfig.from_pretrained(tower)
    pinpoints = config.image_grid_pinpoints or ()
    if isinstance(pinpoints, str):
        pinpoints = parse_pinpoints(pinpoints)
    visual = VisualConfig(
        patch_size_px=vision_config.patch_size,
        patches_per_side=config.mm_patches_per_side,
        merge_side_patches=_merge_side(config.mm_projector_type),
        image_aspect_ratio=config.image_aspect_ratio or "square",
        image_grid_pinpoints=tuple((width, height) for width, height in pinpoints),
        **PUBLISHED_RULES,
    )
    processor = LlavaProcessor(AutoTokenizer.from_pretrained(folder), visual)
    fields = {**config.to_dict(), "vision_config": vision_config.to_dict()}
    fields["image_token_id"] = _image_token_id(processor)
    weights = read_weights(folder)
    prefix = "model.vision_tower.vision_tower."
    if not any(key.startswith(prefix) for key in weights):
        weights |= {f"{prefix}{key}": value for key, value in read_weights(tower).items()}
    return type(config).from_dict(fields), processor, weights


def _merge_side(projector_type: str) -> int:
    if projector_type not in MERGE_SIDE_PATCHES:
        raise ValueError(
            f"mm_projector_type must be one of {', '.join(MERGE_SIDE_PATCHES)}, "
            f"got {projector_type!r}"
        )
    return MERGE_SIDE_PATCHES[projector_type]


def _assemble(
    source: ModelSource, folder: Path, language_config: PreTrainedConfig
) -> tuple[Any, LlavaProcessor, dict[str, Tensor]]:
    """Return configuration, processor and all weights of a new model."""
    config_class = _CONFIG_OF_LANGUAGE_MODEL.get(language_config.model_type)
    if config_class is None:
        raise ValueError(
            f"{folder} must be a LLaVA checkpoint or a language model of type "
            f"{', '.join(_CONFIG_OF_LANGUAGE_MODEL)}, got {language_config.model_type!r}"
        )
    if source.vision_tower is None:
        raise ValueError(
            f"{folder} is a plain language model; give the encoder's folder with --vision_tower"
        )
    tower = resolve_folder(source.vision_tower)
    vision_config = OneVisionEncoderConfig.from_pretrained(tower)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    projector_type = source.projector_type or "mlp2x_gelu"
    visual = VisualConfig(
        patch_size_px=vision_config.patch_size,
        merge_side_patches=_merge_side(projector_type),
    )
    processor = LlavaProcessor(tokenizer, visual)
    fields = language_config.to_dict()
    for name in ("model_type", "architectures"):
        fields.pop(name, None)
    config = config_class(
        **fields,
        vision_config=vision_config.to_dict(),
        image_token_id=_image_token_id(processor),
        mm_vision_tower=source.vision_tower,
        mm_projector_type=projector_type,
        mm_vision_select_layer=-2 if source.select_layer is None else source.select_layer,
    )
    weights = read_weights(folder)
    for name, tensor in read_weights(tower).items():
        weights[f"model.vision_tower.vision_tower.{name}"] = tensor
    return config, processor, weights | _new_projector(config, source.seed)


def _image_token_id(processor: LlavaProcessor) -> int:
    token_id = processor.tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    if not isinstance(token_id, int) or token_id == processor.tokenizer.unk_token_id:
        raise ValueError(
            f"the tokenizer of {processor.tokenizer.name_or_path!r} must know {IMAGE_TOKEN}; use a "
            "Qwen2.5 or Qwen3 language model"
        )
    return token_id


def _new_projector(config: LlavaConfigFields, seed: int) -> dict[str, Tensor]:
    """Return random projector weights that depend on the seed alone: the same on every rank."""
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.manual_seed(seed)
        projector = build_projector(
            config.mm_projector_type,
            config.require_vision().hidden_size,
            config.hidden_size,  # pyright: ignore[reportAttributeAccessIssue]
        )
    return {f"model.mm_projector.{name}": value for name, value in projector.state_dict().items()}


def _load(
    config: Any,
    weights: dict[str, Tensor],
    dtype: torch.dtype,
    attn_implementation: str | None,
) -> LlavaForCausalLMMixin:
    model, info = _MODEL_OF_CONFIG[config.model_type].from_pretrained(
        None,
        config=config,
        state_dict=weights,
        dtype=dtype,
        attn_implementation=attn_implementation,
        output_loading_info=True,
    )
    problems = {name: sorted(map(str, info[name])) for name in _LOADING_PROBLEMS if info[name]}
    if problems:
        raise ValueError(f"the weights do not fit the model: {problems}; check the folders given")
    return model


_LOADING_PROBLEMS = ("missing_keys", "unexpected_keys", "mismatched_keys")
