"""Pictures of runs: embeddings over steps as an animated GIF, clusters next to a picture, losses.

A frame of the GIF shows the same samples twice. On the left is one batch, which is all that batch
contrast compares with; on the right every sample and every centre of the bank, as cluster
discrimination does. The axes are those along which groups of neighbouring centres differ most at
the end, found on every second sample and kept over all frames.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from encoder_training.pretrain.concepts.kmeans import FeatureRows, KMeansState, drawn_centres, lloyd
from encoder_training.pretrain.concepts.nearest import Floats, search_by, unit_rows
from encoder_training.pretrain.concepts.report import thumbnail
from encoder_training.pretrain.data.sources import SourceItem
from run_kit.files import replace_file
from run_kit.pages.charts import Curve

GROUPS = 8
_COLOURS = (
    (26, 115, 200), (209, 96, 31), (44, 154, 82), (160, 58, 176),
    (194, 51, 77), (138, 109, 29), (21, 150, 163), (107, 107, 107),
)  # fmt: skip
_PANEL_PX, _MARGIN_PX, _HEAD_PX = 420, 16, 58
_SCALE = 2


def read_steps(run: Path) -> dict[int, tuple[list[str], Floats]]:
    """Return keys and features of the images of each step that a run embedded, in order."""
    found = {}
    for path in (run / "embeddings").glob("step-*.npz"):
        with np.load(path, allow_pickle=False) as stored:
            is_image = stored["kinds"] == "image"
            features = stored["features"][is_image]
            found[int(path.stem.partition("-")[2])] = list(stored["keys"][is_image]), features
    if not found:
        raise ValueError(f"{run} has no embeddings; train with --embedding_steps above 0")
    return dict(sorted(found.items()))


def group_centres(centres: Floats, count: int = GROUPS) -> NDArray[np.int64]:
    """Return the group of each centre: neighbouring centres share one."""
    rows = FeatureRows([centres])
    state = lloyd(rows, KMeansState(drawn_centres(rows, count, 0)), iterations=20, backend="torch")
    return search_by("torch", state.centres)(unit_rows(centres), 1).numbers[:, 0]


def axes_of(features: Floats, groups: NDArray[np.int64]) -> Floats:
    """Return the two directions (D, 2) along which the means of groups differ most."""
    rows = unit_rows(features)
    means = np.stack([rows[groups == group].mean(axis=0) for group in np.unique(groups)])
    means = means - means.mean(axis=0)
    return np.linalg.svd(means, full_matrices=False)[2][:2].T.astype(np.float32)


def animate(
    path: Path,
    steps: Mapping[int, tuple[list[str], Floats]],
    labels: Mapping[str, int],
    centres: Floats,
    losses: Mapping[int, float],
    *,
    batch_size: int,
) -> None:
    """Write the GIF.

    Args:
        path: file to write.
        steps: keys and features of the same samples at each step.
        labels: nearest centre of each sample in the bank.
        centres: float32 (k, d) of the bank, in its own space: they group the colours.
        losses: loss by step.
        batch_size: samples that the left panel shows.
    """
    keys, last = list(steps.values())[-1]
    numbers = np.array([labels[key] for key in keys])
    groups = group_centres(centres)[numbers]
    axes = axes_of(last[::2], groups[::2])
    middle = unit_rows(last).mean(axis=0) @ axes
    places = {step: unit_rows(rows) @ axes - middle for step, (_, rows) in steps.items()}
    reach = 1.08 * max(np.quantile(np.abs(xy), 0.995) for xy in places.values())
    random = np.random.default_rng(0)
    frames = []
    for step, xy in places.items():
        batch = random.permutation(len(keys))[:batch_size]
        near = [s for s in losses if s <= step]
        loss = f"   loss {losses[max(near)]:.1f}" if near else ""
        frames.append(_frame(xy / reach, groups, numbers, batch, f"step {step}{loss}"))
    durations = [220] * (len(frames) - 1) + [2500]
    with replace_file(path) as temporary:
        frames[0].save(
            temporary,
            save_all=True,
            append_images=frames[1:],
            duration=durations,
            loop=0,
            optimize=True,
        )


def _frame(
    xy: Floats,
    groups: NDArray[np.int64],
    numbers: NDArray[np.int64],
    batch: NDArray[np.int64],
    title: str,
) -> Image.Image:
    width, height = 2 * _PANEL_PX + 3 * _MARGIN_PX, _PANEL_PX + _HEAD_PX + _MARGIN_PX
    image = Image.new("RGB", (width * _SCALE, height * _SCALE), "white")
    draw = ImageDraw.Draw(image)
    used = np.unique(numbers)
    means = np.stack([xy[numbers == number].mean(axis=0) for number in used])
    colours = [groups[numbers == number][0] for number in used]
    anchor = int(batch[0])
    texts = (
        f"a batch: 1 other against {len(batch) - 1}",
        f"the bank: every centre, {len(used)} with samples here",
    )
    font = ImageFont.load_default(13 * _SCALE)
    draw.text(
        (_MARGIN_PX * _SCALE, 8 * _SCALE), title, "black", ImageFont.load_default(17 * _SCALE)
    )
    for panel, text in enumerate(texts):
        left = _MARGIN_PX + panel * (_PANEL_PX + _MARGIN_PX)
        box = [left, _HEAD_PX, left + _PANEL_PX, _HEAD_PX + _PANEL_PX]
        draw.rectangle([v * _SCALE for v in box], outline=(210, 210, 210), width=_SCALE)
        draw.text((left * _SCALE, (_HEAD_PX - 22) * _SCALE), text, (70, 70, 70), font)
        shown = batch if panel == 0 else np.arange(len(xy))
        targets = xy[batch[1:]] if panel == 0 else means
        start = _pixel(xy[anchor], left)
        for target in targets:
            draw.line((*start, *_pixel(target, left)), fill=(222, 222, 222), width=1)
        for index in shown:
            _dot(draw, _pixel(xy[index], left), 2.4 if panel else 4, _COLOURS[groups[index]])
        if panel:
            for place, colour in zip(means, colours, strict=True):
                _ring(draw, _pixel(place, left), 5, _COLOURS[colour])
        _ring(draw, start, 7, (0, 0, 0))
    return image.resize((width, height), Image.Resampling.LANCZOS).quantize(64)


def _pixel(place: Floats, left: int) -> tuple[float, float]:
    x, y = np.clip(place, -1, 1)
    half = _PANEL_PX / 2 - 8
    return (
        float(left + _PANEL_PX / 2 + x * half) * _SCALE,
        float(_HEAD_PX + _PANEL_PX / 2 - y * half) * _SCALE,
    )


def _dot(
    draw: ImageDraw.ImageDraw, place: tuple[float, float], radius: float, colour: tuple[int, ...]
) -> None:
    x, y, r = *place, radius * _SCALE
    draw.ellipse((x - r, y - r, x + r, y + r), fill=colour)


def _ring(
    draw: ImageDraw.ImageDraw, place: tuple[float, float], radius: float, colour: tuple[int, ...]
) -> None:
    x, y, r = *place, radius * _SCALE
    draw.ellipse((x - r, y - r, x + r, y + r), outline=colour, width=_SCALE)


def nearest_clusters(
    queries: Sequence[SourceItem],
    labels: Mapping[str, Sequence[int]],
    items: Sequence[SourceItem],
    *,
    num_clusters: int = 3,
    per_cluster: int = 4,
    tile_px: int = 64,
) -> Image.Image:
    """Return one row for each query: the picture, then members of its nearest clusters.

    Args:
        queries: pictures that have labels.
        labels: nearest centres of each sample, by key.
        items: the samples that clusters are shown by.
        num_clusters, per_cluster: clusters of a row and pictures of each.
        tile_px: side of a picture.
    """
    members: dict[int, list[SourceItem]] = {}
    for item in items:
        members.setdefault(labels[item.key][0], []).append(item)
    gap = tile_px // 4
    width = tile_px + num_clusters * (gap + per_cluster * tile_px)
    sheet = Image.new("RGB", (width, len(queries) * (tile_px + 6) - 6), "white")
    for row, query in enumerate(queries):
        top = row * (tile_px + 6)
        sheet.paste(thumbnail(query, tile_px), (0, top))
        for rank, cluster in enumerate(labels[query.key][:num_clusters]):
            left = tile_px + gap + rank * (gap + per_cluster * tile_px)
            others = [item for item in members.get(cluster, []) if item.key != query.key]
            for number, item in enumerate(others[:per_cluster]):
                sheet.paste(thumbnail(item, tile_px), (left + number * tile_px, top))
    return sheet


def draw_losses(charts: Mapping[str, Sequence[Curve]]) -> Image.Image:
    """Return the curves of each chart side by side; charts without a curve are left out.

    Args:
        charts: curves by title. All charts share the vertical axis, which starts at 0.
    """
    charts = {title: curves for title, curves in charts.items() if any(c.steps for c in curves)}
    highest = max(max(curve.values) for curves in charts.values() for curve in curves)
    side, left, top, foot = 250, 34, 30, 24
    size = (len(charts) * (side + left) + _MARGIN_PX, top + side + foot)
    image = Image.new("RGB", (size[0] * _SCALE, size[1] * _SCALE), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(12 * _SCALE)

    def write(x: float, y: float, text: str, anchor: str) -> None:
        draw.text((x * _SCALE, y * _SCALE), text, (70, 70, 70), font, anchor=anchor)

    for number, (title, curves) in enumerate(charts.items()):
        start = left + number * (side + left)
        box = (start, top, start + side, top + side)
        draw.rectangle([v * _SCALE for v in box], outline=(210, 210, 210), width=_SCALE)
        write(start, top - 8, title, "ls")
        last = max(curve.steps[-1] for curve in curves)
        for value in range(0, int(highest) + 1, 2):
            write(start - 5, top + side * (1 - value / highest), str(value), "rm")
        write(start + side, top + side + 6, f"step {last:g}", "rt")
        for curve in curves:
            places = [
                ((start + side * x / last) * _SCALE, (top + side * (1 - y / highest)) * _SCALE)
                for x, y in zip(curve.steps, curve.values, strict=True)
            ]
            draw.line(places, fill=_COLOURS[curve.colour % len(_COLOURS)], width=_SCALE)
    return image.resize(size, Image.Resampling.LANCZOS)
