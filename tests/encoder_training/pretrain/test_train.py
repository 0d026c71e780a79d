"""Runs of the command in this process and on ranks, on made data of a few samples."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoImageProcessor, AutoModel

from encoder_training.pretrain import train as train_module
from encoder_training.pretrain.settings import Settings
from encoder_training.pretrain.train import DivergedRun, Pretraining, main
from run_kit.files import read_json_lines
from run_kit.log import read_log
from support.pretrain_heads import full_softmax
from support.pretrain_runs import (
    IMAGE_CENTRES,
    assert_equal_checkpoints,
    encoder_weights,
    flags,
    largest_difference,
    moments,
    tiny_settings,
    with_videos,
)


@pytest.fixture(scope="module")
def finished(sets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on images and videos."""
    folder = tmp_path_factory.mktemp("run")
    settings = tiny_settings(sets, folder, **with_videos(sets), ema_decay=0.5, embedding_steps=2)
    assert main(flags(settings | {"embedding_samples": 5})) == 0
    return folder


def test_a_resumed_run_is_bit_equal(finished: Path, sets: Path, tmp_path: Path) -> None:
    resumed = tmp_path / "run"
    shutil.copytree(finished / "checkpoint-2", resumed / "checkpoint-2")
    settings = tiny_settings(sets, resumed, **with_videos(sets), ema_decay=0.5)
    assert main(flags(settings | {"resume_from_checkpoint": "auto"})) == 0
    assert_equal_checkpoints(finished, resumed, 4)
    assert [row["step"] for row in read_log(resumed)] == [3, 4]
    assert [row["loss"] for row in read_log(resumed)] == [
        row["loss"] for row in read_log(finished)[2:]
    ]


def test_the_finished_encoder_loads_with_its_processor_and_card(finished: Path) -> None:
    final = finished / "final"
    model = AutoModel.from_pretrained(final)
    processor = AutoImageProcessor.from_pretrained(final)
    assert processor.crop_size["height"] == 32
    assert model(torch.zeros(1, 3, 32, 32)).pooler_output.shape == (1, 128)
    weights = encoder_weights(finished, 4)
    assert all(torch.equal(weights[k], v) for k, v in model.state_dict().items())
    card = (final / "README.md").read_text(encoding="utf-8")
    assert "| image | 20 | 21 | 3 | `made-0` |" in card and "4 steps" in card
    average = load_file(finished / "final_average" / "model.safetensors")
    assert any(not torch.equal(average[key], weights[key]) for key in weights)


def test_a_next_stage_starts_from_weights_and_centres_alone(
    finished: Path, sets: Path, tmp_path: Path
) -> None:
    start = {"init": str(finished / "final"), "init_centres": str(finished / "checkpoint-4")}
    settings = tiny_settings(sets, tmp_path / "run", **start)
    state = Pretraining(Settings(**settings), torch.device("cpu")).state
    weights = encoder_weights(finished, 4)
    assert all(torch.equal(weights[k], v) for k, v in state.encoder.state_dict().items())
    (shard,) = (finished / "checkpoint-4").glob("centres_image_*")
    assert torch.equal(state.heads["image"].centres, load_file(shard)["centres"])
    assert state.step == 0 and not state.optimizer.state

    shutil.copytree(sets, tmp_path / "sets")
    described = tmp_path / "sets" / "images" / "set.json"
    text = described.read_text().replace(f'"num_centres": {IMAGE_CENTRES}', '"num_centres": 30')
    described.write_text(text)
    settings = tiny_settings(tmp_path / "sets", tmp_path / "run", **start)
    with pytest.raises(ValueError, match="must have the 30 centres of the data's bank, got 21"):
        Pretraining(Settings(**settings), torch.device("cpu"))


def test_the_log_and_the_embeddings_of_a_run(finished: Path) -> None:
    import numpy as np

    rows = read_log(finished)
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert rows[0]["loss"] == pytest.approx(rows[0]["loss_image"] + rows[0]["loss_video"])
    assert all(row["samples"] == 6 and row["samples_per_second"] > 0 for row in rows)
    config = json.loads((finished / "run_config.json").read_text(encoding="utf-8"))
    assert config["settings"]["margin"] == 0.3 and config["num_ranks"] == 1
    steps = sorted(path.stem for path in (finished / "embeddings").iterdir())
    assert steps == ["step-0", "step-2", "step-4"]
    with np.load(finished / "embeddings" / "step-4.npz") as arrays:
        assert arrays["features"].shape == (10, 128)
        assert arrays["kinds"].tolist() == ["image"] * 5 + ["video"] * 5


