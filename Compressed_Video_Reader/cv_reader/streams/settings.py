"""How a stream is read, how it is cut into windows, and what was counted on the way."""

from dataclasses import asdict, dataclass, field
from typing import Any

from av.format import ContainerFormat

from cv_reader.errors import SettingsError
from cv_reader.select.config import AssetConfig

TOKEN_PRICE = 400.0
"""Default price of a cell: a difference of 10 grey levels, seen over four slots (one second)."""


def live_config(**settings: Any) -> AssetConfig:
    """Return the settings of a selection that a stream can make; ``settings`` replace defaults.

    The distortion is ``worst_3``: what a stream spends depends on its price, and the noise of a
    camera must not reach that by adding up over slots.

    Raises:
        SettingsError: a value is out of its range.
    """
    defaults: dict[str, Any] = {
        "select": "rate_distortion",
        "distortion": "worst_3",
        "direction": "hold",
        "predict": "still",
        "token_price": TOKEN_PRICE,
        "padding_policy": "repeat",
        "keep_first_full_frame": False,
        "keep_uniform_first": True,
    }
    return AssetConfig(**(defaults | settings))


@dataclass(frozen=True, kw_only=True)
class StreamSettings:
    """How a stream is read and cut into windows.

    Attributes:
        config: settings of selection. ``sequence_length`` slots make a segment, which begins with a
            whole picture and has a budget of ``num_images`` mosaics; see ``live_config``.
        slots_per_second: pictures that are looked at, at most; 0 = all.
        window_seconds: a window ends before a picture that is so much later than its first one;
            0 = before the next key frame.
        window_slots: a window has so many slots at most.
        open_seconds: time limit on opening, above 0.
        read_seconds: time limit on waiting for a packet, above 0; a live playlist has to wait for
            its next segment.
        max_reconnects: attempts in a row before a lost URL is given up; 0 = none.
        backoff_seconds: wait before the first attempt; doubled each time, up to 30.
        max_gap_seconds: a step of the time stamps that counts as a jump.
        max_keyless_packets: packets without a key frame after which a stream is refused.
        queue_packets: packets of a URL that wait for a slow caller; then some are dropped.
        container_format: FFmpeg's name of the format, where a pipe's cannot be guessed.

    Raises:
        SettingsError: a value is out of its range, or the selection is not one for streams.
    """

    config: AssetConfig = field(default_factory=live_config)
    slots_per_second: float = 4.0
    window_seconds: float = 0.5
    window_slots: int = 64
    open_seconds: float = 10.0
    read_seconds: float = 15.0
    max_reconnects: int = 10
    backoff_seconds: float = 0.5
    max_gap_seconds: float = 5.0
    max_keyless_packets: int = 3000
    queue_packets: int = 512
    container_format: str | None = None

    def __post_init__(self) -> None:
        for name in ("slots_per_second", "window_seconds", "max_reconnects", "backoff_seconds"):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "at least 0")
        for name in ("open_seconds", "read_seconds", "max_gap_seconds"):
            _require(getattr(self, name) > 0, name, getattr(self, name), "above 0")
        for name in ("window_slots", "max_keyless_packets", "queue_packets"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        _require(self.window_slots <= 64, "window_slots", self.window_slots, "at most 64")
        name, rule = self.container_format, "a format that FFmpeg reads, such as mpegts"
        _require(name is None or _can_read(name), "container_format", name, rule)
        config, what = self.config, "what a live selection needs (live_config gives it)"
        for name, wanted in (
            ("select", "rate_distortion"),
            ("direction", "hold"),
            ("padding_policy", "repeat"),
            ("keep_uniform_first", True),
            ("keep_first_full_frame", False),
            ("keep_mid_full_frame", False),
        ):
            found = getattr(config, name)
            _require(found == wanted, name, found, f"{wanted!r}, {what}")
        _require(config.predict != "vectors", "predict", config.predict, f"still or search, {what}")
        _require(config.token_price > 0, "token_price", config.token_price, f"above 0, {what}")


@dataclass
class StreamCounters:
    """What happened since a stream was opened.

    Attributes:
        packets, packet_bytes: read.
        pictures: decoded and sound.
        slots: pictures that were looked at.
        windows, segments: finished.
        patches: kept.
        dropped_packets: thrown away because the caller was slower than the stream.
        skipped_packets: not decoded, while a key frame was waited for.
        losses: places where packets are missing or cannot be decoded.
        damaged_pictures: decoded, but not sound.
        late_pictures: shown before the picture that came before them, and left out.
        jumps: steps of the time stamps, back or ahead.
        size_changes: changes of the picture's size.
        stalls: times that no packet came for ``read_seconds``.
        reconnects: attempts to open a lost URL again.
    """

    packets: int = 0
    packet_bytes: int = 0
    pictures: int = 0
    slots: int = 0
    windows: int = 0
    segments: int = 0
    patches: int = 0
    dropped_packets: int = 0
    skipped_packets: int = 0
    losses: int = 0
    damaged_pictures: int = 0
    late_pictures: int = 0
    jumps: int = 0
    size_changes: int = 0
    stalls: int = 0
    reconnects: int = 0

    def to_dict(self) -> dict[str, int]:
        """Return all counts by name, ready for JSON."""
        return asdict(self)


def _can_read(container_format: str) -> bool:
    try:
        return ContainerFormat(container_format, "r").is_input
    except ValueError:
        return False


def _require(holds: bool, name: str, value: object, rule: str) -> None:
    if not holds:
        raise SettingsError(f"{name} must be {rule}, got {value!r}")
