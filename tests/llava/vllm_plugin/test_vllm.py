"""The plug-in inside vLLM, as far as that runs without a GPU.

vLLM needs an environment of its own: docs/exports.md, "vLLM", says how these tests are run there.
vLLM's attention kernels have no CPU version in its CUDA wheel; the tests of the model put torch's
attention in their place. Everything else is vLLM's own code.
"""

import base64
import io
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cv_reader.assets import AssetConfig
from cv_reader.assets.make import write_evaluation_asset
from llava.export import export_checkpoint
from llava.model.loading import load_pretrained
from llava.model.processing import LlavaProcessor
from llava.model.tiny import write_tiny_checkpoint
from llava.visual.config import PROCESSOR_FILE
from llava.vllm_plugin import ARCHITECTURES
from llava.vllm_plugin.clips import MEDIA_TYPE, codec_item, pack_asset, unpack_asset
from support.media import texture

pytestmark = pytest.mark.slow

NEEDS_VLLM = "vllm is not installed; docs/exports.md, vLLM, names the environment for these tests"
QUESTION = {"type": "text", "text": "What is it?"}
KINDS = {
    "qwen3": {},
    "qwen2": {"language_model": "qwen2", "projector_type": "spatial_merge"},
}


@pytest.fixture(scope="module")
def registered() -> Iterator[None]:
    """vLLM with the plug-ins that it finds itself, on the CPU."""
    platforms: Any = pytest.importorskip("vllm.platforms", reason=NEEDS_VLLM)
    from vllm.platforms.cpu import CpuPlatform

    before = platforms._current_platform
    platforms._current_platform = CpuPlatform()
    from vllm.plugins import load_general_plugins

    load_general_plugins()
    yield
    platforms._current_platform = before


def _served(folder: Path) -> SimpleNamespace:
    """Return what vLLM makes of an exported folder before it builds the model."""
    from vllm.config import ModelConfig
    from vllm.multimodal import MULTIMODAL_REGISTRY

    config = ModelConfig(model=str(folder), dtype="float32", max_model_len=4096, enforce_eager=True)
    processor = MULTIMODAL_REGISTRY.create_processor(config)
    return SimpleNamespace(
        folder=folder,
        config=config,
        processor=processor,
        ours=LlavaProcessor.from_pretrained(folder),
    )


