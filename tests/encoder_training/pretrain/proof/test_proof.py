"""The proof as a whole, at sizes that show the way and no result."""

import json
from pathlib import Path

import pytest

from encoder_training.pretrain.proof.__main__ import main

SIZES = {
    "images": 48,
    "clips": 16,
    "judged_images": 24,
    "judged_clips": 16,
    "image_centres": 8,
    "video_centres": 4,
    "labels": 2,
    "stage1_steps": 2,
    "stage2_steps": 2,
    "image_batch": 8,
    "video_batch": 2,
    "embedding_steps": 1,
}


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_proof_writes_its_page_and_continues(tmp_path: Path) -> None:
    flags = [text for key, value in SIZES.items() for text in (f"--{key}", str(value))]
    arguments = [str(tmp_path), "--seeds", "0", *flags]
    assert main(arguments) == 0
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "stage 2, codec" in page and "clusters.gif" in page
    assert (tmp_path / "losses.png").is_file()
    figures = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))["figures"]
    assert set(figures["images"]) == {
        "raw pixels",
        "features of the bank",
        "random weights",
        "stage 1",
        "stage 2",
    }
    weights = tmp_path / "seed-0" / "stage2" / "final" / "model.safetensors"
    stamp = weights.stat().st_mtime_ns
    assert main(arguments) == 0
    assert weights.stat().st_mtime_ns == stamp
