"""Checks of the encoder's arguments and weights; messages name argument, rule and value.

Checks of values wait for the device, so a compiled model leaves them out, and so does one that
is given the lengths of its segments on the host.

Axis letters: B samples, C channels, F frames, H and W pixels, L tokens of a sample, P tokens of a
packed batch, S segments, p side of a patch in pixels.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

_INDEX_DTYPES = (torch.int32, torch.int64)
_NAMES_SHOWN = 8


def check_loaded(report: Mapping[str, Iterable[Any]]) -> None:
    """Refuse weights of other names or shapes than the configuration describes.

    Args:
        report: the library's loading report. A name in ``mismatched_keys`` is on its own in
            transformers 4, and with both shapes in 5.
    """
    mismatched = (key if isinstance(key, str) else key[0] for key in report["mismatched_keys"])
    kinds = {
        "missing": sorted(report["missing_keys"]),
        "unexpected": sorted(report["unexpected_keys"]),
        "of another shape": sorted(mismatched),
    }
    problems = [f"{kind}: {_shortened(names)}" for kind, names in kinds.items() if names]
    if problems:
        raise ValueError(
            "the weights must be exactly those that config.json describes, got "
            f"{'; '.join(problems)}. Check use_head, num_hidden_layers and the sizes there"
        )


def _shortened(names: list[str]) -> str:
    rest = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def check_pixels(pixel_values: Tensor, num_channels: int, patch_size: int) -> None:
    """Refuse pixels that are not (B, C, H, W) or (B, C, F, H, W), floating, whole patches."""
    shape = tuple(pixel_values.shape)
    if pixel_values.ndim not in (4, 5):
        raise ValueError(
            "pixel_values must have 4 dimensions (B, C, H, W) or 5 (B, C, F, H, W), "
            f"got shape {shape}"
        )
    if shape[1] != num_channels:
        hint = "; frames come after channels" if pixel_values.ndim == 5 else ""
        raise ValueError(
            f"pixel_values must have {num_channels} channels in dimension 1, "
            f"got {shape[1]} in shape {shape}{hint}"
        )
    check_floating("pixel_values", pixel_values)
    if 0 in shape:
        raise ValueError(f"pixel_values must not be empty, got shape {shape}")
    if shape[-2] % patch_size or shape[-1] % patch_size:
        raise ValueError(
            f"height and width of pixel_values must be multiples of the patch size {patch_size}, "
            f"got {shape[-2]} x {shape[-1]}; resize or crop first"
        )


def check_floating(name: str, tensor: Tensor) -> None:
    """Refuse anything but floating numbers, above all raw uint8 pixels."""
    if not tensor.is_floating_point():
        raise ValueError(
            f"{name} must be floating and normalised, got dtype {tensor.dtype}; "
            "use the image processor"
        )


def check_patches(patches: Tensor, width: int) -> None:
    """Refuse packed patches that are not floating (P, ``width``) with P >= 1."""
    if patches.ndim != 2 or patches.shape[1] != width:
        raise ValueError(
            f"patches must have shape (P, {width}), channels * patch size squared, "
            f"got {tuple(patches.shape)}"
        )
    if patches.shape[0] == 0:
        raise ValueError("patches must hold at least one patch, got shape (0, ...)")
    check_floating("patches", patches)


def check_positions(
    patch_positions: Tensor,
    allowed_shapes: Sequence[tuple[int, ...]],
    *,
    reads_values: bool = True,
) -> None:
    """Refuse positions of another shape, of no number type, negative or not finite.

    The last two need the values; a device has to be waited for.
    """
    shape = tuple(patch_positions.shape)
    if shape not in allowed_shapes:
        rule = " or ".join(str(allowed) for allowed in dict.fromkeys(allowed_shapes))
        raise ValueError(
            f"patch_positions must have shape {rule}, one row (t, h, w) per token, got {shape}"
        )
    if patch_positions.dtype == torch.bool or patch_positions.is_complex():
        raise ValueError(
            f"patch_positions must be integer or floating, got dtype {patch_positions.dtype}"
        )
    if not reads_values or torch.compiler.is_compiling():
        return
    lowest, highest = (float(value) for value in patch_positions.aminmax())
    # Written so that NaN, which no comparison holds for, is refused too.
    if not 0 <= lowest <= highest < float("inf"):
        raise ValueError(
            f"patch_positions must be finite and >= 0, got values from {lowest} to {highest}"
        )


def check_indices(visible_indices: Tensor, batch_size: int) -> None:
    """Refuse indices that are not integer (B, L) or (1, L) with L >= 1."""
    shape = tuple(visible_indices.shape)
    if len(shape) != 2 or shape[0] not in (1, batch_size) or shape[1] == 0:
        raise ValueError(
            f"visible_indices must have shape ({batch_size} or 1, L) with L >= 1, got {shape}"
        )
    if visible_indices.dtype not in _INDEX_DTYPES:
        raise ValueError(f"visible_indices must be int64 or int32, got {visible_indices.dtype}")


def check_index_range(visible_indices: Tensor, limit: int, what: str) -> None:
    """Refuse indices outside [0, ``limit``); ``what`` says what they point into."""
    if torch.compiler.is_compiling():
        return
    lowest, highest = (int(value) for value in visible_indices.aminmax())
    if lowest < 0 or highest >= limit:
        raise ValueError(
            f"visible_indices must be in [0, {limit}), the {what}, "
            f"got values from {lowest} to {highest}"
        )


def segment_lengths(cu_seqlens: Tensor, num_patches: int) -> tuple[int, ...]:
    """Return lengths of the segments, on the host.

    Raises:
        ValueError: if ``cu_seqlens`` is not integer (S + 1,) rising strictly from 0 to
            ``num_patches``.
    """
    check_bounds(cu_seqlens)
    bounds = cu_seqlens.tolist()
    if bounds[0] != 0 or bounds[-1] != num_patches:
        raise ValueError(
            f"cu_seqlens must start with 0 and end with the number of patches {num_patches}, "
            f"got {bounds[0]} and {bounds[-1]}"
        )
    lengths = tuple(end - start for start, end in zip(bounds, bounds[1:], strict=False))
    if min(lengths) < 1:
        at = next(i for i, length in enumerate(lengths) if length < 1)
        raise ValueError(
            f"cu_seqlens must rise strictly, got {bounds[at]} then {bounds[at + 1]} at segment {at}"
        )
    return lengths


def check_bounds(cu_seqlens: Tensor) -> None:
    """Refuse bounds that are not integer (S + 1,) with S >= 1, without reading a value."""
    if cu_seqlens.ndim != 1 or cu_seqlens.shape[0] < 2 or cu_seqlens.dtype not in _INDEX_DTYPES:
        raise ValueError(
            "cu_seqlens must be int32 of shape (S + 1,) with S >= 1 segments, "
            f"got {cu_seqlens.dtype} of shape {tuple(cu_seqlens.shape)}"
        )


def check_lengths(lengths: Sequence[int], cu_seqlens: Tensor, num_patches: int) -> tuple[int, ...]:
    """Return lengths that were given on the host, after a look at what needs no device.

    Raises:
        ValueError: if they are not S positive numbers that sum to ``num_patches``.
    """
    check_bounds(cu_seqlens)
    lengths = tuple(lengths)
    segments = cu_seqlens.shape[0] - 1
    if len(lengths) != segments or min(lengths) < 1 or sum(lengths) != num_patches:
        raise ValueError(
            f"lengths must be {segments} positive numbers, one per segment of cu_seqlens, that sum "
            f"to the number of patches {num_patches}, got {len(lengths)} that sum to {sum(lengths)}"
        )
    return lengths
