"""What encoders get of a clip, and what peers return."""

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor

from cv_reader.video_lists import LabelledVideo
from encoder_training.probe.clips import (
    BrokenClipError,
    ClipInput,
    ClipPixels,
    ClipView,
    augment,
    read_view,
    sample_ids,
)
from encoder_training.probe.datasets import ClipList
from encoder_training.probe.encoders import load_encoder, time_embedding
from encoder_training.probe.features import CachedFeatures, JoinedSegments, StreamedFeatures
from encoder_training.probe.inputs import Key
from encoder_training.probe.settings import ProbeSettings
from support.media import write_video
from support.probe_runs import make_encoder

SIDE = 32


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("video") / "wide.mp4"
    random = np.random.default_rng(0)
    ground = random.integers(0, 200, (SIDE, 2 * SIDE, 3)).astype(np.uint8)
    frames = [np.roll(ground, 2 * step, axis=1) for step in range(8)]
    return write_video(path, frames, options={"qp": "12"})


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("ours")
    make_encoder(folder)
    return load_encoder(str(folder), dtype=torch.float32, device=torch.device("cpu"))


def _input(**changes: Any) -> ClipInput:
    values: dict[str, Any] = {
        "kind": "frames", "count": 4, "size_px": SIDE, "patch_size": 16, "clip_frames": 8,
        **changes,
    }  # fmt: skip
    return ClipInput(**values)


def test_frames_are_those_of_the_published_sampling() -> None:
    # int(seg * i + seg / 2) with seg = (n - 1) / T; a shorter video repeats its last frame.
    assert sample_ids(100, 8).tolist() == [6, 18, 30, 43, 55, 68, 80, 92]
    assert sample_ids(3, 5).tolist() == [0, 1, 2, 2, 2]
    drawn = sample_ids(100, 8, np.random.default_rng(3))
    low = 99 / 8 * np.arange(8)
    assert (drawn >= np.floor(low)).all() and (drawn <= low + 99 / 8).all()


def test_codec_input_with_all_cells_equals_the_dense_input(video: Path, ours: Any) -> None:
    settings = ProbeSettings(
        dataset="hmdb51", output_dir="-", model_weight="-", input="codec:32", num_frames=8,
        frames_token_num=4,
    )  # fmt: skip
    codec = read_view(video, "wide.mp4", settings.clip_input(ours), ClipView())
    tokens = [ours.encode([clip])[0] for clip in (codec, _all_frames(video))]
    torch.testing.assert_close(*tokens)


def _all_frames(video: Path) -> ClipPixels:
    from cv_reader.assets import AssetConfig
    from cv_reader.assets.make import ReadOptions, collect_mosaics

    cells = np.indices((8, 2, 2)).reshape(3, -1).T.astype(np.int32)
    config = AssetConfig(sequence_length=8, num_images=8, square_size=SIDE, patch_size=16)
    ids = np.arange(8, dtype=np.int32)
    images = collect_mosaics(video, cells, ids, config, ReadOptions())
    pixels = torch.from_numpy(np.stack([np.asarray(image.convert("RGB")) for image in images]))
    return ClipPixels(pixels.permute(0, 3, 1, 2), torch.arange(8))


def test_crops_and_segments_show_other_parts(video: Path) -> None:
    left, middle, right = (
        read_view(video, "v", _input(), ClipView(crop=crop, crops=3)).pixels for crop in range(3)
    )
    assert left.shape == (4, 3, SIDE, SIDE)
    assert not torch.equal(left, middle) and not torch.equal(middle, right)
    one = read_view(video, "v", _input(), ClipView()).pixels
    assert torch.equal(one, middle)
    parts = [read_view(video, "v", _input(count=2), ClipView(part, 2)).pixels for part in (0, 1)]
    assert not torch.equal(*parts)


