"""Saving, loading, dtypes, attention backends and outputs of the encoder."""

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel

from onevision_encoder import OneVisionEncoderConfig, OneVisionEncoderModel
from onevision_encoder import configuration_onevision_encoder as configuration
from onevision_encoder.export import SIZES
from support.tolerances import FLOAT32

IMAGE = torch.randn(2, 3, 8, 12, generator=torch.Generator().manual_seed(1))


def _set_stored(folder: Path, **values: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.fixture
def warnings() -> Iterator[list[str]]:
    """Messages that the configuration logs; the library's loggers do not reach pytest's."""
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    configuration.logger.addHandler(handler)
    configuration.logger.warning_once.cache_clear()
    yield messages
    configuration.logger.removeHandler(handler)


@pytest.mark.parametrize("use_head", [True, False])
def test_state_dict_has_the_published_keys(use_head: bool) -> None:
    with torch.device("meta"):
        model = OneVisionEncoderModel(OneVisionEncoderConfig(use_head=use_head))
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert len(shapes) == (399 if use_head else 387)
    parameters = 315_509_760 if use_head else 302_913_536
    assert sum(tensor.numel() for tensor in model.parameters()) == parameters
    assert shapes["embeddings.patch_embedding.weight"] == (1024, 3, 14, 14)
    assert shapes["encoder.layers.23.self_attn.out_proj.bias"] == (1024,)
    assert shapes["encoder.layers.0.mlp.fc1.weight"] == (4096, 1024)
    heads = {name for name in shapes if name.startswith(("head.", "layernorm_post."))}
    assert ("head.probe" in heads) is use_head
    if use_head:
        assert shapes["head.attention.in_proj_weight"] == (3072, 1024)
        assert "head.norm.bias" not in shapes


@pytest.mark.parametrize(
    ("size", "shape", "parameters"),
    [
        ("base", (768, 12, 12, 3072), 92_595_456),
        ("large", (1024, 24, 16, 4096), 315_509_760),
        ("huge", (1280, 32, 20, 5120), 650_110_720),
    ],
)
def test_published_sizes(size: str, shape: tuple[int, ...], parameters: int) -> None:
    config = OneVisionEncoderConfig(**SIZES[size])
    assert shape == (
        config.hidden_size,
        config.num_hidden_layers,
        config.num_attention_heads,
        config.intermediate_size,
    )
    with torch.device("meta"):
        model = OneVisionEncoderModel(config)
    assert sum(tensor.numel() for tensor in model.parameters()) == parameters


@pytest.mark.parametrize("options", [{}, {"low_cpu_mem_usage": True}, {"device_map": "cpu"}])
@pytest.mark.parametrize("use_head", [True, False])
def test_save_and_load_is_bit_equal(
    tiny_model: Callable, tmp_path: Path, use_head: bool, options: dict
) -> None:
    model = tiny_model(use_head=use_head)
    model.save_pretrained(tmp_path)
    assert load_file(tmp_path / "model.safetensors").keys() == model.state_dict().keys()
    assert not list(tmp_path.glob("*.bin"))
    for _ in range(2):
        loaded = AutoModel.from_pretrained(tmp_path, **options)
        assert type(loaded) is OneVisionEncoderModel
        expected = model(IMAGE, output_hidden_states=True).to_tuple()
        actual = loaded(IMAGE, output_hidden_states=True).to_tuple()
        torch.testing.assert_close(actual, expected, atol=0, rtol=0)
    assert loaded.config.to_dict() == AutoConfig.from_pretrained(tmp_path).to_dict()


def test_meta_device_then_weights(tiny_model: Callable) -> None:
    """Nothing but the weights is needed after a model was built without memory."""
    model = tiny_model()
    with torch.device("meta"):
        empty = OneVisionEncoderModel(model.config)
    empty.load_state_dict(model.state_dict(), strict=True, assign=True)
    assert not list(empty.buffers())
    actual = empty.eval()(IMAGE).last_hidden_state
    assert torch.equal(actual, model(IMAGE).last_hidden_state)


@pytest.mark.parametrize("attn_implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rope_precision", ["float32", "query"])
def test_dtype_is_kept(
    tiny_model: Callable, dtype: torch.dtype, attn_implementation: str, rope_precision: str
) -> None:
    settings = {"attn_implementation": attn_implementation, "rope_precision": rope_precision}
    model = tiny_model(**settings)
    expected = model(IMAGE)
    output = model.to(dtype)(IMAGE)
    assert output.last_hidden_state.dtype is output.pooler_output.dtype is dtype
    difference = (output.last_hidden_state.float() - expected.last_hidden_state).abs()
    assert (
        difference.mean() < {torch.float32: 1e-6, torch.float16: 0.01, torch.bfloat16: 0.06}[dtype]
    )


def test_rope_precision_matters_in_half_precision_only(tiny_model: Callable) -> None:
    exact, rounded = (tiny_model(rope_precision=p) for p in ("float32", "query"))
    assert torch.equal(exact(IMAGE).last_hidden_state, rounded(IMAGE).last_hidden_state)
    exact, rounded = exact.bfloat16(), rounded.bfloat16()
    assert not torch.equal(exact(IMAGE).last_hidden_state, rounded(IMAGE).last_hidden_state)


def test_rope_precision_follows_the_published_variants() -> None:
    assert OneVisionEncoderConfig().rope_precision == "float32"
    assert OneVisionEncoderConfig(use_head=False).rope_precision == "query"
    assert (
        OneVisionEncoderConfig(use_head=False, rope_precision="float32").to_dict()["rope_precision"]
        == "float32"
    )


@pytest.mark.usefixtures("switchable_backend")
def test_backends_agree_and_switch_at_run_time(tiny_model: Callable) -> None:
    model = tiny_model()
    assert model.config._attn_implementation == "sdpa"
    fused = model(IMAGE).last_hidden_state
    model.set_attn_implementation("eager")
    plain = model(IMAGE, output_attentions=True)
    torch.testing.assert_close(plain.last_hidden_state, fused, **FLOAT32)
    assert len(plain.attentions) == 3
    torch.testing.assert_close(plain.attentions[0].sum(-1), torch.ones(2, 2, 6))
    model.set_attn_implementation("sdpa")
    with pytest.raises(ValueError, match="output_attentions needs .*'eager', got 'sdpa'"):
        model(IMAGE, output_attentions=True)


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float32, 1e-5), (torch.float16, 0.01), (torch.bfloat16, 0.08)],
)
@pytest.mark.parametrize("rope_precision", ["float32", "query"])
@pytest.mark.usefixtures("switchable_backend")
def test_backends_agree_in_every_dtype(
    tiny_model: Callable, dtype: torch.dtype, tolerance: float, rope_precision: str
) -> None:
    model = tiny_model(rope_precision=rope_precision).to(dtype)
    fused = model(IMAGE).last_hidden_state
    model.set_attn_implementation("eager")
    torch.testing.assert_close(model(IMAGE).last_hidden_state, fused, atol=tolerance, rtol=0)


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
def test_stored_backend_that_is_missing_falls_back_with_one_warning(
    tiny_model: Callable,
    tmp_path: Path,
    warnings: list[str],
    monkeypatch: pytest.MonkeyPatch,
    key: str,
) -> None:
    monkeypatch.setitem(configuration._BACKEND_IS_INSTALLED, "flash_attention_2", lambda: False)
    tiny_model().save_pretrained(tmp_path)
    _set_stored(tmp_path, **{key: "flash_attention_2"})
    for _ in range(2):
        assert AutoModel.from_pretrained(tmp_path).config._attn_implementation == "sdpa"
    assert len(warnings) == 1
    assert "flash_attention_2" in warnings[0]


