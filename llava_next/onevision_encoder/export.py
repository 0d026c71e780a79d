"""Write an encoder as a folder for the Hub: weights, image processor and code.

    python -m onevision_encoder.export CHECKPOINT OUT [--dtype bfloat16]
    python -m onevision_encoder.export --random base OUT

The folder loads without this package: ``AutoModel.from_pretrained(OUT, trust_remote_code=True)``.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from .configuration_onevision_encoder import OneVisionEncoderConfig
from .image_processing_onevision_encoder import OneVisionEncoderImageProcessor
from .modeling_onevision_encoder import OneVisionEncoderModel

SIZES = {
    "base": {
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
    },
    "large": {},
    "huge": {
        "hidden_size": 1280,
        "num_hidden_layers": 32,
        "num_attention_heads": 20,
        "intermediate_size": 5120,
    },
}
"""Published sizes, as differences from the configuration's defaults."""

AUTO_NAMES = ("AutoConfig", "AutoModel", "AutoImageProcessor")


def export(
    model: OneVisionEncoderModel, folder: str | Path, *, max_shard_size: str = "5GB"
) -> None:
    """Save a model with its code, its ``auto_map`` and an image processor of its image size."""
    side = model.config.image_size
    processor = OneVisionEncoderImageProcessor(
        patch_size=model.config.patch_size,
        size={"shortest_edge": side},
        crop_size={"height": side, "width": side},
    )
    classes = (OneVisionEncoderConfig, OneVisionEncoderModel, OneVisionEncoderImageProcessor)
    try:
        for cls, auto_name in zip(classes, AUTO_NAMES, strict=True):
            cls.register_for_auto_class(auto_name)
        model.save_pretrained(folder, max_shard_size=max_shard_size)
        processor.save_pretrained(folder)
    finally:
        # The library keeps the registration in the class: later saves would copy code as well.
        for cls in classes:
            cls._auto_class = None


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code is 0, or 2 where nothing was written."""
    parser = argparse.ArgumentParser(
        prog="python -m onevision_encoder.export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkpoint", nargs="?", help="folder with config.json and safetensors")
    parser.add_argument("out", help="folder to write")
    parser.add_argument(
        "--random",
        choices=SIZES,
        help="write random weights of this size instead of a checkpoint's",
    )
    parser.add_argument(
        "--dtype",
        default="bfloat16",
        choices=["bfloat16", "float16", "float32"],
        help="type of the written weights (default: %(default)s)",
    )
    parser.add_argument(
        "--max_shard_size",
        default="5GB",
        help="largest file of weights, such as 500MB (default: %(default)s)",
    )
    arguments = parser.parse_args(argv)
    if (arguments.checkpoint is None) == (arguments.random is None):
        parser.error("give either a checkpoint folder or --random SIZE")
    dtype = getattr(torch, arguments.dtype)
    if arguments.random:
        model = OneVisionEncoderModel(OneVisionEncoderConfig(**SIZES[arguments.random])).to(dtype)
    else:
        try:
            model = OneVisionEncoderModel.from_pretrained(arguments.checkpoint, dtype=dtype)
        except (OSError, ValueError) as error:
            parser.error(f"cannot load {arguments.checkpoint}: {error}")
    export(model, arguments.out, max_shard_size=arguments.max_shard_size)
    sys.stdout.write(f"wrote {arguments.out}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
