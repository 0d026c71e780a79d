"""From a video to what an encoder sees of it: whole frames, or the patches of a codec selection.

Axis letters: F frames, T frame slots, K patches, g patches along a side, p side of a patch in
pixels, H and W pixels.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cv_reader import open_video
from cv_reader.assets import AssetConfig
from cv_reader.assets.make import ReadOptions, collect_mosaics, pack_pictures, select_from_video
from cv_reader.codec_index import CodecIndex
from onevision_encoder.patches import patchify, uniform_slots

Kind = Literal["frames", "codec", "random"]
KINDS: tuple[Kind, ...] = ("frames", "codec", "random")
AUGMENTATIONS = ("none", "reference")


@dataclass(frozen=True, kw_only=True)
class ClipInput:
    """How videos become input.

    Attributes:
        kind: ``frames``; ``codec`` patches; or ``random`` patches, to compare with.
        count: F frames, or K patches.
        size_px: side of the square that frames are resized to.
        patch_size: p, of codec and random patches.
        clip_frames: T, slots of the time line of patches, over which frames are spread, too.
        crop: ``centre`` resizes the short side and cuts the middle out; ``square`` pads. Patches
            are always those of the padded square.
        time_scale: factor of the slots of patches, to spread them over another number of slots.
        augmentation: of training clips: ``none``, or the published one.
        config: the selection of ``codec``.
        index: codec index to take the selection from; empty: select from each video.
        seed: of augmentation and of random patches.
    """

    kind: Kind
    count: int
    size_px: int
    patch_size: int
    clip_frames: int = 64
    crop: Literal["centre", "square"] = "centre"
    time_scale: float = 1.0
    augmentation: str = "none"
    config: AssetConfig | None = None
    index: str = ""
    seed: int = 0

    @property
    def grid(self) -> int:
        """Return g."""
        return self.size_px // self.patch_size


class ClipView(NamedTuple):
    """Which part of a video, and how it is drawn.

    Attributes:
        segment: number of the part, of ``segments`` equal ones.
        segments: parts of the video.
        crop: number of the crop along the longer side, of ``crops``.
        crops: 1 or 3.
        draw: None for the middle of each stretch without augmentation; a number draws frames and
            augmentation at random, the same ones for the same number.
    """

    segment: int = 0
    segments: int = 1
    crop: int = 0
    crops: int = 1
    draw: int | None = None


class ClipPixels(NamedTuple):
    """What an encoder gets of one view.

    Attributes:
        pixels: uint8, frames (F, 3, H, W), or patches (K, 3 * p * p).
        positions: of frames their slots, int64 (F,), of patches their rows, int64 (K, 3), or
            float32 where slots are scaled.
    """

    pixels: Tensor
    positions: Tensor


class BrokenClipError(ValueError):
    """A clip that cannot be read.

    Attributes:
        video: path in the list.
        reason: why.
    """

    def __init__(self, video: str, reason: str) -> None:
        super().__init__(f"{video}: {reason}")
        self.video, self.reason = video, reason

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return BrokenClipError, (self.video, self.reason)


def read_view(path: Path, video: str, how: ClipInput, view: ClipView) -> ClipPixels:
    """Read one view of a video.

    Args:
        path: the file.
        video: its path in the list, by which the index knows it.
        how: the input.
        view: what of the video.

    Raises:
        BrokenClipError: if it cannot be read.
    """
    try:
        if how.kind == "frames":
            clip = _frames(path, video, how, view)
        else:
            clip = _patches(path, video, how, view)
    except (ValueError, OSError) as error:  # cv_reader's own errors are ValueError
        raise BrokenClipError(video, str(error)) from error
    if view.draw is None or how.augmentation == "none":
        return clip
    return clip._replace(pixels=augment(clip.pixels, _random(how, video, view, "colour")))


def sample_ids(
    num_frames: int, count: int, random: np.random.Generator | None = None
) -> NDArray[np.int64]:
    """Return the frames of a chunk-wise sample: one of each of ``count`` equal stretches.

    Args:
        num_frames: frames of the video.
        count: F.
        random: draws the place in each stretch; None takes the middle.

    Returns:
        int64 (F,), ascending; a video with fewer frames repeats its last one.
    """
    if num_frames < count:
        return np.minimum(np.arange(count), num_frames - 1)
    stretch = (num_frames - 1) / count
    places = np.full(count, 0.5) if random is None else random.random(count)
    return (stretch * (np.arange(count) + places)).astype(np.int64)


def _random(how: ClipInput, video: str, view: ClipView, what: str) -> np.random.Generator:
    key = f"{how.seed}|{what}|{video}|{view.segment}|{view.draw}".encode()
    return np.random.default_rng(list(key))


def _span(num_frames: int, view: ClipView) -> tuple[int, int]:
    """Return the first frame of the view's part, and its number of frames; at least one."""
    first = num_frames * view.segment // view.segments
    after = num_frames * (view.segment + 1) // view.segments
    first = min(first, num_frames - 1)
    return first, max(after - first, 1)


