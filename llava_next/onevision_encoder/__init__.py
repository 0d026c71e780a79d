"""OneVision Encoder: a vision transformer for images, videos and codec mosaics.

Importing the package registers the encoder with the library's Auto classes, so that
``AutoModel.from_pretrained`` needs no remote code.
"""

from transformers import AutoConfig, AutoModel

from .configuration_onevision_encoder import OneVisionEncoderConfig
from .modeling_onevision_encoder import OneVisionEncoderModel
from .patches import grid_positions, index_positions, patchify

__all__ = [
    "OneVisionEncoderConfig",
    "OneVisionEncoderModel",
    "grid_positions",
    "index_positions",
    "patchify",
]

AutoConfig.register("onevision_encoder", OneVisionEncoderConfig)
AutoModel.register(OneVisionEncoderConfig, OneVisionEncoderModel)
