"""The report: what it reads, what it computes, and that losses are as plain as wins."""

import json
import math
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from llava.eval.plugin.manifest import RunRecord, build_manifest
from llava.eval.report.page import main
from llava.eval.report.results import ResultsError, read_evaluations, sample_score, video_mmmu_score
from llava.eval.report.significance import compare_paired, confidence_interval
from llava.eval.settings import EvalSettings, read_settings
from support.eval_toy import Toy


def _write_run(
    folder: Path,
    settings: EvalSettings,
    tasks: dict[str, Sequence[float]],
    visuals: Sequence[dict[str, Any]],
    tokens: int = 128,
    groups: dict[str, list[str]] | None = None,
) -> Path:
    """What an evaluation leaves: results, samples, answers, manifest. ``visuals``: by document."""
    folder.mkdir(parents=True)
    metric = {"metric": "accuracy", "aggregation": "mean"}
    results = {task: {"accuracy,none": sum(scores) / len(scores)} for task, scores in tasks.items()}
    configs = {task: {"metric_list": [metric]} for task in tasks}
    (folder / "20260101_results.json").write_text(
        json.dumps({"results": results, "configs": configs, "group_subtasks": groups or {}})
    )
    answers: list[dict[str, Any]] = []
    for task, scores in tasks.items():
        rows = [
            {
                "doc_id": number,
                "target": "A",
                "filtered_resps": ["A" if score else "<B>"],
                "input": f"Question {number} & more?\nA. red\nB. blue",
                "accuracy": {"correct": int(score)},
            }
            for number, score in enumerate(scores)
        ]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"20260101_samples_{task}.jsonl").write_text(lines)
        for number in range(len(scores)):
            shown = {"visuals": [visuals[number]], "visual_tokens": tokens}
            answers.append({"task": task, "doc_id": number, "key": None, "answer": "A", **shown})
    lines = "".join(json.dumps(row) + "\n" for row in answers)
    (folder / "answers_rank0.jsonl").write_text(lines)
    manifest = build_manifest(
        RunRecord(),
        settings,
        Path(settings.pretrained),
        model_dtype="torch.float32",
        device="cpu",
        world_size=1,
    )
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture
def pair(toy: Toy, tmp_path: Path) -> list[Path]:
    """Codec input wins one task, loses one, ties on one."""
    videos = [tmp_path / f"clip_{number}.mp4" for number in range(20)]
    for video in videos:
        video.symlink_to(toy.videos[0])
    asset = str(toy.assets / "a__clip")
    inputs = {
        "codec": [{"source": "codec", "path": str(video), "asset": asset} for video in videos],
        "frames": [{"source": "frames", "path": str(video), "asset": None} for video in videos],
    }
    scores = {
        "codec": {"won": [1] * 18 + [0] * 2, "lost": [0] * 15 + [1] * 5, "tied": [1, 0] * 10},
        "frames": {"won": [0] * 12 + [1] * 8, "lost": [1] * 20, "tied": [1, 0] * 10},
    }
    return [
        _write_run(
            tmp_path / kind / "model",
            read_settings(toy.arguments(video_input=kind), {}),
            scores[kind],
            visuals,
        )
        for kind, visuals in inputs.items()
    ]


