"""A training step never makes the host wait for the device.

Two detectors run without one. Tensors of the device ``meta`` have no values at all, so that a model
on it shows every read of them; what it cannot show is a kernel that reads values on its own. The
dispatch mode refuses operations by name, and follows the whole trainer.
"""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from llava.constants import IGNORE_INDEX
from llava.data.collator import Batch, Collator
from llava.data.dataset import Item
from llava.model.isolation import SDPA_PER_SAMPLE
from llava.model.tiny import tiny_model, tiny_tokenizer
from llava.train.batches import to_device
from llava.train.trainer import LlavaTrainer
from llava.visual.batch import Normalisation, VisualSegment
from onevision_encoder.patches import grid_positions, uniform_slots
from support.waiting import NoWaiting, WaitingOperationError


def _item(image_token: int, grids: list[tuple[int, int]], text: int) -> Item:
    scale = Normalisation((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    segments = [
        VisualSegment(
            torch.randint(256, (h * w, 588), dtype=torch.uint8),
            grid_positions(uniform_slots(1), h, w),
            (h * w,),
            normalisation=scale,
        )
        for h, w in grids
    ]
    patches = sum(h * w for h, w in grids)
    ids = torch.cat((torch.full((patches,), image_token), torch.arange(5, 5 + text)))
    return Item(
        input_ids=ids,
        labels=ids.masked_fill(torch.arange(len(ids)) < patches + 2, IGNORE_INDEX),
        segments=segments,
        sample_id="one",
        set_index=0,
        bad_samples=[],
    )


def _batch(model: Any, *, packed: bool, visuals: bool) -> Batch:
    token = model.config.image_token_id
    grids = [[(4, 4), (2, 3)], [], [(5, 3)]] if visuals else [[], []]
    items = [_item(token, grid, 6 + number) for number, grid in enumerate(grids)]
    return Collator(0, token, packed=packed)(items)


def _step(model: Any, batch: Any, device: str) -> Tensor:
    inputs = to_device(
        {name: batch[name] for name in batch if name != "info"}, torch.device(device)
    )
    loss = model(**inputs, num_items_in_batch=7).loss
    loss.backward()
    return loss


@pytest.fixture(params=["sdpa", "varlen"])
def model(request: pytest.FixtureRequest) -> Any:
    built: Any = tiny_model(tiny_tokenizer()).train()
    built.set_attn_implementation(request.param)
    assert built.config._attn_implementation in (SDPA_PER_SAMPLE, "varlen")
    return built


@pytest.mark.parametrize("visuals", [True, False])
@pytest.mark.parametrize("packed", [True, False])
def test_a_step_reads_no_value(model: Any, packed: bool, visuals: bool) -> None:
    batch = _batch(model, packed=packed, visuals=visuals)
    with NoWaiting() as mode:
        loss = _step(model, batch, "cpu")
    assert mode.operations > 200
    assert loss.isfinite()
    tuned = [weight for weight in model.parameters() if weight.grad is not None]
    assert len(tuned) > 40

    model.to("meta").zero_grad()
    assert _step(model, batch, "meta").is_meta
    assert all(
        weight.grad is not None and weight.grad.is_meta for weight in tuned if weight.is_meta
    )


def test_checkpointed_blocks_read_no_value(model: Any) -> None:
    model.gradient_checkpointing_enable()
    batch = _batch(model, packed=True, visuals=True)
    with NoWaiting():
        _step(model, batch, "cpu")


def test_the_detector_finds_what_the_model_does_without_a_layout(model: Any) -> None:
    batch = _batch(model, packed=True, visuals=True)
    inputs = {name: batch[name] for name in batch if name not in ("info", "layout")}
    with pytest.raises(WaitingOperationError, match="layout.py"), NoWaiting():
        model(**inputs)


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x.sum().item(),
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: torch.equal(x, x),
        lambda x: x.masked_select(x > 0),
        lambda x: bool((x > 0).any()),
        lambda x: x.tolist(),
        lambda x: x.masked_scatter(x > 0, x).sum().backward(),
    ],
)
def test_the_detector_finds_every_kind_of_read(read: Callable[[Tensor], Any]) -> None:
    with pytest.raises(WaitingOperationError), NoWaiting():
        read(torch.ones(3, requires_grad=True))


_ON_THE_HOST = "torch/utils/data/"
"""Loading and collating."""
_PER_LOG_LINE = ("_maybe_log_save_evaluate", "_finalize_training")
"""Methods of the library that run once per log line, and once at the end."""


def _is_on_the_host(lines: list[str]) -> bool:
    return any(_ON_THE_HOST in line for line in lines) or any(
        line.endswith(f":{name}") for line in lines for name in _PER_LOG_LINE
    )


@pytest.fixture
def watched_trainer(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Let the library's loop run under the detector, from the first batch on."""
    counts: list[int] = []
    loop = LlavaTrainer._inner_training_loop

    def watched(*args: Any, **kwargs: Any) -> Any:
        with NoWaiting(_is_on_the_host) as mode:
            result = loop(*args, **kwargs)
        counts.append(mode.operations)
        return result

    monkeypatch.setattr(LlavaTrainer, "_inner_training_loop", watched)
    yield counts


@pytest.mark.parametrize("flags", [{}, {"pack_sequences": True, "model_max_length": 512}])
def test_the_trainer_waits_only_for_its_log_lines(
    train: Callable[..., int],
    tiny_material: Path,
    watched_trainer: list[int],
    tmp_path: Path,
    flags: dict[str, Any],
) -> None:
    shutil.copytree(tiny_material / "data", tmp_path / "data")
    flags = {"data_path": tmp_path / "data" / "train.jsonl", **flags}
    assert train(tmp_path / "run", max_steps=2, per_device_train_batch_size=2, **flags) == 0
    assert watched_trainer and watched_trainer[0] > 1000


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("packed", [True, False])
def test_a_step_on_a_device_never_waits(model: Any, packed: bool) -> None:
    model.to("cuda", torch.bfloat16)
    batch: Any = _batch(model, packed=packed, visuals=True)
    batch = {name: value.pin_memory() for name, value in batch.items() if name != "info"}
    _step(model, batch, "cuda")  # libraries load, which waits
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss = _step(model, batch, "cuda")
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert loss.isfinite()
