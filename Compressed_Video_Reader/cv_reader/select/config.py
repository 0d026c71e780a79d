"""The settings that decide what an asset holds, and their fingerprint.

Field names are those of the commands' flags, so that an error names what to change. Everything that
changes a byte of an asset is here or raises ``ALGORITHM_VERSION``; the video itself and the backend
that read it are recorded next to the settings.
"""

import hashlib
import json
from collections.abc import Collection
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

from cv_reader.errors import AssetError, SettingsError
from cv_reader.media.display import HDR_MODES

ALGORITHM_VERSION = 8
"""Raised whenever the same settings and the same video give other positions or pixels."""

RATE_DISTORTION_VERSION = 2
"""Raised whenever ``rate_distortion`` alone gives other positions: other choices stay valid."""

MAX_DB = 100.0
"""PSNR of pictures that do not differ, and of those that differ by less."""

EXACT_SLOTS = 96
"""Clips of more slots are solved window by window by ``rate_distortion``."""

PADDING_POLICIES = ("zero", "exclude", "repeat")
TOPK_MODES = ("global", "time_bucket")
SIGNALS = (
    "reference",
    "mv_residual",
    "mv",
    "residual",
    "bits",
    "framediff",
    "textured",
    "intra_shown",
    "bits_between",
    "residual_between",
    "rlt",
    "evs",
)
PIXEL_SIGNALS = ("rlt", "evs")
"""Those of ``peers``, which compare pixels of whole clips."""
SELECTORS = ("topk", "rate_distortion", "uniform")
DISTORTIONS = (
    "sharp",
    "worst",
    "worst_2",
    "worst_3",
    "mean",
    "power_1.5",
    "power_2",
    "power_3",
)
DIRECTIONS = ("nearest", "hold")
PREDICTIONS = ("search", "still", "vectors")
COMPENSATIONS = ("median", "mean", "none", "similarity")
FRAME_SAMPLINGS = ("uniform", "bitcost", "cheap")
MAX_SLOTS, MAX_SQUARE_PX, MAX_CELLS = 1 << 16, 1 << 14, 1 << 26
"""Limits on the slots of a clip, on the side of a mosaic, and on the cells of all slots: what grows
with them stays below some hundred megabytes each."""

MAX_TOKEN_PRICE = 1e18
"""More than a cell can differ in all slots of a clip, by any distortion."""

CHEAP_REACH_STEPS = 0.7
"""How far ``cheap`` moves a slot, in steps between slots."""

ORDERS = ("raster", "zigzag")
WINDOW_PICKS = ("none", "begin", "mid", "end", "energy3")


