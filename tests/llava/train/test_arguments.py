from pathlib import Path

import pytest
import torch

from llava.train.arguments import Arguments, DataArguments, LlavaTrainingArguments, parse_arguments
from llava.train.train import main

REQUIRED = ["--model_name_or_path", "m", "--data_path", "d.jsonl", "--use_cpu", "true"]


def _parse(tmp_path: Path, *flags: str) -> Arguments:
    return parse_arguments([*REQUIRED, "--output_dir", str(tmp_path), *flags])


def test_flags_reach_their_groups(tmp_path: Path) -> None:
    model_args, data_args, training_args = _parse(
        tmp_path, "--mm_projector_lr", "1e-3", "--version", "plain", "--image_folder", "pictures"
    )
    assert (model_args.version, data_args.image_folder) == ("plain", "pictures")
    assert training_args.mm_projector_lr == 1e-3
    assert training_args.weight_dtype(lora=False) is torch.float32


@pytest.mark.parametrize("flag", ["--group_by_varlen", "--max_step", "--mm_spatial_pool_stride"])
def test_unknown_flags_end_the_run_with_code_2(
    tmp_path: Path, flag: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert main([*REQUIRED, "--output_dir", str(tmp_path), flag, "1"]) == 2
    assert f"unknown arguments: {flag} 1" in caplog.text
    assert ("did you mean --max_steps? see --help" in caplog.text) == (flag == "--max_step")


def test_a_missing_required_flag_ends_the_run_with_code_2() -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--data_path", "d.jsonl"])
    assert ended.value.code == 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--mm_tunable_parts", "everything"], "--mm_tunable_parts must be"),
        (["--version", "vicuna_v1"], "--version must be one of qwen_1_5, plain"),
        (["--image_grid_pinpoints", "574x1120"], "--image_grid_pinpoints must look like"),
        (["--warmup_ratio", "3"], "--warmup_ratio must be in"),
        (["--warmup_ratio", "0.1", "--warmup_steps", "5"], "not both"),
        (["--on_bad_sample", "drop"], "--on_bad_sample must be one of stop, skip"),
        (["--max_bad_fraction", "2"], "--max_bad_fraction must be in"),
        (["--remove_unused_columns", "true"], "--remove_unused_columns must be False"),
        (["--model_name_or_path", "/nowhere"], "must be a folder or a repository"),
    ],
)
def test_impossible_values_end_the_run_with_code_2(
    tmp_path: Path, flags: list[str], message: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert main([*REQUIRED, "--output_dir", str(tmp_path), *flags]) == 2
    assert message in caplog.text


def test_an_output_folder_is_required(caplog: pytest.LogCaptureFixture) -> None:
    assert main(REQUIRED) == 2
    assert "--output_dir is required" in caplog.text


def test_a_warmup_ratio_is_a_share_of_the_steps(tmp_path: Path) -> None:
    training_args = _parse(tmp_path, "--warmup_ratio", "0.03")[2]
    assert training_args.get_warmup_steps(200) == 6


@pytest.mark.parametrize(
    "text", ["(574,1120),(1120,574)", "[(574, 1120), (1120, 574)]", "[574,1120],[1120,574]"]
)
def test_pinpoints_are_width_height_pairs(text: str) -> None:
    args = DataArguments(data_path="d", image_grid_pinpoints=text)
    assert args.pinpoints() == ((574, 1120), (1120, 574))


def test_one_pinpoint_is_a_list_of_one() -> None:
    args = DataArguments(data_path="d", image_grid_pinpoints="(574,1120)")
    assert args.pinpoints() == ((574, 1120),)


def test_bf16_weights_only_where_float32_copies_of_the_tuned_ones_exist(tmp_path: Path) -> None:
    args = LlavaTrainingArguments(output_dir=str(tmp_path), use_cpu=True, bf16=True)
    assert args.weight_dtype(lora=False) is torch.float32
    assert args.weight_dtype(lora=True) is torch.bfloat16
    args.deepspeed = "zero2.json"
    assert args.weight_dtype(lora=False) is torch.bfloat16
    args.bf16 = False
    assert args.weight_dtype(lora=True) is torch.float32


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--eval_data_path", "held_out.jsonl"), "validation needs both"),
        (("--eval_strategy", "epoch"), "validation needs both"),
        (("--eval_strategy", "steps", "--eval_data_path", "h.jsonl"), "needs --eval_steps"),
        (("--load_best_model_at_end", "True"), "--load_best_model_at_end is not supported"),
    ],
)
def test_halves_of_a_validation_are_refused(
    tmp_path: Path, flags: tuple[str, ...], message: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert main([*REQUIRED, "--output_dir", str(tmp_path), *flags]) == 2
    assert message in caplog.text


def test_the_promised_name_of_balancing_still_works(tmp_path: Path) -> None:
    assert _parse(tmp_path)[2].balance_lengths is True
    assert _parse(tmp_path, "--group_by_modality_length", "False")[2].balance_lengths is False
    assert _parse(tmp_path, "--balance_lengths", "False")[2].balance_lengths is False
