"""Write an encoder as an ONNX graph for onnxruntime, for any number of tokens.

    python -m onevision_encoder.export_onnx CHECKPOINT encoder.onnx [--output_layer -2]
    python -m onevision_encoder.export_onnx --random base encoder.onnx

It needs the packages onnx and onnxscript (the extra ``onnx``); where onnxruntime is installed too,
the written file is run on several layouts and compared with the model.

The graph takes rows of tokens, float32:

- ``patches`` float32 (B, L, C * p * p), normalised, element order (channel, row, column);
- ``patch_positions`` int64 (B, L, 3), rows (t, h, w) >= 0;
- ``segments`` int64 (B, L): tokens of a row attend to those of the same number. All zeros for one
  visual a row; a number per visual where several share a row, as in ``forward_packed``; any number
  of its own, such as -1, for padding.

It gives ``features`` float32 (B, L, D), what ``forward_packed`` gives with the same
``output_layer``. With a pooling head and the last layer it also gives ``pooler_output`` (B, D), of
the first segment of each row.

Axis letters: B rows, L tokens of a row, C channels, D width, p side of a patch in pixels.
"""

import argparse
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .configuration_onevision_encoder import OneVisionEncoderConfig
from .export import SIZES
from .layers import Segments
from .modeling_onevision_encoder import OneVisionEncoderModel

TOLERANCE = 1e-4
"""Largest accepted difference of a feature, relative to 1 or the feature where that is larger."""

_OPSET = 18
_BYTES_OF_ONE_FILE = 1 << 30
"""Larger weights go into a file beside the graph; a file of the format holds at most 2 GiB."""
_LAYOUTS = (((7, 5),), ((6,), (6,), (6,)), ((4, 9, 1), (14,)))
"""Rows of segments that a written graph is compared on."""


class EncoderRows(nn.Module):
    """The encoder on rows of tokens with the segment of each token: what the graph holds."""

    def __init__(self, model: OneVisionEncoderModel, output_layer: int = -1) -> None:
        """Take a model in float32, whose attention becomes ``sdpa``.

        Raises:
            ValueError: if the model has no such layer.
        """
        super().__init__()
        self.config: Any = model.config
        blocks = model.config.num_hidden_layers
        if not -blocks - 1 <= output_layer <= -1:
            raise ValueError(
                f"output_layer must be between {-blocks - 1} and -1 ({blocks} blocks), "
                f"got {output_layer}"
            )
        model.set_attn_implementation("sdpa")
        self.model = model
        self.num_blocks = blocks + 1 + output_layer
        self.is_last = output_layer == -1
        self.has_pooled = self.is_last and model.head is not None

    def forward(
        self, patches: Tensor, patch_positions: Tensor, segments: Tensor
    ) -> tuple[Tensor, ...]:
        """Encode rows; see the module."""
        mask = (segments[:, :, None] == segments[:, None, :])[:, None]
        tokens = self.model._run_blocks(
            patches, patch_positions, Segments((), block_mask=mask), self.num_blocks
        )
        if self.is_last and self.model.layernorm_post is not None:
            tokens = self.model.layernorm_post(tokens)
        if not self.has_pooled:
            return (tokens,)
        head: Any = self.model.head
        return tokens, head(tokens, segments != segments[:, :1])


class OnnxFile(NamedTuple):
    """A written graph.

    Attributes:
        path: of the file.
        difference: largest difference from the model in onnxruntime; None where that is absent.
    """

    path: Path
    difference: float | None


