"""The page about training runs, from folders made by hand."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from llava.train.report.page import main
from run_kit.pages.charts import COLOURS, Curve, line_chart, running_mean, thin

VERSIONS = {"torch": "2.0", "python": "3.11"}


def _row(step: int, **fields: Any) -> dict[str, Any]:
    row = {"step": step, "epoch": step / 4, "loss": 4.0 / step, "lr": 0.1, "grad_norm": 1.0}
    row |= {"lr_by_part": {"mm_mlp_adapter": 0.1}, "loss_by_dataset": {"clips": 1.0, "text": 2.0}}
    row |= {"tokens": 100, "visual_tokens": 60, "seconds": 2.0, "data_wait_seconds": 0.5}
    row |= {"tokens_per_second": 50.0, "visual_tokens_per_second": 30.0, "mfu": 0.25}
    return row | {"peak_memory_bytes": step * 10**9, "bad_samples": 0} | fields


def _write(
    folder: Path,
    rows: list[dict[str, Any]],
    *,
    learning_rate: float = 1e-5,
    starts: Sequence[int] = (1,),
    bad: Sequence[Any] = (),
) -> Path:
    folder.mkdir(parents=True)
    (folder / "train_log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    training = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 3}
    start = {"time": "2030-01-01T00:00:00+00:00", "host": "node-7", "command": "python a.py"}
    start |= {"changes": ["training, seed: 1 before, 2 now"], "versions": VERSIONS, "code": "abc"}
    data = {"name": "clips", "path": "/d/clips.jsonl", "entries": 9, "samples": 5, "type": None}
    data |= {"size_bytes": 2_500_000, "modified": 10**18, "sampling_strategy": "first:5"}
    config = {
        "training": training | {"learning_rate": learning_rate},
        "world_size": 4,
        "data_fingerprint": {"digest": "d1", "samples": 5, "datasets": [data | {"edges": "e1"}]},
        "versions": VERSIONS,
        "starts": [start | {"first_step": step} for step in starts],
    }
    (folder / "run_config.json").write_text(json.dumps(config))
    lines = (json.dumps({"index": i, "message": text}) + "\n" for i, text in enumerate(bad))
    (folder / "bad_samples.jsonl").write_text("".join(lines))
    return folder


def _page(tmp_path: Path, *runs: Path) -> str:
    out = tmp_path / "page.html"
    assert main([*map(str, runs), "-o", str(out)]) == 0
    return out.read_text()


def _text(page: str) -> str:
    return re.sub(r"<[^>]+>", "|", page)


def test_the_table_adds_the_log_up(tmp_path: Path) -> None:
    run = _write(tmp_path / "run", [_row(step) for step in (1, 2, 3, 4)], starts=(1, 3))
    text = _text(_page(tmp_path, run))
    for expected in (
        "4 (epoch 1.00)",
        "4 at the first step, 1 over the last 5 % of the steps",
        "400, 60 % visual",
        "50 tokens/s, 30 visual",
        "25.0 %",
        "8.0 s, 25.0 % of it waiting for data",
        "device 4.00 GB",
        "2 x 3 x 4 = 24 samples a step",
        "once",
    ):
        assert f"|{expected}|" in text


def test_charts_have_a_line_per_set_and_part_and_a_mark_per_resume(tmp_path: Path) -> None:
    run = _write(tmp_path / "run", [_row(step) for step in range(1, 6)], starts=(1, 3))
    page = _page(tmp_path, run)
    charts = re.findall(r'<figure class="chart"><figcaption>(.*?)</figcaption>(.*?)</figure>', page)
    lines = {title: body.count("<polyline") for title, body in charts}
    assert lines["Loss"] == 1 and lines["Loss by data set"] == 2 and lines["Learning rate"] == 1
    assert "Memory of the first process, peak, GB" not in lines, "nothing was logged for it"
    assert all(body.count('class="mark"') == 1 for _, body in charts)
    assert "run: resumed at step 3" in page


def test_curves_of_unlike_sizes_do_not_share_an_axis(tmp_path: Path) -> None:
    """Of rates of 1e-3 and 1e-5, the smaller one would be drawn as zero."""
    rates = {"mm_mlp_adapter": 1e-3, "mm_vision_tower": 1e-5}
    rows = [_row(step, lr_by_part=rates) for step in (1, 2)]
    page = _page(tmp_path, _write(tmp_path / "run", rows))
    titles = re.findall(r"<figcaption>(Learning rate.*?)</figcaption>", page)
    assert titles == ["Learning rate: mm_mlp_adapter", "Learning rate: mm_vision_tower"]


def test_several_runs_share_charts_and_their_settings_are_compared(tmp_path: Path) -> None:
    rows = [_row(step) for step in (1, 2)]
    one = _write(tmp_path / "a" / "run", rows)
    two = _write(tmp_path / "b" / "run", rows, learning_rate=3e-5)
    page = _page(tmp_path, one, two)
    loss = re.search(r"<figcaption>Loss by data set: clips.*?</figure>", page)[0]
    assert loss.count("<polyline") == 2 and "a/run" in loss and "b/run" in loss
    differing = page[page.index("Settings that differ") : page.index("<h2>Data</h2>")]
    assert "|training.learning_rate|" in _text(differing).replace("||", "|")
    assert "gradient_accumulation_steps" not in differing


def test_what_the_run_was_is_shown_as_text_and_nothing_is_fetched(tmp_path: Path) -> None:
    bad = [f"x.jsonl:{number}: <b>lost</b>" for number in range(103)]
    page = _page(tmp_path, _write(tmp_path / "run", [_row(1)], bad=bad))
    assert "x.jsonl:0: &lt;b&gt;lost" in page and "... and 3 more in bad_samples.jsonl" in page
    text = _text(page)
    for expected in ("clips", "first:5", "2.5MB", "2001-09-09 01:46:40", "node-7", "python a.py"):
        assert f"|{expected}|" in text
    assert "training, seed: 1 before, 2 now" in text
    assert not re.search(r"<script|src=|href=|url\(|@import", page)


def test_a_run_without_a_record_and_with_a_broken_loss_still_has_a_page(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    rows = [_row(1, loss=float("nan"), mfu=None), _row(2)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "run" / "train_log.jsonl").write_text(text)
    page = _text(_page(tmp_path, tmp_path / "run"))
    assert "; 1 logged steps were not finite" in page and "nan" not in page


def test_held_out_loss_and_equal_rates_have_a_chart(tmp_path: Path) -> None:
    rows = [_row(step) for step in (1, 2)]
    for row in rows:
        row["lr_by_part"] = {"tower": 1e-3, "projector": 1e-3, "decoder": 1e-4}
    run = _write(tmp_path / "run", rows)
    validations = [
        {"step": 1, "loss": 3.0, "loss_by_dataset": {"clips": 2.0, "images": 4.0}},
        {"step": 2, "loss": None, "loss_by_dataset": {"clips": None}},
        {"step": 3, "loss": 3.5, "loss_by_dataset": {"clips": 3.5}},
    ]
    text = "".join(json.dumps(row) + "\n" for row in validations)
    (run / "validation_log.jsonl").write_text(text)
    page = _page(tmp_path, run)
    assert "3.5 at step 3; lowest 3 at step 1" in page
    chart = re.search(r"<figcaption>Loss on held-out data.*?</figure>", page)[0]
    assert chart.count("<polyline") == 3 and "images" in chart
    chart = re.search(r"<figcaption>Learning rate.*?</figure>", page)[0]
    assert chart.count("<polyline") == 2 and "tower = projector" in chart


@pytest.mark.parametrize("case", ["absent", "empty", "twice"])
def test_no_run_ends_with_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    run = tmp_path / "run"
    if case != "absent":
        run.mkdir()
        (run / "train_log.jsonl").write_text(json.dumps(_row(1)) + "\n" if case == "twice" else "")
    assert main([str(run)] * (2 if case == "twice" else 1)) == 2
    assert str(run) in capsys.readouterr().err


def test_long_lines_are_thinned_but_keep_their_peaks() -> None:
    values = [0.0] * 5000
    values[1234], values[4321] = 9.0, -9.0
    line = thin(Curve("a", list(range(5000)), values, 0), most=100)
    assert len(line.steps) <= 100 and list(line.steps) == sorted(line.steps)
    assert {(1234, 9.0), (4321, -9.0)} <= set(zip(line.steps, line.values, strict=True))


def test_the_running_mean_forgets_slowly() -> None:
    assert running_mean([3.0] * 200) == pytest.approx([3.0] * 200)
    means = running_mean([0.0] * 100 + [1.0] * 100)  # looks back on 4 of 200
    assert means[99] == 0 and means[100] == pytest.approx(0.25, abs=1e-3)
    assert means[103] == pytest.approx(1 - 0.75**4, abs=1e-3)


@pytest.mark.parametrize("values", [[0.0], [5.0, 5.0], [-1.0, 2e-6], [1e12, 3.0]])
def test_every_point_lies_inside_its_chart(values: list[float]) -> None:
    chart = line_chart("t", [Curve("a", list(range(len(values))), values, COLOURS + 1)])
    for x, y in re.findall(r'<circle cx="([\d.-]+)" cy="([\d.-]+)"', chart):
        assert 66 <= float(x) <= 628 and 12 <= float(y) <= 250
    assert "var(--c1)" in chart and line_chart("t", [Curve("a", [], [], 0)]) == ""
