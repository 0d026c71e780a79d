"""Check that the encoder gives the same bits under other versions of transformers.

    python scripts/check_transformers_versions.py [--versions 4.53.1 4.57.6 5.7.0 5.24.0]

installs each version into a folder of its own, runs 11 input shapes under it and under the version
of this environment with the same weights and pixels, and runs the encoder's tests under it; then it
runs seven scenarios and two shapes of the large variant. Exit code 0 if all agree, else 1.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from onevision_encoder import OneVisionEncoderConfig, OneVisionEncoderModel, grid_positions

ROOT = Path(__file__).resolve().parents[1]
VERSIONS = ["4.53.1", "4.57.6", "5.7.0", "5.24.0"]
VARIANTS = {"large": True, "lang": False}
"""Name of a published variant: whether it has a head."""

IMAGES = [(1, 3, 56, 56), (2, 3, 56, 56), (1, 3, 42, 98), (3, 3, 98, 28), (1, 3, 224, 224)]
VIDEOS = [(1, 3, 2, 56, 56), (1, 3, 4, 42, 98), (2, 3, 8, 28, 28)]
POSITIONED = [(1, 3, 4, 56, 56), (2, 3, 3, 28, 70)]
GATHERED = [(1, 3, 64, 28, 28)]


def inputs() -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield the 11 named inputs, equal under every version."""
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
    """Write a small random encoder with weights spread wide enough that every part matters."""
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


def install(version: str, folder: Path) -> dict[str, str]:
    """Install a version of transformers with its dependencies into a folder of its own.

    Returns:
        The environment in which this interpreter takes the libraries from there first.
    """
    target = folder / version
    if not (target / "transformers").is_dir():
        print(f"installing transformers {version} into {target}", flush=True)
        command = [sys.executable, "-m", "pip", "install", "-q", "--target", str(target)]
        subprocess.run([*command, f"transformers=={version}"], check=True)
    path = os.pathsep.join([str(target.absolute()), str(ROOT / "llava_next")])
    return {**os.environ, "PYTHONPATH": path}


def compare_versions(version: str, environment: dict[str, str], folder: Path) -> bool:
    """Print how features of another version differ; True if every tensor is bit-equal."""
    out = folder / f"{version}.safetensors"
    command = [sys.executable, __file__, "--write", str(folder), str(out)]
    subprocess.run(command, env=environment, check=True)
    here, other = load_file(folder / "here.safetensors"), load_file(out)
    differing = [key for key in here if not torch.equal(here[key], other[key])]
    for key in differing:
        difference = (here[key].double() - other[key].double()).abs().max()
        print(f"  {key.replace('|', '  '):60s} max difference {difference:.1e}")
    equal = here.keys() == other.keys() and not differing
    verdict = "bit-identical" if equal else "NOT identical"
    print(
        f"transformers {version} against {transformers.__version__}, eager: {len(here)} tensors "
        f"{verdict}",
        flush=True,
    )
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


def run_tests(version: str, environment: dict[str, str]) -> bool:
    """Run the encoder's tests under another version; True if none fails."""
    print(f"tests/onevision_encoder under transformers {version}:", flush=True)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    return (
        subprocess.run([*command, "tests/onevision_encoder"], cwd=ROOT, env=environment).returncode
        == 0
    )


def main(argv: list[str] | None = None) -> int:
    """Run the checks and return an exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--versions", nargs="+", default=VERSIONS, help="versions of transformers")
    parser.add_argument(
        "--libraries",
        type=Path,
        default=Path(".transformers"),
        help="folder to install the versions into",
    )
    parser.add_argument("--write", nargs=2, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if options.write:
        write_features(*options.write)
        return 0
    passed = True
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for variant, use_head in VARIANTS.items():
            make_checkpoint(folder / variant, use_head)
        write_features(folder, folder / "here.safetensors")
        for version in options.versions:
            environment = install(version, options.libraries)
            passed = compare_versions(version, environment, folder) and passed
            passed = run_tests(version, environment) and passed
        passed = run_scenarios(folder) and passed
    return 0 if has_published_shapes() and passed else 1


if __name__ == "__main__":
    sys.exit(main())
