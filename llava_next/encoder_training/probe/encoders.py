"""Frozen encoders behind one interface: clips in, tokens out.

Ours takes patches and positions through its packed entry. Peers are models of transformers: those
for pictures see each frame alone, and a fixed embedding of its time is added to its tokens; those
for videos (V-JEPA 2, VideoMAE) see all frames together. Tokens that are no patch (CLS, registers)
come first and are left out, unless asked for.

Axis letters: B clips, F frames, P patches, T tokens of a clip, D width, p side of a patch in
pixels.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel

from encoder_training.pretrain.data.samples import MEAN, STANDARD_DEVIATION
from encoder_training.probe.clips import ClipPixels
from onevision_encoder import OneVisionEncoderModel
from onevision_encoder.checks import check_positions
from onevision_encoder.patches import grid_positions, patchify

FAMILIES = ("ov_encoder", "picture", "naflex", "vjepa2", "videomae")
"""How an encoder is called; ``picture`` is every model that returns tokens of single pictures."""


class PixelNormalisation(NamedTuple):
    """Mean and standard deviation of RGB in [0, 1]."""

    mean: tuple[float, ...]
    deviation: tuple[float, ...]


_CLIP = PixelNormalisation(MEAN, STANDARD_DEVIATION)
_HALF = PixelNormalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_IMAGENET = PixelNormalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_NORMALISATIONS = {
    "onevision_encoder": _CLIP, "clip": _CLIP, "clip_vision_model": _CLIP, "metaclip_2": _CLIP,
    "aimv2": _CLIP, "aimv2_vision_model": _CLIP, "siglip": _HALF, "siglip_vision_model": _HALF,
    "siglip2": _HALF, "siglip2_vision_model": _HALF,
}  # fmt: skip
"""By model type; ImageNet's for all others. A ``preprocessor_config.json`` decides first."""


class FrozenEncoder(ABC):
    """An encoder that is not trained.

    Attributes:
        name: for people and reports.
        family: one of ``FAMILIES``.
        width: D.
        patch_size: p.
        size_px: side of its frames.
        normalisation: of its pixels.
        num_other_tokens: tokens of a frame, or of a clip, that are no patch: CLS and registers.
        clip_frames: slots that frames are spread over.
        fingerprint: 64 hexadecimal digits over configuration and weights.
    """

    family: str
    num_other_tokens = 0
    clip_frames = 64

    def __init__(self, model: nn.Module, name: str, normalisation: PixelNormalisation) -> None:
        self.model = model.eval().requires_grad_(False)
        self.name, self.normalisation = name, normalisation
        config: Any = model.config
        self.width = int(config.hidden_size)
        self.patch_size = _side(config.patch_size)
        self.size_px = _side(
            getattr(config, "image_size", None) or getattr(config, "crop_size", 224)
        )
        self.fingerprint = _fingerprint(model, self)

    @property
    def device(self) -> torch.device:
        """Return where it is."""
        return next(self.model.parameters()).device

    def check_frames(self, num_frames: int) -> None:  # noqa: B027
        """Refuse a number of frames that the encoder cannot take.

        Raises:
            ValueError: naming the rule.
        """

    @abstractmethod
    @torch.no_grad()
    def encode(self, clips: Sequence[ClipPixels]) -> list[Tensor]:
        """Return the tokens (T, D) of each clip."""

    def normalised(self, pixels: Tensor) -> Tensor:
        """Normalise uint8 frames (F, 3, H, W), or patches (P, 3 * p * p), on the device."""
        values = pixels.to(self.device, non_blocking=True)
        flat = values.reshape(len(values), 3, -1).to(torch.float32)
        mean = torch.tensor(self.normalisation.mean, device=flat.device)[:, None]
        deviation = torch.tensor(self.normalisation.deviation, device=flat.device)[:, None]
        flat = (flat - mean * 255) / (deviation * 255)
        return flat.view(values.shape).to(next(self.model.parameters()).dtype)