def _frames(path: Path, name: str, how: ClipInput, view: ClipView) -> ClipPixels:
    with open_video(path, num_threads=1) as video:
        first, length = _span(len(video), view)
        random = None if view.draw is None else _random(how, name, view, "frames")
        ids = sample_ids(length, how.count, random)
        slots = np.rint(ids / max(length - 1, 1) * (how.clip_frames - 1)).astype(np.int64)
        wanted = (first + ids).tolist()
        if how.crop == "centre":
            side, width, height = how.size_px, video.index.width_px, video.index.height_px
            scale = side / min(width, height)
            size = max(side, round(width * scale)), max(side, round(height * scale))
            frames = video.at(wanted, signals=False)
            pixels = np.stack([_cut(frame.rgb(size), side, view) for frame in frames])
            stacked = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
            return ClipPixels(stacked, torch.from_numpy(slots))
    # Whole frames in the padded square: all cells of each, packed as mosaics.
    cells = np.indices((how.count, how.grid, how.grid)).reshape(3, -1).T.astype(np.int32)
    config = _square(how)
    images = collect_mosaics(path, cells, np.array(wanted, np.int32), config, ReadOptions())
    stacked = torch.from_numpy(np.stack([np.asarray(image.convert("RGB")) for image in images]))
    return ClipPixels(stacked.permute(0, 3, 1, 2).contiguous(), torch.from_numpy(slots))


def _cut(picture: NDArray[np.uint8], side: int, view: ClipView) -> NDArray[np.uint8]:
    """Cut a square out of a picture whose short side is ``side``."""
    height, width = picture.shape[:2]
    if view.crops == 1:
        top, left = (height - side) // 2, (width - side) // 2
    else:
        top = (height - side) * view.crop // (view.crops - 1)
        left = (width - side) * view.crop // (view.crops - 1)
    return picture[top : top + side, left : left + side]


def _square(how: ClipInput) -> AssetConfig:
    if how.config is not None:
        return how.config
    return AssetConfig(
        sequence_length=max(how.clip_frames, how.count if how.kind == "frames" else 1),
        num_images=1, square_size=how.size_px, patch_size=how.patch_size,
    )  # fmt: skip


def _patches(path: Path, video: str, how: ClipInput, view: ClipView) -> ClipPixels:
    config, options = _square(how), ReadOptions(num_threads=1)
    if how.kind == "random" or how.index:
        if how.index:
            entry = _open_index(how.index).entry(video)
            rows, ids = entry.rows, entry.frame_ids
        else:
            with open_video(path, num_threads=1) as opened:
                first, length = _span(len(opened), view)
            # A shorter video fills the slots by repeating frames, as the selection does.
            ids = (first + uniform_slots(how.clip_frames, length).numpy()).astype(np.int32)
            random = _random(how, video, view, "patches")
            flat = random.choice(how.clip_frames * how.grid**2, how.count, replace=False)
            rows = _rows(np.sort(flat), how.grid)
        mosaics = collect_mosaics(path, _filled(rows, how), ids, config, options)
    else:
        if view.segments > 1:
            with open_video(path, num_threads=1) as opened:
                first, length = _span(len(opened), view)
            config = replace(config, sample_start_offset=first, window_len=length)
        selection = select_from_video(path, config, options, keep_pictures=True)
        rows = selection.rows[: how.count]
        rows = rows[np.lexsort((rows[:, 2], rows[:, 1], rows[:, 0]))]
        mosaics = pack_pictures(selection, _filled(rows, how), config)
    pixels = torch.from_numpy(np.stack([np.asarray(image.convert("RGB")) for image in mosaics]))
    patches = patchify(pixels.permute(3, 0, 1, 2)[None], how.patch_size)[0, : len(rows)]
    positions = torch.from_numpy(rows.astype(np.int64))
    if how.time_scale != 1:
        positions = positions * torch.tensor([how.time_scale, 1.0, 1.0])
    return ClipPixels(patches.contiguous(), positions)


