"""OneVision Encoder: a vision transformer for images, videos and codec mosaics.

Importing the package registers the encoder with the library's Auto classes, so that
``AutoModel.from_pretrained`` needs no remote code.
"""

import contextlib

from transformers import AutoConfig, AutoImageProcessor, AutoModel

from .configuration_onevision_encoder import OneVisionEncoderConfig
from .image_processing_onevision_encoder import OneVisionEncoderImageProcessor
from .modeling_onevision_encoder import OneVisionEncoderModel
from .packing import PackedInput, Segment, frames_segment, image_segment, mosaics_segment, pack
from .patches import grid_positions, index_positions, patchify, uniform_slots
from .video import VideoInput, prepare_video

__all__ = [
    "OneVisionEncoderConfig",
    "OneVisionEncoderImageProcessor",
    "OneVisionEncoderModel",
    "PackedInput",
    "Segment",
    "VideoInput",
    "frames_segment",
    "grid_positions",
    "image_segment",
    "index_positions",
    "mosaics_segment",
    "pack",
    "patchify",
    "prepare_video",
    "uniform_slots",
]

AutoConfig.register("onevision_encoder", OneVisionEncoderConfig)
AutoModel.register(OneVisionEncoderConfig, OneVisionEncoderModel)
# Some versions of transformers offer AutoImageProcessor only where torchvision is installed.
with contextlib.suppress(ImportError):
    AutoImageProcessor.register(
        OneVisionEncoderConfig, slow_image_processor_class=OneVisionEncoderImageProcessor
    )
