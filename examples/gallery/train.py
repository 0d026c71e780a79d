"""Train a tiny model to name a colour that four of 64 frames show, and write the page of the run.

python examples/gallery/train.py [--out outputs/gallery_train] [--steps 30]
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from cv_reader.assets import AssetConfig
from cv_reader.assets.make import write_evaluation_asset
from llava.model.tiny import write_tiny_checkpoint
from llava.train.report.page import main as write_page
from llava.train.train import main as train
from made import EVENT_QUESTION, make_clips

NUM_CLIPS, NUM_IMAGES, GRID = 8, 8, 8


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Train a tiny model on codec assets.")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("outputs/gallery_train"),
        help="folder to write the checkpoint to",
    )
    parser.add_argument("--steps", type=int, default=30, help="number of optimiser steps")
    options = parser.parse_args(argv)
    clips = options.out / "clips"
    config = AssetConfig(num_images=NUM_IMAGES, square_size=16 * GRID, patch_size=16)

    lines = []
    for clip in make_clips(clips, NUM_CLIPS):
        asset = write_evaluation_asset(
            clips / clip["video"], key=clip["id"], out_root=options.out, config=config
        )
        line = {
            "id": clip["id"],
            "image": [str(path.resolve()) for path in asset.images],
            "positions_thw": str((asset.folder / "positions_thw.npy").resolve()),
            "conversations": [
                {"from": "human", "value": "<image>\n" * NUM_IMAGES + EVENT_QUESTION},
                {"from": "gpt", "value": clip["colour"]},
            ],
        }
        lines.append(json.dumps(line) + "\n")
    data = options.out / "train.jsonl"
    data.write_text("".join(lines), encoding="utf-8")

    write_tiny_checkpoint(options.out / "tiny", patches_per_side=GRID)
    settings = f"""
        --model_name_or_path {options.out / "tiny"} --version qwen_1_5 --data_path {data}
        --mm_tunable_parts mm_vision_tower,mm_mlp_adapter,mm_language_model --use_cpu True
        --output_dir {options.out / "model"} --per_device_train_batch_size 4 --logging_steps 1
        --max_steps {options.steps} --learning_rate 2e-3 --save_strategy no --report_to none"""
    train(settings.split())
    write_page([str(options.out / "model"), "-o", str(options.out / "training.html")])


if __name__ == "__main__":
    main()
