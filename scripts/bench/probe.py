"""Time the training of attentive probes: one and twenty in one pass, and one computed plainly.

    python scripts/bench/probe.py [--width 1024] [--tokens 2048] [--clips 32] [--device cpu]

Each line is a step of one batch: reading its features from a shard, forward and backward pass,
and the optimiser. ``encoder`` is the forward pass of an encoder of that width (large: 24 blocks),
which a run with streamed features pays for every batch, and one with cached features once for each
clip. It is computed from the pass of one block over four clips. Seconds of the processor on a CPU,
of the clock on a GPU. The last lines compare what runs cost, encoding included.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from encoder_training.probe.heads import HeadShape, ProbeHeads
from encoder_training.probe.optimiser import StackedAdamW
from onevision_encoder import OneVisionEncoderConfig, OneVisionEncoderModel

CLASSES = 174
ENCODED_CLIPS = 4
"""Clips that the encoder takes at once, by the default of the probe."""
EPOCHS = (10, 30)
"""Of the published recipes."""


class PlainHead(nn.Module):
    """The head with torch's attention, which projects every token to a key and a value."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.probe = nn.Parameter(torch.randn(1, 1, width))
        self.attention = nn.MultiheadAttention(width, width // 64, batch_first=True)
        self.norm, self.last_norm = nn.RMSNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        self.fc = nn.Linear(width, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits."""
        query = self.probe.expand(len(tokens), -1, -1)
        pooled, _ = self.attention(query, tokens, tokens, need_weights=False)
        pooled = pooled + self.mlp(self.norm(pooled))
        return self.fc(self.last_norm(pooled[:, 0]))


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--width", type=int, default=1024, help="width of the tokens")
    parser.add_argument("--tokens", type=int, default=2048, help="tokens of a clip")
    parser.add_argument("--clips", type=int, default=32, help="clips of a batch")
    parser.add_argument("--steps", type=int, default=3, help="timed steps; the least counts")
    parser.add_argument(
        "--layers", type=int, default=24, help="blocks of the encoder; 0: leave out"
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    options = parser.parse_args()
    device, width = torch.device(options.device), options.width
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    labels = torch.arange(options.clips, device=device) % CLASSES

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "shard.safetensors"
        save_file({"tokens": torch.randn(options.clips, options.tokens, width).to(dtype)}, path)

        def read() -> Tensor:
            with safe_open(path, framework="pt") as file:
                return file.get_slice("tokens")[:].to(device)

        def probes(count: int) -> Callable[[], None]:
            heads = ProbeHeads(HeadShape(width=width, num_classes=CLASSES), count).to(device)
            optimiser = StackedAdamW(
                heads, rates=[1e-4] * count, decays=[0.0] * count, max_grad_norm=5,
                schedule="constant", num_steps=100,
            )  # fmt: skip

            def step() -> None:
                with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                    logits = heads(read())
                F.cross_entropy(logits.flatten(0, 1), labels.repeat(count)).backward()
                optimiser.step()

            return step

        def plain() -> Callable[[], None]:
            head = PlainHead(width).to(device)
            optimiser = torch.optim.AdamW(head.parameters(), lr=1e-4)

            def step() -> None:
                with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                    loss = F.cross_entropy(head(read()), labels)
                optimiser.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(head.parameters(), 5)
                optimiser.step()

            return step

        work = {
            "one probe, plain": plain, "one probe": lambda: probes(1),
            "20 probes": lambda: probes(20),
        }  # fmt: skip
        seconds = {}
        for name, make in work.items():
            seconds[name] = _least(make(), options.steps, device)
            print(f"{name:18} {seconds[name]:8.3f} s a step", flush=True)
    encoder = 0.0
    if options.layers:
        block = _least(_block(options, device, dtype), options.steps, device)
        encoder = block * options.layers * options.clips / ENCODED_CLIPS
    _compare(seconds, encoder)
    return 0


def _compare(seconds: dict[str, float], encoder: float) -> None:
    """Print how much twenty probes cost, for the seconds of the encoder's pass; 0: unknown."""
    one, many = seconds["one probe"], seconds["20 probes"]
    for name in ("one probe, plain", "one probe"):
        print(f"20 probes / {name}, the step alone: {many / seconds[name]:.2f}")
    if not encoder:
        return
    print(f"{'encoder':18} {encoder:8.3f} s for the clips of a step, by one block of four clips")
    ratio = (encoder + many) / (encoder + one)
    print(f"20 probes / one probe, a run with streamed features: {ratio:.3f}")
    for epochs in EPOCHS:
        ratio = (encoder + epochs * many) / (encoder + epochs * one)
        print(f"20 probes / one probe, {epochs} epochs, each clip encoded once: {ratio:.3f}")


def _block(
    options: argparse.Namespace, device: torch.device, dtype: torch.dtype
) -> Callable[[], None]:
    """Return a pass of four clips through one block of an encoder with random weights."""
    width = options.width
    model = OneVisionEncoderModel(
        OneVisionEncoderConfig(
            hidden_size=width, intermediate_size=4 * width, num_attention_heads=width // 64,
            num_hidden_layers=1, use_head=False, attn_implementation="sdpa",
        )
    )  # fmt: skip
    model = model.to(device, dtype)  # pyright: ignore[reportArgumentType]
    count = ENCODED_CLIPS * options.tokens
    patches = torch.randn(count, 3 * 14 * 14, device=device, dtype=dtype)
    positions = torch.randint(0, 16, (count, 3), device=device)
    bounds = torch.arange(0, count + 1, options.tokens, dtype=torch.int32)

    @torch.no_grad()
    def step() -> None:
        model.forward_packed(patches, positions, bounds)

    return step


def _least(step: Callable[[], None], count: int, device: torch.device) -> float:
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    found = []
    for _ in range(count + 1):
        if device.type == "cuda":
            torch.cuda.synchronize()
        start = clock()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        found.append(clock() - start)
    return min(found[1:])


if __name__ == "__main__":
    sys.exit(main())