class _Text(HTMLParser):
    """The page's text, with a check that its tags close."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""
        self.images = 0

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.images += tag == "img"


def _page(paths: list[Path], out: Path, *flags: str) -> _Text:
    assert main([*map(str, paths), "--out", str(out), *flags]) == 0
    reader = _Text()
    reader.feed(out.read_text())
    return reader


def test_losses_are_as_plain_as_wins(pair: list[Path], tmp_path: Path) -> None:
    page = _page([path.parent for path in pair], tmp_path / "page.html", "--samples", "2")
    assert "better on 1, worse on 1 of 3 tasks; on 1 no difference is shown" in page.text
    assert "codec is better" in page.text
    assert "codec is worse" in page.text
    assert "+50.0" in page.text, "0.9 against 0.4"
    assert "-75.0" in page.text
    assert "0 / 0 / 20" in page.text
    assert page.images == 3 * 2 * 2, "three tasks, two samples, two runs"
    assert "<B>" in page.text, "what a model says is shown, not interpreted"
    assert "Question 0 & more?" in page.text


def test_a_group_is_the_mean_of_its_tasks(toy: Toy, tmp_path: Path) -> None:
    """Tasks of 2 and 6 documents weigh the same, and share their videos."""
    clips = [{"path": f"clip_{number}", "asset": None} for number in range(6)]
    scores = {
        "codec": {"short": [1, 1], "long": [1, 0, 0, 0, 0, 1]},
        "frames": {"short": [0, 1], "long": [1, 0, 0, 0, 1, 1]},
    }
    groups = {"both": ["short", "long"], "short": [], "long": []}
    folders = [
        _write_run(
            tmp_path / kind,
            read_settings(toy.arguments(video_input=kind), {}),
            tasks,
            [{"source": kind, **clip} for clip in clips],
            groups=groups,
        )
        for kind, tasks in scores.items()
    ]
    codec, frames = read_evaluations(folders)
    assert codec.groups["both"].value == pytest.approx((1 + 2 / 6) / 2)
    group = codec.groups["both"]
    assert confidence_interval(group.scores, group.groups).mean == pytest.approx((1 + 2 / 6) / 2)
    assert len(set(group.groups)) == 6, "clips, not documents"
    page = _page(folders, tmp_path / "page.html")
    assert "both mean of 2 tasks" in page.text
    difference = 100 * ((1 + 2 / 6) / 2 - (1 / 2 + 3 / 6) / 2)
    assert f"{difference:+.1f}none: only 6 videos" in page.text
    assert "1 / 1 / 6" in page.text
    assert "of 2 tasks; on 2 no difference" in page.text, "the group is no task of its own"


def test_tasks_that_are_shown_as_frames_in_both_runs_are_no_comparison(
    toy: Toy, tmp_path: Path
) -> None:
    """Folders of frames have no codec signals: the run's input is not the task's."""
    clips = [{"source": "frame_folder", "path": f"clip_{n}", "asset": None} for n in range(20)]
    folders = [
        _write_run(
            tmp_path / kind, read_settings(toy.arguments(video_input=kind), {}), tasks, clips
        )
        for kind, tasks in (("codec", {"folders": [1] * 20}), ("frames", {"folders": [0] * 20}))
    ]
    page = _page(folders, tmp_path / "page.html")
    assert "no codec input: frames in both runs" in page.text
    assert "better on 0, worse on 0 of 0 tasks" in page.text
    assert read_evaluations(folders)[0].tasks["folders"].input == "frames"
    assert "folders\ncodecframes100.0 %" in page.text, "task; run, shown as, score"


@pytest.mark.parametrize("reported", [0.5, 50.0, 0.0])
def test_scores_of_one_column_have_one_scale(toy: Toy, tmp_path: Path, reported: float) -> None:
    """Some tasks report a share of 1, some percent."""
    settings = read_settings(toy.arguments(), {})
    image = {"source": "image", "path": None, "asset": None}
    right = [1, 0] if reported else [0, 0]
    folder = _write_run(tmp_path / "run", settings, {"task": right}, [image] * 2)
    path = folder / "20260101_results.json"
    found = f'"accuracy,none": {sum(right) / 2}'
    assert found in path.read_text()
    path.write_text(path.read_text().replace(found, f'"accuracy,none": {reported}'))
    percent = "50.0 %" if reported else "0.0 %"
    assert f"images{percent}{percent}" in _page([folder], tmp_path / "page.html").text


def test_groups_of_different_scores_have_none(toy: Toy, tmp_path: Path) -> None:
    settings = read_settings(toy.arguments(), {})
    visual = {"source": "image", "path": None, "asset": None}
    folder = _write_run(
        tmp_path / "run", settings, {"a": [1], "b": [0]}, [visual], groups={"g": ["a", "b"]}
    )
    path = folder / "20260101_results.json"
    path.write_text(path.read_text().replace('{"accuracy,none": 0.0}', '{"accuracy,none": [0, 1]}'))
    [run] = read_evaluations([folder])
    assert (run.groups, list(run.tasks)) == ({}, ["a", "b"])


@pytest.mark.parametrize(
    ("kind", "answer", "said", "score"),
    [
        ("multiple-choice", "B", "B", 1.0),
        ("multiple-choice", "B", "No Answer Found.", 0.0),
        ("open", "12.50", ["the sum is 12.5", 12.5], 1.0),
        ("open", "12.50", ["the sum is 13", 13.0], 0.0),
        ("open", "Red shift", ["it is a red shift of light"], 1.0),
        ("open", "a", ["a cat"], 1.0),
        ("open", "a", ["cat"], 0.0),
        ("open", "Red shift", "API Error", None),
    ],
)
def test_video_mmmus_samples_by_its_own_rule(
    kind: str, answer: str, said: Any, score: float | None
) -> None:
    noted = {
        "id": "validation_Math_7",
        "subdomain": "Math",
        "question_type": kind,
        "answer": answer,
        "parsed_pred": said,
    }
    assert video_mmmu_score(noted) == score


def test_unequal_budgets_are_not_judged(pair: list[Path], toy: Toy, tmp_path: Path) -> None:
    settings = read_settings(toy.arguments(video_input="frames"), {})
    image = {"source": "image", "path": None, "asset": None}
    more = _write_run(tmp_path / "more", settings, {"won": [0] * 20}, [image] * 20, tokens=256)
    page = _page([pair[0], more], tmp_path / "page.html")
    assert "not at equal tokens" in page.text
    assert "better on 0, worse on 0 of 0 tasks" in page.text


def test_one_run_is_reported_alone(pair: list[Path], tmp_path: Path) -> None:
    page = _page(pair[:1], tmp_path / "page.html")
    assert "nothing to compare" in page.text
    assert "90.0 %90.0 %" in page.text, "score and mean of samples"


def test_what_cannot_be_reported_is_named(
    pair: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / "none")]) == 2
    assert "no *_results.json" in capsys.readouterr().err
    (pair[0] / "manifest.json").unlink()
    with pytest.raises(ResultsError, match=r"no manifest.json"):
        read_evaluations(pair[:1])
    (pair[1] / "20260101_samples_lost.jsonl").unlink()
    with pytest.raises(ResultsError, match="evaluate with --log_samples"):
        read_evaluations(pair[1:])


@pytest.mark.parametrize(
    ("value", "score"),
    [
        (True, 1.0),
        (0.25, 0.25),
        ({"score": 1.0, "pred_answer": "A", "answer": "B"}, 1.0),
        ({"pred_id": 1, "answer_id": "0", "correct": 0}, 0.0),
        ({"pred_answer": "B", "answer": "B"}, 1.0),
        ({"parsed_pred": "B", "answer": "C"}, 0.0),
        ({"parsed_pred": ["0.5", "half"], "answer": "half"}, None),
        ({"item": {"GT": "A"}, "pred": "a bird"}, 1.0),
        ({"item": {"GT": "A"}, "pred": ""}, 0.0),
        ("text", None),
        (None, None),
    ],
)
def test_scores_of_samples_as_tasks_note_them(value: object, score: float | None) -> None:
    assert sample_score(value) == score


def test_an_interval_covers_as_the_normal_one_does() -> None:
    scores = [1.0] * 300 + [0.0] * 100
    mean, low, high, method = confidence_interval(scores)
    half = 1.96 * math.sqrt(0.75 * 0.25 / 400)
    assert mean == 0.75
    assert (low, high) == pytest.approx((0.75 - half, 0.75 + half), abs=0.006)
    assert method == "bootstrap, 400 samples"
    assert confidence_interval(scores) == (mean, low, high, method)


@pytest.mark.parametrize(("wins", "losses"), [(9, 1), (6, 4), (0, 7), (3, 3)])
def test_the_paired_test_is_mcnemars_on_right_and_wrong(wins: int, losses: int) -> None:
    first = [1.0] * wins + [0.0] * losses + [1.0] * 30
    second = [0.0] * wins + [1.0] * losses + [1.0] * 30
    changed, larger = wins + losses, max(wins, losses)
    tail = sum(math.comb(changed, k) for k in range(larger, changed + 1)) / 2**changed
    result = compare_paired(first, second)
    assert result.p_value == pytest.approx(min(1.0, 2 * tail), abs=0.015)
    assert (result.wins, result.losses, result.samples) == (wins, losses, 30 + changed)
    assert result.difference.mean == pytest.approx((wins - losses) / (30 + changed))


def test_questions_on_one_video_count_as_one() -> None:
    """Ten videos of four equal questions each say no more than ten questions."""
    single = [1.0] * 8 + [0.0] * 2
    repeated = [score for score in single for _ in range(4)]
    groups = [str(video) for video in range(10) for _ in range(4)]
    assert confidence_interval(repeated, groups)[:3] == confidence_interval(single)[:3]
    many_videos = [str(number) for number in range(30) for _ in range(4)]
    answers = [1.0] * 100 + [0.0] * 20
    clustered = confidence_interval(answers, many_videos)
    assert clustered.method == "bootstrap, 30 videos"
    assert clustered[:3] == confidence_interval([1.0] * 25 + [0.0] * 5)[:3]
    zeros, many = [0.0] * 10, [0.0] * 40
    assert compare_paired(repeated, many, groups).p_value == compare_paired(single, zeros).p_value
    assert compare_paired(repeated, many).p_value < compare_paired(repeated, many, groups).p_value
    with pytest.raises(ValueError, match="every sample needs a group"):
        confidence_interval(single, groups)


def test_no_difference_is_no_finding() -> None:
    result = compare_paired([0.0, 1.0], [0.0, 1.0])
    assert result.p_value == 1.0
    assert result.difference == (0.0, None, None, "none: the same on all 2 samples")


@pytest.mark.parametrize(("right", "count"), [(0, 1), (1, 2), (7, 12), (19, 19), (40, 40)])
def test_few_or_equal_answers_have_wilsons_interval(right: int, count: int) -> None:
    """Ends of Wilson's interval are the shares that a normal test at 5 % just accepts."""
    mean, low, high, method = confidence_interval([1.0] * right + [0.0] * (count - right))
    assert mean == right / count
    if count == 1:
        assert (low, high, method) == (None, None, "none: one sample")
        return
    assert method == f"Wilson, {count} samples"
    assert low is not None
    assert high is not None
    for end in (low, high):
        error = math.sqrt(end * (1 - end) / count)
        assert abs(mean - end) == pytest.approx(1.959964 * error, abs=1e-6)
    assert low < mean < high or mean in (0.0, 1.0)


def test_questions_on_one_video_have_no_interval() -> None:
    interval = confidence_interval([1.0, 0.0] * 6, ["clip.mp4"] * 12)
    assert interval == (0.5, None, None, "none: all 12 samples share one video")
    assert confidence_interval([0.1, 0.5, 0.9]).method == "none: only 3 samples"
    difference = compare_paired([1.0, 0.0, 1.0], [0.0] * 3).difference
    assert difference[1:] == (None, None, "none: only 3 samples")


def test_the_page_needs_nothing_from_outside(pair: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    assert main([*map(str, pair), "--out", str(out)]) == 0
    links = re.findall(r'(?:src|href)="([^"]{0,20})', out.read_text())
    assert links
    assert all(link.startswith("data:image/jpeg") for link in links)
