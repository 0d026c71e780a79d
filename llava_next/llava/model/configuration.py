"""Configuration fields that the LLaVA models add to their language model's configuration.

A checkpoint is self-contained: ``vision_config`` nests the encoder's whole configuration.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from transformers import PreTrainedConfig

from llava.model.projector import MERGE_SIDE_PATCHES
from onevision_encoder import OneVisionEncoderConfig


@dataclass(kw_only=True)
class LlavaConfigFields:
    """Fields shared by ``LlavaQwen3Config`` and ``LlavaQwenConfig`` (names as in LLaVA-NeXT).

    Attributes:
        vision_config: the encoder's configuration (a dict is converted).
        image_token_id: id of the token that represents one visual token in ``input_ids``.
        mm_vision_tower: name or folder that the encoder came from; a note, never loaded from.
        mm_projector_type: ``linear``, ``mlp2x_gelu`` or ``spatial_merge``.
        mm_hidden_size: width of the encoder; follows from ``vision_config``.
        mm_vision_select_layer: -1 = last layer, -2 = ``hidden_states[-2]`` of the encoder.
        mm_patch_merge_type: ``flat``, the only one: visual tokens are concatenated.
        mm_patches_per_side: side of a square image in patches.
        mm_tunable_parts: parts that the last training run tuned; a note.
        image_aspect_ratio: preprocessing mode of images; the processor's file decides.
        image_grid_pinpoints: canvases of ``anyres``; the processor's file decides.
        mm_time_marks: whether prompts tell the times of videos; the processor's file decides.
        tokenizer_model_max_length: longest sequence of the last training run, in tokens.
        tokenizer_padding_side: padding side in training.
    """

    # Lets attention backend and dtype, given for the whole model, reach the encoder.
    sub_configs: ClassVar[dict[str, type]] = {"vision_config": OneVisionEncoderConfig}

    vision_config: dict[str, Any] | PreTrainedConfig | None = None
    image_token_id: int | None = None
    mm_vision_tower: str | None = None
    mm_projector_type: str = "mlp2x_gelu"
    mm_hidden_size: int | None = None
    mm_vision_select_layer: int = -2
    mm_patch_merge_type: str = "flat"
    mm_patches_per_side: int = 36
    mm_tunable_parts: str | None = None
    image_aspect_ratio: str = "square"
    image_grid_pinpoints: list[Any] | None = None
    mm_time_marks: bool = False
    tokenizer_model_max_length: int | None = None
    tokenizer_padding_side: str = "right"

    def __post_init__(self, **kwargs: Any) -> None:
        if isinstance(self.vision_config, dict):
            self.vision_config = OneVisionEncoderConfig.from_dict(self.vision_config)
        if isinstance(self.vision_config, OneVisionEncoderConfig):
            width = self.vision_config.hidden_size
            if self.mm_hidden_size not in (None, width):
                raise ValueError(
                    f"mm_hidden_size must be the encoder's hidden_size {width}, got "
                    f"{self.mm_hidden_size}; correct config.json"
                )
            self.mm_hidden_size = width
        if self.mm_patch_merge_type != "flat":
            raise ValueError(
                "mm_patch_merge_type must be 'flat' (visual tokens one behind the other), got "
                f"{self.mm_patch_merge_type!r}; set it to 'flat' in config.json"
            )
        super().__post_init__(**kwargs)  # pyright: ignore[reportAttributeAccessIssue]

    @property
    def patches_per_token(self) -> int:
        """Patches that the projector makes one language token of."""
        return MERGE_SIDE_PATCHES[self.mm_projector_type] ** 2

    def require_vision(self) -> OneVisionEncoderConfig:
        """Return the encoder's configuration.

        Raises:
            ValueError: if the configuration lacks the encoder or the placeholder token.
        """
        if not isinstance(self.vision_config, OneVisionEncoderConfig):
            raise ValueError(
                f"vision_config must be an OneVisionEncoderConfig, got {self.vision_config!r}; "
                "put the config.json of the encoder under the key 'vision_config' of the model's "
                "config.json, or build the model from its parts (--vision_tower)"
            )
        if self.image_token_id is None:
            raise ValueError(
                "image_token_id must be the id of the visual placeholder token, got None; put the "
                "tokenizer's id of <|image_pad|> into config.json"
            )
        return self.vision_config
