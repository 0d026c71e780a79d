"""Features by models of transformers: the model's own pooled output, bad samples as NaN rows."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from encoder_training.pretrain.concepts.extractors import (
    FeatureSettings,
    load_extractor,
    read_frames,
)
from encoder_training.pretrain.data.made import make_files
from encoder_training.pretrain.data.samples import BadSampleError
from encoder_training.pretrain.data.sources import SourceItem, read_source
from onevision_encoder import OneVisionEncoderConfig, OneVisionEncoderModel

SIZES = {
    "hidden_size": 64, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
    "image_size": 32, "patch_size": 16,
}  # fmt: skip
VECTORS = 2


def _save(name: str, folder: Path) -> None:
    """Save a tiny model with random weights, and a processor of its size."""
    torch.manual_seed(0)
    configs: dict[str, Any] = {
        "dinov2": lambda: transformers.Dinov2Config(**{**SIZES, "mlp_ratio": 2}),
        "siglip": lambda: transformers.SiglipConfig(
            vision_config=SIZES,
            text_config={k: v for k, v in SIZES.items() if k not in ("image_size", "patch_size")},
        ),
        "onevision": lambda: OneVisionEncoderConfig(**SIZES),
    }
    config = configs[name]()
    if name == "onevision":
        model: Any = OneVisionEncoderModel(config)
    else:
        model = transformers.AutoModel.from_config(config)
    model.save_pretrained(folder)
    transformers.CLIPImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    ).save_pretrained(folder)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "files"
    make_files(folder, images=3, clips=1, size_px=48, clip_frames=6)
    return folder


def _expected(folder: Path, pictures: list[Image.Image], layer: str) -> np.ndarray[Any, Any]:
    """The model's own output for each picture alone, of length one."""
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    model: Any = transformers.AutoModel.from_pretrained(folder).eval()
    rows = []
    for picture in pictures:
        pixels = processor(images=picture, return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            if hasattr(model, "vision_model"):
                output = model.vision_model(pixel_values=pixels)
            else:
                output = model(pixel_values=pixels)
        tokens = output.last_hidden_state[0]
        row = output.pooler_output[0] if layer == "pooled" else tokens.mean(0)
        rows.append((row / row.norm()).numpy())
    return np.stack(rows)


@pytest.mark.parametrize("name", ["dinov2", "siglip", "onevision"])
@pytest.mark.parametrize("layer", ["pooled", "mean"])
def test_features_are_the_output_of_the_model(
    name: str, layer: Any, made: Path, tmp_path: Path
) -> None:
    _save(name, tmp_path / name)
    extract = load_extractor(FeatureSettings(model=str(tmp_path / name), layer=layer))
    items = read_source(str(made / "images"), "image")
    pictures = [Image.open(io.BytesIO(item.read())).convert("RGB") for item in items]
    found = extract(items, _no_bad_samples)
    np.testing.assert_allclose(
        found, _expected(tmp_path / name, pictures, layer), rtol=1e-4, atol=1e-5
    )


def _no_bad_samples(item: SourceItem, error: BadSampleError) -> None:
    raise error


@pytest.mark.parametrize("pool", ["concat", "mean"])
def test_a_video_is_its_frames_and_a_broken_one_is_reported(
    pool: Any, made: Path, tmp_path: Path
) -> None:
    _save("dinov2", tmp_path / "model")
    settings = FeatureSettings(model=str(tmp_path / "model"), num_frames=VECTORS, pool=pool)
    (clip,) = read_source(str(made / "clips"), "video")
    videos = tmp_path / "videos"
    videos.mkdir()
    (videos / "a.mp4").write_bytes(b"nothing")
    (videos / "b.mp4").write_bytes(clip.read())
    reported: list[str] = []
    found = load_extractor(settings)(
        read_source(str(videos), "video"), lambda item, error: reported.append(error.rule)
    )
    frames = _expected(tmp_path / "model", read_frames(clip, VECTORS), "pooled")
    row = frames.flatten() if pool == "concat" else frames.mean(axis=0)
    np.testing.assert_allclose(found[1], row, rtol=1e-4, atol=1e-5)
    assert np.isnan(found[0]).all() and reported == ["broken video"]


def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="model must be 'statistics' or a vision model.*nothing"):
        load_extractor(FeatureSettings(model=str(tmp_path / "nothing")))