def test_joined_segments_are_the_tokens_of_the_parts(
    video: Path, ours: Any, tmp_path: Path
) -> None:
    names = ("wide.mp4", "gone.mp4")
    clips = [LabelledVideo(name, (0,), "") for name in names]
    listed = ClipList(video, video.parent, "path,label", clips)
    stream = StreamedFeatures(
        listed, _input(count=2), ours, dtype=torch.float32, encode_batch=4, num_workers=0
    )
    parts = [ClipView(part, 3) for part in range(3)]
    cached = CachedFeatures(stream, tmp_path, "train", views=parts, clips_per_shard=2)
    cached.fill()
    expected = [read_view(video, "", _input(count=2), part) for part in parts]
    tokens = torch.cat(ours.encode(expected))
    for source in (stream, cached):
        joined = JoinedSegments(source, 3)
        ((whole, gone),) = joined.batches([[Key(0, ClipView()), Key(1, ClipView())]])
        assert gone is None and list(joined.broken) == ["gone.mp4"]
        torch.testing.assert_close(whole, tokens)


def test_kept_inputs_are_read_once_until_a_clip_changes(
    video: Path, ours: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "copy.mp4"
    shutil.copy(video, copy)
    listed = ClipList(copy, tmp_path, "path,label", [LabelledVideo("copy.mp4", (0,), "")])
    asked: list[str] = []

    def count(path: Path, name: str, how: ClipInput, view: ClipView) -> ClipPixels:
        asked.append(name)
        return read_view(path, name, how, view)

    monkeypatch.setattr("encoder_training.probe.features.read_view", count)

    def tokens(frames: int = 2) -> torch.Tensor:
        stream = StreamedFeatures(
            listed, _input(count=frames), ours, dtype=torch.float32, encode_batch=4, num_workers=0,
            input_dir=tmp_path / "inputs",
        )  # fmt: skip
        ((found,),) = stream.batches([[Key(0, ClipView())]])
        assert found is not None
        return found

    first = tokens()
    assert torch.equal(tokens(), first) and len(asked) == 1
    assert len(tokens(3)) > len(first) and len(asked) == 2
    (file, _) = sorted((tmp_path / "inputs").rglob("*.safetensors"), key=lambda f: f.stat().st_size)
    file.write_bytes(b"damaged")
    assert torch.equal(tokens(), first) and len(asked) == 3
    os.utime(copy, (1, 1))
    assert torch.equal(tokens(), first) and len(asked) == 4
    copy.unlink()
    stream = StreamedFeatures(
        listed, _input(count=2), ours, dtype=torch.float32, encode_batch=4, num_workers=0,
        input_dir=tmp_path / "inputs",
    )  # fmt: skip
    assert list(stream.batches([[Key(0, ClipView())]])) == [[None]] and "copy.mp4" in stream.broken


def test_drawn_views_repeat_and_differ(video: Path) -> None:
    how = _input(count=2, augmentation="reference")
    views = [read_view(video, "v", how, ClipView(draw=draw)).pixels for draw in (0, 0, 1)]
    assert torch.equal(views[0], views[1]) and not torch.equal(views[1], views[2])
    patches = torch.arange(2 * 3 * 4, dtype=torch.uint8).view(2, 12) * 9
    random = np.random.default_rng(11)
    frames = augment(patches.view(2, 3, 2, 2), np.random.default_rng(11))
    assert torch.equal(augment(patches, random), frames.flatten(1))


def test_times_of_more_slots_are_fractions_of_the_encoder_s_own(video: Path, ours: Any) -> None:
    settings = ProbeSettings(
        dataset="hmdb51", output_dir="-", model_weight="-", input="random:9", num_frames=8,
        frames_token_num=4,
    )  # fmt: skip
    plain = settings.clip_input(ours)
    scaled = replace(settings, scale_time=True).clip_input(ours)
    assert (plain.time_scale, scaled.time_scale) == (1, 63 / 7)  # the encoder has 64 slots
    whole, fractions = (
        read_view(video, "v", how, ClipView()) for how in (plain, replace(plain, time_scale=0.5))
    )
    assert torch.equal(whole.pixels, fractions.pixels)
    assert torch.equal(whole.positions * torch.tensor([0.5, 1, 1]), fractions.positions)
    halves = ours.encode([whole])[0], ours.encode([fractions])[0]
    assert not torch.allclose(*halves)


def test_random_patches_are_distinct_and_the_budget(video: Path) -> None:
    clip = read_view(video, "v", _input(kind="random", count=13), ClipView())
    assert clip.pixels.shape == (13, 3 * 16 * 16)
    assert len(clip.positions.unique(dim=0)) == 13
    assert clip.positions.amax(0).tolist()[0] < 8


def test_a_file_that_is_no_video_is_a_broken_clip(tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    with pytest.raises(BrokenClipError, match=r"^list/bad\.mp4: "):
        read_view(tmp_path / "bad.mp4", "list/bad.mp4", _input(), ClipView())


def test_time_embedding_is_sine_and_cosine_by_turns() -> None:
    table = time_embedding(3, 6).double()
    for frame in range(3):
        for pair in range(3):
            angle = frame / 10000 ** (2 * pair / 6)
            assert table[frame, 2 * pair] == pytest.approx(np.sin(angle), abs=1e-6)
            assert table[frame, 2 * pair + 1] == pytest.approx(np.cos(angle), abs=1e-6)


_SMALL: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
    "patch_size": 16,
}  # fmt: skip
_TEXT = {**_SMALL, "vocab_size": 20, "max_position_embeddings": 8}
_TEXT.pop("patch_size")
_PICTURE = _SMALL | {"image_size": SIDE}
_FAMILIES: dict[str, tuple[str, dict[str, Any], int, int]] = {
    # name: class of the configuration, its arguments, other tokens, tokens of four frames
    "clip": ("CLIPConfig", {"text_config": _TEXT, "vision_config": _PICTURE}, 1, 16),
    "siglip": ("SiglipConfig", {"text_config": _TEXT, "vision_config": _PICTURE}, 0, 16),
    # The published SigLIP 2 of a fixed size are of this type, with a vocabulary of Gemma's.
    "siglip2_fixed": (
        "SiglipConfig",
        {"text_config": _TEXT | {"projection_size": 32},
         "vision_config": _PICTURE | {"vision_use_head": False}},
        0, 16,
    ),
    "siglip2_naflex": (
        "Siglip2Config", {"text_config": _TEXT, "vision_config": _SMALL | {"num_patches": 4}},
        0, 16,
    ),
    "metaclip_2": ("MetaClip2Config", {"text_config": _TEXT, "vision_config": _PICTURE}, 1, 16),
    "dinov2": ("Dinov2Config", _PICTURE, 1, 16),
    "dinov3": ("DINOv3ViTConfig", _PICTURE | {"num_register_tokens": 3}, 4, 16),
    "aimv2": ("Aimv2VisionConfig", _PICTURE, 0, 16),
    "aimv2_and_text": (
        "Aimv2Config",
        {"text_config": _TEXT, "vision_config": _PICTURE, "projection_dim": 16}, 0, 16,
    ),
    "vit": ("ViTConfig", _PICTURE, 1, 16),
    "vjepa2": (
        "VJEPA2Config",
        _SMALL | {"crop_size": SIDE, "frames_per_clip": 4, "tubelet_size": 2,
                  "pred_hidden_size": 32, "pred_num_attention_heads": 2,
                  "pred_num_hidden_layers": 1},
        0, 8,
    ),
    "videomae": ("VideoMAEConfig", _PICTURE | {"num_frames": 4, "tubelet_size": 2}, 0, 8),
}  # fmt: skip


def _peer(folder: Path, family: str) -> Any:
    name, arguments, _, _ = _FAMILIES[family]
    torch.manual_seed(1)
    config = getattr(transformers, name)(**arguments)
    transformers.AutoModel.from_config(config).save_pretrained(folder)
    return load_encoder(str(folder), dtype=torch.float32, device=torch.device("cpu"))


def _clips() -> list[ClipPixels]:
    random = torch.Generator().manual_seed(2)
    shape = (2, 4, 3, SIDE, SIDE)
    pixels = torch.randint(0, 256, shape, generator=random, dtype=torch.uint8)
    return [ClipPixels(part, torch.arange(4)) for part in pixels]


@pytest.mark.parametrize("family", _FAMILIES)
def test_a_peer_returns_the_tokens_of_its_patches(family: str, tmp_path: Path) -> None:
    _, _, others, tokens = _FAMILIES[family]
    peer = _peer(tmp_path, family)
    assert (peer.width, peer.num_other_tokens) == (32, others)
    half = (0.5, 0.5, 0.5)
    assert (peer.normalisation.mean == half) == family.startswith("siglip")
    clips = _clips()
    together = peer.encode(clips)
    assert [tuple(part.shape) for part in together] == [(tokens, 32), (tokens, 32)]
    alone: Tensor = peer.encode(clips[1:])[0]
    torch.testing.assert_close(together[1], alone, atol=1e-5, rtol=1e-4)
    again = load_encoder(str(tmp_path), dtype=torch.float32, device=torch.device("cpu"))
    assert again.fingerprint == peer.fingerprint


def test_tokens_of_a_picture_model_are_the_library_s_with_time(tmp_path: Path) -> None:
    peer = _peer(tmp_path, "dinov2")
    clip = _clips()[0]
    model = transformers.AutoModel.from_pretrained(tmp_path)
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    deviation = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    with torch.no_grad():
        pixels = (clip.pixels / 255 - mean) / deviation
        expected = model(pixel_values=pixels).last_hidden_state[:, 1:]
    expected = (expected + time_embedding(4, 32)[:, None]).flatten(0, 1)
    torch.testing.assert_close(peer.encode([clip])[0], expected, atol=1e-4, rtol=1e-4)


def test_naflex_patches_hold_channels_last(tmp_path: Path) -> None:
    peer = _peer(tmp_path, "siglip2_naflex")
    clip = _clips()[0]
    processor = transformers.Siglip2ImageProcessor(max_num_patches=4, patch_size=16)
    frames = [frame.permute(1, 2, 0).numpy() for frame in clip.pixels]
    inputs = processor(images=frames, return_tensors="pt")
    model: Any = transformers.AutoModel.from_pretrained(tmp_path)
    with torch.no_grad():
        output = model.vision_model(
            pixel_values=inputs["pixel_values"].float(),
            pixel_attention_mask=inputs["pixel_attention_mask"],
            spatial_shapes=inputs["spatial_shapes"],
        )
    expected = (output.last_hidden_state + time_embedding(4, 32)[:, None]).flatten(0, 1)
    torch.testing.assert_close(peer.encode([clip])[0], expected, atol=1e-4, rtol=1e-3)


def test_peers_refuse_what_they_cannot_take(tmp_path: Path) -> None:
    settings = ProbeSettings(
        dataset="k400", output_dir="-", model_weight="-", input="frames:16", embedding_size=32
    )
    with pytest.raises(ValueError, match="takes clips of 4 frames; use --input frames:4"):
        settings.clip_input(_peer(tmp_path / "mae", "videomae"))
    codec = ProbeSettings(dataset="k400", output_dir="-", model_weight="-", K_keep=2048)
    with pytest.raises(ValueError, match="needs our encoder"):
        codec.clip_input(_peer(tmp_path / "dino", "dinov2"))
    wide = ProbeSettings(dataset="k400", output_dir="-", model_weight="-", embedding_size=1024)
    with pytest.raises(ValueError, match="--embedding_size must be 32"):
        wide.clip_input(_peer(tmp_path / "vit", "vit"))
