"""The encoder against outputs of the published implementation: a table and stored tensors."""

import json
import math
from collections.abc import Callable

import pytest
import torch
from safetensors import safe_open

from onevision_encoder import (
    OneVisionEncoderConfig,
    OneVisionEncoderModel,
    index_positions,
    layers,
)
from support.paths import require_shared_data
from support.tolerances import FLOAT32

INPUT_NAMES = ("pixel_values", "visible_indices", "patch_positions")

# Per case: shape of the pixels, indices, then sum, sum of magnitudes and the last token's first
# four numbers of last_hidden_state, then sum and first three numbers of pooler_output.
TABLE = {
    "A": (
        (1, 3, 16, 16),
        None,
        (-4.58714, 1669.7825, -0.87281, -1.14351, -1.33176, 1.01892),
        (1.75224, -0.10449, -0.01387, 0.30392),
    ),
    "B": (
        (2, 3, 8, 24),
        None,
        (-7.26048, 2463.0885, 0.15029, 0.22025, -0.24549, 0.44888),
        (3.87389, -0.16618, -0.12724, 0.18092),
    ),
    "C": (
        (1, 3, 4, 16, 16),
        None,
        (-15.62981, 6608.6475, 0.04389, -0.53892, -0.25168, 0.42544),
        (3.09718, -0.05120, -0.01160, 0.09177),
    ),
    "D": (
        (1, 3, 4, 16, 16),
        [slot * 16 + cell for slot in (0, 21, 42, 63) for cell in range(16)],
        (-15.57719, 6608.5054, 0.04047, -0.54092, -0.26314, 0.41943),
        (3.09207, -0.05137, -0.01100, 0.09196),
    ),
    "F": (
        (1, 3, 64, 16, 16),
        list(range(0, 1021, 17)),
        (-11.52595, 5477.8874, 0.35801, 0.41874, 0.21688, -0.17568),
        (2.41561, 0.08624, -0.01705, 0.16987),
    ),
    "G": (
        (1, 3, 4, 16, 16),
        list(range(63, -1, -1)),
        (-15.56347, 6609.0705, 0.03296, -0.53605, -0.25769, 0.42412),
        (3.10398, -0.04969, -0.01059, 0.09042),
    ),
}


def _formula_model(attn_implementation: str = "eager") -> OneVisionEncoderModel:
    config = OneVisionEncoderConfig(
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=2,
        patch_size=4,
        image_size=16,
        attn_implementation=attn_implementation,
    )
    model = OneVisionEncoderModel(config).double().eval()
    parameters = sorted(model.named_parameters())
    assert len(parameters) == 47
    for number, (name, parameter) in enumerate(parameters):
        scale = 0.2 if name.endswith(("q_proj.weight", "k_proj.weight")) else 0.05
        count = torch.arange(1, parameter.numel() + 1, dtype=torch.float64)
        values = scale * torch.sin(0.37 * count + 0.011 * count**1.5 + 0.11 * number)
        values += parameter.ndim == 1 and name.endswith("weight")
        parameter.data.copy_(values.view_as(parameter))
    return model


def _formula_pixels(shape: tuple[int, ...]) -> torch.Tensor:
    n = torch.arange(math.prod(shape), dtype=torch.float64)
    return torch.cos(0.9 * n + 0.0007 * n**2 / (1 + 0.001 * n)).view(shape)


def _expect(values: torch.Tensor, printed: tuple[float, ...], rel: float = 0.0) -> None:
    # 6e-6 is the rounding of a number printed with five decimals and a little more.
    assert values.tolist() == [pytest.approx(p, abs=6e-6, rel=rel) for p in printed]


@pytest.mark.parametrize("attn_implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("case", TABLE)
def test_table(case: str, attn_implementation: str) -> None:
    shape, indices, sequence, pooled = TABLE[case]
    indices = None if indices is None else torch.tensor([indices])
    with torch.no_grad():
        output = _formula_model(attn_implementation)(_formula_pixels(shape), indices)
    tokens = output.last_hidden_state
    _expect(torch.stack([tokens.sum(), *tokens[0, -1, :4]]), (sequence[0], *sequence[2:]))
    # This column is printed with four decimals.
    assert tokens.abs().sum().item() == pytest.approx(sequence[1], abs=6e-5)
    _expect(torch.stack([output.pooler_output.sum(), *output.pooler_output[0, :3]]), pooled)


def test_table_positions_equal_indices() -> None:
    shape, indices, *_ = TABLE["D"]
    model, pixels, indices = _formula_model(), _formula_pixels(shape), torch.tensor([indices])
    with torch.no_grad():
        by_index = model(pixels, indices).last_hidden_state
        by_position = model(pixels, patch_positions=index_positions(indices, 4, 4))
    assert torch.equal(by_index, by_position.last_hidden_state)


def _half_split(tensor: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
    first, second = tensor.chunk(2, dim=-1)
    unsigned = torch.stack((-sine[..., 0::2], sine[..., 1::2]), dim=-1).flatten(-2)
    return tensor * cosine + torch.cat((-second, first), dim=-1) * unsigned


def _repeat_interleaved(
    tensor: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor
) -> torch.Tensor:
    half = cosine.shape[-1] // 2
    unsigned = torch.stack((-sine[..., 0::2], sine[..., 1::2]), dim=-1).flatten(-2)
    cosine, unsigned = (x[..., :half].repeat_interleave(2, -1) for x in (cosine, unsigned))
    partner = torch.stack((-tensor[..., 1::2], tensor[..., 0::2]), dim=-1).flatten(-2)
    return tensor * cosine + partner * unsigned


@pytest.mark.parametrize(
    ("rotation", "total", "last"),
    [(_half_split, -15.58078, 0.02643), (_repeat_interleaved, -15.61437, 0.03595)],
)
def test_wrong_rotations_give_their_own_numbers(
    monkeypatch: pytest.MonkeyPatch, rotation: Callable, total: float, last: float
) -> None:
    """The table tells the published rotary layout from both textbook ones."""
    monkeypatch.setattr(layers, "rotate", rotation)
    shape, indices, *_ = TABLE["D"]
    with torch.no_grad():
        output = _formula_model()(_formula_pixels(shape), torch.tensor([indices]))
    tokens = output.last_hidden_state
    _expect(torch.stack([tokens.sum(), tokens[0, -1, 0]]), (total, last))


@pytest.mark.parametrize("attn_implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("variant", ["lang_style_nohead", "large_style_head"])
def test_stored_tensors(variant: str, attn_implementation: str) -> None:
    path = require_shared_data("golden_encoder", f"{variant}.safetensors")
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    config = OneVisionEncoderConfig(
        **json.loads(metadata.pop("config")), attn_implementation=attn_implementation
    )
    model = OneVisionEncoderModel(config).eval()
    weights = {k.removeprefix("weights."): v for k, v in tensors.items() if k[:8] == "weights."}
    model.load_state_dict(weights, strict=True)
    assert len(metadata) == 6
    for case in metadata:
        inputs = {
            name: tensors[f"{case}.{name}"] for name in INPUT_NAMES if f"{case}.{name}" in tensors
        }
        with torch.no_grad():
            output = model(**inputs, output_hidden_states=True)
        expected = tensors[f"{case}.last_hidden_state"]
        torch.testing.assert_close(output.last_hidden_state, expected, **FLOAT32)
        expected = tensors[f"{case}.hidden_states_m2"]
        torch.testing.assert_close(output.hidden_states[-2], expected, **FLOAT32)
        if config.use_head:
            expected = tensors[f"{case}.pooler_output"]
            torch.testing.assert_close(output.pooler_output, expected, **FLOAT32)
