"""The encoder against a float64 restatement of its formulas, token by token and pair by pair."""

import math
import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from onevision_encoder import OneVisionEncoderConfig
from support.tolerances import FLOAT32

Weights = dict[str, Tensor]


def _norm(x: Tensor, weights: Weights, name: str, kind: str, eps: float) -> Tensor:
    if kind == "rms_norm":
        return x / math.sqrt(float((x * x).mean()) + eps) * weights[f"{name}.weight"]
    centred = x - x.mean()
    scaled = centred / math.sqrt(float((centred * centred).mean()) + eps)
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def _linear(x: Tensor, weights: Weights, name: str) -> Tensor:
    return weights[f"{name}.weight"] @ x + weights[f"{name}.bias"]


def _mlp(x: Tensor, weights: Weights, name: str) -> Tensor:
    inner = _linear(x, weights, f"{name}.fc1")
    gelu = [v * 0.5 * (1 + math.erf(v / math.sqrt(2))) for v in inner.tolist()]
    return _linear(torch.tensor(gelu, dtype=torch.float64), weights, f"{name}.fc2")


def _angles(position: tuple[float, float, float], head_dim: int, theta: float) -> list[float]:
    half = head_dim // 2
    sizes = (half // 4, half * 3 // 8, half * 3 // 8)
    angles = [
        coordinate / theta ** (i / size)
        for coordinate, size in zip(position, sizes, strict=True)
        for i in range(size)
    ]
    return angles + angles


def _rotated(head: list[float], angles: list[float]) -> Tensor:
    out = []
    for i, value in enumerate(head):
        partner = -head[i + 1] if i % 2 == 0 else head[i - 1]
        out.append(value * math.cos(angles[i]) + partner * math.sin(angles[i]))
    return torch.tensor(out, dtype=torch.float64)


def _attend(queries: list[Tensor], keys: list[Tensor], values: list[Tensor]) -> list[Tensor]:
    out = []
    for query in queries:
        scores = [float(query @ key) / math.sqrt(len(query)) for key in keys]
        top = max(scores)
        shares = [math.exp(score - top) for score in scores]
        mixed = sum(s * v for s, v in zip(shares, values, strict=True))
        out.append(mixed / sum(shares))
    return out


def _block(
    tokens: list[Tensor],
    positions: list,
    weights: Weights,
    name: str,
    config: OneVisionEncoderConfig,
) -> list[Tensor]:
    kind, eps = config.layer_norm_type, config.layer_norm_eps
    width = config.hidden_size // config.num_attention_heads
    inputs = [_norm(x, weights, f"{name}.layer_norm1", kind, eps) for x in tokens]
    q, k, v = (
        [_linear(x, weights, f"{name}.self_attn.{part}_proj") for x in inputs] for part in "qkv"
    )
    angles = [_angles(position, width, config.rope_theta) for position in positions]
    mixed: list[list[Tensor]] = [[] for _ in tokens]
    for head in range(config.num_attention_heads):
        part = slice(head * width, (head + 1) * width)
        queries = [_rotated(x[part].tolist(), a) for x, a in zip(q, angles, strict=True)]
        keys = [_rotated(x[part].tolist(), a) for x, a in zip(k, angles, strict=True)]
        for i, row in enumerate(_attend(queries, keys, [x[part] for x in v])):
            mixed[i].append(row)
    out = []
    for x, rows in zip(tokens, mixed, strict=True):
        x = x + _linear(torch.cat(rows), weights, f"{name}.self_attn.out_proj")
        x = x + _mlp(_norm(x, weights, f"{name}.layer_norm2", kind, eps), weights, f"{name}.mlp")
        out.append(x)
    return out


def _pool(tokens: list[Tensor], weights: Weights, config: OneVisionEncoderConfig) -> Tensor:
    width = config.hidden_size
    projections = zip(
        weights["head.attention.in_proj_weight"].split(width),
        weights["head.attention.in_proj_bias"].split(width),
        strict=True,
    )
    (qw, qb), (kw, kb), (vw, vb) = projections
    query = qw @ weights["head.probe"][0, 0] + qb
    rows = []
    head_dim = width // config.num_attention_heads
    for head in range(config.num_attention_heads):
        part = slice(head * head_dim, (head + 1) * head_dim)
        keys = [(kw @ x + kb)[part] for x in tokens]
        rows += _attend([query[part]], keys, [(vw @ x + vb)[part] for x in tokens])
    pooled = _linear(torch.cat(rows), weights, "head.attention.out_proj")
    normed = _norm(pooled, weights, "head.norm", "rms_norm", config.layer_norm_eps)
    return pooled + _mlp(normed, weights, "head.mlp")


def _reference(
    pixels: Tensor, positions: list, weights: Weights, config: OneVisionEncoderConfig
) -> tuple[Tensor, Tensor]:
    """Frames (C, F, H, W) to tokens (L, D) and the pooled feature (D,)."""
    kind, eps, side = config.layer_norm_type, config.layer_norm_eps, config.patch_size
    kernel = weights["embeddings.patch_embedding.weight"]
    tokens = []
    for frame in range(pixels.shape[1]):
        for top in range(0, pixels.shape[2], side):
            for left in range(0, pixels.shape[3], side):
                patch = pixels[:, frame, top : top + side, left : left + side]
                embedded = torch.stack([(row * patch).sum() for row in kernel])
                tokens.append(_norm(embedded, weights, "layernorm_pre", kind, eps))
    for number in range(config.num_hidden_layers):
        tokens = _block(tokens, positions, weights, f"encoder.layers.{number}", config)
    tokens = [_norm(x, weights, "layernorm_post", kind, eps) for x in tokens]
    return torch.stack(tokens), _pool(tokens, weights, config)


@pytest.mark.parametrize("seed", range(4))
def test_equals_the_formulas(tiny_model: Callable, seed: int) -> None:
    rng = random.Random(seed)
    model = tiny_model(
        seed,
        hidden_size=32 * (heads := rng.choice([2, 3])),
        num_attention_heads=heads,
        num_hidden_layers=2,
        layer_norm_type=rng.choice(["layer_norm", "rms_norm"]),
        rope_theta=rng.choice([100.0, 10000.0]),
        patch_size=rng.choice([2, 3]),
        attn_implementation=rng.choice(["eager", "sdpa"]),
    ).double()
    frames, rows, columns = rng.randint(1, 3), rng.randint(1, 3), rng.randint(1, 3)
    side = model.config.patch_size
    pixels = torch.randn(1, 3, frames, rows * side, columns * side, dtype=torch.float64)
    count = frames * rows * columns
    positions = [[rng.randint(0, 99), rng.randint(0, 40), rng.random() * 9] for _ in range(count)]
    with torch.no_grad():
        output = model(pixels, patch_positions=torch.tensor([positions], dtype=torch.float64))
        tokens, pooled = _reference(pixels[0], positions, model.state_dict(), model.config)
    # Frequencies are float32 numbers in the encoder and float64 here; angles reach 99.
    torch.testing.assert_close(output.last_hidden_state[0], tokens, **FLOAT32)
    torch.testing.assert_close(output.pooler_output[0], pooled, **FLOAT32)
