"""One self-contained page about a quickstart run: the result, the pictures, training, evaluation.

Curves, scores and their intervals come from the project's own pages (``llava.eval.report`` and
``llava.train.report``), which read any evaluation or training run in the same way.
"""

import html
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cv_reader.assets import Asset, AssetConfig, read_asset
from cv_reader.reader import ReadOptions
from cv_reader.views.visualize import show_video, strips
from llava.eval.report.page import build_body as evaluation_body
from llava.eval.report.results import RunResult, read_evaluations
from llava.train.report.page import build_body as training_body
from llava.train.report.runs import read_runs as read_trainings
from run_kit.pages.page import figure, page, table
from run_kit.pages.text import duration_text

if TYPE_CHECKING:
    from inputs import Material
    from quickstart import Run

SHOWN_VIDEOS = 2
SHOWN_SAMPLES = 3
TASKS = {
    "quickstart_disc": "Is the moving disc bright or dark? (Every frame shows it.)",
    "quickstart_event": "Which colour appears for a moment? (4 of 64 frames show it.)",
    "quickstart_user": "Questions about your videos (the same as in training).",
}
WORDS = {
    "codec input": "patches selected by the codec's own signals (motion, residual) from many "
    "frames, packed into a few square pictures",
    "frames": "the usual input: all patches of a few evenly spaced frames",
    "patch": "a square of the picture; the encoder makes one vector of it",
    "visual token": "a patch as the language model sees it; both inputs use the same number",
    "mosaic": "a square picture made of selected patches; a (t, h, w) position says for each "
    "where and when it was",
    "backend": "the reader of the compressed file: native (exact), pyav or estimated",
    "loss": "how badly the model predicts the answers' tokens in training; 0 is perfect",
    "95 % interval": "the range that would hold the true score in 95 of 100 such evaluations",
}


def write_report(
    run: "Run",
    material: "Material",
    assets: Path,
    model: Path,
    results: Sequence[Path],
    seconds: float,
) -> Path:
    """Write ``report.html`` into the run's folder and return its path."""
    evaluations = read_evaluations(results)
    telling = better_with_codec(evaluations)
    keys = [item for item in material.keys.items() if item[0] in telling or not telling]
    videos = keys[:SHOWN_VIDEOS]
    note = "<p>Videos with a question that codec input answers better.</p>" if telling else ""
    steps = [
        [html.escape(step.name), f"{step.seconds:.1f}", f"<code>{html.escape(step.command)}</code>"]
        for step in run.steps
    ]
    body = f"""
{result_section(evaluations, len(material.records), len(material.questions), seconds)}
<h2>What the model sees</h2>{note}
{"".join(video_section(video, read_asset(assets / key)) for video, key in videos)}
<h1>Evaluation</h1>{evaluation_body(evaluations, SHOWN_SAMPLES)}
<h1>Training</h1>{training_body(read_trainings([model]))}
<h1>Steps of this run</h1>{table(["step", "seconds", "command"], steps, {1})}
"""
    target = run.path("report.html")
    target.write_text(page("From videos to a model", body), encoding="utf-8")
    return target


def better_with_codec(evaluations: Sequence[RunResult]) -> set[str]:
    """Return the videos with a question that is answered better with codec input than frames."""
    by_input = {run.video_input: run.tasks for run in evaluations}
    found: set[str] = set()
    for name, task in by_input["codec"].items():
        frames = by_input["frames"][name].samples
        for number, sample in task.samples.items():
            if (sample.score or 0) > (frames[number].score or 0) and sample.video is not None:
                found.add(sample.video)
    return found


def result_section(
    evaluations: Sequence[RunResult], num_records: int, num_questions: int, seconds: float
) -> str:
    """Return the scores of both inputs, what they mean, and the words that the page uses."""
    rows = []
    for task in evaluations[0].tasks:
        scores = [run.tasks[task] for run in evaluations]
        tokens = dict.fromkeys(f"{score.visual_tokens:.0f}" for score in scores)
        row = [TASKS[task], *(f"<b>{100 * _share(score.value):.1f} %</b>" for score in scores)]
        rows.append([*row, str(len(scores[0].samples)), " and ".join(tokens)])
    inputs = ["codec input" if run.video_input == "codec" else "frames" for run in evaluations]
    header = ["right answers", *inputs, "questions", "visual tokens each"]
    words = "".join(f"<li><b>{word}</b>: {text}</li>" for word, text in WORDS.items())
    return f"""
<h2>Result</h2>
{table(header, rows, set(range(1, len(header))))}
<p>{num_records} training videos and {num_questions} questions went through codec assets, training
and evaluation in {duration_text(seconds)}. A tiny model started from random weights, so the scores
show that the pipeline works and what each input can carry; they say nothing about a full-size
model. What appears between the evenly spaced frames is not in them, so no model can see it.</p>
<h2>Words</h2><ul>{words}</ul>"""


def _share(value: float | list[float]) -> float:
    return value[0] if isinstance(value, list) else value


def video_section(video: str, asset: Asset) -> str:
    """Return the pictures of one video: frames, uniform sample, energy, patches, mosaics."""
    config = AssetConfig.from_dict(asset.meta["cfg"], asset.folder)
    shown = show_video(Path(video), config, ReadOptions(backend=asset.meta["backend"]))
    exactness = ", ".join(f"{key} {value}" for key, value in asset.meta["exactness"].items())
    pictures = "".join(figure(panel, caption) for caption, panel in strips(shown))
    return (
        f"<h3>{html.escape(Path(video).name)}</h3>"
        f'<p class="note">{100 * shown.kept_share:.1f} % of the patches of '
        f"{len(asset.frame_ids)} frames are kept. Backend {html.escape(asset.meta['backend'])} "
        f"({html.escape(exactness)}).</p>{pictures}"
    )
