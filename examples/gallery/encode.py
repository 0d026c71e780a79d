"""Encode the selected patches of a clip and a single image in one call, and draw the features.

python examples/gallery/encode.py [--checkpoint onevision-encoder-large] [--out features.png]

Without a checkpoint a small encoder with random weights is used: the picture then shows only that
patches with different content get different features.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from cv_reader.assets import AssetConfig
from cv_reader.assets.make import write_evaluation_asset
from made import made_clip
from onevision_encoder import OneVisionEncoderConfig, OneVisionEncoderModel
from onevision_encoder.image_processing_onevision_encoder import OneVisionEncoderImageProcessor
from onevision_encoder.packing import image_segment, mosaics_segment, pack

GRID, PATCH_PX, NUM_IMAGES = 16, 14, 4


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Draw the features of a clip's patches.")
    parser.add_argument("--checkpoint", type=Path, help="folder of an encoder")
    parser.add_argument("--out", type=Path, default=Path("features.png"), help="picture to write")
    options = parser.parse_args(argv)
    if options.checkpoint:
        model = OneVisionEncoderModel.from_pretrained(options.checkpoint).eval()
    else:
        torch.manual_seed(0)
        sizes = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2}
        model = OneVisionEncoderModel(OneVisionEncoderConfig(**sizes, num_attention_heads=2)).eval()

    config = AssetConfig(num_images=NUM_IMAGES, square_size=16 * GRID, patch_size=16)
    folder = options.out.parent / "assets_of_example"
    asset = write_evaluation_asset(made_clip(folder), key="encode", out_root=folder, config=config)
    mosaics = [Image.open(path).resize((GRID * PATCH_PX,) * 2) for path in asset.images]
    processor = OneVisionEncoderImageProcessor(do_resize=False, do_center_crop=False)
    pixels = processor(images=mosaics, return_tensors="pt")["pixel_values"]
    clip = mosaics_segment(pixels, torch.from_numpy(asset.positions))
    packed = pack([clip, image_segment(pixels[0])])
    with torch.inference_mode():
        features = model.forward_packed(*packed)
    clip_features, image_features = features.split(packed.cu_seqlens.diff().tolist())
    print(f"clip {tuple(clip_features.shape)}, image {tuple(image_features.shape)}")

    # The three directions in which the features differ most become red, green and blue.
    colours = torch.pca_lowrank(clip_features, q=3)[0]
    colours = (colours - colours.amin(0)) / (colours.amax(0) - colours.amin(0))
    sheet = colours.view(NUM_IMAGES, GRID, GRID, 3).permute(1, 0, 2, 3).reshape(GRID, -1, 3)
    picture = Image.fromarray((255 * sheet).byte().numpy())
    picture.resize((picture.width * 16, picture.height * 16), Image.Resampling.NEAREST).save(
        options.out
    )
    print(options.out)


if __name__ == "__main__":
    main()
