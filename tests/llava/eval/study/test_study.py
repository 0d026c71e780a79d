"""The whole study, very small; and the parts that its figures depend on."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from llava.eval.study.__main__ import main
from llava.eval.study.arms import show
from llava.eval.study.clips import write_clip
from llava.eval.study.config import StudyConfig, study_config
from llava.eval.study.drawing import USUAL_SIZES
from llava.eval.study.material import TrainingSet, load_bytes, load_shown
from llava.visual.config import VisualConfig

GPU_SETTINGS = Path(__file__).parents[4] / "examples" / "learning_study" / "gpu.json"


@pytest.mark.slow
def test_the_study_runs_to_its_page_and_resumes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        *("--out", str(tmp_path), "--arms", "uniform", "rd_nearest", "adaptive", "--budgets", "2"),
        *("--num_training_clips", "6", "--num_test_clips", "4", "--num_steps", "2"),
        *("--batch_size", "4", "--seeds", "0", "--num_workers", "1"),
    ]
    assert main(arguments) == 0
    page = Path(capsys.readouterr().out.strip())
    text = page.read_text(encoding="utf-8")
    assert "rate-distortion, nearest" in text
    answers = (tmp_path / "model_0" / "answers" / "rd_nearest_2.json").read_bytes()
    assert main(arguments) == 0
    assert (tmp_path / "model_0" / "answers" / "rd_nearest_2.json").read_bytes() == answers
    capsys.readouterr()
    assert main([*arguments, "--figures"]) == 0
    assert "| whole frames |" in capsys.readouterr().out


def test_unknown_arms_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--out", str(tmp_path), "--arms", "best"]) == 2
    assert "arms must be among" in capsys.readouterr().err


def test_what_is_kept_in_memory_is_what_is_shown(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    clip = write_clip(tmp_path / "clips", 0)
    shown = show(clip, "random", 2, tmp_path)
    visual = VisualConfig(patches_per_side=4)
    patches, rows = load_bytes(shown, USUAL_SIZES)
    data = TrainingSet(
        [[]], [2], np.array([0]), np.array([0, 2 * USUAL_SIZES.cells]), patches, rows
    )
    expected = load_shown(shown, visual)
    segment = data.segment(0, visual)
    assert torch.equal(segment.positions, expected.positions)
    torch.testing.assert_close(segment.patches, expected.patches, atol=1e-5, rtol=0)
    mirrored = data.segment(0, visual, mirrored=True)
    assert torch.equal(mirrored.positions[:, 2], 3 - expected.positions[:, 2])
    side = segment.patches.view(-1, 3, 14, 14)[:, :, 6:]
    assert torch.equal(mirrored.patches.view(-1, 3, 14, 14)[:, :, 6:], side.flip(-1))


def test_a_settings_file_is_read_and_checked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads(GPU_SETTINGS.read_text(encoding="utf-8"))
    config = study_config(tmp_path, content | {"budgets": [2]})
    assert (config.sizes.grid, config.budgets) == (16, (2,))
    path = tmp_path / "settings.json"
    for text, problem in (
        ('{"colour": 1}', "unknown settings colour"),
        ('{"sizes": {"view_px": 100, "cell_px": 24}}', "multiple of twice cell_px"),
        ('{"sizes": {"side": 1}}', "wrong type"),
        ("[1]", "must be an object"),
        ("{", "cannot be read as JSON"),
    ):
        path.write_text(text, encoding="utf-8")
        assert main(["--out", str(tmp_path), "--config", str(path)]) == 2
        assert problem in capsys.readouterr().err


@pytest.mark.slow
def test_the_settings_for_a_gpu_run_on_a_cpu_with_a_small_encoder(tmp_path: Path) -> None:
    content = json.loads(GPU_SETTINGS.read_text(encoding="utf-8"))
    small = {"hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 2}
    content |= {
        "encoder": content["encoder"] | small | {"num_hidden_layers": 1},
        "decoder_width": 64,
        "num_steps": 1,
        "batch_size": 2,
        "seeds": [0],
        "arms": ["reference", "oracle"],
        "budgets": [2],
        "device": "cpu",
        "num_workers": 1,
    }
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    clips = ["--num_training_clips", "3", "--num_test_clips", "2"]
    assert main(["--out", str(tmp_path / "out"), "--config", str(path), *clips]) == 0
    answers = (tmp_path / "out" / "model_0" / "answers" / "reference_2.json").read_text()
    assert {row["tokens"] for row in json.loads(answers)} == {512}


def test_a_study_made_otherwise_is_not_continued(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(config: StudyConfig) -> None:
        raise ValueError("work starts")

    monkeypatch.setattr("llava.eval.study.__main__.make_training_data", stop)
    first = ["--out", str(tmp_path), "--num_steps", "7"]
    for arguments, problem in (
        (first, "work starts"),
        ([*first, "--seeds", "5", "--num_workers", "1"], "work starts"),
        ([*first, "--batch_size", "3"], "batch_size 32, now 3. Choose another --out"),
    ):
        assert main(arguments) == 2
        assert problem in capsys.readouterr().err
    (tmp_path / "training").mkdir()
    (tmp_path / "settings.json").unlink()
    assert main(first) == 2
    assert "holds a study without settings.json" in capsys.readouterr().err


def test_settings_survive_json(tmp_path: Path) -> None:
    config = StudyConfig(out=tmp_path)
    content = json.loads(json.dumps(config.to_json()))
    assert content["encoder"] == config.encoder
    assert replace(config, budgets=(2, 8)).middle_budget == 8
