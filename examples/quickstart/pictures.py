"""The pictures of one video: original frames, uniform sample, energy, kept patches, mosaics."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from cv_reader import open_video
from cv_reader.assets import Asset, AssetConfig
from cv_reader.energy import CellScorer
from cv_reader.geometry import Letterbox, letterbox
from cv_reader.packing import square_frame

SHOWN_SLOTS = 16
TILE_PX = 128
GAP_PX = 3
COLUMNS = 8
# Dark violet to yellow in equal steps of lightness, so that the map also reads in grey.
HEAT_STOPS = np.array(
    [(13, 8, 60), (84, 20, 125), (155, 40, 120), (215, 75, 85), (250, 140, 45), (248, 225, 80)],
    np.float32,
)


def heat(values: np.ndarray) -> np.ndarray:
    """Colours of values in [0, 1]: uint8 (..., 3)."""
    place = np.clip(values, 0, 1) * (len(HEAT_STOPS) - 1)
    low = np.minimum(place.astype(int), len(HEAT_STOPS) - 2)
    share = (place - low)[..., None]
    return (HEAT_STOPS[low] * (1 - share) + HEAT_STOPS[low + 1] * share).astype(np.uint8)


def strip(tiles: Sequence[Image.Image]) -> Image.Image:
    """Tiles side by side, eight in a row, on a transparent-looking light ground."""
    rows = -(-len(tiles) // COLUMNS)
    step = TILE_PX + GAP_PX
    sheet = Image.new("RGB", (COLUMNS * step - GAP_PX, rows * step - GAP_PX), (236, 236, 236))
    for number, tile in enumerate(tiles):
        place = (number % COLUMNS * step, number // COLUMNS * step)
        sheet.paste(tile.resize((TILE_PX, TILE_PX), Image.Resampling.BICUBIC), place)
    return sheet


def read_slots(
    video: str, asset: Asset, config: AssetConfig
) -> tuple[list[np.ndarray], np.ndarray, Letterbox]:
    """Square frames and energies of all slots: T arrays (S, S, 3), float32 (T, g, g), geometry."""
    wanted = sorted(set(asset.frame_ids.tolist()))
    squares, energies = {}, {}
    with open_video(video, backend=asset.meta["backend"]) as reader:
        box = letterbox(
            reader.index.height_px,
            reader.index.width_px,
            square_px=config.square_size,
            patch_px=config.patch_size,
        )
        scorer = CellScorer(box, config)
        for frame in reader.frames(wanted):
            squares[frame.index] = square_frame(frame.rgb(), box)
            energies[frame.index] = scorer.score(frame)
    ids = asset.frame_ids.tolist()
    return [squares[i] for i in ids], np.stack([energies[i] for i in ids]), box


def kept_tile(square: np.ndarray, kept: np.ndarray) -> Image.Image:
    """A frame with what is not kept washed out; ``kept`` is bool (g, g)."""
    patch = len(square) // len(kept)
    mask = np.kron(kept, np.ones((patch, patch), bool))[..., None]
    washed = (square.astype(np.float32).mean(axis=2, keepdims=True) * 0.12 + 214).astype(np.uint8)
    return Image.fromarray(np.where(mask, square, washed))


def video_panels(video: str, asset: Asset) -> list[tuple[str, Image.Image]]:
    """Captions and pictures, in the order of the line."""
    config = AssetConfig.from_dict(asset.meta["cfg"], asset.folder)
    squares, energies, _ = read_slots(video, asset, config)
    slots = len(squares)
    shown = np.linspace(0, slots - 1, SHOWN_SLOTS).astype(int)
    uniform = np.linspace(0, slots - 1, config.num_images).astype(int)
    kept = np.zeros((slots, config.grid, config.grid), bool)
    kept[tuple(asset.positions.T)] = True
    patch_area = config.patch_size**2
    tiles = [Image.fromarray(squares[slot]) for slot in range(slots)]
    maps = [Image.fromarray(heat(energies[slot] / patch_area)) for slot in shown]
    large = [tile.resize((TILE_PX, TILE_PX), Image.Resampling.NEAREST) for tile in maps]
    washed = [kept_tile(squares[slot], kept[slot]) for slot in shown]
    mosaics = []
    for path in asset.images:
        with Image.open(path) as picture:
            mosaics.append(picture.convert("RGB"))
    numbers = ", ".join(str(number) for number in asset.frame_ids[shown])
    return [
        (
            f"Original: {SHOWN_SLOTS} of {slots} frames ({numbers})",
            strip([tiles[i] for i in shown]),
        ),
        (
            f"Uniform sample: all patches of {len(uniform)} frames",
            strip([tiles[i] for i in uniform]),
        ),
        ("Energy of each cell: motion and residual, per frame (dark: none)", strip(large)),
        (f"Kept patches, in the same {SHOWN_SLOTS} frames", strip(washed)),
        (f"Mosaics: what the encoder sees, {len(mosaics)} images", strip(mosaics)),
    ]
