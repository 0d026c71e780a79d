import pytest
import torch

from llava.model.projector import PROJECTOR_TYPES, build_projector


def test_mlp2x_gelu_is_linear_gelu_linear() -> None:
    projector = build_projector("mlp2x_gelu", 6, 4)
    weights = projector.state_dict()
    assert set(weights) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    features = torch.randn(5, 6)
    hidden = features @ weights["0.weight"].T + weights["0.bias"]
    activated = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
    expected = activated @ weights["2.weight"].T + weights["2.bias"]
    torch.testing.assert_close(projector(features), expected)


def test_linear_is_one_layer() -> None:
    assert build_projector("linear", 6, 4)(torch.randn(5, 6)).shape == (5, 4)


def test_spatial_merge_joins_consecutive_rows_after_the_norm() -> None:
    projector = build_projector("spatial_merge", 6, 5)
    features = torch.randn(8, 6)
    first, _, last = projector.mlp
    for block, token in zip(features.split(4), projector(features), strict=True):
        mean, variance = block.mean(1, keepdim=True), block.var(1, unbiased=False, keepdim=True)
        row = torch.cat(list((block - mean) / (variance + 1e-6).sqrt()))
        hidden = torch.nn.functional.gelu(row @ first.weight.T + first.bias)
        torch.testing.assert_close(token, hidden @ last.weight.T + last.bias)


@pytest.mark.parametrize("name", ["mlp3x_gelu", ""])
def test_other_types_are_refused_by_name(name: str) -> None:
    known = ", ".join(PROJECTOR_TYPES)
    with pytest.raises(ValueError, match=f"must be one of {known}, got '{name}'"):
        build_projector(name, 6, 4)