class OneVisionProbeEncoder(FrozenEncoder):
    """Our encoder; takes frames and patches."""

    family = "ov_encoder"
    model: OneVisionEncoderModel

    def __init__(self, model: nn.Module, name: str, normalisation: PixelNormalisation) -> None:
        super().__init__(model, name, normalisation)
        self.clip_frames = int(self.model.config.rope_temporal_size or 64)

    def patches(self, clip: ClipPixels) -> tuple[Tensor, Tensor]:
        """Return a clip as patches, uint8 (P, 3 * p * p), with their positions (P, 3)."""
        pixels, rows = clip
        if pixels.dim() == 2:
            return pixels, rows
        sides = pixels.shape[2] // self.patch_size, pixels.shape[3] // self.patch_size
        cut = patchify(pixels.transpose(0, 1)[None], self.patch_size)[0]
        return cut, grid_positions(rows, *sides)

    def encode(self, clips: Sequence[ClipPixels]) -> list[Tensor]:
        """Return the tokens (T, D) of each clip, by the packed entry."""
        parts = [self.patches(clip) for clip in clips]
        lengths = [len(rows) for _, rows in parts]
        patches = torch.cat([self.normalised(pixels) for pixels, _ in parts])
        rows = torch.cat([rows for _, rows in parts])
        check_positions(rows, [(len(patches), 3)])  # while they are on the host
        positions = rows.to(self.device, non_blocking=True)
        bounds = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
        tokens = self.model.forward_packed(patches, positions, bounds, lengths=lengths)
        return list(tokens.split(lengths))


class _Peer(FrozenEncoder):
    """A model of transformers that takes frames."""

    def __init__(
        self,
        model: nn.Module,
        name: str,
        normalisation: PixelNormalisation,
        *,
        size_px: int = 0,
        keeps_cls: bool = False,
    ) -> None:
        super().__init__(model, name, normalisation)
        self.size_px = size_px or self.size_px
        self._keeps_cls = keeps_cls

    def _frames(self, clips: Sequence[ClipPixels]) -> Tensor:
        return torch.cat([self.normalised(clip.pixels) for clip in clips])


class PicturePeer(_Peer):
    """A model of single pictures: CLIP, SigLIP, SigLIP 2, MetaCLIP, DINOv2, DINOv3, AIMv2, ..."""

    family = "picture"

    def __init__(
        self,
        model: nn.Module,
        name: str,
        normalisation: PixelNormalisation,
        *,
        size_px: int = 0,
        keeps_cls: bool = False,
    ) -> None:
        super().__init__(model, name, normalisation, size_px=size_px, keeps_cls=keeps_cls)
        shape = (1, 3, self.size_px, self.size_px)
        first = next(model.parameters())
        with torch.no_grad():
            tokens = self._tokens(torch.zeros(shape, dtype=first.dtype, device=first.device))
        self.width = tokens.shape[-1]
        self.num_other_tokens = tokens.shape[1] - (self.size_px // self.patch_size) ** 2
        if self.num_other_tokens < 0:
            raise ValueError(
                f"{name} must return a token for each patch of a picture, got {tokens.shape[1]} "
                f"for {self.size_px} px in patches of {self.patch_size}"
            )

    def _tokens(self, pixels: Tensor) -> Tensor:
        output: Any = self.model(pixel_values=pixels)
        tokens: Any = output.last_hidden_state
        if not isinstance(tokens, Tensor) or tokens.dim() != 3:
            raise ValueError(f"{self.name} must return tokens (B, T, D) as last_hidden_state")
        return tokens

    def encode(self, clips: Sequence[ClipPixels]) -> list[Tensor]:
        """Return the tokens of all frames of each clip, with the embedding of their time."""
        tokens = self._tokens(self._frames(clips))
        if not self._keeps_cls:
            tokens = tokens[:, self.num_other_tokens :]
        return [_with_time(part) for part in tokens.split([len(clip.pixels) for clip in clips])]


class NaflexPeer(_Peer):
    """SigLIP 2 with native resolution: takes patches, in the order (row, column, channel)."""

    family = "naflex"

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        config: Any = self.model.config
        if not settings.get("size_px"):
            self.size_px = int(config.num_patches**0.5) * self.patch_size

    def encode(self, clips: Sequence[ClipPixels]) -> list[Tensor]:
        """Return the tokens of all frames of each clip, with the embedding of their time."""
        frames, side = self._frames(clips), self.size_px // self.patch_size
        cut = frames.unflatten(3, (side, -1)).unflatten(2, (side, -1))
        patches = cut.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
        shapes = torch.tensor([[side, side]], device=frames.device).expand(len(frames), 2)
        seen = torch.ones(len(frames), side * side, dtype=torch.long, device=frames.device)
        output: Any = self.model(
            pixel_values=patches, pixel_attention_mask=seen, spatial_shapes=shapes
        )
        tokens: Tensor = output.last_hidden_state
        return [_with_time(part) for part in tokens.split([len(clip.pixels) for clip in clips])]


class VideoPeer(_Peer):
    """A model of whole clips: V-JEPA 2 or VideoMAE."""

    def __init__(self, *args: Any, family: str, **settings: Any) -> None:
        self.family = family
        super().__init__(*args, **settings)

    def check_frames(self, num_frames: int) -> None:
        """Refuse a number of frames that the encoder cannot take."""
        config: Any = self.model.config
        tubelet, fixed = int(config.tubelet_size), getattr(config, "num_frames", 0)
        if self.family == "videomae" and num_frames != fixed:
            raise ValueError(
                f"{self.name} takes clips of {fixed} frames; use --input frames:{fixed}"
            )
        if num_frames % tubelet:
            raise ValueError(
                f"{self.name} takes clips of a multiple of {tubelet} frames, got {num_frames}"
            )

    def encode(self, clips: Sequence[ClipPixels]) -> list[Tensor]:
        """Return the tokens of each clip."""
        videos = torch.stack([self.normalised(clip.pixels) for clip in clips])
        if self.family == "vjepa2":
            output: Any = self.model(pixel_values_videos=videos, skip_predictor=True)
        else:
            output = self.model(pixel_values=videos)
        return list(output.last_hidden_state.unbind(0))


def time_embedding(num_frames: int, width: int) -> Tensor:
    """Return the fixed embedding of frame numbers: float32 (F, D), sine and cosine by turns."""
    rates = 10000.0 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    angles = torch.arange(num_frames, dtype=torch.float64)[:, None] * rates
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)[:, :width].float()


