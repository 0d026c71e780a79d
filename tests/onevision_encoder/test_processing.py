"""Image processor, video helper, packing helper and export."""

import inspect
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor, AutoModel, dynamic_module_utils

from onevision_encoder import (
    OneVisionEncoderImageProcessor,
    OneVisionEncoderModel,
    frames_segment,
    grid_positions,
    image_segment,
    mosaics_segment,
    pack,
    prepare_video,
    uniform_slots,
)
from onevision_encoder.export import SIZES, export, main
from onevision_encoder.image_processing_onevision_encoder import CLIPProcessor
from support.tolerances import FLOAT32

MEAN = np.array([0.48145466, 0.4578275, 0.40821073])
STD = np.array([0.26862954, 0.26130258, 0.27577711])
TINY = {"hidden_size": 64, "num_attention_heads": 2, "num_hidden_layers": 3}


def _picture(height: int, width: int, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8))


def _normalised(image: Image.Image) -> torch.Tensor:
    pixels = (np.asarray(image, dtype=np.float64) / 255 - MEAN) / STD
    return torch.from_numpy(pixels.transpose(2, 0, 1)).float()


def _clip_pixels(image: Image.Image) -> torch.Tensor:
    """CLIP's preprocessing restated: shortest edge to 448 px, bicubic, centre crop."""
    width, height = ((448 * side) // min(image.size) for side in image.size)
    resized = image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - 448) // 2, (height - 448) // 2
    return _normalised(resized.crop((left, top, left + 448, top + 448)))