@pytest.fixture(scope="module", params=KINDS)
def served(
    registered: None, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> SimpleNamespace:
    """One exported checkpoint of each decoder, with and without merged patches."""
    folder = tmp_path_factory.mktemp(request.param)
    write_tiny_checkpoint(folder / "tiny", **KINDS[request.param])
    return _served(export_checkpoint(folder / "tiny", folder / "out"))


def _changed(served: SimpleNamespace, folder: Path, **visual: Any) -> SimpleNamespace:
    """Return the same checkpoint with other settings of its processor."""
    folder.mkdir()
    for path in served.folder.iterdir():
        (folder / path.name).symlink_to(path)
    settings = json.loads((folder / PROCESSOR_FILE).read_text())
    settings["visual"] |= visual
    (folder / PROCESSOR_FILE).unlink()
    (folder / PROCESSOR_FILE).write_text(json.dumps(settings))
    return _served(folder)


def _pictures(*sizes: tuple[int, int]) -> list[Image.Image]:
    return [Image.fromarray(texture(*size, seed=seed)) for seed, size in enumerate(sizes)]


def _ask(served: SimpleNamespace, parts: list[Any], data: Any, **more: Any) -> tuple[Any, Any]:
    """Return what vLLM's processor makes of a conversation, and what ours does."""
    messages = [{"role": "user", "content": [*parts, QUESTION]}]
    prompt = served.ours.apply_chat_template(messages, add_generation_prompt=True)
    expected = served.ours.apply_chat_template(
        messages, tokenize=True, return_dict=True, add_generation_prompt=True
    )
    found = served.processor(prompt, served.processor.info.parse_mm_data(data), **more)
    return found, expected


def _check(served: SimpleNamespace, found: Any, expected: Any) -> None:
    """Compare tokens, the places of the visuals among them, patches and positions."""
    ids = expected["input_ids"][0]
    assert found["prompt_token_ids"] == ids.tolist()
    places = [
        (place.offset, modality, number)
        for modality, ranges in found["mm_placeholders"].items()
        for number, place in enumerate(ranges)
    ]
    visual = expected["visual"]
    is_visual = torch.zeros(len(ids), dtype=torch.bool)
    start = 0
    for (_, modality, number), end in zip(sorted(places), visual.cu_seqlens[1:], strict=True):
        place = found["mm_placeholders"][modality][number]
        is_visual[place.offset : place.offset + place.length] = place.is_embed
        assert int(place.is_embed.sum()) * visual.patches_per_token == end - start
        item = found["mm_kwargs"][modality][number].get_data()
        assert torch.equal(item[f"{modality}_patches"], visual.patches[start:end])
        assert torch.equal(item[f"{modality}_positions"], visual.positions[start:end])
        assert int(item[f"{modality}_lengths"]) == end - start
        start = end
    assert torch.equal(is_visual, ids == served.config.hf_config.image_token_id)


def test_vllm_finds_and_resolves_the_models(registered: None) -> None:
    from vllm import ModelRegistry

    from llava.vllm_plugin import register

    found = entry_points(group="vllm.general_plugins")["llava_onevision"].load()
    assert found is register
    assert ARCHITECTURES.keys() <= set(ModelRegistry.get_supported_archs())


def test_an_exported_folder_resolves_to_its_class(served: SimpleNamespace) -> None:
    from vllm import ModelRegistry

    (name,) = served.config.architectures
    model, resolved = ModelRegistry.resolve_model_cls([name], model_config=served.config)
    assert resolved == name
    assert f"{model.__module__}:{model.__qualname__}" == ARCHITECTURES[name]
    assert served.config.is_multimodal_model
    assert served.config.trust_remote_code is False


def test_pictures_become_the_tokens_and_patches_of_our_processor(served: SimpleNamespace) -> None:
    one, two = _pictures((40, 60), (200, 160))
    shown = [{"type": "image", "image": picture} for picture in (one, two)]
    for parts, data in (
        (shown[:1], {"image": one}),
        (shown[:1], {"image": np.asarray(one)}),
        (shown, {"image": [one, two]}),
        ([shown[1], {"type": "text", "text": "and"}, shown[0]], {"image": [two, one]}),
    ):
        _check(served, *_ask(served, parts, data))
    text, expected = _ask(served, [], {})
    assert text["prompt_token_ids"] == expected["input_ids"][0].tolist()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "I;16", "upright"])
def test_pictures_of_every_kind_are_read_by_our_rules(served: SimpleNamespace, mode: str) -> None:
    (picture,) = _pictures((84, 112))
    if mode == "I;16":
        picture = Image.fromarray(np.arange(84 * 112, dtype=np.uint16).reshape(84, 112) * 6)
    elif mode == "upright":
        picture.getexif()[0x0112] = 6
    else:
        picture = picture.convert(mode)
    if mode in ("RGBA", "LA"):
        picture.putalpha(Image.fromarray(texture(84, 112, seed=9)[:, :, 0]))
    found, expected = _ask(served, [{"type": "image", "image": picture}], {"image": picture})
    _check(served, found, expected)


def test_frames_and_codec_assets_do_so_too(served: SimpleNamespace, codec_asset: Path) -> None:
    frames = _pictures(*[(40, 60)] * 4)
    (picture,) = _pictures((200, 160))
    stack = np.stack([np.asarray(frame) for frame in frames])
    still = {"type": "image", "image": picture}
    shown = {"type": "video", "video": frames}
    for given in (stack, frames, torch.from_numpy(stack)):
        _check(served, *_ask(served, [shown], {"video": given}))
    clip = {"type": "video", "video": str(codec_asset)}
    packed = unpack_asset(pack_asset(codec_asset))
    for item in (codec_item(codec_asset), packed):
        _check(served, *_ask(served, [clip], {"video": item}))
    _check(
        served,
        *_ask(served, [clip, still, shown], {"image": picture, "video": [packed, stack]}),
    )


