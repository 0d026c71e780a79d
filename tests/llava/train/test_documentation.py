"""The commands of docs/training.md are ones that scripts and programs understand."""

import os
import re
import shlex
import subprocess

from llava.data.validate import _parser
from llava.train.arguments import parse_arguments
from support.paths import ROOT

TEXT = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")


def _chain() -> list[str]:
    block = re.search(r"```bash\n(.*?)```", TEXT, re.DOTALL)
    assert block is not None
    joined = block[1].replace("\\\n", " ")
    return [line for line in joined.splitlines() if line and not line.startswith("#")]


def _dry_run(command: str) -> dict[str, str]:
    environment = {"PATH": os.environ["PATH"], "DRY_RUN": "1"}
    result = subprocess.run(
        ["bash", "-c", command],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    words = shlex.split(result.stdout)
    words = words[words.index("llava.train.train") + 1 :]
    return dict(zip(words[::2], words[1::2], strict=True))


def test_the_chain_hands_the_projector_on_and_has_the_published_settings() -> None:
    first, _, second = map(str, _chain())
    one, two = _dry_run(first), _dry_run(second)
    assert two["--pretrain_mm_mlp_adapter"] == f"{one['--output_dir']}/mm_projector.safetensors"
    # Without a GPU these two cannot even be parsed.
    for flags in (one, two):
        for name in ("--deepspeed", "--bf16", "--tf32"):
            flags.pop(name)
        words = [word for pair in flags.items() for word in pair]
        model_args, _, training_args = parse_arguments([*words, "--use_cpu", "true"])
        expected = training_args.per_device_train_batch_size, training_args.learning_rate
        assert expected == ((16, 1e-3) if model_args.version == "plain" else (1, 1e-5))
    table = {
        "learning rate | 1e-3 | 1e-5, encoder 2e-6": one["--learning_rate"] == "1e-3"
        and (two["--learning_rate"], two["--mm_vision_tower_lr"]) == ("1e-5", "2e-6"),
        "16 x 2 x 8 = 256 | 1 x 16 x 8 = 128": one["--gradient_accumulation_steps"] == "2"
        and two["--gradient_accumulation_steps"] == "16",
        "cosine, 3 % | linear, none": one["--warmup_ratio"] == "0.03"
        and (one["--lr_scheduler_type"], two["--lr_scheduler_type"]) == ("cosine", "linear"),
        "8192 tokens | 32768 tokens": one["--model_max_length"] == "8192"
        and two["--model_max_length"] == "32768",
    }
    assert all(line in TEXT and holds for line, holds in table.items())


def test_the_validator_understands_its_command_with_the_canvases_of_the_second_stage() -> None:
    _, command, second = _chain()
    words = shlex.split(command)
    args = _parser().parse_args(words[words.index("llava.data.validate") + 1 :])
    assert args.image_grid_pinpoints == _dry_run(second)["--image_grid_pinpoints"]
    assert (args.num_gpus, args.gradient_accumulation_steps) == (8, 16)


def test_every_variable_of_the_page_is_one_of_the_scripts() -> None:
    scripts = "".join(
        (ROOT / "scripts" / name).read_text()
        for name in (
            "sft_ov_encoder.sh",
            "pretrain_ov_encoder.sh",
            "shared_flags.sh",
            "training.sh",
        )
    )
    named = set(re.findall(r"`([A-Z][A-Z_]{3,})\b", TEXT))
    trackers = ("WANDB_", "MLFLOW_", "SWANLAB_")  # read their own
    assert named
    assert not [name for name in named if name not in scripts and not name.startswith(trackers)]
