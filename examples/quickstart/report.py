"""One self-contained page about a quickstart run: pictures, loss, scores, time and tokens."""

import html
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cv_reader.assets import read_asset
from llava.pages.page import figure, page, table
from pictures import video_panels

if TYPE_CHECKING:
    from inputs import Material
    from quickstart import Run


def wilson_interval(share: float, count: int) -> tuple[float, float]:
    """95 % confidence interval of a share of ``count`` trials (Wilson 1927)."""
    z = 1.96
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    half /= 1 + z * z / count
    return max(0.0, centre - half), min(1.0, centre + half)


def loss_curve(losses: Sequence[float]) -> str:
    """The loss of every step as an inline drawing, with a moving mean."""
    width, height, left, bottom = 900, 260, 46, 26
    top = max(losses) * 1.05

    def point(step: float, loss: float) -> str:
        x = left + step / max(1, len(losses) - 1) * (width - left - 10)
        return f"{x:.1f},{(1 - loss / top) * (height - bottom - 8) + 8:.1f}"

    window = max(1, len(losses) // 25)
    means = [
        sum(losses[max(0, i - window) : i + 1]) / len(losses[max(0, i - window) : i + 1])
        for i in range(len(losses))
    ]
    grid = []
    for part in range(5):
        value = top * part / 4
        x, y = point(0, value).split(",")
        grid.append(
            f'<line x1="{x}" x2="{width - 10}" y1="{y}" y2="{y}" stroke="currentColor" '
            f'opacity=".15"/><text x="{left - 6}" y="{float(y) + 4}" text-anchor="end" '
            f'font-size="11" fill="currentColor">{value:.1f}</text>'
        )
    for part in range(5):
        step = round((len(losses) - 1) * part / 4)
        x = point(step, 0).split(",")[0]
        grid.append(
            f'<text x="{x}" y="{height - 8}" text-anchor="middle" font-size="11" '
            f'fill="currentColor">{step + 1}</text>'
        )

    def line(values: Sequence[float], style: str) -> str:
        points = " ".join(point(i, value) for i, value in enumerate(values))
        return f'<polyline fill="none" points="{points}" {style}/>'

    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="loss of every step">'
        + "".join(grid)
        + line(losses, 'stroke="var(--codec)" opacity=".35"')
        + line(means, 'stroke="var(--codec)" stroke-width="2.5"')
        + "</svg>"
    )


def read_training_log(model: Path) -> list[dict[str, Any]]:
    lines = (model / "train_log.jsonl").read_text(encoding="utf-8").splitlines()
    return [row for row in map(json.loads, lines) if "loss" in row]


