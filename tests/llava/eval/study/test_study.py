"""The whole study, very small."""

from pathlib import Path

import pytest

from llava.eval.study.__main__ import main


@pytest.mark.slow
def test_the_study_runs_to_its_page_and_resumes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        *("--out", str(tmp_path), "--arms", "uniform", "rd_nearest", "--budgets", "2"),
        *("--num_training_clips", "6", "--num_test_clips", "4", "--num_steps", "2"),
        *("--batch_size", "4", "--seeds", "0", "--num_workers", "1"),
    ]
    assert main(arguments) == 0
    page = Path(capsys.readouterr().out.strip())
    text = page.read_text(encoding="utf-8")
    assert "rate-distortion, nearest" in text
    answers = (tmp_path / "model_0" / "answers.json").read_bytes()
    assert main(arguments) == 0
    assert (tmp_path / "model_0" / "answers.json").read_bytes() == answers


def test_unknown_arms_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--out", str(tmp_path), "--arms", "best"]) == 2
    assert "arms must be among" in capsys.readouterr().err
