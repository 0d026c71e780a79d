"""What two ranks save: adapters and checkpoints, and folders that machines do not share."""

import shutil

import pytest
import torch
from safetensors.torch import load_file

from llava.model.adapters import ADAPTER_FILE
from llava.model.loading import load_pretrained
from llava.train.run.checkpoint import MARKER_FILE, UNFINISHED_FOLDER
from llava.train.run.log import read_log
from support.ranks import finish, finish_machines, launcher

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

LORA = {"lora_enable": True, "lora_r": 4, "lora_dropout": 0.0, "max_steps": 4}
SAVING = {"save_strategy": "steps", "save_steps": 2, "per_device_train_batch_size": 1}


@pytest.mark.parametrize("parts", ["mm_mlp_adapter", "mm_vision_tower,mm_mlp_adapter"])
@pytest.mark.parametrize("stage", [None, 2, 3])
def test_two_ranks_save_whole_adapters(stage, parts, train, run_arguments, tiny_material, tmp_path):
    from peft import PeftModel

    options = LORA | {"mm_tunable_parts": parts}
    assert train(tmp_path / "alone", **options, per_device_train_batch_size=2) == 0
    expected = load_file(tmp_path / "alone" / ADAPTER_FILE)
    sharding = {} if stage is None else {"deepspeed": f"scripts/zero{stage}.json"}
    arguments = run_arguments(tmp_path / "ranks", **options, **SAVING, **sharding)
    finish([*launcher(2), *arguments])
    losses = [[row["loss"] for row in read_log(tmp_path / name)] for name in ("alone", "ranks")]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
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


def test_machines_that_share_no_folder_are_refused_or_save_their_own(run_arguments, tmp_path):
    def arguments(name, **flags):
        return run_arguments(tmp_path / name, max_steps=4, **SAVING, **flags)

    refused = finish_machines([arguments("a"), arguments("b")])
    assert all(text.startswith("code 2") or "exitcode  : 2" in text for text in refused)
    assert all("is not the --output_dir of the first process" in text for text in refused)

    own = {"save_on_each_node": True, "resume_from_checkpoint": "auto"}
    both = [arguments("a", **own), arguments("b", **own)]
    assert [text[:7] for text in finish_machines(both)] == ["code 0\n"] * 2
    for name in ("a", "b"):
        assert (tmp_path / name / "checkpoint-4" / MARKER_FILE).is_file()
        assert not (tmp_path / name / UNFINISHED_FOLDER / "checkpoint-4").exists()
    whole = load_file(tmp_path / "a" / "model.safetensors")

    # One machine was killed before it published its newest checkpoint, and left a part of it.
    (tmp_path / "b" / UNFINISHED_FOLDER).mkdir(exist_ok=True)
    (tmp_path / "b" / "checkpoint-4").rename(tmp_path / "b" / UNFINISHED_FOLDER / "checkpoint-4")
    assert [text[:7] for text in finish_machines(both)] == ["code 0\n"] * 2
    again = load_file(tmp_path / "a" / "model.safetensors")
    assert all(torch.equal(again[name], whole[name]) for name in whole)
    assert not (tmp_path / "b" / UNFINISHED_FOLDER / "checkpoint-4").exists()

    # One machine has none of them: all refuse, and none waits.
    shutil.rmtree(tmp_path / "b")
    refused = finish_machines(both, seconds=120)
    assert all("no complete checkpoint is there for every process" in text for text in refused)
