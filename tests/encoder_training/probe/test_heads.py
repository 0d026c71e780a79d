"""The stacked heads against a plain one in float64, and their training against torch's own."""

import pytest
import torch
from torch import Tensor, nn

from encoder_training.probe.heads import HeadShape, ProbeHeads
from encoder_training.probe.optimiser import StackedAdamW

WIDTH, CLASSES = 128, 5


class PlainHead(nn.Module):
    """The published head, written as its description says."""

    def __init__(self, heads: ProbeHeads, number: int) -> None:
        super().__init__()
        width = heads.shape.width
        self.probe = nn.Parameter(torch.zeros(1, 1, width))
        self.attention = nn.MultiheadAttention(width, width // 64, batch_first=True)
        self.norm = nn.RMSNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        self.last_norm = nn.LayerNorm(width)
        self.fc = nn.Linear(width, heads.shape.num_classes)
        self.double()
        of = {name: value[number].detach() for name, value in heads.named_parameters()}
        self.load_state_dict({
            "probe": of["query"][None, None],
            "attention.in_proj_weight": torch.cat(
                [of[f"{part}_weight"] for part in ("query", "key", "value")]
            ),
            "attention.in_proj_bias": torch.cat(
                [of["query_bias"], torch.zeros(width).double(), of["value_bias"]]
            ),
            "attention.out_proj.weight": of["out_weight"],
            "attention.out_proj.bias": of["out_bias"],
            "norm.weight": of["norm_weight"],
            "mlp.0.weight": of["fc1_weight"],
            "mlp.0.bias": of["fc1_bias"],
            "mlp.2.weight": of["fc2_weight"],
            "mlp.2.bias": of["fc2_bias"],
            "last_norm.weight": of["last_norm_weight"],
            "last_norm.bias": of["last_norm_bias"],
            "fc.weight": of["class_weight"],
            "fc.bias": of["class_bias"],
        })  # fmt: skip

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        query = self.probe.expand(len(tokens), -1, -1)
        hidden = None if mask is None else ~mask
        pooled, _ = self.attention(query, tokens, tokens, key_padding_mask=hidden)
        pooled = pooled + self.mlp(self.norm(pooled))
        return self.fc(self.last_norm(pooled[:, 0]))


def _heads(num_probes: int, *, num_blocks: int = 1) -> ProbeHeads:
    shape = HeadShape(width=WIDTH, num_classes=CLASSES, num_blocks=num_blocks)
    heads = ProbeHeads(shape, num_probes).double()
    torch.manual_seed(3)
    with torch.no_grad():
        for value in heads.parameters():
            value += 0.05 * torch.randn_like(value)
    return heads


def _tokens(num_clips: int = 4) -> Tensor:
    return torch.randn(num_clips, 12, WIDTH, generator=torch.Generator().manual_seed(5)).double()


def test_heads_equal_plain_ones() -> None:
    heads, tokens = _heads(3), _tokens()
    mask = torch.ones(4, 12, dtype=torch.bool)
    mask[1, 7:] = False
    for given in (None, mask):
        logits = heads(tokens, given)
        assert logits.shape == (3, 4, CLASSES)
        for number in range(3):
            expected = PlainHead(heads, number)(tokens, given)
            torch.testing.assert_close(logits[number], expected, rtol=1e-11, atol=1e-11)


def test_training_many_equals_training_each_alone() -> None:
    rates, decays = [1e-2, 3e-3, 1e-2], [0.0, 0.1, 0.4]
    heads, tokens, labels = _heads(3), _tokens(), torch.tensor([0, 1, 4, 1])
    plain = [PlainHead(heads, number) for number in range(3)]
    optimiser = StackedAdamW(
        heads, rates=rates, decays=decays, max_grad_norm=0.5, schedule="linear", num_steps=8
    )
    for _ in range(6):
        logits = heads(tokens).flatten(0, 1)
        nn.functional.cross_entropy(logits, labels.repeat(3), reduction="sum").div(4).backward()
        optimiser.step()
    for number, head in enumerate(plain):
        rate = rates[number]
        own = torch.optim.AdamW(head.parameters(), lr=rate, weight_decay=decays[number])
        schedule = torch.optim.lr_scheduler.LinearLR(own, 1, 1e-7 / rate, total_iters=8)
        norms: list[float] = []
        for _ in range(6):
            own.zero_grad()
            nn.functional.cross_entropy(head(tokens), labels).backward()
            norms.append(float(nn.utils.clip_grad_norm_(head.parameters(), 0.5)))
            own.step()
            schedule.step()
        assert max(norms) > 0.5 > min(norms)
        # The key bias has no effect on the output: its gradient is zero here, rounding there.
        torch.testing.assert_close(heads(tokens)[number], head(tokens), rtol=1e-8, atol=1e-9)


def test_gradients_use_the_memory_of_the_step_before() -> None:
    heads, places = _heads(2), []
    optimiser = StackedAdamW(
        heads, rates=[1e-3] * 2, decays=[0.0] * 2, max_grad_norm=5, schedule="constant", num_steps=3
    )
    names = ("fc1_weight", "fc2_weight", "query_weight", "value_weight", "out_weight")
    for _ in range(3):
        heads(_tokens()).square().sum().backward()
        found = [getattr(heads, name).grad for name in names]
        places.append({value.data_ptr() for value in found if value is not None})
        optimiser.step()
    assert len(places[0]) == 5 and len(places[1] & places[2]) >= 4


def test_a_probe_that_diverges_stops_alone() -> None:
    heads, tokens = _heads(2), _tokens()
    optimiser = StackedAdamW(
        heads, rates=[1e-3, 1e-3], decays=[0.1, 0.1], max_grad_norm=5, schedule="constant",
        num_steps=2,
    )  # fmt: skip
    before = heads.query.detach().clone()
    loss = heads(tokens)[0].sum() * float("nan") + heads(tokens)[1].square().sum()
    loss.backward()
    optimiser.step()
    assert optimiser.diverged.tolist() == [True, False]
    assert torch.equal(heads.query[0], before[0]) and not torch.equal(heads.query[1], before[1])
    assert all(value.isfinite().all() for value in heads.parameters())


def test_state_continues_exactly() -> None:
    tokens, results = _tokens(), []
    for stops in (False, True):
        heads = _heads(2)

        def make(module: ProbeHeads = heads) -> StackedAdamW:
            return StackedAdamW(
                module, rates=[1e-2, 1e-3], decays=[0, 0.1], max_grad_norm=5, schedule="cosine",
                num_steps=4,
            )  # fmt: skip

        optimiser = make()
        for step in range(4):
            if stops and step == 2:
                state = {name: value.clone() for name, value in optimiser.state().items()}
                optimiser = make()
                optimiser.load_state(state)
            heads(tokens).square().sum().backward()
            optimiser.step()
        results.append(heads(tokens))
    assert torch.equal(*results)


def test_four_blocks_are_self_attention_before_the_pooling() -> None:
    heads, tokens = _heads(2, num_blocks=4), _tokens()
    mask = torch.ones(4, 12, dtype=torch.bool)
    mask[:, 9:] = False
    number, width = 1, (WIDTH,)
    state = tokens[:, :9]
    for block in heads.blocks:
        of = {name: value[number] for name, value in block.named_parameters()}
        layer = nn.TransformerEncoderLayer(
            WIDTH, WIDTH // 64, 4 * WIDTH, 0.0, "gelu", 1e-6, batch_first=True, norm_first=True
        ).double()
        layer.load_state_dict({
            "self_attn.in_proj_weight": of["qkv_weight"],
            "self_attn.in_proj_bias": of["qkv_bias"],
            "self_attn.out_proj.weight": of["out_weight"],
            "self_attn.out_proj.bias": of["out_bias"],
            "linear1.weight": of["fc1_weight"], "linear1.bias": of["fc1_bias"],
            "linear2.weight": of["fc2_weight"], "linear2.bias": of["fc2_bias"],
            "norm1.weight": of["norm1_weight"], "norm1.bias": of["norm1_bias"],
            "norm2.weight": of["norm2_weight"], "norm2.bias": of["norm2_bias"],
        })  # fmt: skip
        state = layer.train()(state)
    assert width == state.shape[2:]
    expected = PlainHead(heads, number)(state)
    torch.testing.assert_close(heads(tokens, mask)[number], expected, rtol=1e-10, atol=1e-10)


def test_shapes_that_cannot_work_are_refused() -> None:
    with pytest.raises(ValueError, match="num_classes must be at least 1, got 0"):
        HeadShape(width=64, num_classes=0)
    with pytest.raises(ValueError, match="num_probes must be at least 1"):
        ProbeHeads(HeadShape(width=64, num_classes=2), 0)