def test_other_data_or_settings_are_refused_when_a_run_resumes(
    finished: Path, sets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = tiny_settings(sets, finished, **with_videos(sets), ema_decay=0.5, margin=0.4)
    with pytest.raises(SystemExit) as ended:
        main(flags(settings | {"resume_from_checkpoint": "auto"}))
    assert ended.value.code == 2
    assert "--margin: 0.3 before, 0.4 now" in capsys.readouterr().err


def test_accumulated_micro_batches_are_one_step(sets: Path, tmp_path: Path) -> None:
    same = {"labels_per_step": 3, "sample_rate": 1.0, "max_steps": 1}
    whole = tiny_settings(sets, tmp_path / "whole", **same)
    parts = tiny_settings(sets, tmp_path / "parts", **same, image_batch=2, accumulation_steps=2)
    assert main(flags(whole)) == main(flags(parts)) == 0
    found = [moments(tmp_path / name, 1) for name in ("whole", "parts")]
    assert largest_difference(*found) < 1e-4


def test_a_sample_that_is_not_finite_stops_the_run_by_its_name(
    sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Pretraining(Settings(**tiny_settings(sets, tmp_path)), torch.device("cpu"))
    run.start_data()
    batch = next(run._batches["image"])
    normalise = train_module.normalise

    def spoilt(patches: torch.Tensor, patch_size: int) -> torch.Tensor:
        pixels = normalise(patches, patch_size)
        pixels[int(batch.cu_seqlens[2])] = float("nan")
        return pixels

    monkeypatch.setattr(train_module, "normalise", spoilt)
    before = run.state.encoder.embeddings.patch_embedding.weight.clone()
    with pytest.raises(DivergedRun, match=rf"step 1 .* NaN or infinite: image {batch.keys[2]}\. "):
        run._micro_step([batch], 0, True)
    assert torch.equal(run.state.encoder.embeddings.patch_embedding.weight, before)


def test_a_run_whose_samples_are_all_skipped_ends_with_code_1(
    sets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(sets, tmp_path / "sets")
    described = tmp_path / "sets" / "images" / "set.json"
    text = described.read_text().replace(f'"num_centres": {IMAGE_CENTRES}', '"num_centres": 1')
    described.write_text(text)
    settings = tiny_settings(tmp_path / "sets", tmp_path / "run", on_bad_sample="skip")
    with pytest.raises(SystemExit) as ended:
        main(flags(settings | {"embedding_steps": 2}))
    assert ended.value.code == 1
    assert "step 1 must have a sample that can be used" in (error := capsys.readouterr().err)
    assert "{'label outside the bank': 4}" in error


@pytest.mark.parametrize(
    ("kind", "numbers"),
    [
        ("cosface", {"margin": 0.5, "scale": 30.0, "filter_above": 0.02}),
        ("arcface", {"margin": 0.4, "scale": 64.0, "filter_above": 0.75}),
    ],
)
def test_a_run_uses_the_margin_scale_and_filter_that_are_set(
    kind: str, numbers: dict[str, float], sets: Path, tmp_path: Path
) -> None:
    changes = {"margin_kind": kind, "sample_rate": 1.0, "labels_per_step": 3, **numbers}
    run = Pretraining(Settings(**tiny_settings(sets, tmp_path, **changes)), torch.device("cpu"))
    run.start_data()
    batch = next(run._batches["image"])
    features, centres = run.embed(batch).double(), run.state.heads["image"].centres.double()
    losses, _ = run._micro_step([batch], 0, True)
    expected = full_softmax(features, batch.labels, centres, arcface=kind == "arcface", **numbers)
    assert losses["image"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_samples_that_are_skipped_are_counted_and_listed(
    sets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(sets, tmp_path / "sets")
    described = tmp_path / "sets" / "images" / "set.json"
    text = described.read_text().replace(f'"num_centres": {IMAGE_CENTRES}', '"num_centres": 20')
    described.write_text(text)  # two samples have a label 20
    run = tmp_path / "run"
    settings = tiny_settings(tmp_path / "sets", run, on_bad_sample="skip", max_steps=5)
    assert main(flags(settings | {"save_steps": 0})) == 0  # an epoch
    rows = read_json_lines(run / "bad_samples.jsonl")
    assert sorted(row["sample"].split(", key ")[1] for row in rows) == ["000018", "000019"]
    assert all(row["rule"] == "label outside the bank" and row["step"] <= 5 for row in rows)
    log = read_log(run)
    assert log[-1]["bad_samples"] == 2 and sum(row["samples"] for row in log) == 18
    assert "2 bad samples were left out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schedule": "none"}, "--schedule must be one of linear, quadratic, cosine, constant"),
        ({"image_set": []}, "--image_set must be given, or --ocr_set, or --video_set"),
        ({"labels_per_step": 8}, "--labels_per_step must be at most the 3 labels of a sample in"),
        ({"max_steps": 0, "num_samples": 3}, "--num_samples must be at least the 4 of one step"),
        ({"init": "/nowhere"}, "--init /nowhere must be a folder with an encoder"),
    ],
)
def test_wrong_settings_end_with_code_2(
    changes: dict[str, Any], message: str, sets: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    settings = tiny_settings(sets, tmp_path) | changes
    arguments = flags({key: value for key, value in settings.items() if value != []})
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
