"""Weights of LLaVA-OneVision-2's layout, run by a forward pass written from its description."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional
from transformers import AutoModel

from encoder_training.key_map import convert, main

PUBLISHED = {"width": 1024, "heads": 16, "mlp": 4096, "patch": 16}
SMALL = {"width": 128, "heads": 2, "mlp": 256, "patch": 16}


def _published_weights(
    layers: int, *, width: int, mlp: int, patch: int, heads: int
) -> dict[str, Tensor]:
    """Random weights under the names of the published checkpoint."""
    generator = torch.Generator().manual_seed(3)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator) * 0.03

    weights = {
        "embeddings.patch_embedding.weight": draw(width, 3, patch, patch),
        "layernorm_pre.weight": 1 + draw(width),
        "layernorm_pre.bias": draw(width),
        "merger.ln_q.weight": draw(width),
    }
    for layer in range(layers):
        shapes = {
            "layer_norm1.weight": (width,), "layer_norm1.bias": (width,),
            "layer_norm2.weight": (width,), "layer_norm2.bias": (width,),
            "self_attn.qkv.weight": (3 * width, width), "self_attn.qkv.bias": (3 * width,),
            "self_attn.proj.weight": (width, width), "self_attn.proj.bias": (width,),
            "mlp.fc1.weight": (mlp, width), "mlp.fc1.bias": (mlp,),
            "mlp.fc2.weight": (width, mlp), "mlp.fc2.bias": (width,),
        }  # fmt: skip
        weights |= {f"encoder.layers.{layer}.{name}": draw(*s) for name, s in shapes.items()}
    weights = {f"model.visual.{name}": tensor for name, tensor in weights.items()}
    return weights | {"model.language_model.norm.weight": draw(8), "lm_head.weight": draw(8, 8)}


def _published_forward(
    weights: dict[str, Tensor], layers: int, heads: int, patches: Tensor, positions: Tensor
) -> Tensor:
    """The published tower up to its merger: rotary 4 : 6 : 6, neighbours rotated."""
    w = {name.removeprefix("model.visual."): tensor for name, tensor in weights.items()}
    width = w["layernorm_pre.weight"].shape[0]
    x = patches @ w["embeddings.patch_embedding.weight"].flatten(1).T
    x = functional.layer_norm(x, (width,), w["layernorm_pre.weight"], w["layernorm_pre.bias"], 1e-6)
    unit = width // heads // 32
    sizes = (4 * unit, 6 * unit, 6 * unit)
    angles = torch.cat(
        [
            torch.outer(positions[:, axis].float(), 10000.0 ** (-torch.arange(size) / size))
            for axis, size in enumerate(sizes)
        ],
        dim=1,
    )
    angles = torch.cat((angles, angles), dim=1)[:, None]

    def rotated(t: Tensor) -> Tensor:
        partner = torch.stack((-t[..., 1::2], t[..., 0::2]), dim=-1).flatten(-2)
        return t * angles.cos() + partner * angles.sin()

    for layer in range(layers):
        p = {
            name.removeprefix(f"encoder.layers.{layer}."): tensor
            for name, tensor in w.items()
            if name.startswith(f"encoder.layers.{layer}.")
        }
        y = functional.layer_norm(x, (width,), p["layer_norm1.weight"], p["layer_norm1.bias"], 1e-6)
        y = y @ p["self_attn.qkv.weight"].T + p["self_attn.qkv.bias"]
        q, k, v = y.view(len(x), 3, heads, -1).unbind(1)
        scores = torch.einsum("qnd,knd->nqk", rotated(q), rotated(k)) / (width // heads) ** 0.5
        y = torch.einsum("nqk,knd->qnd", scores.softmax(-1), v).flatten(1)
        x = x + y @ p["self_attn.proj.weight"].T + p["self_attn.proj.bias"]
        y = functional.layer_norm(x, (width,), p["layer_norm2.weight"], p["layer_norm2.bias"], 1e-6)
        y = functional.gelu(y @ p["mlp.fc1.weight"].T + p["mlp.fc1.bias"])
        x = x + y @ p["mlp.fc2.weight"].T + p["mlp.fc2.bias"]
    return x


def _inputs(patch: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    positions = torch.randint(0, 16, (12, 3), generator=generator)
    positions[:, 0] *= 4
    return torch.randn(12, 3 * patch * patch, generator=generator), positions


@pytest.mark.parametrize(
    ("sizes", "layers"),
    [(SMALL, 2), (PUBLISHED, 1), pytest.param(PUBLISHED, 24, marks=pytest.mark.slow)],
)
def test_features_equal_those_of_the_published_tower(sizes: dict[str, int], layers: int) -> None:
    weights = _published_weights(layers, **sizes)
    patches, positions = _inputs(16)
    expected = _published_forward(weights, layers, sizes["heads"], patches, positions)
    model = convert(weights, {}).eval()
    assert model.config.patch_size == 16 and model.config.num_hidden_layers == layers
    assert model.config.rope_precision == "float32" and not model.config.use_head
    bounds = torch.tensor([0, 12], dtype=torch.int32)
    with torch.no_grad():
        found = model.forward_packed(patches, positions, bounds)
    assert float((found - expected).abs().max() / expected.abs().max()) < 2e-6


def test_every_weight_arrives_bit_for_bit() -> None:
    weights = _published_weights(2, **SMALL)
    found = convert(weights, {"num_attention_heads": 4}).state_dict()
    own = {n.removeprefix("model.visual."): t for n, t in weights.items() if ".visual." in n}
    for layer in range(2):
        start = f"encoder.layers.{layer}.self_attn"
        for kind in ("weight", "bias"):
            parts = [found.pop(f"{start}.{letter}_proj.{kind}") for letter in "qkv"]
            assert torch.equal(torch.cat(parts), own.pop(f"{start}.qkv.{kind}"))
            assert torch.equal(
                found.pop(f"{start}.out_proj.{kind}"), own.pop(f"{start}.proj.{kind}")
            )
    own.pop("merger.ln_q.weight")
    assert found.keys() == own.keys()
    assert all(torch.equal(found[name], own[name]) for name in own)


def test_the_command_writes_a_folder_for_the_hub(tmp_path: Path) -> None:
    weights = _published_weights(1, **SMALL)
    flat = "model.visual.embeddings.patch_embedding.weight"
    weights[flat] = weights[flat].flatten(1)
    source = tmp_path / "source"
    source.mkdir()
    names = sorted(weights)
    for number in (0, 1):
        part = {name: weights[name].contiguous() for name in names[number::2]}
        save_file(part, source / f"model-{number}.safetensors")
    config = {"vision_config": {"rope_theta": 8e6, "num_attention_heads": 2}}
    (source / "config.json").write_text(json.dumps(config), encoding="utf-8")
    out = tmp_path / "out"
    assert main([str(source), str(out), "--add_head", "--dtype", "float32"]) == 0
    model = AutoModel.from_pretrained(out)
    assert model.config.rope_theta == 8e6 and model.config.use_head
    assert torch.equal(model.embeddings.patch_embedding.weight.flatten(1), weights[flat])


def test_what_is_missing_or_unknown_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    weights = _published_weights(1, **SMALL)
    with pytest.raises(ValueError, match="one weight named .*patch_embedding.weight, got none"):
        convert({"lm_head.weight": torch.zeros(1)}, {})
    spare = weights | {"model.visual.encoder.extra.weight": torch.zeros(1)}
    with pytest.raises(ValueError, match="unexpected: .'encoder.extra.weight'"):
        convert(spare, {})
    del weights["model.visual.encoder.layers.0.self_attn.proj.bias"]
    with pytest.raises(ValueError, match="missing: .'encoder.layers.0.self_attn.out_proj.bias'"):
        convert(weights, {})
    with pytest.raises(SystemExit) as ended:
        main([str(tmp_path), str(tmp_path / "out")])
    assert ended.value.code == 2 and "must hold *.safetensors" in capsys.readouterr().err
