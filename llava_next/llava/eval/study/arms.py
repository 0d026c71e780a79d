"""The arms of the study: ways to spend the same number of visual tokens on a clip.

Every arm gives a codec asset: mosaics of cells with a position (t, h, w) each. Most are settings of
``cv_reader``; random cells, frames at half resolution and the oracle are cut and packed here.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cv_reader import open_video
from cv_reader.assets import AssetConfig
from cv_reader.assets.make import write_evaluation_asset
from cv_reader.pricing import priced_config
from cv_reader.reader import ReadOptions
from llava.eval.study.clips import Clip
from llava.eval.study.drawing import NUM_FRAMES, Sizes
from run_kit.files import replace_file

BUDGETS = (2, 4, 8)
"""Mosaics of a clip, a frame's worth of tokens each: 1/32, 1/16 and 1/8 of the clip's cells."""

MOST_SHARED = 4
"""How many times the budget one clip may have where clips share it."""

Rows = NDArray[np.int32]
ChooseRows = Callable[[Clip, int], Rows]


@dataclass(frozen=True)
class Arm:
    """One way to choose what is shown.

    Attributes:
        title: what reports call it.
        settings: of ``AssetConfig``, other than sizes and budget.
        backend: backend of the reader.
        rows: chooses the rows instead of the settings.
        half_resolution: show whole frames at half the resolution, four to a mosaic.
        ablation: changes one thing of another arm; evaluated at one budget, on models that were not
            trained on it.
        shuffles_time: give the cells' positions times in random order.
        only_codec: codec of the clips that the arm can read; None = it reads all.
        shares_budget: one price of a cell for all clips, so that their mean meets the budget.
    """

    title: str
    settings: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    backend: str = "auto"
    rows: ChooseRows | None = None
    half_resolution: bool = False
    ablation: bool = False
    shuffles_time: bool = False
    only_codec: str | None = None
    shares_budget: bool = False

    def reads(self, clip: Clip) -> bool:
        """Return whether the arm can show a clip."""
        return self.only_codec in (None, clip.encoding.codec)


def _random_rows(clip: Clip, count: int) -> Rows:
    rng = np.random.default_rng((7, clip.seed, count))
    flat = rng.choice(NUM_FRAMES * clip.sizes.cells, count, replace=False)
    return _unravel(flat, clip.sizes.grid)


def _oracle_rows(clip: Clip, count: int) -> Rows:
    """Choose the cells that show the answers, in turns over the questions; then random ones.

    What it does not spend on answers goes to whole early frames, so that it knows the scene too.
    """
    rng = np.random.default_rng((8, clip.seed, count))
    queues: list[list[int]] = []
    grid, per_frame = clip.sizes.grid, clip.sizes.cells
    for question in clip.questions:
        for group in question.evidence:
            cells = sorted((t * grid + h) * grid + w for t, h, w in group)
            queues.append(rng.permutation(cells).tolist())
    chosen: dict[int, None] = {}
    while any(queues) and len(chosen) < count - per_frame:
        for queue in queues:
            if queue and len(chosen) < count - per_frame:
                chosen[queue.pop()] = None
    for flat in [*range(per_frame), *rng.permutation(NUM_FRAMES * per_frame).tolist()]:
        if len(chosen) == count:
            break
        chosen[flat] = None
    return _unravel(np.array(list(chosen)), grid)


def _packet_rows(clip: Clip, count: int) -> Rows:
    """Choose whole frames so that equally many coded bytes are between them."""
    num_frames = count // clip.sizes.cells
    config = replace(_config(num_frames, clip.sizes), sequence_length=num_frames, select="uniform")
    config = replace(config, frames="bitcost")
    with tempfile.TemporaryDirectory() as folder:
        asset = write_evaluation_asset(clip.path, key="frames", out_root=folder, config=config)
        rows = np.array(asset.positions)
    rows[:, 0] = asset.frame_ids[rows[:, 0]]
    return rows


def _unravel(flat: NDArray[Any], grid: int) -> Rows:
    return np.stack(np.unravel_index(flat, (NUM_FRAMES, grid, grid)), axis=1).astype(np.int32)


def _topk(**settings: Any) -> Mapping[str, Any]:
    return MappingProxyType({"select": "topk", **settings})


def _rate_distortion(**settings: Any) -> Mapping[str, Any]:
    # The distortion that the study was made with; it was called "sharp", and the default, then.
    fixed = {"select": "rate_distortion", "distortion": "worst_3"}
    return MappingProxyType({**fixed, **settings})


ARMS: Mapping[str, Arm] = MappingProxyType(
    {
        "uniform": Arm("whole frames", {"select": "uniform"}),
        "half_resolution": Arm("whole frames, four times as many, halved", half_resolution=True),
        "packets": Arm("whole frames where packets are large", rows=_packet_rows),
        "random": Arm("random cells", rows=_random_rows),
        "reference": Arm("published formula", _topk(signal="reference")),
        "mv_residual": Arm("published formula, exact quarter pixels", _topk(signal="mv_residual")),
        "estimated": Arm(
            "published formula, estimated signals", _topk(signal="mv_residual"), backend="estimated"
        ),
        "bits": Arm("bits spent", _topk(signal="bits")),
        "framediff": Arm("frame difference", _topk(signal="framediff")),
        "rlt": Arm("run-length tokens", _topk(signal="rlt")),
        "evs": Arm("EVS: cosine to the frame before", _topk(signal="evs")),
        "rd_hold": Arm("rate-distortion, hold", _rate_distortion(direction="hold")),
        "rd_nearest": Arm("rate-distortion, nearest", _rate_distortion()),
        "rd_still": Arm("rate-distortion, no motion", _rate_distortion(predict="still")),
        "rd_mean": Arm("rate-distortion, mean difference", _rate_distortion(distortion="mean")),
        "oracle": Arm("oracle: cells that show the answers", rows=_oracle_rows),
        "no_first_frame": Arm(
            "rate-distortion, first frame not whole",
            _rate_distortion(keep_first_full_frame=False),
            ablation=True,
        ),
        "zigzag": Arm("rate-distortion, zigzag", _rate_distortion(order="zigzag"), ablation=True),
        "adaptive": Arm(
            "rate-distortion, budget shared by all clips",
            _rate_distortion(),
            ablation=True,
            shares_budget=True,
        ),
        "shuffled_time": Arm(
            "rate-distortion, times shuffled", _rate_distortion(), ablation=True, shuffles_time=True
        ),
        "residual": Arm(
            "residual, exact", _topk(signal="residual"), ablation=True, only_codec="h264"
        ),
        "residual_decoded": Arm(
            "residual, of decoded pictures",
            _topk(signal="residual"),
            backend="pyav",
            ablation=True,
            only_codec="h264",
        ),
    }
)


@dataclass(frozen=True)
class Shown:
    """What an arm shows of a clip.

    Attributes:
        images: the mosaics.
        positions: the file of positions, int32 (N, 3).
    """

    images: tuple[Path, ...]
    positions: Path


def asset_config(
    arm: Arm, num_images: int, sizes: Sizes, out_root: Path, videos: Sequence[Path] = ()
) -> AssetConfig:
    """Return the settings of an arm at a budget of so many mosaics.

    Args:
        arm: one that ``cv_reader`` chooses for.
        num_images: budget in mosaics.
        sizes: of pictures and cells.
        out_root: keeps the price of a cell where the arm shares its budget.
        videos: clips from which that price follows; not needed again once it is kept.
    """
    config = replace(_config(num_images, sizes), **arm.settings)
    if not arm.shares_budget:
        return config
    most = replace(config, num_images=MOST_SHARED * num_images)
    folder = out_root / f"price_{num_images}"
    return priced_config(most, num_images, videos, ReadOptions(), folder)


def _config(num_images: int, sizes: Sizes) -> AssetConfig:
    return AssetConfig(
        sequence_length=NUM_FRAMES,
        num_images=num_images,
        square_size=sizes.view_px,
        patch_size=sizes.cell_px,
    )


def show(clip: Clip, name: str, num_images: int, out_root: Path) -> Shown:
    """Make what an arm shows of a clip, or find it where it is complete.

    Args:
        clip: encoded.
        name: key of ``ARMS``.
        num_images: budget in mosaics.
        out_root: holds all that is shown; ``assets/<arm>_<budget>_<clip>`` is written below.
    """
    arm, key = ARMS[name], f"{name}_{num_images}_{clip.path.stem}"
    folder = out_root / "assets" / key
    positions = folder / "positions_thw.npy"
    if not positions.exists():
        if arm.rows is None and not arm.half_resolution:
            config = asset_config(arm, num_images, clip.sizes, out_root)
            write_evaluation_asset(
                clip.path, key=key, out_root=out_root, config=config, backend=arm.backend
            )
        else:
            _write_own(clip, arm, num_images, folder)
    if arm.shuffles_time:
        positions = _shuffle_times(positions, clip.seed)
    return Shown(tuple(sorted(folder.glob("mosaic_*.jpg"))), positions)


def cells_shown(name: str, positions: Path) -> Rows:
    """Return the cells (t, h, w) of the clip that an arm's tokens show, int32 (N, 3).

    A token of a frame at half resolution shows 2 x 2 cells; every other token its own.
    """
    rows = np.load(positions, allow_pickle=False)
    if not ARMS[name].half_resolution:
        return rows
    steps = [(0, row, column) for row in range(2) for column in range(2)]
    return np.concatenate([rows + np.array(step, rows.dtype) for step in steps])


def _shuffle_times(positions: Path, seed: int) -> Path:
    """Write positions whose time slots are exchanged for each other; returns the new file."""
    target = positions.with_name("positions_shuffled.npy")
    rows = np.load(positions, allow_pickle=False)
    slots = np.unique(rows[:, 0])
    exchanged = np.zeros(NUM_FRAMES, rows.dtype)
    exchanged[slots] = np.random.default_rng((11, seed)).permutation(slots)
    rows[:, 0] = exchanged[rows[:, 0]]
    with replace_file(target) as partial:
        np.save(partial, rows)
    return target


def _write_own(clip: Clip, arm: Arm, num_images: int, folder: Path) -> None:
    """Pack rows that are chosen here; the positions, written last, mark the asset complete."""
    with open_video(clip.path) as video:
        frames = np.stack([frame.rgb() for frame in video.frames()])
    grid, cell_px, view_px = clip.sizes.grid, clip.sizes.cell_px, clip.sizes.view_px
    if arm.rows is None:
        rows, cells = _half_resolution(frames, num_images, clip.sizes)
    else:
        rows = arm.rows(clip, num_images * clip.sizes.cells)
        rows = rows[np.lexsort(rows.T[::-1])]
        tiled = frames.reshape(len(frames), grid, cell_px, grid, cell_px, 3)
        cells = tiled[rows[:, 0], rows[:, 1], :, rows[:, 2]]
    folder.mkdir(parents=True, exist_ok=True)
    grids = cells.reshape(num_images, grid, grid, cell_px, cell_px, 3).swapaxes(2, 3)
    for number, mosaic in enumerate(grids.reshape(num_images, view_px, view_px, 3)):
        image = Image.fromarray(np.ascontiguousarray(mosaic))
        image.save(folder / f"mosaic_{number:03d}.jpg", quality=95, subsampling="4:2:0")
    with replace_file(folder / "positions_thw.npy") as partial:
        np.save(partial, rows)


def _half_resolution(
    frames: NDArray[np.uint8], num_images: int, sizes: Sizes
) -> tuple[Rows, NDArray[np.uint8]]:
    """Cut four times as many frames, halved in height and width, into cells.

    A cell then shows an area of 2 x 2 cells; its position is that of the area's first cell.

    Returns:
        The positions, int32 (N, 3), and the cells, uint8 (N, p, p, 3).
    """
    half, count = sizes.grid // 2, 4 * num_images
    view, cell = sizes.view_px // 2, sizes.cell_px
    slots = np.arange(count) * (len(frames) - 1) // max(count - 1, 1)
    chosen = frames[slots].reshape(count, view, 2, view, 2, 3)
    small = np.rint(chosen.mean(axis=(2, 4))).astype(np.uint8)
    cells = small.reshape(count, half, cell, half, cell, 3).swapaxes(2, 3)
    t, h, w = np.meshgrid(slots, 2 * np.arange(half), 2 * np.arange(half), indexing="ij")
    rows = np.stack([axis.ravel() for axis in (t, h, w)], axis=1).astype(np.int32)
    return rows, cells.reshape(len(rows), cell, cell, 3)
