"""Features without a trained model: shape, texture, colour and motion as statistics of pixels.

They are for trying the pipeline, and for proofs that must not depend on downloaded weights:

- colours relative to the picture's mean, how far they are from it, and their gradients by
  direction, on an 8 x 8 grid that is centred on what stands out by its colour and scaled to it, so
  that place and size in the picture matter little;
- energies of a bank of oriented filters at three scales, relative to each other;
- histograms of colours;
- of videos, how much moves and which way (normal flow by direction), in four stretches of time, and
  whether it moves outward or around.

Colours are differences of channels, which light and grey grounds leave alone.

Axis letters: B pictures, F frames, H and W pixels.
"""

import math

import torch
import torch.nn.functional as functional
from torch import Tensor

SIDE_PX = 48
"""Pictures are resized to squares of this side."""
NUM_FRAMES = 16
"""Frames of a video that its motion is taken from."""

_DIRECTIONS = 8
_CELLS = 8
_STRETCHES = 4
_WEIGHTS = (1.0, 1.0, 2.0, 2.0, 1.0)
"""Of gradients, colours by place, colourfulness by place, energies, and histogram."""


def image_statistics(pixels: Tensor) -> Tensor:
    """Return features of pictures.

    Args:
        pixels: uint8 (B, 3, H, W).

    Returns:
        float32 (B, D); each part has the length of its weight.
    """
    pictures = _squares(pixels)
    colours = _opponents(pictures)
    strength = colours.square().sum(1, keepdim=True)
    dx, dy = _gradients(colours)
    length = torch.sqrt(dx**2 + dy**2 + 1e-8)
    bins = _direction_bins(torch.atan2(dy, dx) / math.pi, length, _DIRECTIONS, period=1.0)
    # Several rounds: what is far from the first centre is not part of the thing.
    centre, spread = _centre(strength)
    maps = torch.cat([bins, colours, strength.sqrt()], dim=1)
    cells = functional.grid_sample(maps, _grid(centre, spread), align_corners=False)
    parts = [cells[:, :_DIRECTIONS], cells[:, _DIRECTIONS:-1]]
    energies = _energies(pictures)
    texture = torch.cat([energies.mean((2, 3)), energies.square().mean((2, 3)).sqrt()], dim=1)
    texture = torch.log(texture + 1e-3)
    grey_dx, grey_dy = _gradients(pictures)
    edges = torch.sqrt(grey_dx**2 + grey_dy**2 + 1e-8)
    parts += [cells[:, -1:], texture - texture.mean(dim=1, keepdim=True)]
    units = [_unit(part.flatten(1)) for part in (*parts, _colours(pictures, edges))]
    # Outline and texture have one part that shows them well, colour has three.
    return torch.cat([weight * unit for weight, unit in zip(_WEIGHTS, units, strict=True)], dim=1)