@pytest.mark.parametrize(
    ("height", "width", "mode"),
    [(300, 200, "RGB"), (97, 731, "RGB"), (448, 448, "L"), (501, 333, "RGBA"), (449, 1000, "P")],
)
@pytest.mark.usefixtures("auto_image_processor")
def test_exported_processor_is_clip_at_448_px(
    tiny_model: Callable, tmp_path: Path, height: int, width: int, mode: str
) -> None:
    """Against the formulas, and bit-equal to the library's own."""
    export(tiny_model(patch_size=14, image_size=448), tmp_path)
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    image = _picture(height, width, seed=height).convert(mode)
    pixels = processor(image, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(pixels[0], _clip_pixels(image), **FLOAT32)
    library = CLIPProcessor(size={"shortest_edge": 448}, crop_size={"height": 448, "width": 448})
    assert torch.equal(library(image, return_tensors="pt")["pixel_values"], pixels)


def test_native_resolution_rounds_to_patches() -> None:
    processor = OneVisionEncoderImageProcessor(do_native_resolution=True)
    exact = _picture(28, 42)
    pixels = processor(exact, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(pixels[0], _normalised(exact), **FLOAT32)
    mixed = processor([_picture(33, 36), _picture(5, 700).convert("L")], return_tensors="pt")
    assert [tuple(image.shape) for image in mixed["pixel_values"]] == [(3, 28, 42), (3, 14, 700)]
    batch = processor([exact, exact], return_tensors="pt")["pixel_values"]
    assert batch.shape == (2, 3, 28, 42)
    cropped = processor(exact, do_native_resolution=False, return_tensors="pt")
    assert cropped["pixel_values"].shape == (1, 3, 448, 448)


def test_native_resolution_takes_no_size() -> None:
    with pytest.raises(ValueError, match="do_native_resolution=True .*takes no size"):
        OneVisionEncoderImageProcessor()(
            _picture(28, 28), do_native_resolution=True, size={"shortest_edge": 14}
        )


def test_uniform_slots() -> None:
    expected = [0, 4, 8, 12, 16, 21, 25, 29, 33, 37, 42, 46, 50, 54, 58, 63]
    assert uniform_slots(16).tolist() == expected
    assert uniform_slots(8).tolist() == list(range(0, 64, 9))
    assert uniform_slots(1).tolist() == [0]
    assert uniform_slots(64).tolist() == list(range(64))
    with pytest.raises(ValueError, match="at least 1, got 0"):
        uniform_slots(0)


@pytest.mark.parametrize("as_array", [True, False])
def test_video_helper(as_array: bool) -> None:
    frames = [Image.new("RGB", (28, 14), (index, 0, 0)) for index in range(10)]
    given = np.stack([np.asarray(frame) for frame in frames]) if as_array else frames
    processor = OneVisionEncoderImageProcessor(do_native_resolution=True)
    video = prepare_video(given, processor, num_frames=4)
    assert video.pixel_values.shape == (1, 3, 4, 14, 28)
    red = (video.pixel_values[0, 0, :, 0, 0].double() * STD[0] + MEAN[0]) * 255
    assert red.round().tolist() == [0, 3, 6, 9]
    assert torch.equal(video.patch_positions[0], grid_positions(uniform_slots(4), 1, 2))
    assert prepare_video(given[:2], processor).pixel_values.shape[2] == 2


def test_video_helper_refuses() -> None:
    processor = OneVisionEncoderImageProcessor(do_native_resolution=True)
    with pytest.raises(ValueError, match="at least one frame, got none"):
        prepare_video([], processor)
    with pytest.raises(ValueError, match=r"one size, got \[\(14, 14\), \(14, 28\)\]"):
        prepare_video([_picture(14, 14), _picture(14, 28)], processor)
    with pytest.raises(ValueError, match="must be an OneVisionEncoderImageProcessor.*got CLIP"):
        prepare_video([_picture(14, 14)], CLIPProcessor())


def test_processor_loads_from_a_folder_with_clips_settings(tmp_path: Path) -> None:
    """The published folders name CLIP's processor."""
    CLIPProcessor(size={"shortest_edge": 448}).save_pretrained(tmp_path)
    assert "CLIP" in (tmp_path / "preprocessor_config.json").read_text()
    processor = OneVisionEncoderImageProcessor.from_pretrained(tmp_path)
    video = prepare_video([_picture(30, 45)] * 2, processor, do_native_resolution=True)
    assert video.pixel_values.shape == (1, 3, 2, 28, 42)


def test_packing_equals_forward(tiny_model: Callable) -> None:
    model = tiny_model()
    image, frames = torch.randn(3, 8, 12), torch.randn(4, 3, 8, 4)
    mosaics, table = torch.randn(2, 3, 8, 8), torch.randint(0, 9, (8, 3), dtype=torch.int32)
    segments = [
        image_segment(image, 4),
        frames_segment(frames, 4),
        mosaics_segment(mosaics, table, 4),
    ]
    packed = pack(segments)
    assert packed.cu_seqlens.tolist() == [0, 6, 14, 22]
    assert packed.cu_seqlens.dtype == torch.int32
    features = model.forward_packed(*packed).split([6, 8, 8])
    slots = torch.tensor([0, 21, 42, 63])
    expected = (
        model(image[None]),
        model(frames.transpose(0, 1)[None], patch_positions=grid_positions(slots, 2, 1)[None]),
        model(mosaics.transpose(0, 1)[None], patch_positions=table[None]),
    )
    for actual, output in zip(features, expected, strict=True):
        torch.testing.assert_close(actual, output.last_hidden_state[0], **FLOAT32)


def test_packing_refuses() -> None:
    with pytest.raises(ValueError, match="at least one segment, got an empty list"):
        pack([])
    with pytest.raises(ValueError, match=r"image \(C, H, W\), got shape \(1, 3, 8, 8\)"):
        image_segment(torch.zeros(1, 3, 8, 8), 4)
    with pytest.raises(ValueError, match=r"\(F, C, H, W\) of one size, got shape \(3, 8, 8\)"):
        frames_segment(torch.zeros(3, 8, 8), 4)
    with pytest.raises(ValueError, match="multiples of the patch size 4, got 8 x 6"):
        frames_segment(torch.zeros(1, 3, 8, 6), 4)
    with pytest.raises(ValueError, match=r"shape \(8, 3\).*got \(7, 3\)"):
        mosaics_segment(torch.zeros(2, 3, 8, 8), torch.zeros(7, 3), 4)


LOAD_WITHOUT_PACKAGE = """
import sys, torch
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor, AutoModel
folder, pixels, out = sys.argv[1:]
sys.modules["onevision_encoder"] = None  # importing it raises
model = AutoModel.from_pretrained(folder, trust_remote_code=True)
processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)
assert model.__module__.startswith("transformers_modules")
with torch.no_grad():
    pooled = model(load_file(pixels)["pixels"]).pooler_output
save_file({"pooled": pooled, "crop_px": torch.tensor(processor.crop_size["height"])}, out)
"""


def test_exported_code_gives_the_same_features(
    tiny_model: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(tmp_path / "modules")
    model, pixels = tiny_model(), torch.randn(1, 3, 8, 8)
    export(model, tmp_path / "hub")
    names = json.loads((tmp_path / "hub" / "config.json").read_text())["auto_map"]
    load = dynamic_module_utils.get_class_from_dynamic_module
    remote = load(names["AutoModel"], tmp_path / "hub")
    assert remote is not OneVisionEncoderModel
    loaded = remote.from_pretrained(tmp_path / "hub")
    assert torch.equal(loaded(pixels).pooler_output, model(pixels).pooler_output)
    # Where the package is installed, its own code is used.
    assert type(AutoModel.from_pretrained(tmp_path / "hub")) is OneVisionEncoderModel
    model.save_pretrained(tmp_path / "plain")
    assert not list((tmp_path / "plain").glob("*.py"))


@pytest.mark.parametrize("cls", [OneVisionEncoderModel, OneVisionEncoderImageProcessor])
def test_exported_files_name_all_they_need(cls: type) -> None:
    """transformers 4.57 copies the modules named in a remote file, not those named in these."""
    first = Path(inspect.getfile(cls))
    direct = set(dynamic_module_utils.get_relative_imports(first))
    needed = {Path(name).stem for name in dynamic_module_utils.get_relative_import_files(first)}
    assert direct == needed


@pytest.mark.slow
def test_export_loads_without_the_package(tiny_model: Callable, tmp_path: Path) -> None:
    model, pixels = tiny_model(), torch.randn(1, 3, 8, 8)
    export(model, tmp_path / "hub")
    save_file({"pixels": pixels}, tmp_path / "in.safetensors")
    names = ("in.safetensors", "out.safetensors")
    subprocess.run(
        [sys.executable, "-I", "-c", LOAD_WITHOUT_PACKAGE, str(tmp_path / "hub")]
        + [str(tmp_path / name) for name in names],
        env={**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules")},
        check=True,
        timeout=120,
    )
    loaded = load_file(tmp_path / "out.safetensors")
    assert torch.equal(loaded["pooled"], model(pixels).pooler_output)
    assert loaded["crop_px"] == 16
    assert type(AutoImageProcessor.from_pretrained(tmp_path / "hub")) is (
        OneVisionEncoderImageProcessor
    )


def test_export_refuses_weights_of_other_names(
    tiny_model: Callable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_model().save_pretrained(tmp_path / "in")
    weights = load_file(tmp_path / "in" / "model.safetensors")
    extra = weights.pop("head.probe")
    for state, message in (
        (weights, "missing: head.probe"),
        ({**weights, "head.probe": extra, "head.other": extra.clone()}, "unexpected: head.other"),
    ):
        save_file(state, tmp_path / "in" / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(SystemExit) as stop:
            main([str(tmp_path / "in"), str(tmp_path / "out")])
        assert stop.value.code == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_export_of_random_weights(
    tiny_model: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SIZES, "base", TINY)
    assert main(["--random", "base", "--dtype", "float32", str(tmp_path)]) == 0
    loaded = OneVisionEncoderModel.from_pretrained(tmp_path)
    assert loaded.state_dict().keys() == tiny_model().state_dict().keys()


def test_export_command(
    tiny_model: Callable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_model().save_pretrained(tmp_path / "in")
    assert main([str(tmp_path / "in"), str(tmp_path / "out")]) == 0
    assert (
        OneVisionEncoderModel.from_pretrained(tmp_path / "out", dtype="auto").dtype
        == torch.bfloat16
    )
    for wrong in ([str(tmp_path / "none"), "out"], ["out"]):
        with pytest.raises(SystemExit) as stop:
            main(wrong)
        assert stop.value.code == 2
    assert "give either a checkpoint folder or --random SIZE" in capsys.readouterr().err
