"""The graph for onnxruntime: what goes into it, and that it gives the model's features."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from onevision_encoder import OneVisionEncoderModel
from onevision_encoder import export_onnx as export_module
from onevision_encoder.export_onnx import EncoderRows, export_onnx, main

pytestmark = pytest.mark.usefixtures("switchable_backend")

LAYOUTS = ([[1]], [[5]], [[3, 4, 2]], [[40], [40]], [[7, 5], [3], [2, 9]])
"""Rows of segments: token counts that the export did not see, alone, packed, batched, padded."""


def _rows(lengths: list[list[int]]) -> tuple[Tensor, Tensor, Tensor]:
    size = (len(lengths), max(map(sum, lengths)))
    segments = torch.full(size, -1)
    for row, parts in enumerate(lengths):
        for number, end in enumerate(np.cumsum(parts)):
            segments[row, end - parts[number] : end] = number
    return torch.randn(*size, 3 * 4 * 4), torch.randint(0, 64, (*size, 3)), segments


def _packed(
    model: OneVisionEncoderModel, rows: tuple[Tensor, Tensor, Tensor], layer: int
) -> Tensor:
    """Features of all real tokens by the packed entry, row after row."""
    patches, positions, segments = rows
    is_real = segments >= 0
    ids = (
        segments[is_real] + 1000 * torch.arange(len(segments))[:, None].expand_as(is_real)[is_real]
    )
    lengths = ids.unique_consecutive(return_counts=True)[1]
    bounds = torch.cat((torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)))
    with torch.inference_mode():
        return model.forward_packed(
            patches[is_real], positions[is_real], bounds.to(torch.int32), output_layer=layer
        )


@pytest.mark.parametrize("layer", [-1, -2])
def test_rows_of_segments_equal_the_packed_entry(tiny_model: Callable, layer: int) -> None:
    model = tiny_model()
    wrapped = EncoderRows(model, layer).eval()
    for lengths in LAYOUTS:
        rows = _rows(lengths)
        with torch.inference_mode():
            found = wrapped(*rows)
        assert len(found) == (2 if layer == -1 else 1)
        expected = _packed(model, rows, layer)
        assert torch.allclose(found[0][rows[2] >= 0], expected, atol=1e-5)


def test_the_pooled_feature_is_of_the_first_segment(tiny_model: Callable) -> None:
    model = tiny_model()
    patches, positions, segments = _rows([[4, 3], [6]])
    with torch.inference_mode():
        pooled = EncoderRows(model).eval()(patches, positions, segments)[1]
        for row, length in enumerate((4, 6)):
            pixels = patches[row, :length].unflatten(1, (3, 4, 4)).unsqueeze(0).transpose(1, 2)
            image = pixels.transpose(2, 3).reshape(1, 3, 4, 4 * length)
            alone = model(image, patch_positions=positions[row, None, :length]).pooler_output[0]
            assert torch.allclose(pooled[row], alone, atol=1e-5)


def test_what_cannot_be_written_is_named(
    tiny_model: Callable,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(ValueError, match=r"output_layer must be between -4 and -1 \(3 blocks\)"):
        EncoderRows(tiny_model(), -5)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ImportError, match="pip install onnx onnxscript"):
        export_onnx(tiny_model(), tmp_path / "a.onnx")
    with pytest.raises(SystemExit) as ended:
        main([str(tmp_path), str(tmp_path / "a.onnx")])
    assert ended.value.code == 2
    assert f"cannot load {tmp_path}: " in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("settings", "layer"),
    [({}, -1), ({"use_head": False, "layer_norm_type": "rms_norm"}, -2)],
    ids=["large", "lang"],
)
def test_onnxruntime_gives_the_features_of_the_model(
    tiny_model: Callable,
    tmp_path: Path,
    settings: dict[str, object],
    layer: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Sizes, norms and heads of both published variants, at token counts the export never saw."""
    runtime = pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    pytest.importorskip("onnxscript", reason="needs the extra onnx")
    model = tiny_model(**settings)
    model.save_pretrained(tmp_path / "encoder")
    path = tmp_path / "out" / "encoder.onnx"
    if layer == -2:  # weights beside the graph, as for large models
        monkeypatch.setattr(export_module, "_BYTES_OF_ONE_FILE", 0)
    assert main([str(tmp_path / "encoder"), str(path), "--output_layer", str(layer)]) == 0
    assert path.with_name("encoder.onnx.data").exists() == (layer == -2)
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert session.get_modelmeta().custom_metadata_map["output_layer"] == str(layer)
    names = [item.name for item in session.get_inputs()]
    assert names == ["patches", "patch_positions", "segments"]
    for lengths in (*LAYOUTS, [[300]], [[200, 100], [299]]):
        rows = _rows(lengths)
        found = session.run(
            None, {name: item.numpy() for name, item in zip(names, rows, strict=True)}
        )
        expected = _packed(model, rows, layer)
        error = np.abs(found[0][rows[2].numpy() >= 0] - expected.numpy()).max()
        assert error < 1e-4 * max(1, float(expected.abs().max())), (lengths, error)