def video_statistics(frames: Tensor) -> Tensor:
    """Return features of one video.

    Args:
        frames: uint8 (F, 3, H, W), evenly spaced, F at least 2.

    Returns:
        float32 (D,).
    """
    looks = image_statistics(frames[:: max(len(frames) // 4, 1)]).mean(0)
    return torch.cat([_unit(looks[None])[0], _motion(frames)])


def _motion(frames: Tensor) -> Tensor:
    # How far colours are from the mean: what stands out is seen to move on any grey ground.
    strength = _opponents(_squares(frames)).square().sum(1, keepdim=True).sqrt()
    strength = functional.avg_pool2d(strength, 3, stride=1, padding=1)[:, 0]
    change = strength[1:] - strength[:-1]
    middle = (strength[1:] + strength[:-1]) / 2
    dx, dy = (part[:, 0] for part in _gradients(middle[:, None].expand(-1, 3, -1, -1)))
    slope = dx**2 + dy**2
    speed = -change / torch.sqrt(slope + 1e-4)
    weight = slope.sqrt() * change.abs()
    # Normal flow: along the gradient, in the direction that the edge moves.
    flow_x, flow_y = speed * dx / (slope + 1e-4).sqrt(), speed * dy / (slope + 1e-4).sqrt()
    angle = torch.atan2(flow_y, flow_x) / math.pi
    bins = _direction_bins(angle[:, None], weight[:, None], _DIRECTIONS, period=2.0)
    histogram = bins.sum((2, 3))
    centre, _ = _centre(weight[:, None])
    axis = torch.linspace(-1, 1, SIDE_PX)
    x, y = axis[None, None] - centre[:, :1, None], axis[None, :, None] - centre[:, 1:, None]
    outward = (weight * (flow_x * x + flow_y * y)).sum((1, 2))
    around = (weight * (flow_y * x - flow_x * y)).sum((1, 2))
    turning = torch.stack([outward.relu(), (-outward).relu(), around.relu(), (-around).relu()], 1)
    parts = []
    for part in (histogram, turning):
        stretches = torch.stack([chunk.sum(0) for chunk in part.chunk(_STRETCHES)])
        parts.append(_unit(stretches.flatten()[None])[0])
    return torch.cat(parts)


def _squares(pixels: Tensor) -> Tensor:
    pictures = pixels.float() / 255
    if pictures.shape[-2:] != (SIDE_PX, SIDE_PX):
        pictures = functional.interpolate(
            pictures, (SIDE_PX, SIDE_PX), mode="bilinear", antialias=True, align_corners=False
        )
    return pictures


def _opponents(pictures: Tensor) -> Tensor:
    """Return red less green and yellow less blue, less their means: (B, 2, H, W)."""
    red_green = pictures[:, 0] - pictures[:, 1]
    yellow_blue = (pictures[:, 0] + pictures[:, 1]) / 2 - pictures[:, 2]
    colours = torch.stack([red_green, yellow_blue], dim=1)
    return colours - colours.mean((2, 3), keepdim=True)


def _gradients(pictures: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradient of the channel that changes most, each (B, 1, H, W)."""
    padded = functional.pad(pictures, (1, 1, 1, 1), mode="replicate")
    dx = (padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]) / 2
    dy = (padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]) / 2
    strongest = (dx**2 + dy**2).argmax(dim=1, keepdim=True)
    return dx.gather(1, strongest), dy.gather(1, strongest)


def _direction_bins(turn: Tensor, weight: Tensor, count: int, period: float) -> Tensor:
    """Share the weights (B, 1, H, W) between the two nearest of ``count`` directions."""
    place = (turn % period) / period * count
    low = place.floor()
    share = place - low
    bins = torch.zeros(len(turn), count, *turn.shape[2:])
    bins.scatter_add_(1, low.long() % count, weight * (1 - share))
    return bins.scatter_add_(1, (low.long() + 1) % count, weight * share)


def _centre(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return the weighted centre (B, 2) and spread (B,), in units of [-1, 1]."""
    weight = weight[:, 0]
    axis = torch.linspace(-1, 1, weight.shape[-1])
    near = torch.ones_like(weight)
    centre, spread = torch.zeros(len(weight), 2), torch.ones(len(weight))
    for _ in range(3):
        kept = weight * near
        total = kept.sum((1, 2)) + 1e-9
        x = (kept.sum(1) * axis).sum(1) / total
        y = (kept.sum(2) * axis).sum(1) / total
        centre = torch.stack([x, y], dim=1)
        far = (axis[None, None] - x[:, None, None]) ** 2 + (
            axis[None, :, None] - y[:, None, None]
        ) ** 2
        spread = ((kept * far).sum((1, 2)) / total).sqrt().clamp(0.05, 1)
        near = torch.exp(-far / (2 * (1.6 * spread[:, None, None]) ** 2))
    return centre, spread


def _grid(centre: Tensor, spread: Tensor) -> Tensor:
    axis = (torch.arange(_CELLS) + 0.5) / _CELLS * 2 - 1
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    offsets = torch.stack([x, y], dim=-1)[None] * (1.9 * spread[:, None, None, None])
    return centre[:, None, None] + offsets


def _energies(pictures: Tensor) -> Tensor:
    """Return energies of oriented filters at three scales, (B, 18, H, W)."""
    grey = pictures.mean(1, keepdim=True)
    real, imaginary = _filters()
    padded = functional.pad(grey, (4, 4, 4, 4), mode="replicate")
    even, odd = functional.conv2d(padded, real), functional.conv2d(padded, imaginary)
    return (even**2 + odd**2).sqrt()


def _filters() -> tuple[Tensor, Tensor]:
    """Return cosine and sine parts (18, 1, 9, 9) of waves under a bell, each of mean zero."""
    axis = torch.arange(9.0) - 4
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    even, odd = [], []
    for length_px in (3.0, 5.0, 8.0):
        bell = torch.exp(-(x**2 + y**2) / (2 * (length_px / 2.2) ** 2))
        for number in range(6):
            along = math.cos(math.pi * number / 6) * x + math.sin(math.pi * number / 6) * y
            wave = torch.cos(2 * math.pi * along / length_px)
            even.append((wave - (wave * bell).sum() / bell.sum()) * bell / bell.sum())
            odd.append(torch.sin(2 * math.pi * along / length_px) * bell / bell.sum())
    return torch.stack(even)[:, None], torch.stack(odd)[:, None]


def _colours(pictures: Tensor, weight: Tensor) -> Tensor:
    """Return square roots of a histogram of 4 x 4 x 4 colours, near edges above all."""
    weight = functional.avg_pool2d(weight, 5, stride=1, padding=2)
    levels = (pictures * 4).long().clamp(0, 3)
    numbers = (levels[:, 0] * 16 + levels[:, 1] * 4 + levels[:, 2]).flatten(1)
    histogram = torch.zeros(len(pictures), 64).scatter_add_(1, numbers, weight.flatten(1))
    return histogram.sqrt()


def _unit(part: Tensor) -> Tensor:
    return functional.normalize(part, dim=1)