@dataclass(frozen=True, kw_only=True)
class AssetConfig:
    """All settings of an asset; the defaults are those of the published models.

    Attributes:
        sequence_length: T, frames sampled from the video; slots 0..T-1.
        num_images: mosaics per video; the budget is this many full frames.
        square_size: side of the padded square and of a mosaic, pixels.
        patch_size: side of a cell, pixels; divides ``square_size``.
        frames: how the T frames are spread: ``uniform`` in number, ``bitcost`` in coded bytes, or
            ``cheap``: like ``uniform``, moved to near frames that cost little to reach.
        sample_start_offset: first frame that may be sampled.
        window_len: sample inside a window of so many frames where the video is longer; 0 = off.
        window_pick: place of the window; ``energy3`` = largest coded size of begin, mid, end;
            ``none`` = begin.
        padding_policy: what fills slots once content is exhausted; see ``selection``.
        keep_first_full_frame: all cells of slot 0 are kept, padding included.
        keep_uniform_first: all content cells of slot 0 are kept.
        keep_mid_full_frame: all cells of one middle slot are kept too.
        mid_full_frame_index: that slot; -1 = T // 2, 0 = none (slot 0 is no middle).
        select: how cells are chosen: ``topk`` by the score of ``signal``, ``rate_distortion`` by
            what would be missed, ``uniform`` as whole frames.
        block_cells: 2 = cells are chosen and packed in blocks of 2 x 2; 1 = one by one.
        distortion: how ``rate_distortion`` judges a difference; see ``distances``.
        direction: whether a slot may show what is kept later (``nearest``) or not (``hold``).
        predict: whether a kept cell may shift to show another slot (``search``) or not (``still``),
            or may also follow the codec's vectors (``vectors``).
        quality_db: quality at which ``rate_distortion`` stops, within the budget; 0 = spend it all.
        token_price: price of a kept cell in units of distortion, within the budget; 0 = chosen so
            that the budget or the quality is met.
        topk_mode: best cells of the whole video, or of each of several spans of it.
        time_bucket_count: number of spans; -1 = one per mosaic that is left.
        signal: what a cell's score is made of.
        mv_compensate: how the motion of the camera is taken out.
        mv_pct: percentile of a frame's motion that counts as 1.
        res_pct: percentile of a frame's residual (or luma difference) that counts as 1.
        w_mv: weight of motion in ``mv_residual``.
        w_res: weight of the residual in ``mv_residual``.
        order: order of the cells of a slot: ``raster``, or ``zigzag`` (odd rows right to left).
        jpg_quality: JPEG quality of the mosaics, 1..100, chroma 4:2:0; 0 = uncompressed PPM files,
            which training reads in a third of the time and which take ten times the room.
        hdr: HDR video (PQ, HLG): ``tonemap`` to SDR, ``refuse``, or ``raw`` samples as if SDR.

    Raises:
        SettingsError: if a value is out of its range, or two cannot go together.
    """

    sequence_length: int = 64
    num_images: int = 8
    square_size: int = 576
    patch_size: int = 16
    frames: str = "uniform"
    sample_start_offset: int = 0
    window_len: int = 0
    window_pick: str = "none"
    padding_policy: str = "zero"
    keep_first_full_frame: bool = True
    keep_uniform_first: bool = False
    keep_mid_full_frame: bool = False
    mid_full_frame_index: int = -1
    select: str = "topk"
    block_cells: int = 1
    distortion: str = "sharp"
    direction: str = "nearest"
    predict: str = "search"
    quality_db: float = 0.0
    token_price: float = 0.0
    topk_mode: str = "global"
    time_bucket_count: int = -1
    signal: str = "reference"
    mv_compensate: str = "median"
    mv_pct: float = 95.0
    res_pct: float = 95.0
    w_mv: float = 1.0
    w_res: float = 1.0
    order: str = "raster"
    jpg_quality: int = 95
    hdr: str = "tonemap"

    def __post_init__(self) -> None:
        for name in ("mv_pct", "res_pct", "w_mv", "w_res", "quality_db", "token_price"):
            # 95 and 95.0 are one setting, and must have one fingerprint.
            object.__setattr__(self, name, float(getattr(self, name)))
        for name in ("sequence_length", "num_images", "square_size", "patch_size"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in ("sample_start_offset", "window_len"):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "at least 0")
        for name, allowed in CHOICES.items():
            _require(getattr(self, name) in allowed, name, getattr(self, name), f"one of {allowed}")
        for name in ("mv_pct", "res_pct"):
            _require(0 < getattr(self, name) <= 100, name, getattr(self, name), "in (0, 100]")
        for name in ("w_mv", "w_res", "quality_db", "token_price"):
            _require(
                0 <= getattr(self, name) < float("inf"),
                name,
                getattr(self, name),
                "a number from 0",
            )
        _require(self.w_mv + self.w_res > 0, "w_mv + w_res", 0, "above 0")
        _require(0 <= self.jpg_quality <= 100, "jpg_quality", self.jpg_quality, "in 0..100")
        self._check_pairs()

    def _check_pairs(self) -> None:
        square, patch = self.square_size, self.patch_size
        for name, most in (("square_size", MAX_SQUARE_PX), ("sequence_length", MAX_SLOTS)):
            _require(getattr(self, name) <= most, name, getattr(self, name), f"at most {most}")
        _require(square % patch == 0, "square_size", square, f"a multiple of patch_size {patch}")
        block = self.block_cells
        _require(block in (1, 2), "block_cells", block, "1 or 2")
        _require(self.grid % block == 0, "block_cells", block, f"1 where the grid is {self.grid}")
        self._check_selector()
        slots, images = self.sequence_length, self.num_images
        cells, limit = slots * self.grid**2, f"at most {MAX_CELLS // self.grid**2}"
        _require(
            cells <= MAX_CELLS,
            "sequence_length",
            slots,
            f"{limit} where a side has {self.grid} cells",
        )
        _require(slots >= images, "sequence_length", slots, f"at least num_images ({images})")
        _require(
            -1 <= self.mid_full_frame_index < slots,
            "mid_full_frame_index",
            self.mid_full_frame_index,
            f"-1 or a slot 0..{slots - 1}",
        )
        whole = self.num_whole_slots
        _require(images >= whole, "num_images", images, f"at least {whole} for whole frames")
        _require(
            self.time_bucket_count == -1 or self.time_bucket_count >= 1,
            "time_bucket_count",
            self.time_bucket_count,
            "-1 or at least 1",
        )

    def _check_selector(self) -> None:
        is_summed = self.signal in ("bits_between", "residual_between") and self.select == "topk"
        if is_summed or self.follows_vectors:
            name = f"signal is {self.signal!r}" if is_summed else "predict is 'vectors'"
            rule = f"other than 'cheap' where {name}, which needs every picture"
            _require(self.frames != "cheap", "frames", self.frames, rule)
        if self.select != "rate_distortion":
            for name in ("quality_db", "token_price"):
                value = getattr(self, name)
                _require(not value, name, value, "0 unless select is 'rate_distortion'")
        _require(
            not (self.quality_db and self.token_price),
            "token_price",
            self.token_price,
            "0 where quality_db is given",
        )
        price = self.token_price
        _require(price <= MAX_TOKEN_PRICE, "token_price", price, f"at most {MAX_TOKEN_PRICE:g}")
        _require(
            self.quality_db <= MAX_DB,
            "quality_db",
            self.quality_db,
            f"at most {MAX_DB:g}, which stands for no difference at all",
        )
        _require(
            not self.quality_db or self.sequence_length <= EXACT_SLOTS,
            "quality_db",
            self.quality_db,
            f"0 where sequence_length is above {EXACT_SLOTS}; use token_price",
        )
        if self.select == "uniform":
            for name in ("keep_mid_full_frame", "keep_uniform_first"):
                _require(not getattr(self, name), name, True, "off where select is 'uniform'")

    @property
    def has_free_length(self) -> bool:
        """Whether clips may need fewer than ``num_images`` mosaics."""
        return bool(self.quality_db or self.token_price)

    @property
    def follows_vectors(self) -> bool:
        """Whether the choice needs the exact vectors of every picture between its slots."""
        return self.select == "rate_distortion" and self.predict == "vectors"

    @property
    def needs_exact(self) -> dict[str, str]:
        """What a backend must give exactly (a key of ``exactness``), and which setting needs it."""
        needs = {"motion": "predict 'vectors'"} if self.follows_vectors else {}
        if self.select == "topk" and self.signal in ("bits", "bits_between"):
            needs["bits"] = f"signal {self.signal!r}"
        return needs

    @property
    def grid(self) -> int:
        """Cells along one side of the square: the contract between assets and visual tokens."""
        return self.square_size // self.patch_size

    @property
    def num_rows(self) -> int:
        """K = num_images * grid^2, the rows of ``positions_thw.npy``."""
        return self.num_images * self.grid**2

    @property
    def full_slots(self) -> tuple[int, ...]:
        """Slots whose cells are all kept, ascending."""
        mid = self.mid_full_frame_index
        mid = self.sequence_length // 2 if mid < 0 else mid
        wanted = {0} if self.keep_first_full_frame else set[int]()
        if self.keep_mid_full_frame and mid > 0:
            wanted.add(mid)
        return tuple(sorted(wanted))

    @property
    def num_whole_slots(self) -> int:
        """Slots of which all cells, or all content cells, are kept."""
        return len({*self.full_slots, *([0] if self.keep_uniform_first else [])})

    def to_dict(self) -> dict[str, Any]:
        """All settings by name, ready for JSON."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def parse(cls, name: str, value: object) -> Any:
        """Return the value of one setting from text, such as a part of a command line.

        Args:
            name: name of the setting.
            value: text; a value that is parsed already is taken as it is where its type fits.

        Raises:
            SettingsError: if there is no such setting, or the text is no value of it.
        """
        defaults: dict[str, Any] = {field.name: field.default for field in fields(cls)}
        if name not in defaults:
            raise SettingsError(f"{name} is no setting; accepted are {', '.join(defaults)}")
        default, text = defaults[name], str(value).strip()
        try:
            return _SWITCH[text.lower()] if isinstance(default, bool) else type(default)(text)
        except (ValueError, KeyError) as error:
            rules = {"bool": "1 or 0", "int": "a whole number", "float": "a number"}
            rule = rules[type(default).__name__]
            raise SettingsError(f"{name} must be {rule}, got {text!r}") from error

    def to_flags(self, leave_out: Collection[str] = ()) -> list[str]:
        """Return the flags of ``cv_reader precompute`` for what differs from the defaults."""
        flags: list[str] = []
        for field in fields(self):
            value = getattr(self, field.name)
            if value == field.default or field.name in leave_out:
                continue
            if field.name == "keep_first_full_frame":
                flags.append("--no_first_full_frame")
            elif value is True:
                flags.append(f"--{field.name}")
            else:
                flags += [f"--{field.name}", str(value)]
        return flags

    @classmethod
    def from_dict(cls, values: dict[str, Any], where: object) -> "AssetConfig":
        """Read back what ``to_dict`` gave; ``where`` names the source in errors.

        Raises:
            AssetError: if a setting is unknown or missing.
            SettingsError: if a value is out of its range.
        """
        names = {field.name for field in fields(cls)}
        unknown, missing = sorted(set(values) - names), sorted(names - set(values))
        if unknown or missing:
            raise AssetError(
                f"{where}: cfg must hold exactly the settings of this version, "
                f"unknown {unknown}, missing {missing}; make the asset again"
            )
        return cls(**values)

    @property
    def rules(self) -> dict[str, float]:
        """Fixed numbers of the settings in use, which ``meta.json`` records: assets made by other
        ones are stale."""
        found = {"cheap_reach_steps": CHEAP_REACH_STEPS} if self.frames == "cheap" else {}
        if self.select == "rate_distortion":
            found["rate_distortion_version"] = RATE_DISTORTION_VERSION
        return found

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits over the settings, their rules and the version of the algorithm."""
        content = {"algorithm_version": ALGORITHM_VERSION, **self.rules, **self.to_dict()}
        canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def mosaic_name(stem: str, number: int, jpg_quality: int) -> str:
    """Return the file name of a mosaic: ``{stem}_000.jpg``, or ``.ppm`` at quality 0."""
    return f"{stem}_{number:03d}.{'jpg' if jpg_quality else 'ppm'}"


_SWITCH = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}

CHOICES = {
    "frames": FRAME_SAMPLINGS,
    "window_pick": WINDOW_PICKS,
    "padding_policy": PADDING_POLICIES,
    "select": SELECTORS,
    "distortion": DISTORTIONS,
    "direction": DIRECTIONS,
    "predict": PREDICTIONS,
    "topk_mode": TOPK_MODES,
    "signal": SIGNALS,
    "mv_compensate": COMPENSATIONS,
    "order": ORDERS,
    "hdr": HDR_MODES,
}
"""Settings with a fixed list of values."""


def _require(holds: bool, name: str, value: object, rule: str) -> None:
    if not holds:
        raise SettingsError(f"{name} must be {rule}, got {value!r}")
