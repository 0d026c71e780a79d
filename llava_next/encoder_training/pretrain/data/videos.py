"""Videos to patches: codec patches, whole frames (chunks) or a collage, as stage 2 mixes them.

All pixels and codec indices come from ``cv_reader``: frames in its padded square, one selection.

Axis letters: T frame slots of a clip, F frames, K codec patches, P patches, g patches along a side.
"""

import contextlib
import os
import tempfile
from collections.abc import Generator, Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from cv_reader import open_video
from cv_reader.assets import AssetConfig
from cv_reader.assets.make import ReadOptions, collect_mosaics, select_and_pack
from encoder_training.pretrain.data.samples import BadSampleError, Mode
from onevision_encoder.patches import grid_positions, patchify, uniform_slots


@dataclass(frozen=True)
class VideoSplit:
    """Shares of a batch that become codec patches and chunks; the rest are collages.

    Args:
        codec: share of the samples, from the first of the batch on.
        chunk: share of those after them.
    """

    codec: float = 0.5
    chunk: float = 0.4

    def __post_init__(self) -> None:
        if min(self.codec, self.chunk) < 0 or self.codec + self.chunk > 1 + 1e-9:
            raise ValueError(
                "codec and chunk must be shares from 0 that sum up to at most 1, "
                f"got {self.codec} and {self.chunk}"
            )

    @classmethod
    def from_reference(
        cls,
        residual_ratio: float,
        frame_sampling_ratio: float,
        reading: Literal["additive", "cumulative"] = "additive",
    ) -> "VideoSplit":
        """Return the split of the reference's two ratios.

        Args:
            residual_ratio: share of codec samples.
            frame_sampling_ratio: ``additive``: share of chunks, as the reference's code has it;
                ``cumulative``: share of codec samples and chunks together, as its help text says.
            reading: which of the two.
        """
        chunk = frame_sampling_ratio
        if reading == "cumulative":
            chunk -= residual_ratio
        return cls(residual_ratio, chunk)

    def mode(self, number: int, batch_size: int) -> Mode:
        """Return the mode of sample ``number`` of a batch, 0 the first; parts are rounded down."""
        num_codec = int(batch_size * self.codec + 1e-9)
        if number < num_codec:
            return "codec"
        return "chunk" if number < num_codec + int(batch_size * self.chunk + 1e-9) else "collage"


@dataclass(frozen=True, kw_only=True)
class VideoView:
    """How videos become patches.

    Attributes:
        patch_size: side of a patch in pixels.
        size_px: side of the padded square that frames are resized to.
        clip_frames: T, slots that the video is spread over.
        num_frames: F, frames of a chunk or a collage; F * g^2 is the budget of codec patches, too.
        split: which samples become what.
        jitter: draw the frames of chunks and collages from their stretch of the video; off, they
            are evenly spaced. Codec patches always come from the frames that were selected from.
        short_videos: ``refuse`` videos of fewer than T frames, or ``repeat`` frames.
        select: how codec patches are chosen, as ``cv_reader`` names it; empty: its usual way.
        threads: decoding threads of a video.
    """

    patch_size: int = 14
    size_px: int = 224
    clip_frames: int = 64
    num_frames: int = 8
    split: VideoSplit = VideoSplit()
    jitter: bool = True
    short_videos: Literal["refuse", "repeat"] = "refuse"
    select: str = ""
    threads: int = 1

    def __post_init__(self) -> None:
        if self.size_px % self.patch_size or self.size_px < self.patch_size:
            raise ValueError(
                f"size_px must be a multiple of patch_size {self.patch_size}, got {self.size_px}"
            )
        if not 1 <= self.num_frames <= self.clip_frames or self.clip_frames % self.num_frames:
            raise ValueError(
                f"num_frames must divide clip_frames, got {self.num_frames} and {self.clip_frames}"
            )

    @property
    def grid(self) -> int:
        """Return g."""
        return self.size_px // self.patch_size


def selection_settings(view: VideoView) -> AssetConfig:
    """Return the settings by which ``cv_reader`` selects the codec patches of a view."""
    usual = AssetConfig(
        sequence_length=view.clip_frames,
        num_images=view.num_frames,
        square_size=view.size_px,
        patch_size=view.patch_size,
    )
    return replace(usual, select=view.select) if view.select else usual


_config = lru_cache(maxsize=8)(selection_settings)


@dataclass(frozen=True)
class CodecIndices:
    """Patches that the codec found salient.

    Attributes:
        indices: int64 (K,), t * g^2 + h * g + w, ascending.
        frame_ids: int64 (T,), the frame of each slot.
    """

    indices: NDArray[np.int64]
    frame_ids: NDArray[np.int64] | None


def check_codec_indices(indices: NDArray[np.int64], view: VideoView, grid: int, place: str) -> None:
    """Refuse indices that cannot be those of the view's clips.

    Raises:
        BadSampleError: naming the rule; files of zeros, which failed extractions leave, as well.
    """
    if grid != view.grid:
        raise BadSampleError(
            place,
            "other grid",
            f"codec indices are of {grid} x {grid} patches a frame, the view has "
            f"{view.grid} x {view.grid}",
        )
    cells = view.clip_frames * grid * grid
    if len(indices) == 0 or indices.min() < 0 or indices.max() >= cells:
        raise BadSampleError(
            place, "codec indices out of range", f"must be in [0, {cells}), got {_range(indices)}"
        )
    distinct = len(np.unique(indices))
    if distinct != len(indices):
        raise BadSampleError(
            place,
            "codec indices repeat",
            f"must be distinct, got {distinct} distinct of {len(indices)} (the reference's "
            "extraction leaves zeros where it failed)",
        )