def _with_time(tokens: Tensor) -> Tensor:
    """Add the time to the tokens of a clip's frames (F, T, D), and lay them end to end."""
    times = time_embedding(len(tokens), tokens.shape[-1])
    return (tokens + times[:, None].to(tokens)).flatten(0, 1)


def load_encoder(
    weights: str,
    *,
    dtype: torch.dtype,
    device: torch.device,
    attn_implementation: str = "sdpa",
    size_px: int = 0,
    keeps_cls: bool = False,
) -> FrozenEncoder:
    """Load an encoder from a folder or by its name on the Hub.

    Args:
        weights: folder or name.
        dtype: type to compute in.
        device: where.
        attn_implementation: backend of attention.
        size_px: side of a peer's frames; 0 = its own.
        keeps_cls: whether a picture model's CLS and registers count as tokens.

    Raises:
        ValueError: if there is no model that returns tokens.
    """
    name = Path(weights.rstrip("/")).name
    try:
        config: Any = AutoConfig.from_pretrained(weights)
        options = {"dtype": dtype, "attn_implementation": attn_implementation}
        if config.model_type == "onevision_encoder":
            ours = OneVisionEncoderModel.from_pretrained(weights, **options)
            return OneVisionProbeEncoder(ours.to(device), name, _CLIP)  # pyright: ignore[reportArgumentType]
        model: Any = AutoModel.from_pretrained(weights, **options)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"--model_weight {weights} must be an encoder: {error}") from error
    model = getattr(model, "vision_model", model).to(device)
    normalisation = _normalisation(weights, config.model_type)
    settings: dict[str, Any] = {"size_px": size_px, "keeps_cls": keeps_cls}
    if config.model_type in ("vjepa2", "videomae"):
        return VideoPeer(model, name, normalisation, family=config.model_type, **settings)
    if config.model_type.startswith("siglip2") and hasattr(model.config, "num_patches"):
        return NaflexPeer(model, name, normalisation, **settings)
    if not hasattr(model.config, "patch_size") or not hasattr(model.config, "hidden_size"):
        raise ValueError(f"--model_weight {weights}: {config.model_type} has no patches and width")
    return PicturePeer(model, name, normalisation, **settings)


def _normalisation(weights: str, model_type: str) -> PixelNormalisation:
    path = Path(weights) / "preprocessor_config.json"
    if path.is_file():
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        if "image_mean" in content and "image_std" in content:
            return PixelNormalisation(tuple(content["image_mean"]), tuple(content["image_std"]))
    return _NORMALISATIONS.get(model_type, _IMAGENET)


def _side(value: Any) -> int:
    """Return a size that may be given for both axes."""
    return int(value[0] if isinstance(value, (list, tuple)) else value)


def _fingerprint(model: Any, encoder: FrozenEncoder) -> str:
    content: dict[str, Any] = {"normalisation": encoder.normalisation, "family": encoder.family}
    settings: dict[str, Any] = model.config.to_dict()
    for key in ("_name_or_path", "transformers_version", "dtype", "torch_dtype"):
        settings.pop(key, None)
    digest = hashlib.sha256(json.dumps([content, settings], sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