def _rows(flat: NDArray[np.int64], grid: int) -> NDArray[np.int32]:
    rows = np.stack((flat // (grid * grid), flat // grid % grid, flat % grid), axis=-1)
    return rows.astype(np.int32)


def _filled(rows: NDArray[np.int32], how: ClipInput) -> NDArray[np.int32]:
    """Repeat the last row until the mosaics are full; what it adds is cut off again."""
    missing = -len(rows) % how.grid**2
    return np.concatenate([rows, np.repeat(rows[-1:], missing, axis=0)])


@lru_cache(maxsize=4)
def _open_index(path: str) -> CodecIndex:
    """Open an index once in each process."""
    return CodecIndex(Path(path))


def index_digest(how: ClipInput, video: str) -> str:
    """Return a digest of what the index says of a video; empty without an index."""
    if not how.index:
        return ""
    return hashlib.sha256(_open_index(how.index).line(video)).hexdigest()


def augment(pixels: Tensor, random: np.random.Generator) -> Tensor:
    """Change the colours of a clip as the published recipe does, alike in all its frames.

    Contrast by 0.6 to 1.4, brightness by up to an eighth of the range, saturation by 0.6 to 1.4,
    each with probability 0.8, and red and blue exchanged with 0.1. The published change of hue is
    0.2 degrees, below a grey level, and left out. There is no flip and no random crop.

    Args:
        pixels: uint8, frames (F, 3, H, W) or patches (K, 3 * p * p).
        random: draws the changes.

    Returns:
        uint8, of the same shape.
    """
    colours = pixels.reshape(len(pixels), 3, -1).float()
    contrast, brightness, saturation = random.uniform((0.6, -0.125, 0.6), (1.4, 0.125, 1.4))
    does = random.random(4) < (0.8, 0.8, 0.8, 0.1)
    if does[0]:
        colours = (colours - 127.5) * contrast + 127.5
    if does[1]:
        colours = colours + brightness * 255
    if does[2]:
        weights = torch.tensor([0.299, 0.587, 0.114])[:, None]
        grey = (colours * weights).sum(1, keepdim=True)
        colours = grey + (colours - grey) * saturation
    if does[3]:
        colours = colours.flip(1)
    return colours.round_().clamp_(0, 255).to(torch.uint8).view(pixels.shape)


def check_index(
    path: str,
    videos: Sequence[str],
    root: Path,
    how: ClipInput,
    repair: str,
    *,
    is_selection_given: bool = False,
) -> AssetConfig:
    """Check that an index has what every video of a run needs.

    Args:
        path: the index.
        videos: paths in the lists.
        root: folder that they start from.
        how: the input; its settings and budget must be those of the index.
        repair: command that makes the index.
        is_selection_given: whether the run asks for the selection of ``how``; else the index's
            own counts.

    Returns:
        The selection of the index.

    Raises:
        ValueError: if it is of other settings, or entries are missing or older than their videos,
            with the command that repairs it.
    """
    index = CodecIndex(Path(path))
    try:
        header = index.header
        for name, theirs, ours in (
            ("cells a side", header.config.grid, how.grid),
            ("slots", header.config.sequence_length, how.clip_frames),
            ("cells kept", header.keep, how.count),
        ):
            if theirs != ours:
                raise ValueError(
                    f"{path} has {theirs} {name}, this run needs {ours}; make one with\n  {repair}"
                )
        if is_selection_given and header.config != how.config:
            raise ValueError(
                f"{path} was made with another selection than --selection; leave it out, or make "
                f"an index with\n  {repair}"
            )
        missing = [video for video in videos if video not in index]
        stale = [
            video
            for video in videos
            if video in index
            and (root / video).is_file()
            and not index.is_fresh(video, root / video)
        ]
    finally:
        index.close()
    if missing or stale:
        some = ", ".join((missing + stale)[:3])
        raise ValueError(
            f"{path} lacks {len(missing)} of {len(videos)} videos, and {len(stale)} have changed "
            f"since it was made ({some}); repair it with\n  {repair}"
        )
    return header.config