def read_evaluation(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The manifest of an evaluation, and its samples."""
    [samples] = folder.rglob("*_samples_*.jsonl")
    [manifest] = folder.rglob("manifest.json")
    rows = [json.loads(line) for line in samples.read_text(encoding="utf-8").splitlines()]
    return json.loads(manifest.read_text(encoding="utf-8")), rows


def score_table(evaluations: dict[str, list[dict[str, Any]]]) -> str:
    """Accuracy over all questions and per kind, each input beside the other."""
    names = [
        name
        for name in ("accuracy", "accuracy_disc", "accuracy_event", "accuracy_user")
        if any(name in row for rows in evaluations.values() for row in rows)
    ]
    labels = {
        "accuracy": "all questions",
        "accuracy_disc": "moving disc: bright or dark",
        "accuracy_event": "colour that appears for 4 of 64 frames",
        "accuracy_user": "your videos (the same videos and answers as in training)",
    }
    rows = []
    for name in names:
        row = [labels[name]]
        for samples in evaluations.values():
            scores = [float(sample[name]) for sample in samples if name in sample]
            share = sum(scores) / len(scores)
            low, high = wilson_interval(share, len(scores))
            row += [
                f"{100 * share:.1f} %",
                f"{100 * low:.0f} to {100 * high:.0f}",
                str(len(scores)),
            ]
        rows.append(row)
    header = ["questions"]
    for name in evaluations:
        header += [f"{name}", "95 % interval", "n"]
    return table(header, rows, set(range(1, len(header))))


def sample_table(
    questions: list[dict[str, str]], evaluations: dict[str, list[dict[str, Any]]]
) -> str:
    """The first questions of each kind with the answers on each input."""
    answers = {name: {row["doc_id"]: row for row in rows} for name, rows in evaluations.items()}
    numbers: list[int] = []
    for kind in dict.fromkeys(question["kind"] for question in questions):
        numbers += [n for n, question in enumerate(questions) if question["kind"] == kind][:6]
    rows = []
    for number in numbers:
        question = questions[number]
        row = [html.escape(Path(question["video"]).stem), html.escape(question["question"])]
        row.append(html.escape(question["answer"]))
        for by_number in answers.values():
            answer = by_number[number]
            mark = "✓" if answer["accuracy"] else "✗"
            row.append(f"{mark} {html.escape(answer['filtered_resps'])}")
        rows.append(row)
    return table(["video", "question", "answer", *evaluations], rows, set())


def token_table(manifests: dict[str, dict[str, Any]]) -> str:
    rows = []
    for name, manifest in manifests.items():
        tokens = manifest["tokens_per_sample"]
        rows.append(
            [
                name,
                f"{tokens['visual']['mean']:.0f}",
                f"{tokens['text']['mean']:.0f}",
                str(manifest["hits"]),
                str(manifest["misses"]),
            ]
        )
    header = ["input", "visual tokens per question", "text tokens", "asset hits", "misses"]
    return table(header, rows, {1, 2, 3, 4})


def video_section(video: str, asset_folder: Path) -> str:
    """All pictures of one video."""
    asset = read_asset(asset_folder)
    exactness = ", ".join(f"{key}: {value}" for key, value in asset.meta["exactness"].items())
    kept = len({tuple(row) for row in asset.positions.tolist()})
    grid = math.isqrt(len(asset.positions) // len(asset.images))
    cells = len(asset.frame_ids) * grid * grid
    parts = [
        f"<h3>{html.escape(Path(video).name)}</h3>",
        f'<p class="note">Read by the backend <b>{html.escape(asset.meta["backend"])}</b> '
        f"({html.escape(exactness)}). {kept} of {cells} patches kept: "
        f"{100 * kept / cells:.1f} %.</p>",
    ]
    parts += [figure(panel, caption) for caption, panel in video_panels(video, asset)]
    return "".join(parts)


def write_report(
    run: "Run",
    material: "Material",
    assets: Path,
    model: Path,
    results: dict[str, Path],
    seconds: float,
) -> Path:
    """Write ``report.html`` into the run's folder and return its path."""
    log = read_training_log(model)
    losses = [float(row["loss"]) for row in log]
    window = max(1, len(losses) // 20)
    first, last = sum(losses[:window]) / window, sum(losses[-window:]) / window
    both = {name: read_evaluation(folder) for name, folder in results.items()}
    samples = {name: rows for name, (_, rows) in both.items()}
    manifests = {name: manifest for name, (manifest, _) in both.items()}
    keys = material.keys
    shown = list(keys)[:2]
    first_asset = read_asset(assets / keys[shown[0]])
    slots, num_frames = len(first_asset.frame_ids), len(first_asset.images)
    steps = [
        [html.escape(step.name), f"{step.seconds:.1f}", f"<code>{html.escape(step.command)}</code>"]
        for step in run.steps
    ]
    tokens = sum(row["tokens"] for row in log)
    visual = sum(row["visual_tokens"] for row in log)
    body = f"""
<p>{len(material.records)} training videos and {len(material.questions)} questions went through
codec assets, training and evaluation in {seconds:.0f} s. Codec input keeps the informative patches
of {slots} frames; plain input keeps all patches of {num_frames}.</p>
<h2>What the model sees</h2>{"".join(video_section(v, assets / keys[v]) for v in shown)}
<h2>Training</h2><p>Loss fell from {first:.3f} to {last:.3f} (means over {window} steps) in
{len(losses)} steps; {visual:,} visual of {tokens:,} tokens in all.</p>{loss_curve(losses)}
<h2>Evaluation by lmms-eval, both inputs at the same number of visual tokens</h2>
{score_table(samples)}{token_table(manifests)}
<p class="note">A tiny model trained from random weights: the scores show that the line works and
what the input can carry, nothing about a full-size model. What appears between the uniformly
sampled frames cannot be seen in them, however good the model.</p>
{sample_table(material.questions, samples)}
<h2>Steps</h2>{table(["step", "seconds", "command"], steps, {1})}
"""
    target = run.path("report.html")
    target.write_text(page("From videos to a model", body), encoding="utf-8")
    return target