def _range(indices: NDArray[np.int64]) -> str:
    return f"{indices.min()} to {indices.max()}" if len(indices) else "none"


def video_tokens(
    path: Path,
    view: VideoView,
    mode: Mode,
    random: np.random.Generator,
    place: str,
    codec: CodecIndices | None = None,
) -> tuple[Tensor, Tensor]:
    """Read a video as the tokens of its mode.

    Args:
        path: the video.
        view: sizes.
        mode: ``codec``, ``chunk`` or ``collage``.
        random: draws the frames of chunks and collages.
        place: name of the sample in messages.
        codec: stored indices; None selects the patches now, in the same decode pass.

    Returns:
        patches uint8 (P, 3 * p * p) and positions int64 (P, 3).

    Raises:
        BadSampleError: if the video cannot be read, or is too short.
    """
    with bad_video(place):
        num_frames = _num_frames(path, view, place)
        if mode == "codec":
            return _codec_tokens(path, view, codec, num_frames)
        slots = _drawn_slots(view, random)
        ids = _drawn_frames(slots, num_frames, view, random)
        rows = grid_positions(torch.from_numpy(slots), view.grid, view.grid)
        frames = np.zeros(view.clip_frames, np.int32)
        frames[slots] = ids
        patches = _gather(path, rows.numpy().astype(np.int32), frames, view)
    if mode == "collage":
        # One tall picture: the frames below each other, without time.
        rows = grid_positions(torch.zeros(1, dtype=torch.int64), len(slots) * view.grid, view.grid)
    return patches, rows


@contextlib.contextmanager
def bad_video(place: str) -> Generator[None, None, None]:
    """Name the sample in errors of reading its video."""
    try:
        yield
    except BadSampleError:
        raise
    except (ValueError, OSError) as error:  # cv_reader's own errors are ValueError
        raise BadSampleError(place, "broken video", f"cannot be read: {error}") from error


@contextlib.contextmanager
def video_file(data: bytes) -> Generator[Path, None, None]:
    """Give a path under which the bytes of a video can be opened, in memory where possible."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("video")
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            yield Path(f"/proc/self/fd/{descriptor}")
        return
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        yield Path(file.name)


def _num_frames(path: Path, view: VideoView, place: str) -> int:
    with open_video(path, num_threads=view.threads) as video:
        count = len(video)
    if count < view.clip_frames and view.short_videos == "refuse":
        raise BadSampleError(
            place,
            "video too short",
            f"must have at least {view.clip_frames} frames, got {count}; --short_videos repeat "
            "repeats frames",
        )
    return count


def _drawn_slots(view: VideoView, random: np.random.Generator) -> NDArray[np.int64]:
    """Return one slot of each of F equal stretches of the clip."""
    if not view.jitter:
        return uniform_slots(view.num_frames, view.clip_frames).numpy()
    length = view.clip_frames // view.num_frames
    return np.arange(view.num_frames) * length + random.integers(0, length, view.num_frames)


def _drawn_frames(
    slots: NDArray[np.int64], num_frames: int, view: VideoView, random: np.random.Generator
) -> NDArray[np.int64]:
    """Return the frame of each slot: any of its stretch of the video with jitter."""
    if not view.jitter:
        return uniform_slots(view.clip_frames, num_frames).numpy()[slots]
    starts = (slots + random.random(len(slots))) * num_frames / view.clip_frames
    return np.minimum(starts.astype(np.int64), num_frames - 1)


def _codec_tokens(
    path: Path, view: VideoView, codec: CodecIndices | None, num_frames: int
) -> tuple[Tensor, Tensor]:
    if codec is None:
        config = _config(view)
        _, rows, mosaics = select_and_pack(path, config, ReadOptions(num_threads=view.threads))
        return _cut(mosaics, view, len(rows)), torch.from_numpy(rows.astype(np.int64))
    g = view.grid
    ids = codec.frame_ids
    if ids is None:
        ids = uniform_slots(view.clip_frames, num_frames).numpy()
    if len(ids) != view.clip_frames or ids.min() < 0 or ids.max() >= num_frames:
        raise ValueError(
            f"frames.npy must hold {view.clip_frames} frame numbers below {num_frames}, got "
            f"{len(ids)} from {ids.min()} to {ids.max()}"
        )
    indices = np.sort(codec.indices)
    rows = np.stack((indices // (g * g), indices // g % g, indices % g), axis=-1)
    patches = _gather(path, rows.astype(np.int32), ids.astype(np.int32), view)
    return patches, torch.from_numpy(rows)


def _gather(
    path: Path, rows: NDArray[np.int32], frame_ids: NDArray[np.int32], view: VideoView
) -> Tensor:
    """Return the patches of rows (t, h, w) in ascending order, uint8 (P, 3 * p * p)."""
    per_image = view.grid**2
    missing = -len(rows) % per_image
    # Mosaics are filled whole; what the last row repeats is cut off again.
    filled = np.concatenate([rows, np.repeat(rows[-1:], missing, axis=0)])
    options = ReadOptions(num_threads=view.threads)
    mosaics = collect_mosaics(path, filled, frame_ids, _config(view), options)
    return _cut(mosaics, view, len(rows))


def _cut(mosaics: Iterable[Image.Image], view: VideoView, count: int) -> Tensor:
    pixels = torch.from_numpy(np.stack([np.asarray(image.convert("RGB")) for image in mosaics]))
    return patchify(pixels.permute(3, 0, 1, 2)[None], view.patch_size)[0, :count]