def test_time_marks_are_in_the_prompt(
    served: SimpleNamespace, codec_asset: Path, tmp_path: Path
) -> None:
    marked = _changed(served, tmp_path / "marked", time_marks=True)
    # Without merging, blocks of cells would be out of order in time.
    config = AssetConfig(
        square_size=128,
        num_images=2,
        sequence_length=8,
        block_cells=marked.ours.visual.merge_side_patches,
    )
    clip = codec_asset.parents[1] / "a.mp4"
    asset = write_evaluation_asset(clip, key="k", out_root=tmp_path, config=config).folder
    item = codec_item(asset)
    found, expected = _ask(marked, [{"type": "video", "video": str(asset)}], {"video": item})
    _check(marked, found, expected)
    assert "seconds>" in marked.ours.tokenizer.decode(found["prompt_token_ids"])
    frames = np.stack([np.asarray(frame) for frame in _pictures(*[(40, 60)] * 3)])
    about = {"fps": 2.0, "frames_indices": [0, 3, 6]}
    prompt = "<|video_pad|>"
    parse = marked.processor.info.parse_mm_data
    ids = marked.processor(prompt, parse({"video": (frames, about)}))["prompt_token_ids"]
    text = marked.ours.tokenizer.decode(ids)
    assert all(mark in text for mark in ("<0.0 seconds>", "<1.5 seconds>", "<3.0 seconds>"))
    del item["seconds"]
    for given in (frames, item):
        with pytest.raises(ValueError, match="time marks need the time of each frame"):
            marked.processor(prompt, parse({"video": given}))


def test_a_cached_picture_is_not_taken_for_one_of_another_size(
    served: SimpleNamespace, tmp_path: Path
) -> None:
    from vllm.multimodal.cache import MultiModalProcessorOnlyCache

    native = _changed(served, tmp_path / "native", image_aspect_ratio="native")
    cache = MultiModalProcessorOnlyCache(native.config)
    one, two = _pictures((140, 196), (84, 84))
    shown = [{"type": "image", "image": picture} for picture in (one, two)]
    alone, expected = _ask(native, shown[:1], {"image": [one]}, cache=cache)
    _check(native, alone, expected)
    for _ in range(2):  # made, and from the cache
        pair, expected = _ask(native, shown, {"image": [one, two]}, cache=cache)
        _check(native, pair, expected)
    assert alone["mm_hashes"]["image"][0] != pair["mm_hashes"]["image"][0]
    again, expected = _ask(native, shown[:1], {"image": [one]}, cache=cache)
    _check(native, again, expected)
    assert again["mm_hashes"] == alone["mm_hashes"]


def test_what_cannot_be_shown_is_refused(served: SimpleNamespace) -> None:
    parse = served.processor.info.parse_mm_data
    with pytest.raises(ValueError, match="images must be pictures"):
        parse({"image": torch.zeros(1, 4, 128)})
    with pytest.raises(ValueError, match="a video must be frames, or a codec asset"):
        parse({"video": torch.zeros(1, 4, 128)})
    with pytest.raises(ValueError, match="must be a codec asset with mosaics"):
        parse({"video": {"path": "clip.mp4"}})
    long = {"mosaics": np.zeros((1, 80, 80, 3), np.uint8), "positions": np.zeros((6400, 3), int)}
    if served.ours.visual.patches_per_token == 1:
        with pytest.raises(ValueError, match="6400 positions exceeds the prompt's 4096 tokens"):
            served.processor("<|video_pad|>", parse({"video": long}))
    picture = parse({"image": _pictures((40, 60))})
    with pytest.raises(ValueError, match="mm_processor_kwargs must be empty"):
        served.processor("<|image_pad|>", picture, hf_processor_mm_kwargs={"num_images": 2})


