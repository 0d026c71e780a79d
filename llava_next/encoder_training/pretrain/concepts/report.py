"""A page about a bank and its labels: cluster sizes, dead centres, pictures, near duplicates.

Near duplicates are pairs within a cluster whose features have a cosine of at least 0.98; they are
counted in clusters drawn at random, and the share is that of samples with such a partner.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from encoder_training.pretrain.concepts.bank import Bank
from encoder_training.pretrain.concepts.extractors import read_frames, read_image
from encoder_training.pretrain.concepts.features import Features
from encoder_training.pretrain.concepts.nearest import unit_rows
from encoder_training.pretrain.data.labels import read_labels
from encoder_training.pretrain.data.samples import BadSampleError
from encoder_training.pretrain.data.sources import SourceItem
from run_kit.files import write_text
from run_kit.pages.charts import Curve, line_chart
from run_kit.pages.page import figure, page, table

NEAR_COSINE = 0.98
_TILE_PX = 72
_COLUMNS = 12


def write_report(
    path: Path,
    bank: Bank,
    features: Features,
    labels: Path,
    items: Sequence[SourceItem] = (),
    *,
    num_clusters: int = 12,
    seed: int = 0,
) -> dict[str, float]:
    """Write the page; return its figures.

    Args:
        path: the HTML file.
        bank: the centres.
        features: features of the labelled samples.
        labels: folder of labels.
        items: the source, for pictures; may be empty.
        num_clusters: clusters shown with pictures.
        seed: seed of the samples drawn.
    """
    pairs = list(read_labels(labels))
    first = np.array([row[0] for _, row in pairs])
    keys = [key for key, _ in pairs]
    sizes = np.bincount(first[first >= 0], minlength=len(bank.centres))
    random = np.random.default_rng(seed)
    near, looked_at = near_duplicates(features, first, random)
    figures = {
        "samples": float(len(first)),
        "bad samples": float((first < 0).sum()),
        "centres": float(len(sizes)),
        "dead centres": float((sizes == 0).sum()),
        "largest cluster": float(sizes.max()),
        "median cluster": float(np.median(sizes[sizes > 0])) if sizes.any() else 0.0,
        "effective clusters": effective_number(sizes),
        "near-duplicate share": near,
    }
    rows = [[name, f"{value:.4g}"] for name, value in figures.items()]
    body = [table(["", "value"], rows, {1})]
    body.append(
        f'<p class="note">Near duplicates (cosine of {NEAR_COSINE} or more within a cluster) were '
        f"counted among {looked_at} samples. The effective number of clusters is exp(entropy) of "
        f"the sizes. Bank {bank.fingerprint}.</p>"
    )
    ordered = np.sort(sizes)[::-1].astype(float)
    ranks = np.arange(1, len(ordered) + 1)
    body.append('<div class="charts">')
    curve = Curve("samples", ranks.tolist(), ordered.tolist(), 0)
    title = "samples of a cluster, largest cluster first"
    body.append(line_chart(title, [curve], smooth=False, axis="cluster"))
    history = bank.facts.get("history", [])
    if history:
        steps = [float(number) for number in range(1, len(history) + 1)]
        cosines = [row["mean_cosine"] for row in history]
        lines = [Curve("cosine", steps, cosines, 0)]
        body.append(line_chart("mean cosine to the centre", lines, axis="iteration of k-means"))
    body.append("</div>")
    if items:
        body += _pictures(sizes, first, keys, items, num_clusters, random)
    write_text(path, page("Concept bank", "\n".join(body)))
    return figures


def effective_number(sizes: NDArray[np.int64]) -> float:
    """Return exp(entropy) of the sizes: k for k equal clusters, 1 for a single one."""
    shares = sizes[sizes > 0] / max(sizes.sum(), 1)
    return float(np.exp(-(shares * np.log(shares)).sum()))


def near_duplicates(
    features: Features,
    first: NDArray[np.int64],
    random: np.random.Generator,
    most_rows: int = 20_000,
) -> tuple[float, int]:
    """Return the share of samples with a near duplicate in their cluster, and of how many."""
    clusters = random.permutation(np.unique(first[first >= 0]))
    starts = np.cumsum([0] + [len(part) for part in features.parts])
    found = total = 0
    for cluster in clusters:
        members = np.flatnonzero(first == cluster)[:2000]
        if total and total + len(members) > most_rows:
            break
        total += len(members)
        parts = np.searchsorted(starts, members, side="right") - 1
        rows = np.stack(
            [features.parts[p][m - starts[p]] for p, m in zip(parts, members, strict=True)]
        )
        rows = unit_rows(rows.astype(np.float32))
        cosines = rows @ rows.T
        np.fill_diagonal(cosines, -1)
        found += int((cosines.max(axis=1) >= NEAR_COSINE).sum()) if len(rows) > 1 else 0
    return found / max(total, 1), total


def _pictures(
    sizes: NDArray[np.int64],
    first: NDArray[np.int64],
    keys: Sequence[str],
    items: Sequence[SourceItem],
    num_clusters: int,
    random: np.random.Generator,
) -> list[str]:
    by_key = {item.key: item for item in items}
    alive = np.flatnonzero(sizes)
    order = alive[np.argsort(-sizes[alive], kind="stable")]
    third = max(num_clusters // 3, 1)
    chosen = list(order[:third]) + list(order[-third:])
    rest = np.setdiff1d(alive, chosen)
    chosen += list(random.permutation(rest)[: max(num_clusters - len(chosen), 0)])
    body = ["<h2>Clusters</h2><p>The largest, the smallest, and others at random.</p>"]
    for cluster in dict.fromkeys(int(number) for number in chosen):
        members = random.permutation(np.flatnonzero(first == cluster))[:_COLUMNS]
        names = [keys[int(number)] for number in members]
        found = [by_key[name] for name in names if name in by_key]
        if found:
            caption = f"centre {cluster}: {sizes[cluster]} samples"
            body.append(figure(picture_row(found), caption))
    return body


def picture_row(items: Sequence[SourceItem], tile_px: int = _TILE_PX) -> Image.Image:
    """Return small pictures side by side; of a video the frame in its middle."""
    sheet = Image.new("RGB", (tile_px * len(items), tile_px), "black")
    for number, item in enumerate(items):
        tile = thumbnail(item, tile_px)
        sheet.paste(tile, (number * tile_px, 0))
    return sheet


def thumbnail(item: SourceItem, tile_px: int) -> Image.Image:
    """Return a small square picture; a crossed one where it cannot be read."""
    try:
        if item.kind == "image":
            return read_image(item, tile_px)
        return read_frames(item, 3)[1].resize((tile_px, tile_px))
    except BadSampleError:
        tile = Image.new("RGB", (tile_px, tile_px), "grey")
        ImageDraw.Draw(tile).line((0, 0, tile_px, tile_px), fill="black", width=2)
        return tile