def export_onnx(
    model: OneVisionEncoderModel, path: str | Path, *, output_layer: int = -1
) -> OnnxFile:
    """Write a model as an ONNX graph, and compare it with the model where onnxruntime is there.

    Args:
        model: the encoder; it is converted to float32.
        path: file to write; weights above 1 GiB go into ``<path>.data`` beside it.
        output_layer: -1 for the last hidden state, -2 for what LLaVA uses; see ``forward_packed``.

    Raises:
        ImportError: if onnx or onnxscript is missing.
        ValueError: if there is no such layer, or the written graph gives other features.
    """
    try:
        import onnxscript  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError(
            "the export needs onnx and onnxscript (pip install onnx onnxscript), and onnxruntime "
            "to compare what it wrote"
        ) from error
    rows = EncoderRows(model.float(), output_layer).eval()
    names = ["features", "pooler_output"] if rows.has_pooled else ["features"]
    free: Any = {0: torch.export.Dim("rows"), 1: torch.export.Dim("tokens")}
    config, size = rows.config, sum(weight.nbytes for weight in rows.parameters())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own parts, which users cannot change
        program = torch.onnx.export(
            rows,
            _example(config, ((3, 4), (7,))),
            input_names=["patches", "patch_positions", "segments"],
            output_names=names,
            dynamic_shapes=(free, free, free),
            opset_version=_OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    for name in ("patch_size", "num_channels", "hidden_size"):
        program.model.metadata_props[name] = str(getattr(config, name))
    program.model.metadata_props["output_layer"] = str(output_layer)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    program.save(str(path), external_data=size > _BYTES_OF_ONE_FILE)
    difference = None
    with suppress(ImportError):
        difference = largest_difference(rows, path)
    if difference is not None and not difference <= TOLERANCE:
        raise ValueError(
            f"{path} gives features that differ from the model's by {difference:.2g}, more than "
            f"{TOLERANCE:g}; another version of torch, onnxscript or onnxruntime may write it right"
        )
    return OnnxFile(Path(path), difference)


def _example(
    config: OneVisionEncoderConfig, rows: Sequence[Sequence[int]], seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Return random input of rows that hold segments of these lengths, padded by one of its own."""
    random = torch.Generator().manual_seed(seed)
    tokens = max(map(sum, rows))
    width = config.num_channels * config.patch_size**2
    patches = torch.randn(len(rows), tokens, width, generator=random)
    positions = torch.randint(0, 64, (len(rows), tokens, 3), generator=random)
    segments = torch.full((len(rows), tokens), -1)
    for number, lengths in enumerate(rows):
        ids = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
        segments[number, : len(ids)] = ids
    return patches, positions, segments


@torch.inference_mode()
def largest_difference(rows: EncoderRows, path: str | Path) -> float:
    """Run a written graph on several layouts; return the largest difference from the model.

    Differences are relative to 1, or to the feature where that is larger. Padding does not count.

    Raises:
        ImportError: if onnxruntime is missing.
    """
    import onnxruntime  # pyright: ignore[reportMissingImports]

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    largest = 0.0
    for seed, layout in enumerate(_LAYOUTS):
        inputs = _example(rows.config, layout, seed)
        is_real = inputs[2] >= 0
        names = [item.name for item in session.get_inputs()]
        arrays = {name: item.numpy() for name, item in zip(names, inputs, strict=True)}
        found = [torch.from_numpy(item) for item in session.run(None, arrays)]
        for ours, theirs in zip(rows(*inputs), found, strict=True):
            both = (ours[is_real], theirs[is_real]) if ours.ndim == 3 else (ours, theirs)
            error = (both[0] - both[1]).abs() / both[0].abs().clamp(min=1)
            largest = max(largest, float(error.max()))
    return largest


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code is 0, or 2 where nothing usable was written."""
    parser = argparse.ArgumentParser(
        prog="python -m onevision_encoder.export_onnx",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkpoint", nargs="?", help="folder with config.json and safetensors")
    parser.add_argument("out", help="file to write, such as encoder.onnx")
    parser.add_argument(
        "--random",
        choices=SIZES,
        help="write random weights of this size instead of a checkpoint's",
    )
    parser.add_argument(
        "--output_layer",
        type=int,
        default=-1,
        help="-1 for the last hidden state, -2 for what LLaVA uses (default: %(default)s)",
    )
    arguments = parser.parse_args(argv)
    if (arguments.checkpoint is None) == (arguments.random is None):
        parser.error("give either a checkpoint folder or --random SIZE")
    try:
        model = _load(arguments.checkpoint, arguments.random)
        written = export_onnx(model, arguments.out, output_layer=arguments.output_layer)
    except (ImportError, OSError, ValueError) as error:
        parser.error(str(error))
    compared = (
        "not compared with the model: onnxruntime is not installed"
        if written.difference is None
        else f"largest difference from the model in onnxruntime {written.difference:.1e}"
    )
    sys.stdout.write(f"wrote {written.path}; {compared}\n")
    return 0


def _load(checkpoint: str | None, size: str | None) -> OneVisionEncoderModel:
    if size is not None:
        return OneVisionEncoderModel(OneVisionEncoderConfig(**SIZES[size]))
    try:
        return OneVisionEncoderModel.from_pretrained(checkpoint, dtype=torch.float32)
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot load {checkpoint}: {error}") from error


if __name__ == "__main__":
    sys.exit(main())
