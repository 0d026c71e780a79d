"""Pixels, indices and positions: what they mean, how they agree, what is refused."""

from collections.abc import Callable

import pytest
import torch

from onevision_encoder import OneVisionEncoderConfig, grid_positions, index_positions, patchify
from onevision_encoder.modeling_onevision_encoder import VideoRotaryEmbeddingSplit466

IMAGE = torch.randn(2, 3, 8, 12, generator=torch.Generator().manual_seed(1))
VIDEO = torch.randn(1, 3, 4, 8, 8, generator=torch.Generator().manual_seed(2))
FULL_VIDEO = torch.randn(2, 3, 64, 8, 8, generator=torch.Generator().manual_seed(3))


def test_patches_are_frame_major_then_row_major() -> None:
    pixels = torch.arange(2 * 3 * 4 * 6).view(1, 3, 2, 4, 6)  # 2 frames of 2 x 3 patches
    patches = patchify(pixels, 2)
    assert patches.shape == (1, 12, 12)
    # Frame 1, row 1, column 2: token 1 * 6 + 1 * 3 + 2.
    assert torch.equal(patches[0, 11], pixels[0, :, 1, 2:4, 4:6].flatten())


@pytest.mark.parametrize("side", [4, 14, 16])
def test_patch_embedding_is_the_convolution(tiny_model: Callable, side: int) -> None:
    model, pixels = tiny_model(patch_size=side), torch.randn(2, 3, 2 * side, 3 * side)
    embedding = model.embeddings.patch_embedding
    expected = torch.nn.functional.conv2d(pixels, embedding.weight, stride=side)
    actual = embedding(patchify(pixels.unsqueeze(2), side))
    expected = expected.flatten(2).transpose(1, 2)
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-5)
    assert model(pixels).last_hidden_state.shape == (2, 6, 64)


def test_positions_of_indices() -> None:
    grid = grid_positions(torch.arange(3), 2, 5)
    assert grid[:6].tolist() == [[0, 0, i] for i in range(5)] + [[0, 1, 0]]
    assert torch.equal(index_positions(torch.arange(30), 2, 5), grid)


def test_rotary_row_one_is_the_inverse_frequencies() -> None:
    rope = VideoRotaryEmbeddingSplit466(OneVisionEncoderConfig())
    table = rope(2, 4, 4)
    assert table.shape == (32, 32)
    t, h = ([10000 ** (-i / n) for i in range(n)] for n in (8, 12))
    row = rope.forward_from_positions(torch.tensor([1, 1, 1]))
    torch.testing.assert_close(row, torch.tensor(t + h + h))
    assert torch.equal(table[1 * 16 + 1 * 4 + 1], row)


@pytest.mark.parametrize("pixels", [IMAGE, VIDEO], ids=["image", "video"])
def test_grid_equals_explicit_positions(tiny_model: Callable, pixels: torch.Tensor) -> None:
    model = tiny_model()
    frames = pixels.shape[2] if pixels.ndim == 5 else 1
    rows, columns = pixels.shape[-2] // 4, pixels.shape[-1] // 4
    positions = grid_positions(torch.arange(frames), rows, columns)[None]
    expected = model(pixels).last_hidden_state
    for given in (positions, positions.int(), positions.float()):
        actual = model(pixels, patch_positions=given).last_hidden_state
        assert torch.equal(actual, expected)
    indices = torch.arange(positions.shape[1])[None]
    assert torch.equal(model(pixels, indices).last_hidden_state, expected)


def test_one_row_of_indices_or_positions_serves_the_batch(tiny_model: Callable) -> None:
    model, indices = tiny_model(), torch.arange(5, 200, 7)[None]
    expected = model(FULL_VIDEO, indices.expand(2, -1)).last_hidden_state
    assert torch.equal(model(FULL_VIDEO, indices).last_hidden_state, expected)
    positions = index_positions(indices, 2, 2)
    both = model(FULL_VIDEO, indices, positions)
    assert torch.equal(both.last_hidden_state, expected)


def test_fewer_indices_select_tokens(tiny_model: Callable) -> None:
    """A selection sees nothing of the patches that it leaves out."""
    model, indices = tiny_model(), torch.tensor([[3, 250, 17], [3, 250, 17]])
    first = model(FULL_VIDEO, indices).last_hidden_state
    changed = FULL_VIDEO.clone()
    changed[:, :, 5:60] += 1.0  # frames of the indices: 0, 62, 4
    assert torch.equal(model(changed, indices).last_hidden_state, first)


def test_as_many_indices_as_patches_only_place_tokens(tiny_model: Callable) -> None:
    model, order = tiny_model(), torch.arange(15, -1, -1)[None]
    placed = model(VIDEO, order).last_hidden_state
    expected = model(VIDEO, patch_positions=index_positions(order, 2, 2)).last_hidden_state
    assert torch.equal(placed, expected)
    gathered = model(VIDEO, order, gather_visible=True).last_hidden_state
    # All tokens in another order, each at its own place: the plain result, reordered.
    torch.testing.assert_close(gathered.flip(1), model(VIDEO).last_hidden_state)


