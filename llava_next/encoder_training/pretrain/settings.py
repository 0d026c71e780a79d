"""Settings of a pretraining run; each field is a flag of the command."""

from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from encoder_training.pretrain.data.images import ImageView, ocr_view
from encoder_training.pretrain.data.samples import KINDS, Kind
from encoder_training.pretrain.data.videos import VideoSplit, VideoView
from encoder_training.pretrain.model import ENCODER_SIZES
from encoder_training.pretrain.objective import Margin, Objective
from encoder_training.pretrain.schedule import SCHEDULES


def _flag(text: str, default: Any) -> Any:
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata={"help": text})
    return field(default=default, metadata={"help": text})


@dataclass(kw_only=True)
class Settings:
    """What a run does. Defaults are those of the published stage 1 on images.

    Raises:
        ValueError: naming the flag, its rule and its value.
    """

    output_dir: str = _flag("Folder of the run: checkpoints, log and the finished encoder.", "")

    image_set: list[str] = _flag("Folders of image shards (set.json); one head for all.", [])
    ocr_set: list[str] = _flag("Folders of shards of images with text.", [])
    video_set: list[str] = _flag("Folders of video shards.", [])
    image_batch: int = _flag("Images of one rank in one micro-batch.", 128)
    ocr_batch: int = _flag("Images with text of one rank in one micro-batch.", 8)
    video_batch: int = _flag("Videos of one rank in one micro-batch.", 16)
    image_loss_weight: float = _flag("Weight of the image head's loss.", 1.0)
    ocr_loss_weight: float = _flag("Weight of the OCR head's loss.", 1.0)
    video_loss_weight: float = _flag("Weight of the video head's loss.", 1.0)
    centre_rate: float = _flag("Learning rate of all centres, as a multiple of the encoder's.", 1.0)
    num_workers: int = _flag("Processes that read ahead for each set; 0 reads in the run.", 0)
    on_bad_sample: Literal["stop", "skip"] = _flag(
        "stop: end at the first sample that cannot be used; skip: leave it out and count it.",
        "stop",
    )

    size: str = _flag(f"Size of a new encoder: {', '.join(ENCODER_SIZES)}.", "base")
    init: str = _flag("Folder of an encoder to continue from, instead of random weights.", "")
    init_centres: str = _flag(
        "Checkpoint folder whose centres (and not whose optimiser) the heads start from.", ""
    )
    patch_size: int = _flag("Side of a patch in pixels.", 14)
    image_px: int = _flag(
        "Side of square images in pixels; smallest side with --max_image_px.", 224
    )
    max_image_px: int = _flag(
        "Above 0: images keep their shape (1:2 to 2:1), at the area of a square whose side is "
        "drawn between --image_px and this.",
        0,
    )
    ocr_px: int = _flag("Side of images with text in pixels.", 448)
    video_px: int = _flag("Side of frames in pixels.", 224)
    clip_frames: int = _flag("Frame slots of a clip, over which its frames are spread.", 64)
    num_frames: int = _flag("Frames of a chunk or collage; codec clips have as many patches.", 8)
    residual_ratio: float = _flag("Share of videos that become codec patches.", 0.5)
    frame_sampling_ratio: float = _flag("Share of chunks; see --ratio_reading.", 0.375)
    ratio_reading: Literal["additive", "cumulative"] = _flag(
        "additive: --frame_sampling_ratio is the share of chunks; cumulative: that of codec "
        "patches and chunks together. The rest are collages.",
        "additive",
    )
    short_videos: Literal["refuse", "repeat"] = _flag(
        "What to do with videos that have fewer frames than --clip_frames.", "refuse"
    )

    sample_rate: float = _flag("Part of the other centres that a step compares with.", 0.1)
    labels_per_step: int = _flag("Labels that each step draws from a sample's.", 8)
    margin_kind: Margin = _flag(
        "cosface: margin from the cosine; arcface: on the angle.", "cosface"
    )
    margin: float = _flag("Margin of the target.", 0.3)
    scale: float = _flag("Factor of all cosines.", 64.0)
    filter_above: float = _flag("Cosines of other centres above it count as 0.", 0.75)
    reference_gradient_scale: bool = _flag(
        "Multiply the gradient by --labels_per_step, as the published code does; its learning "
        "rates belong to this scale.",
        False,
    )

    num_samples: float = _flag("Samples of all heads and ranks that the run sees.", 13e9)
    max_steps: int = _flag("Steps of the optimiser; above 0 it decides instead.", 0)
    accumulation_steps: int = _flag("Micro-batches of a step.", 1)
    learning_rate: float = _flag("Highest learning rate.", 1e-3)
    schedule: str = _flag(f"Decay after the warm-up: {', '.join(SCHEDULES)}.", "linear")
    warmup_ratio: float = _flag("Part of the steps in which the rate rises.", 0.1)
    weight_decay: float = _flag("Weight decay of the encoder.", 0.05)
    centre_weight_decay: float = _flag("Weight decay of the centres.", 0.05)
    max_grad_norm: float = _flag("Clip the gradient of the encoder, and of each head; 0: not.", 5.0)
    ema_decay: float = _flag("Above 0: also keep a moving average of the encoder's weights.", 0.0)
    seed: int = _flag("Seed of weights, order, augmentation and all that is drawn.", 0)

    bf16: bool = _flag("Compute in bfloat16; weights, sums and centres stay in float32.", True)
    tf32: bool = _flag("Let float32 products use TF32 where the device has it.", True)
    compile: bool = _flag("Compile the encoder's blocks with torch.compile.", False)
    gradient_checkpointing: bool = _flag("Recompute activations to save memory.", False)
    attn_implementation: str = _flag(
        "Attention: sdpa, varlen, flash_attention_2, eager; auto: varlen if it runs, else sdpa.",
        "auto",
    )
    use_cpu: bool = _flag("Train on the CPU.", False)
    peak_tflops: float | None = _flag("Peak speed of a device, for the share that is used.", None)

    resume_from_checkpoint: str = _flag(
        "auto: the newest complete checkpoint of --output_dir; or its folder; empty: none.", ""
    )
    resume_with_changes: bool = _flag("Continue although settings or data have changed.", False)
    save_steps: int = _flag("Steps between checkpoints; 0: only the finished encoder.", 1000)
    save_total_limit: int = _flag("Checkpoints to keep.", 3)
    logging_steps: int = _flag("Steps between lines of the log.", 10)
    tensorboard: bool = _flag("Also write the log for TensorBoard.", False)
    embedding_steps: int = _flag("Steps between files of embeddings for pictures; 0: none.", 0)
    embedding_samples: int = _flag("Samples of each set in these files.", 512)

    def __post_init__(self) -> None:
        for name, rule, holds in self._rules():
            if not holds:
                raise ValueError(f"--{name} must be {rule}, got {getattr(self, name)!r}")
        self.objective()

    def _rules(self) -> list[tuple[str, str, bool]]:
        rules = [
            ("output_dir", "a folder", bool(self.output_dir)),
            ("image_set", "given, or --ocr_set, or --video_set", bool(self.sets())),
            ("size", f"one of {', '.join(ENCODER_SIZES)}", self.size in ENCODER_SIZES),
            ("schedule", f"one of {', '.join(SCHEDULES)}", self.schedule in SCHEDULES),
            ("warmup_ratio", "in [0, 1)", 0 <= self.warmup_ratio < 1),
            ("ema_decay", "in [0, 1)", 0 <= self.ema_decay < 1),
            ("learning_rate", "above 0", self.learning_rate > 0),
            ("save_total_limit", "at least 1", self.save_total_limit >= 1),
            ("logging_steps", "at least 1", self.logging_steps >= 1),
            ("accumulation_steps", "at least 1", self.accumulation_steps >= 1),
        ]
        rules += [
            (f"{kind}_batch", "at least 1", getattr(self, f"{kind}_batch") >= 1) for kind in KINDS
        ]
        rules += [
            (name, "at least 0", getattr(self, name) >= 0)
            for name in ("max_steps", "save_steps", "embedding_steps", "max_grad_norm")
        ]
        return rules

    def sets(self) -> dict[Kind, list[str]]:
        """Return the folders of each head that has data."""
        found: dict[Kind, list[str]] = {kind: list(getattr(self, f"{kind}_set")) for kind in KINDS}
        return {kind: paths for kind, paths in found.items() if paths}

    def objective(self) -> Objective:
        """Return the settings of the heads."""
        names = [item.name for item in fields(Objective)]
        return Objective(**{name: getattr(self, name) for name in names})

    def view(self, kind: Kind) -> ImageView | VideoView:
        """Return how samples of a kind become patches."""
        if kind == "ocr":
            return ocr_view(self.patch_size, self.ocr_px)
        if kind == "image":
            return ImageView(
                patch_size=self.patch_size, size_px=self.image_px, max_size_px=self.max_image_px
            )
        return VideoView(
            patch_size=self.patch_size,
            size_px=self.video_px,
            clip_frames=self.clip_frames,
            num_frames=self.num_frames,
            split=VideoSplit.from_reference(
                self.residual_ratio, self.frame_sampling_ratio, self.ratio_reading
            ),
            short_videos=self.short_videos,
        )

    def plain_view(self, kind: Kind) -> ImageView | VideoView:
        """Return a view without anything random, for embeddings that are compared over steps."""
        view = self.view(kind)
        if isinstance(view, ImageView):
            return replace(view, augment=False)
        return replace(view, jitter=False)

    def num_steps(self, world_size: int) -> int:
        """Return the number of steps of the whole run.

        Raises:
            ValueError: if there would be none.
        """
        if self.max_steps:
            return self.max_steps
        batch = sum(getattr(self, f"{kind}_batch") for kind in self.sets())
        steps = int(self.num_samples / (batch * world_size * self.accumulation_steps))
        if steps < 1:
            raise ValueError(
                f"--num_samples must be at least the {batch * world_size * self.accumulation_steps}"
                f" of one step, got {self.num_samples:g}"
            )
        return steps
