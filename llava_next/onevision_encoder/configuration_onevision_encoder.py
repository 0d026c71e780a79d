"""Configuration of the OneVision Encoder: sizes, norm, rotary embedding, head."""

from typing import Any, Literal

from transformers import PretrainedConfig
from transformers.utils import logging
from transformers.utils.import_utils import (
    is_flash_attn_2_available,
    is_torch_flex_attn_available,
)

logger = logging.get_logger(__name__)

HEAD_DIM_MULTIPLE = 32
"""Half of a head is split 4 : 6 : 6 between t, h and w: it must be a multiple of 16."""

_BACKEND_IS_INSTALLED = {
    "flash_attention_2": is_flash_attn_2_available,
    "flex_attention": is_torch_flex_attn_available,
}


class OneVisionEncoderConfig(PretrainedConfig):
    """Everything that determines the encoder's architecture and numerics.

    Args:
        hidden_size: width D; ``hidden_size / num_attention_heads`` must be a multiple of 32.
        intermediate_size: width of the MLP.
        num_hidden_layers: number of blocks.
        num_attention_heads: number of heads.
        num_channels: channels of the pixels.
        image_size: side in pixels of the images that the weights were trained with. The model
            itself takes any multiple of ``patch_size``.
        patch_size: side of a patch in pixels.
        hidden_act: activation of the MLP; "gelu" is the exact (erf) one.
        layer_norm_eps: epsilon of every norm.
        layer_norm_type: "layer_norm" or "rms_norm".
        attention_dropout: dropout on the attention probabilities in training.
        initializer_range: standard deviation of initial weights.
        rope_theta: base of the rotary frequencies.
        rope_temporal_size: frames of the virtual grid that ``visible_indices`` point into; None
            means the number of frames given.
        use_head: whether the final norm and the attention pooling head exist.
        rope_precision: "float32" rotates queries and keys in float32, "query" in their own dtype.
            None chooses as the published variants do: "float32" with a head (large), "query"
            without (lang). It makes a difference in half precision only.

    Raises:
        ValueError: if a value is outside the above.
    """

    model_type = "onevision_encoder"

    def __init__(
        self,
        *,
        hidden_size: int = 1024,
        intermediate_size: int = 4096,
        num_hidden_layers: int = 24,
        num_attention_heads: int = 16,
        num_channels: int = 3,
        image_size: int = 448,
        patch_size: int = 14,
        hidden_act: str = "gelu",
        layer_norm_eps: float = 1e-6,
        layer_norm_type: Literal["layer_norm", "rms_norm"] = "layer_norm",
        attention_dropout: float = 0.0,
        initializer_range: float = 0.02,
        rope_theta: float = 10000.0,
        rope_temporal_size: int | None = 64,
        use_head: bool = True,
        rope_precision: Literal["float32", "query"] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.hidden_size = hidden_size
        self.intermediate_size = intermediate_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.num_channels = num_channels
        self.image_size = image_size
        self.patch_size = patch_size
        self.hidden_act = hidden_act
        self.layer_norm_eps = layer_norm_eps
        self.layer_norm_type = layer_norm_type
        self.attention_dropout = attention_dropout
        self.initializer_range = initializer_range
        self.rope_theta = rope_theta
        self.rope_temporal_size = rope_temporal_size
        self.use_head = use_head
        self.rope_precision = rope_precision or ("float32" if use_head else "query")
        self._check()

    def _check(self) -> None:
        sizes = (
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
            "num_channels",
            "patch_size",
        )
        for name in sizes:
            if self.__dict__[name] < 1:
                raise ValueError(f"{name} must be at least 1, got {self.__dict__[name]}")
        if self.hidden_size % (self.num_attention_heads * HEAD_DIM_MULTIPLE):
            raise ValueError(
                f"hidden_size / num_attention_heads must be a multiple of {HEAD_DIM_MULTIPLE} "
                "(the rotary embedding splits half a head 4 : 6 : 6), "
                f"got {self.hidden_size} / {self.num_attention_heads}"
            )
        if self.layer_norm_type not in ("layer_norm", "rms_norm"):
            raise ValueError(
                f"layer_norm_type must be 'layer_norm' or 'rms_norm', got {self.layer_norm_type!r}"
            )
        if self.rope_precision not in ("float32", "query"):
            raise ValueError(
                f"rope_precision must be 'float32' or 'query', got {self.rope_precision!r}"
            )
        if self.rope_temporal_size is not None and self.rope_temporal_size < 1:
            raise ValueError(
                f"rope_temporal_size must be None or at least 1, got {self.rope_temporal_size}"
            )

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Build from a dictionary, as every loading function of the library does.

        A backend that the dictionary names falls back to sdpa where its package is missing, with
        one warning; one that is passed as argument stays, and the library raises for it.
        """
        if "attn_implementation" not in kwargs:
            config_dict = dict(config_dict)
            for key in ("attn_implementation", "_attn_implementation"):
                stored = config_dict.get(key)
                if stored in _BACKEND_IS_INSTALLED and not _BACKEND_IS_INSTALLED[stored]():
                    logger.warning_once(
                        f"The checkpoint's configuration asks for {stored}, which is not available "
                        "here: using sdpa. Pass attn_implementation to choose another backend."
                    )
                    config_dict[key] = "sdpa"
        return super().from_dict(config_dict, **kwargs)