def test_the_largest_visuals_fit_the_prompt(served: SimpleNamespace) -> None:
    visual = served.ours.visual
    tokens = visual.patches_per_side**2 // visual.patches_per_token
    for modality, count in (("image", 1), ("video", min(4096 // (tokens + 1), 64))):
        inputs = served.processor.get_dummy_mm_inputs({"image": 0, "video": 0, modality: 1})
        assert int(inputs["mm_placeholders"][modality][0].is_embed.sum()) == tokens * count


def test_the_content_of_messages_keeps_its_order(served: SimpleNamespace) -> None:
    """vLLM sees that the template takes lists of parts, so that it does not join them itself."""
    from vllm.renderers.hf import resolve_chat_template_content_format

    found = resolve_chat_template_content_format(
        None, None, "auto", served.ours.tokenizer, model_config=served.config
    )
    assert found == "openai"


def _causal_attention(self: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> Any:
    """One whole prompt through torch's attention, in place of vLLM's kernels and its cache."""
    heads = [
        tensor.view(len(tensor), -1, self.head_size).transpose(0, 1)[None]
        for tensor in (query, key, value)
    ]
    attended = torch.nn.functional.scaled_dot_product_attention(
        *heads, is_causal=True, enable_gqa=True, scale=self.head_size**-0.5
    )
    return attended[0].transpose(0, 1).flatten(1)


@pytest.fixture(scope="module")
def model(served: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The model as vLLM builds it from the folder, with vLLM's own loader."""
    from vllm.config import CompilationConfig, DeviceConfig, LoadConfig, VllmConfig
    from vllm.config import set_current_vllm_config as current
    from vllm.distributed import (
        destroy_distributed_environment,
        destroy_model_parallel,
        init_distributed_environment,
        initialize_model_parallel,
    )
    from vllm.model_executor.model_loader import get_model

    config = VllmConfig(
        model_config=served.config,
        device_config=DeviceConfig(device="cpu"),
        load_config=LoadConfig(device="cpu"),
        compilation_config=CompilationConfig(custom_ops=["none"]),
    )
    store = tmp_path_factory.mktemp("ranks") / "store"
    with current(config):
        init_distributed_environment(1, 0, f"file://{store}", 0, "gloo")
        initialize_model_parallel(1, 1)
        yield get_model(vllm_config=config)
        destroy_model_parallel()
        destroy_distributed_environment()


def test_every_weight_is_loaded(served: SimpleNamespace, model: Any) -> None:
    from safetensors.torch import load_file

    weights = load_file(served.folder / "model.safetensors")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(float("nan"))
    names = {name for name, _ in model.named_parameters()}
    assert model.load_weights(weights.items()) == names
    assert not [name for name, value in model.named_parameters() if value.isnan().any()]
    mapped = [model.hf_to_vllm_mapper.map_name(name) for name in weights]
    assert None not in mapped
    assert len(set(mapped)) == len(weights)


def test_features_and_logits_are_those_of_our_model(
    served: SimpleNamespace, model: Any, codec_asset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vllm.model_executor.layers.attention import Attention

    monkeypatch.setattr(Attention, "forward", _causal_attention)
    ours: Any = load_pretrained(served.folder)[0]
    one, two = _pictures((40, 60), (200, 160))
    shown: list[Any] = [{"type": "image", "image": picture} for picture in (one, two)]
    clip = {"type": "video", "video": str(codec_asset)}
    for parts, data in (
        ([], {}),
        (shown, {"image": [one, two]}),
        ([shown[0], clip, shown[1]], {"image": [one, two], "video": codec_item(codec_asset)}),
    ):
        found, expected = _ask(served, parts, data)
        with torch.inference_mode():
            logits = ours(**expected).logits[0]
            features = _features(model, found)
            if parts:
                tower = ours.model.mm_projector(ours.model.vision_tower(expected["visual"]))
                assert (torch.cat(features) - tower).abs().max() <= 1e-5
            ids = torch.tensor(found["prompt_token_ids"])
            is_visual = ids == served.config.hf_config.image_token_id
            embeds = model.embed_input_ids(ids, features or None, is_multimodal=is_visual)
            states = model(ids, torch.arange(len(ids)), inputs_embeds=embeds)
            answer = model.compute_logits(states)
        assert (answer - logits).abs().max() <= 1e-4 * logits.abs().max()
        assert torch.equal(answer.argmax(-1), logits.argmax(-1))


def _features(model: Any, found: Any) -> list[torch.Tensor]:
    """Return the features of a prompt's items, batched as vLLM's worker does, in its order."""
    from vllm.multimodal.utils import group_and_batch_mm_kwargs

    places = sorted(
        (place.offset, modality, number)
        for modality, ranges in found.get("mm_placeholders", {}).items()
        for number, place in enumerate(ranges)
    )
    items = [(modality, found["mm_kwargs"][modality][number]) for _, modality, number in places]
    features: list[torch.Tensor] = []
    for _, count, fields in group_and_batch_mm_kwargs(items, device=torch.device("cpu")):
        given = model.embed_multimodal(**fields)
        assert len(given) == count
        features += given
    return features


def _url(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _png(picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture(scope="module")
def server(
    served: SimpleNamespace, codec_asset: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The address of vLLM's front end, which reads requests without a GPU."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "log"
    command = [str(Path(sys.executable).with_name("vllm")), "launch", "render"]
    command += [str(served.folder), "--host", "127.0.0.1", "--port", str(port)]
    command += ["--max-model-len", "8192", "--served-model-name", "tiny"]
    media = {"image": {"image_mode": None}, "video": {"video_backend": "llava_codec"}}
    command += ["--media-io-kwargs", json.dumps(media)]
    command += ["--allowed-local-media-path", str(codec_asset.parents[1])]
    address = f"http://127.0.0.1:{port}"
    settings = {**os.environ, "VLLM_TARGET_DEVICE": "cpu", "VLLM_NO_USAGE_STATS": "1"}
    with (
        log.open("w") as output,
        subprocess.Popen(command, stdout=output, stderr=output, env=settings) as process,
    ):
        try:
            for _ in range(180):
                assert process.poll() is None, log.read_text()
                try:
                    urllib.request.urlopen(f"{address}/health", timeout=5).close()
                    break
                except OSError:
                    time.sleep(1)
            yield address
        finally:
            process.terminate()


def test_requests_over_http_become_the_same_tokens(
    served: SimpleNamespace, server: str, codec_asset: Path
) -> None:
    from vllm.entrypoints.scale_out.token_in_token_out.mm_serde import decode_mm_kwargs_item

    frames = _pictures(*[(40, 60)] * 3)
    clear = frames[0].copy()
    clear.putalpha(frames[1].convert("L"))
    packed = codec_asset.parents[1] / "packed.safetensors"
    packed.write_bytes(pack_asset(codec_asset))
    deep = Image.fromarray(np.arange(4096, dtype=np.uint16).reshape(64, 64) * 15)
    pictures = [
        (
            {"type": "image_url", "image_url": {"url": _url("image/png", _png(picture))}},
            {"type": "image", "image": picture},
        )
        for picture in (frames[0], clear, deep)
    ]
    clip = {"type": "video", "video": str(codec_asset)}
    jpegs = ",".join(base64.b64encode(_png(frame)).decode() for frame in frames)
    sent = [
        *pictures,
        (_video(_url(MEDIA_TYPE, packed.read_bytes())), clip),
        (_video(f"file://{packed}"), clip),
        (_video(f"data:video/jpeg;base64,{jpegs}"), {"type": "video", "video": frames}),
    ]
    for part, shown in sent:
        expected = served.ours.apply_chat_template(
            [{"role": "user", "content": [shown, QUESTION]}],
            tokenize=True,
            return_dict=True,
            add_generation_prompt=True,
        )
        answer = _rendered(server, part)
        assert answer["token_ids"] == expected["input_ids"][0].tolist()
        (modality,) = answer["features"]["kwargs_data"]
        (item,) = answer["features"]["kwargs_data"][modality]
        fields = decode_mm_kwargs_item(item).get_data()
        assert torch.equal(fields[f"{modality}_patches"], expected["visual"].patches)
        assert torch.equal(fields[f"{modality}_positions"], expected["visual"].positions)
    # Any other video becomes frames, which vLLM reads.
    visual = served.ours.visual
    tokens = visual.patches_per_side**2 // visual.patches_per_token
    ids = _rendered(server, _video(f"file://{codec_asset.parents[1] / 'a.mp4'}"))["token_ids"]
    assert ids.count(served.config.hf_config.image_token_id) == 12 * tokens
    sound = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}
    for part in (
        _video(_url(MEDIA_TYPE, packed.read_bytes()[:-9])),
        _video(_url("a/b", b"x")),
        sound,
    ):
        with pytest.raises(urllib.error.HTTPError, match="400"):
            _rendered(server, part)


def _rendered(server: str, part: dict[str, Any]) -> dict[str, Any]:
    """Return what the front end makes of a question about one visual."""
    body = {"model": "tiny", "messages": [{"role": "user", "content": [part, QUESTION]}]}
    request = urllib.request.Request(
        f"{server}/v1/chat/completions/render",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as reply:
        return json.load(reply)


def _video(address: str) -> dict[str, Any]:
    return {"type": "video_url", "video_url": {"url": address}}
