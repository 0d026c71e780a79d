"""What two ranks save: adapters and checkpoints, and folders that machines do not share."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from llava.model.adapters import ADAPTER_FILE
from llava.model.loading import load_pretrained
from run_kit.checkpoints import MARKER_FILE, UNFINISHED_FOLDER
from run_kit.log import read_log
from support.ranks import finish, finish_machines, launcher
from support.tolerances import SAME_LOSS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

LORA = {"lora_enable": True, "lora_r": 4, "lora_dropout": 0.0, "max_steps": 4}
SAVING = {"save_strategy": "steps", "save_steps": 2, "per_device_train_batch_size": 1}


@pytest.mark.parametrize("parts", ["mm_mlp_adapter", "mm_vision_tower,mm_mlp_adapter"])
@pytest.mark.parametrize("stage", [None, 2, 3, "fsdp"])
def test_two_ranks_save_whole_adapters(
    stage: int | str | None,
    parts: str,
    train: Callable[..., int],
    run_arguments: Callable[..., list[str]],
    tiny_material: Path,
    tmp_path: Path,
) -> None:
    from peft import PeftModel

    options = LORA | {"mm_tunable_parts": parts}
    assert train(tmp_path / "alone", **options, per_device_train_batch_size=2) == 0
    expected = load_file(tmp_path / "alone" / ADAPTER_FILE)
    sharding = {} if stage is None else {"deepspeed": f"scripts/zero{stage}.json"}
    sharding = {"fsdp": True} if stage == "fsdp" else sharding
    arguments = run_arguments(tmp_path / "ranks", **options, **SAVING, **sharding)
    finish([*launcher(2), *arguments])
    losses = [[row["loss"] for row in read_log(tmp_path / name)] for name in ("alone", "ranks")]
    assert losses[1] == pytest.approx(losses[0], rel=SAME_LOSS)
    for folder in (tmp_path / "ranks", tmp_path / "ranks" / "checkpoint-4"):
        saved = load_file(folder / ADAPTER_FILE)
        assert saved.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(saved[name], value, atol=2e-3, rtol=1e-2)
        load_pretrained(folder)
        base, _ = load_pretrained(tiny_material / "model")
        theirs = PeftModel.from_pretrained(base, folder).state_dict()
        ours = load_pretrained(folder)[0].state_dict()
        for name, value in ours.items():
            key = "base_model.model." + name
            for module in ("model.mm_projector", "model.vision_tower"):
                inner = f"base_model.model.{module}.modules_to_save.default"
                if f"{inner}.{name.removeprefix(module + '.')}" in theirs:
                    key = f"{inner}.{name.removeprefix(module + '.')}"
            assert torch.equal(theirs[key], value), name

    final = load_file(tmp_path / "ranks" / ADAPTER_FILE)
    (tmp_path / "ranks" / "checkpoint-4" / MARKER_FILE).unlink()
    finish([*launcher(2), *arguments, "--resume_from_checkpoint", "auto"])
    again = load_file(tmp_path / "ranks" / ADAPTER_FILE)
    assert all(torch.equal(again[name], value) for name, value in final.items())


def test_machines_that_share_no_folder_never_wait_for_each_other(
    run_arguments: Callable[..., list[str]], tmp_path: Path
) -> None:
    def arguments(*names: str, **flags: Any) -> list[list[str]]:
        return [run_arguments(tmp_path / name, max_steps=4, **SAVING, **flags) for name in names]

    refused = finish_machines(arguments("a", "b"))
    assert all("exitcode  : 2" in text for text in refused)
    assert all("is not the --output_dir of the first process" in text for text in refused)
    assert not (tmp_path / "b").exists() and not list((tmp_path / "a").iterdir())

    shared = finish_machines(arguments("a", "a"))
    assert [text[:7] for text in shared] == ["code 0\n"] * 2
    whole = load_file(tmp_path / "a" / "model.safetensors")

    # The second machine has none of the checkpoints.
    flags = {"resume_from_checkpoint": "auto", "save_only_model": True}
    refused = finish_machines(arguments("a", "b", **flags), seconds=120)
    assert all("exitcode  : 2" in text for text in refused)
    assert all("no complete checkpoint is there for every process" in text for text in refused)

    # It has the older one, and part of the newer one.
    shutil.copytree(tmp_path / "a" / "checkpoint-2", tmp_path / "b" / "checkpoint-2")
    (tmp_path / "b" / UNFINISHED_FOLDER / "checkpoint-4").mkdir(parents=True)
    resumed = finish_machines(arguments("a", "b", **flags))
    assert [text[:7] for text in resumed] == ["code 0\n"] * 2
    assert all("/checkpoint-2\n" in text for text in resumed)
    assert not (tmp_path / "b" / UNFINISHED_FOLDER).exists()
    again = load_file(tmp_path / "a" / "model.safetensors")
    assert all(torch.equal(again[name], value) for name, value in whole.items())