def test_a_selection_from_a_partial_clip_reads_the_patches_given(tiny_model: Callable) -> None:
    model, indices = tiny_model(), torch.tensor([[0, 5, 10]])
    picked = model(VIDEO, indices).last_hidden_state
    assert torch.equal(picked, model(VIDEO, indices, gather_visible=True).last_hidden_state)
    patches = patchify(VIDEO, 4)[0, indices[0]]
    positions = torch.tensor([[0, 0, 0], [1, 0, 1], [2, 1, 0]])
    bounds = torch.tensor([0, 3], dtype=torch.int32)
    torch.testing.assert_close(picked[0], model.forward_packed(patches, positions, bounds))
    rule = r"\[0, 16\), the patches given \(4 of the virtual grid's 64 frames\), got .* 0 to 16"
    for gather in (None, True):
        with pytest.raises(ValueError, match=rule):
            model(VIDEO, torch.tensor([[0, 5, 16]]), gather_visible=gather)
    short_grid = tiny_model(rope_temporal_size=2)
    with pytest.raises(ValueError, match=r"\[0, 8\)"):
        short_grid(VIDEO, torch.tensor([[0, 5, 8]]), gather_visible=True)


def test_more_than_64_frames(tiny_model: Callable) -> None:
    long, model = torch.randn(1, 3, 70, 4, 4), tiny_model()
    with pytest.raises(ValueError, match="at most 64 frames .*got 70; pass patch_positions"):
        model(long)
    positions = grid_positions(torch.arange(70), 1, 1)[None]
    expected = model(long, patch_positions=positions).last_hidden_state
    unlimited = tiny_model(rope_temporal_size=None)
    assert torch.equal(unlimited(long).last_hidden_state, expected)
    indices = torch.arange(70)[None]
    assert torch.equal(unlimited(long, indices).last_hidden_state, expected)


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (torch.zeros(3, 8, 8), r"4 dimensions .* got shape \(3, 8, 8\)"),
        (torch.zeros(1, 3, 1, 1, 8, 8), "4 dimensions"),
        (torch.zeros(1, 4, 8, 8), "3 channels in dimension 1, got 4"),
        (torch.zeros(1, 4, 3, 8, 8), "got 4 .*frames come after channels"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "floating and normalised, got .*uint8"),
        (torch.zeros(1, 3, 8, 10), "multiples of the patch size 4, got 8 x 10"),
        (torch.zeros(0, 3, 8, 8), "must not be empty"),
        (torch.zeros(1, 3, 0, 8, 8), "must not be empty"),
    ],
)
def test_bad_pixels(tiny_model: Callable, pixels: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=f"pixel_values.*{message}"):
        tiny_model()(pixels)


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        (torch.arange(6), r"shape \(2 or 1, L\) with L >= 1, got \(6,\)"),
        (torch.zeros(3, 6).long(), "shape"),
        (torch.zeros(2, 0).long(), "L >= 1"),
        (torch.zeros(2, 6), "int64 or int32, got torch.float32"),
        (torch.full((2, 6), 6), r"\[0, 6\), the patches of the virtual grid, got .* 6 to 6"),
        (torch.full((2, 6), -1), "got values from -1"),
        (torch.full((2, 2), 6), r"\[0, 6\), the patches given"),
    ],
)
def test_bad_indices(tiny_model: Callable, indices: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=f"visible_indices.*{message}"):
        tiny_model()(IMAGE, indices)


def test_bad_gather(tiny_model: Callable) -> None:
    with pytest.raises(ValueError, match="needs visible_indices"):
        tiny_model()(IMAGE, gather_visible=True)
    with pytest.raises(ValueError, match="one index for each of the 6 patches.*got 2"):
        tiny_model()(IMAGE, torch.tensor([[0, 1]]), gather_visible=False)


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        (torch.zeros(2, 5, 3), r"\(2, 6, 3\) or \(1, 6, 3\).*got \(2, 5, 3\)"),
        (torch.zeros(6, 3), "shape"),
        (torch.zeros(3, 6, 3), "shape"),
        (torch.zeros(2, 6, 2), "shape"),
        (torch.zeros(2, 6, 3).bool(), "integer or floating, got dtype torch.bool"),
        (torch.full((2, 6, 3), -1), "finite and >= 0, got values from -1"),
        (torch.full((2, 6, 3), float("nan")), "finite"),
        (torch.full((2, 6, 3), float("inf")), "finite"),
    ],
)
def test_bad_positions(tiny_model: Callable, positions: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=f"patch_positions.*{message}"):
        tiny_model()(IMAGE, patch_positions=positions)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden_size": 80, "num_attention_heads": 5}, "multiple of 32"),
        ({"layer_norm_type": "batch_norm"}, "layer_norm_type .*'batch_norm'"),
        ({"rope_precision": "float16"}, "rope_precision .*'float16'"),
        ({"rope_temporal_size": 0}, "rope_temporal_size"),
        ({"num_hidden_layers": 0}, "num_hidden_layers must be at least 1"),
    ],
)
def test_bad_config(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OneVisionEncoderConfig(**settings)


def test_nan_pixels_stay_in_their_sample(tiny_model: Callable) -> None:
    pixels = IMAGE.clone()
    pixels[0, 0, 0, 0] = float("nan")
    output = tiny_model()(pixels).last_hidden_state
    assert output[0].isnan().all()
    assert output[1].isfinite().all()
