import json
from pathlib import Path

import pytest

from encoder_training.pretrain.run_page import main
from run_kit.files import write_json, write_json_lines


def _run(folder: Path, margin: float) -> Path:
    settings = {"margin": margin, "size": "tiny", "output_dir": "<runs>"}
    data = {
        "image": {
            "num_samples": 1200, "num_centres": 4096, "labels_per_sample": 10,
            "bank_fingerprint": "0123456789abcdef0123",
        }
    }  # fmt: skip
    write_json(folder / "run_config.json", {"settings": settings, "data": data, "num_steps": 30})
    row = {"loss_image": 3.0, "learning_rate": 1e-3, "grad_norm": 2.0, "samples": 320, "mfu": None}
    row |= {"samples_per_second": 32.0, "tokens_per_second": 1e4, "data_wait_seconds": 0.5}
    rows = [row | {"step": step, "loss": 30.0 / step, "seconds": 10.0} for step in (1, 10, 20)]
    write_json_lines(folder / "train_log.jsonl", rows)
    return folder


def test_the_page_shows_figures_curves_data_and_settings(tmp_path: Path) -> None:
    one, two = _run(tmp_path / "one", 0.3), _run(tmp_path / "two", 0.4)
    assert main([str(one), str(two)]) == 0
    text = (one / "report.html").read_text(encoding="utf-8")
    assert "30.0000" in text and "1.5000" in text and "30.0 s" in text and "5.0 %" in text
    assert text.count("<svg") == 7  # no head of videos or text images, no share of a peak
    assert "4,096" in text and "<code>0123456789abcdef</code>" in text
    assert text.index(">margin<") < text.index(">size<") and "&lt;runs&gt;" in text
    assert "<runs>" not in text
    page = tmp_path / "pages" / "both.html"
    assert main([str(one), str(two), "-o", str(page)]) == 0
    assert page.read_text(encoding="utf-8") == text


def test_a_folder_without_a_run_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run_config.json").write_text(json.dumps({}), encoding="utf-8")
    with pytest.raises(SystemExit) as ended:
        main([str(tmp_path)])
    assert ended.value.code == 2 and "with a logged step" in capsys.readouterr().err