def test_stored_backend_does_not_outrank_the_argument(
    tiny_model: Callable, tmp_path: Path, warnings: list[str]
) -> None:
    tiny_model().save_pretrained(tmp_path)
    _set_stored(tmp_path, attn_implementation="flash_attention_2")
    loaded = AutoModel.from_pretrained(tmp_path, attn_implementation="eager")
    assert loaded.config._attn_implementation == "eager"
    assert not warnings


@pytest.mark.parametrize("load", [AutoModel, OneVisionEncoderModel])
def test_backend_passed_as_argument_never_falls_back(
    tiny_model: Callable, tmp_path: Path, load: type
) -> None:
    if configuration._BACKEND_IS_INSTALLED["flash_attention_2"]():
        pytest.skip("flash-attn is installed here")
    tiny_model().save_pretrained(tmp_path)
    with pytest.raises(ImportError, match="[Ff]lash"):
        load.from_pretrained(tmp_path, attn_implementation="flash_attention_2")


def test_outputs(tiny_model: Callable) -> None:
    model = tiny_model()
    output = model(IMAGE, output_hidden_states=True)
    assert len(output.hidden_states) == 4
    normed = model.layernorm_post(output.hidden_states[-1])
    assert torch.equal(output.last_hidden_state, normed)
    sequence, pooled, hidden = model(IMAGE, output_hidden_states=True, return_dict=False)
    assert torch.equal(sequence, output.last_hidden_state)
    assert torch.equal(pooled, output.pooler_output)
    assert len(hidden) == 4
    without_head = tiny_model(use_head=False)
    raw, none = without_head(IMAGE, return_dict=False)
    assert none is None
    assert torch.equal(raw, without_head(IMAGE, output_hidden_states=True).hidden_states[-1])


def test_initial_weights() -> None:
    torch.manual_seed(0)
    config = OneVisionEncoderConfig(num_hidden_layers=1, hidden_size=256, num_attention_heads=4)
    state = OneVisionEncoderModel(config).state_dict()
    for name, expected in (
        ("embeddings.patch_embedding.weight", 0.02),
        ("encoder.layers.0.mlp.fc1.weight", 0.02),
        ("head.attention.out_proj.weight", 0.02),
        ("head.probe", 1.0),
        ("head.attention.in_proj_weight", (2 / (256 + 768)) ** 0.5),
    ):
        assert state[name].std().item() == pytest.approx(expected, rel=0.1), name
    assert state["layernorm_pre.weight"].eq(1).all()
    assert state["head.norm.weight"].eq(1).all()
    assert state["encoder.layers.0.mlp.fc1.bias"].eq(0).all()


def test_all_gradients_flow(tiny_model: Callable) -> None:
    model = tiny_model().train()
    output = model(IMAGE)
    (output.last_hidden_state.square().mean() + output.pooler_output.square().mean()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_attention_dropout_in_training_only(tiny_model: Callable) -> None:
    model = tiny_model(attention_dropout=0.5)
    assert torch.equal(model(IMAGE).last_hidden_state, model(IMAGE).last_hidden_state)
    model.train()
    assert not torch.equal(model(IMAGE).last_hidden_state, model(IMAGE).last_hidden_state)
