"""Show samples in a report: question, right answer, every run's answer, what the model saw."""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

from cv_reader.assets import read_asset
from llava.eval.report.results import RunResult, SampleResult, TaskResult
from llava.visual.pictures import load_image
from llava.visual.video_process import read_uniform_frames
from run_kit.pages.page import figure, table

_TILE_PX = 130
_TILES = 8
_WORDS = {
    "codec": "codec mosaics",
    "online": "codec mosaics made in the run",
    "frames": "uniform frames",
    "frame_folder": "uniform frames of a folder of images",
    "image": "image",
}
"""Source of a visual, as the answers record it, to the words of its caption."""


def samples_section(runs: Sequence[RunResult], num_samples: int) -> str:
    """Return some samples of every task, first those that runs disagree on."""
    parts = ["<h2>Samples</h2>"]
    for task in dict.fromkeys(task for run in runs for task in run.tasks):
        having = [run for run in runs if task in run.tasks]
        parts += [_sample(task, number, having) for number in _chosen(task, having, num_samples)]
    return "\n".join(parts)


def badge(name: str) -> str:
    """Return the name of an input as a coloured mark."""
    kind = name if name in ("codec", "frames") else "none"
    return f'<span class="badge {kind}">{escape(name)}</span>'


def _shown_as(sample: SampleResult) -> str:
    """Return how one sample was shown, as ``TaskResult.input`` does for a task."""
    return TaskResult("", "", 0.0, {sample.doc_id: sample}, (), True).input


def _chosen(task: str, runs: Sequence[RunResult], num_samples: int) -> list[int | str]:
    """Return document numbers: wins and losses of codec input in turn, then the others."""
    samples = runs[0].tasks[task].samples
    better, worse, same = [], [], []
    for number in samples:
        codec = _mean_score(task, number, runs, "codec")
        frames = _mean_score(task, number, runs, "frames")
        group = same if codec == frames else better if codec > frames else worse
        group.append(number)
    turns: list[int | str] = []
    for rank in range(max(len(better), len(worse))):
        turns += [*better[rank : rank + 1], *worse[rank : rank + 1]]
    return [*turns, *same][:num_samples]


def _mean_score(task: str, number: int | str, runs: Sequence[RunResult], kind: str) -> float:
    """Return the mean score over runs with this input; 0 unless both inputs have a run."""
    scores = [
        sample.score
        for run in runs
        if run.video_input == kind
        and (sample := run.tasks[task].samples.get(number)) is not None
        and sample.score is not None
    ]
    both = {run.video_input for run in runs} == {"codec", "frames"}
    return sum(scores) / len(scores) if scores and both else 0.0


def _sample(task: str, number: int | str, runs: Sequence[RunResult]) -> str:
    found = [
        (run, run.tasks[task].samples[number]) for run in runs if number in run.tasks[task].samples
    ]
    first = found[0][1]
    rows = [
        [
            f"{escape(run.name)} {badge(_shown_as(sample))}",
            f"<code>{escape(sample.answer)}</code>",
            "" if sample.score is None else f"{sample.score:.3g}",
        ]
        for run, sample in found
    ]
    return (
        f"<h3>{escape(task)}, document {number}</h3>"
        f'<div class="question">{escape(first.prompt)}</div>'
        f"<p>Right: <code>{escape(first.target)}</code></p>"
        + table(["run", "answer", "score"], rows, {2})
        + "".join(_pictures(run, sample) for run, sample in found)
    )


def _pictures(run: RunResult, sample: SampleResult) -> str:
    parts: list[str] = []
    for visual in sample.visuals:
        path = visual["path"] or "stored in the data set"
        caption = f"{run.name}, {_WORDS[visual['source']]}: {path}"
        try:
            tiles = _tiles(visual, int(run.manifest["settings"]["num_frames"]))
        except ValueError as error:
            reason = str(error).removeprefix(f"{path}: ")
            parts.append(f'<p class="note">{escape(caption)}: not shown ({escape(reason)})</p>')
            continue
        if tiles:
            parts.append(figure(_strip(tiles), caption))
    return "".join(parts)


def _tiles(visual: dict[str, Any], num_frames: int) -> list[Image.Image]:
    """Return the pictures of a visual as the model saw them.

    Raises:
        ValueError: if the files are no longer there.
    """
    if visual["asset"]:
        return [load_image(path) for path in read_asset(Path(visual["asset"])).images]
    if visual["source"] == "frames":
        pixels = read_uniform_frames(visual["path"], num_frames).pixels
        return [] if pixels is None else list(map(Image.fromarray, pixels))
    if visual["source"] == "image" and visual["path"]:
        return [load_image(visual["path"])]
    return []


def _strip(tiles: Sequence[Image.Image]) -> Image.Image:
    """Put at most eight pictures side by side, scaled to one height."""
    small = [
        tile.resize((max(1, round(tile.width * _TILE_PX / tile.height)), _TILE_PX))
        for tile in tiles[:_TILES]
    ]
    gap = 4
    strip = Image.new("RGB", (sum(tile.width + gap for tile in small) - gap, _TILE_PX), "#888")
    left = 0
    for tile in small:
        strip.paste(tile, (left, 0))
        left += tile.width + gap
    return strip
