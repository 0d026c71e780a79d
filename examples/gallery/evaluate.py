"""Evaluate a checkpoint with lmms-eval on made clips: codec input against frames, and a page.

python examples/gallery/evaluate.py [--checkpoint DIR] [--out outputs/gallery_eval]
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from cv_reader.assets import AssetConfig
from cv_reader.assets.make import write_evaluation_asset
from llava.eval.report.page import main as write_page
from llava.model.tiny import write_tiny_checkpoint
from made import EVENT_QUESTION, make_clips

NUM_CLIPS, GRID = 8, 8
TASK = Path(__file__).resolve().parents[1] / "quickstart" / "task"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Evaluate a checkpoint on made clips.")
    parser.add_argument(
        "--checkpoint",
        type=Path,
        help="checkpoint to evaluate (default: a tiny one with random weights)",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("outputs/gallery_eval"), help="folder to write results to"
    )
    options = parser.parse_args(argv)
    out, checkpoint = options.out.resolve(), options.checkpoint
    if checkpoint is None:
        checkpoint = out / "tiny"
        write_tiny_checkpoint(checkpoint, patches_per_side=GRID)

    config = AssetConfig(square_size=16 * GRID, patch_size=16)
    rows = []
    for clip in make_clips(out / "clips", NUM_CLIPS):
        video = out / "clips" / clip["video"]
        write_evaluation_asset(video, key=video.stem, out_root=out, config=config)
        answer = {"question": EVENT_QUESTION, "answer": clip["colour"]}
        rows.append(json.dumps({"video": str(video), **answer}) + "\n")
    shutil.copytree(TASK, out / "task", dirs_exist_ok=True)
    questions = out / "task" / "questions.jsonl"
    questions.write_text("".join(rows), encoding="utf-8")
    text = (TASK / "task.yaml.in").read_text(encoding="utf-8")
    text = text.format(task="gallery_colour", questions=questions)
    (out / "task" / "gallery_colour.yaml").write_text(text, encoding="utf-8")

    for kind in ("codec", "frames"):
        settings = f"pretrained={checkpoint},codec_root={out / 'assets'},video_input={kind}"
        settings += f",codec_square_size={16 * GRID},max_new_tokens=8,device=cpu,dtype=float32"
        words = f"""-m llava.eval.launch --model llava_ov_encoder --model_args {settings}
            --include_path {out / "task"} --tasks gallery_colour --batch_size 4 --log_samples
            --output_path {out / kind}"""
        offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(out / "hub")}
        command = [sys.executable, *words.split()]
        subprocess.run(command, env={**os.environ, **offline}, check=True)
    write_page([str(out / "codec"), str(out / "frames"), "--out", str(out / "evaluation.html")])


if __name__ == "__main__":
    main()
