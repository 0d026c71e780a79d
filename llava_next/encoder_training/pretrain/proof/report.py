"""The page of the proof: figures over seeds, loss curves, the GIF, clusters next to pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from encoder_training.pretrain.concepts.bank import read_bank
from encoder_training.pretrain.data.labels import read_labels
from encoder_training.pretrain.data.sources import read_source
from encoder_training.pretrain.proof.pictures import (
    animate,
    draw_losses,
    nearest_clusters,
    read_steps,
)
from encoder_training.pretrain.proof.steps import ProofSettings
from run_kit.files import read_json_lines, replace_file, write_json, write_text
from run_kit.pages.charts import Curve, line_chart
from run_kit.pages.page import figure, page, table

GIF = "clusters.gif"
PICTURE = "nearest_clusters.jpg"
LOSSES = "losses.png"
LOG_FILE = "train_log.jsonl"

Figures = Mapping[int, Mapping[str, Mapping[str, Mapping[str, float]]]]
"""Figures keyed by seed, kind, what is judged, and measure."""


def write_proof(out: Path, figures: Figures, settings: ProofSettings) -> None:
    """Write ``report.html``, ``figures.json``, the GIF, the pictures of clusters and losses."""
    summary = summarise(figures)
    write_json(out / "figures.json", {"seeds": list(figures), "figures": summary})
    first = next(iter(figures))
    body = ["<h2>Images</h2>", _table(summary["images"])]
    body += ["<h2>Clips</h2>", _table(summary["clips"])]
    body.append(
        '<p class="note">Mean over seeds, and the lowest and highest. k-NN: five neighbours among '
        "the other judged samples. NMI: of k-means clusters of the features. reversal: a motion "
        "told from itself played backwards by the mean cosine to either, among clips alike in "
        "everything else; chance is 50. "
        "&quot;features of the bank&quot; are what the labels were made from.</p>"
    )
    body.append('<h2>Loss</h2><div class="charts">')
    charts = {
        f"stage {stage}, {kind}s": _curves(out, list(figures), f"stage{stage}", f"loss_{kind}")
        for stage in (1, 2)
        for kind in ("image", "video")
    }
    body += [line_chart(f"loss, {title}", curves) for title, curves in charts.items()]
    body.append("</div>")
    with replace_file(out / LOSSES) as temporary:
        draw_losses(charts).save(temporary, "PNG")
    folder = out / f"seed-{first}"
    labels = dict(read_labels(folder / "labels-images"))
    losses = {row["step"]: row["loss"] for row in read_json_lines(folder / "stage1" / LOG_FILE)}
    animate(
        out / GIF,
        read_steps(folder / "stage1"),
        {key: int(row[0]) for key, row in labels.items()},
        read_bank(folder / "bank-images").centres,
        losses,
        batch_size=settings.image_batch,
    )
    body.append(f'<h2>Embeddings over steps</h2><img src="{GIF}" alt="embeddings over steps">')
    items = read_source(out / "train" / "images")
    queries = [items[number] for number in np.random.default_rng(1).permutation(len(items))[:8]]
    rows = {key: row.tolist() for key, row in labels.items()}
    picture = nearest_clusters(queries, rows, items)
    with replace_file(out / PICTURE) as temporary:
        picture.save(temporary, quality=88)
    body.append("<h2>Nearest clusters of a picture</h2>")
    body.append(figure(picture, "left: a picture; then members of its three nearest centres"))
    write_text(out / "report.html", page("Pretraining learns", "\n".join(body)))


def summarise(figures: Figures) -> dict[str, dict[str, dict[str, list[float]]]]:
    """Return mean, lowest and highest over the seeds, of each figure."""
    seeds = list(figures.values())
    return {
        kind: {
            name: {
                measure: _spread([seed[kind][name][measure] for seed in seeds])
                for measure in seeds[0][kind][name]
            }
            for name in seeds[0][kind]
        }
        for kind in seeds[0]
    }


def _spread(values: Sequence[float]) -> list[float]:
    return [float(np.mean(values)), min(values), max(values)]


def _table(rows: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    measures = list(next(iter(rows.values())))
    cells = [
        [name, *(_cell(found[measure]) for measure in measures)] for name, found in rows.items()
    ]
    return table(["", *measures], cells, set(range(1, len(measures) + 1)))


def _cell(spread: Sequence[float]) -> str:
    mean, low, high = (100 * value for value in spread)
    return f"{mean:.1f} <small>{low:.1f} to {high:.1f}</small>"


def _curves(out: Path, seeds: Sequence[int], stage: str, name: str) -> list[Curve]:
    curves = []
    for colour, seed in enumerate(seeds):
        rows: list[dict[str, Any]] = read_json_lines(out / f"seed-{seed}" / stage / LOG_FILE)
        rows = [row for row in rows if row.get(name) is not None]
        values = [row[name] for row in rows]
        curves.append(Curve(f"seed {seed}", [row["step"] for row in rows], values, colour))
    return curves
