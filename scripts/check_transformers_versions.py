"""Check that the encoder gives the same bits under transformers 4.57 and the installed version.

    python scripts/check_transformers_versions.py --other_venv .venv-transformers4

makes the second virtual environment where it does not exist, runs 11 input shapes under both
versions with the same weights and pixels, seven scenarios and two shapes of the large variant under
the installed one, and prints both tables; then it runs the encoder's tests under the other version.
Exit code 0 if all agree and pass, 1 if not.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from onevision_encoder import OneVisionEncoderConfig, OneVisionEncoderModel, grid_positions

ROOT = Path(__file__).resolve().parents[1]
OTHER_TRANSFORMERS = "4.57.6"
OTHER_PACKAGES = ("accelerate", "pillow", "pytest", "pytest-timeout")
VARIANTS = {"large": True, "lang": False}
"""Name of a published variant: whether it has a head."""

IMAGES = [(1, 3, 56, 56), (2, 3, 56, 56), (1, 3, 42, 98), (3, 3, 98, 28), (1, 3, 224, 224)]
VIDEOS = [(1, 3, 2, 56, 56), (1, 3, 4, 42, 98), (2, 3, 8, 28, 28)]
POSITIONED = [(1, 3, 4, 56, 56), (2, 3, 3, 28, 70)]
GATHERED = [(1, 3, 64, 28, 28)]


def inputs() -> Iterator[tuple[str, dict[str, Tensor]]]:
    """The 11 named inputs, equal under every version."""
    generator = torch.Generator().manual_seed(0)
    for shape in IMAGES + VIDEOS + POSITIONED + GATHERED:
        given = {"pixel_values": torch.randn(shape, generator=generator)}
        kind = "image" if len(shape) == 4 else "video"
        if shape in POSITIONED:
            kind = "patch_positions"
            slots = torch.arange(shape[2]) * 21
            positions = grid_positions(slots, shape[3] // 14, shape[4] // 14)
            given["patch_positions"] = positions.expand(shape[0], -1, -1)
        elif shape in GATHERED:
            kind = "visible_indices"
            given["visible_indices"] = torch.arange(0, 256, 3).unsqueeze(0)
        yield f"{kind} {'x'.join(map(str, shape))}", given


def make_checkpoint(folder: Path, use_head: bool) -> None:
    """A small random encoder with weights spread wide enough that every part matters."""
    config = OneVisionEncoderConfig(
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=56,
        use_head=use_head,
    )
    torch.manual_seed(0)
    model = OneVisionEncoderModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.1 + (parameter.ndim == 1))
    model.save_pretrained(folder)


def load(folder: Path, dtype: torch.dtype = torch.float32, **options: str) -> OneVisionEncoderModel:
    """Load in eval mode."""
    return OneVisionEncoderModel.from_pretrained(folder, dtype=dtype, **options).eval()


def features(model: OneVisionEncoderModel, given: dict[str, Tensor]) -> dict[str, Tensor]:
    """Token features, and the pooled one where there is a head."""
    with torch.no_grad():
        output = model(**given)
    tensors = {"lhs": output.last_hidden_state, "pool": output.pooler_output}
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}


def write_features(checkpoints: Path, out: Path) -> None:
    """Run all variants, dtypes and inputs under the version that is running."""
    tensors = {}
    for variant in VARIANTS:
        for dtype in (torch.float32, torch.bfloat16):
            model = load(checkpoints / variant, dtype, attn_implementation="eager")
            for name, given in inputs():
                for kind, tensor in features(model, given).items():
                    tensors[f"{variant}|{str(dtype)[6:]}|{name}|{kind}"] = tensor
    save_file(tensors, out, metadata={"transformers": transformers.__version__})


def make_venv(folder: Path) -> Path:
    """The interpreter of the second environment, which is made where it does not exist."""
    python = folder / "bin" / "python"
    if not python.exists():
        print(f"making {folder} with transformers {OTHER_TRANSFORMERS}", flush=True)
        venv.create(folder, with_pip=True)
        torch_version = torch.__version__.split("+")[0]
        pinned = [f"torch=={torch_version}", f"transformers=={OTHER_TRANSFORMERS}"]
        subprocess.run([python, "-m", "pip", "install", "-q", *pinned, *OTHER_PACKAGES], check=True)
    return python


def compare_versions(python: Path, folder: Path) -> bool:
    """Print the table of both versions; True if every tensor is bit-equal."""
    for variant, use_head in VARIANTS.items():
        make_checkpoint(folder / variant, use_head)
    write_features(folder, folder / "here.safetensors")
    subprocess.run(
        [python, __file__, "--write", str(folder), str(folder / "other.safetensors")],
        env={**os.environ, "PYTHONPATH": str(ROOT / "llava_next")},
        check=True,
    )
    here, other = load_file(folder / "here.safetensors"), load_file(folder / "other.safetensors")
    print(f"transformers {OTHER_TRANSFORMERS} against {transformers.__version__}, eager:")
    differences = {key: (here[key].double() - other[key].double()).abs().max() for key in here}
    for key, difference in differences.items():
        print(f"  {key.replace('|', '  '):60s} max difference {difference:.1e}")
    equal = here.keys() == other.keys() and all(torch.equal(here[key], other[key]) for key in here)
    print(f"  {len(here)} tensors: {'bit-identical' if equal else 'NOT identical'}")
    return equal


def _largest(model: OneVisionEncoderModel, other: OneVisionEncoderModel) -> float:
    return max(
        float((a - b.to(a.device)).abs().max())
        for _, given in inputs()
        for a, b in zip(
            features(model, given).values(),
            features(other, {k: v.to(other.device) for k, v in given.items()}).values(),
            strict=True,
        )
    )


def _gradients_flow(checkpoint: Path) -> bool:
    model = load(checkpoint).train()
    output = model(next(inputs())[1]["pixel_values"])
    (output.last_hidden_state.square().mean() + output.pooler_output.square().mean()).backward()
    return all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())


def _switches(checkpoint: Path) -> float:
    model = load(checkpoint, attn_implementation="sdpa")
    model.set_attn_implementation("eager")
    return _largest(model, load(checkpoint, attn_implementation="eager"))


def _round_trip(checkpoint: Path, folder: Path) -> float:
    load(checkpoint).save_pretrained(folder / "saved")
    return _largest(load(checkpoint), load(folder / "saved"))


def _dtypes_kept(checkpoint: Path) -> bool:
    given = next(inputs())[1]
    dtypes = (torch.float32, torch.bfloat16, torch.float16)
    return all(
        tensor.dtype is dtype
        for dtype in dtypes
        for tensor in features(load(checkpoint, dtype), given).values()
    )


def run_scenarios(folder: Path) -> bool:
    """Print the table of the seven scenarios under the installed version; True if all pass."""
    checkpoint = folder / "large"
    scenarios: dict[str, tuple[Callable[[], float | bool], float]] = {
        "eager against sdpa": (
            lambda: _largest(
                load(checkpoint, attn_implementation="eager"),
                load(checkpoint, attn_implementation="sdpa"),
            ),
            1e-4,
        ),
        "save, then load": (lambda: _round_trip(checkpoint, folder), 0.0),
        "cpu against cuda": (lambda: _largest(load(checkpoint), load(checkpoint).cuda()), 3.5e-3),
        "dtype kept": (lambda: _dtypes_kept(checkpoint), 0.0),
        "gradients flow": (lambda: _gradients_flow(checkpoint), 0.0),
        "backend switched at run time": (lambda: _switches(checkpoint), 0.0),
        "two loads": (lambda: _largest(load(checkpoint), load(checkpoint)), 0.0),
    }
    print(f"scenarios under transformers {transformers.__version__}, float32:")
    passed = True
    for name, (check, limit) in scenarios.items():
        if "cuda" in name and not torch.cuda.is_available():
            print(f"  {name:30s} not run: no CUDA device")
            continue
        result = check()
        good = result if isinstance(result, bool) else result <= limit
        figure = "" if isinstance(result, bool) else f"max difference {result:.1e}"
        print(f"  {name:30s} {'passed' if good else 'FAILED'} {figure}")
        passed = passed and good
    return passed


def has_published_shapes() -> bool:
    """Print what the large variant's width makes of an image and four frames of 448 px."""
    model = OneVisionEncoderModel(OneVisionEncoderConfig(num_hidden_layers=1)).eval()
    shapes = {(1, 3, 448, 448): (1, 1024, 1024), (1, 3, 4, 448, 448): (1, 4096, 1024)}
    passed = True
    for shape, expected in shapes.items():
        tokens = features(model, {"pixel_values": torch.randn(shape)})["lhs"]
        good = tuple(tokens.shape) == expected and bool(tokens.isfinite().all())
        name = f"large, {'x'.join(map(str, shape))}"
        print(f"  {name:30s} {'passed' if good else 'FAILED'} tokens {tuple(tokens.shape)}")
        passed = passed and good
    return passed


def run_tests(python: Path) -> bool:
    """Run the encoder's tests under the other version; True if none fails."""
    print(f"tests/onevision_encoder under transformers {OTHER_TRANSFORMERS}:", flush=True)
    command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/onevision_encoder"]
    return subprocess.run(command, cwd=ROOT).returncode == 0


def main(argv: list[str] | None = None) -> int:
    """Run the checks; returns an exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--other_venv", type=Path, default=Path(".venv-transformers4"))
    parser.add_argument("--write", nargs=2, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if options.write:
        write_features(*options.write)
        return 0
    python = make_venv(options.other_venv).absolute()
    with tempfile.TemporaryDirectory() as name:
        equal = compare_versions(python, Path(name))
        passed = run_scenarios(Path(name))
    passed = has_published_shapes() and passed
    return 0 if run_tests(python) and equal and passed else 1


if __name__ == "__main__":
    sys.exit(main())
