"""Select the patches of a video, pack them into mosaics, and draw what is kept.

python examples/gallery/select_patches.py [VIDEO] [--out mosaics.png] [--num_images 4]
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from cv_reader.assets import AssetConfig
from cv_reader.assets.make import write_evaluation_asset
from made import made_clip

SQUARE_PX, CELL_PX, SEQUENCE_LENGTH = 256, 16, 64


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Draw the mosaics of a video.")
    parser.add_argument(
        "video", nargs="?", type=Path, help="video to select from (default: a made clip)"
    )
    parser.add_argument("--out", type=Path, default=Path("mosaics.png"), help="picture to write")
    parser.add_argument(
        "--num_images", type=int, default=4, help="number of mosaics: the budget in whole frames"
    )
    options = parser.parse_args(argv)
    path = options.video or made_clip(options.out.parent)

    config = AssetConfig(
        sequence_length=SEQUENCE_LENGTH,
        num_images=options.num_images,
        square_size=SQUARE_PX,
        patch_size=CELL_PX,
    )
    asset = write_evaluation_asset(
        path, key=path.stem, out_root=options.out.parent / "assets_of_example", config=config
    )
    slots, counts = np.unique(asset.positions[:, 0], return_counts=True)
    kept = len(asset.positions) / (SEQUENCE_LENGTH * (SQUARE_PX // CELL_PX) ** 2)
    print(f"read by {asset.meta['backend']}; {100 * kept:.1f} % of all cells kept")
    print(
        f"cells come from {len(slots)} of {SEQUENCE_LENGTH} frames, at most {counts.max()} of one"
    )

    sheet = Image.new("RGB", ((SQUARE_PX + 8) * len(asset.images) - 8, SQUARE_PX), "white")
    for number, mosaic in enumerate(asset.images):
        sheet.paste(Image.open(mosaic), (number * (SQUARE_PX + 8), 0))
    sheet.save(options.out)
    print(options.out)


if __name__ == "__main__":
    main()
