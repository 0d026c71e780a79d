"""Settings of a probe; each field is a flag of the command."""

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from cv_reader.assets import AssetConfig
from encoder_training.probe.clips import AUGMENTATIONS, ClipInput, Kind
from encoder_training.probe.datasets import CUSTOM, DataSet, find_data_set
from encoder_training.probe.encoders import FrozenEncoder
from encoder_training.probe.optimiser import SCHEDULES

_SELECTION = ("sequence_length", "num_images", "square_size", "patch_size")
"""Settings of a selection that other flags decide."""


def _flag(text: str, default: Any, *aliases: str) -> Any:
    about: dict[str, Any] = {"help": text, "aliases": list(aliases)}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=about)
    return field(default=default, metadata=about)


@dataclass(kw_only=True)
class ProbeSettings:
    """What a probe does. Defaults are those of the published recipe, but for cached features.

    Raises:
        ValueError: naming the flag, its rule and its value.
    """

    dataset: str = _flag("Data set by name, or custom with --train_list and --val_list.", "")
    data_root: str = _flag("Folder that holds a folder for each data set.", "data/probe")
    train_list: str = _flag("List of training clips; empty: that of the data set.", "")
    val_list: str = _flag("List of clips to score; empty: that of the data set.", "")
    video_root: str = _flag("Folder that the paths of lists start from; empty: the data set's.", "")
    num_classes: int = _flag("Number of classes; 0: the data set's, or as the lists say.", 0)
    class_names: str = _flag("File with the name of each class, one per line.", "")

    model_weight: str = _flag("Folder of the encoder, or its name on the Hub.", "")
    model_family: Literal["", "ov_encoder", "ov_encoder_codec", "chunk_wise_sampling"] = _flag(
        "Published name of the kind of input: ov_encoder_codec means --input codec, the others "
        "frames; the encoder itself is recognised by its configuration.",
        "",
    )
    model_name: str = _flag("Name of the encoder in the report; empty: that of its folder.", "")
    embedding_size: int = _flag("Above 0: the width that the encoder must have.", 0)
    frames_token_num: int = _flag(
        "Tokens of a frame, a square number; 0: 256 for our encoder, a peer's own.", 0
    )
    input_size: int = _flag("Side of a peer's frames in pixels; 0: its own.", 0)
    cls_token: Literal["drop", "keep"] = _flag("CLS and registers of picture models.", "drop")
    attn_implementation: str = _flag("Attention: sdpa, flash_attention_2, eager.", "sdpa")

    input: str = _flag(
        "frames:F, codec:K or random:K (patches of random places); empty: codec:K_keep where "
        "--K_keep is given, else frames:num_frames.",
        "",
    )
    num_frames: int = _flag(
        "Frames of a clip: those that are sampled (default 16), or the slots of codec input, over "
        "which the video is spread (default 64).",
        0,
    )
    scale_time: bool = _flag(
        "Spread the slots of codec and random input over the encoder's own, where --num_frames "
        "gives another number: it sees their times as fractions of its slots, or further apart.",
        False,
    )
    K_keep: int = _flag("Codec patches to keep, such as 2048 or 4096.", 0)
    selection: list[str] = _flag(
        "Settings of cv_reader's selection as NAME=VALUE, such as select=rate_distortion "
        "signal=bits frames=bitcost; empty: the published formula.",
        [],
    )
    cache_dir: str = _flag(
        "Codec index of cv_reader index, or a folder with NAME.jsonl of the data set; empty: "
        "select from each video.",
        "",
    )
    crop: Literal["centre", "square"] = _flag(
        "centre: the middle of the frame; square: all of it, padded. Codec input is padded.",
        "centre",
    )
    augmentation: str = _flag(f"Of training clips: {', '.join(AUGMENTATIONS)}.", "none")
    train_views: int = _flag("Views of each training clip that cached features hold.", 1)
    val_segments: int = _flag(
        "Parts of a scored video whose predictions are averaged.", 1, "--num_temporal_crops"
    )
    num_segments: int = _flag(
        "Equal parts of each video, of training clips too, whose tokens are joined before the "
        "head, as V-JEPA's probes do.",
        1,
    )
    val_crops: int = _flag("Crops of a scored frame: 1 or 3, averaged.", 1, "--num_spatial_crops")

    features: Literal["cached", "streamed"] = _flag(
        "cached: encode each clip once and train on what is stored; streamed: encode every clip "
        "in every epoch, which needs no disk.",
        "cached",
    )
    feature_dir: str = _flag("Folder of cached features; empty: OUTPUT_DIR/features.", "")
    input_dir: str = _flag(
        "Folder to keep what the encoder gets of each clip in, to read and select once for several "
        "encoders; empty: not kept.", ""
    )  # fmt: skip
    feature_dtype: Literal["float16", "bfloat16", "float32"] = _flag("Type of features.", "float16")
    clips_per_shard: int = _flag("Clips of a file of cached features.", 64)
    encode_batch: int = _flag("Clips that the encoder takes at once.", 4)
    num_workers: int = _flag(
        "Processes of each rank that read clips; 0 reads in the run.", 2, "--dali_py_num_workers"
    )
    on_broken: Literal["stop", "skip"] = _flag(
        "stop: list all clips that cannot be read, and end; skip: leave them out and count them.",
        "stop",
    )

    default_lr_list: list[float] = _flag(
        "Learning rates; one probe for each with each decay.", [1e-4]
    )
    default_weight_decay: list[float] = _flag("Weight decays.", [0.0])
    default_epoch: int = _flag("Epochs; 0: the data set's.", 0)
    batch_size: int = _flag("Training clips of a rank in a step; 0: the data set's.", 0)
    schedule: str = _flag(f"Decay of the rates: {', '.join(SCHEDULES)}.", "linear")
    label_smoothing: float = _flag("Of clips with one label.", 0.1)
    clip_grad: float = _flag("Clip the gradient of each probe at this norm; 0: not.", 5.0)
    head_blocks: int = _flag("1: pool the tokens; 4: three blocks of self-attention before.", 1)
    choice_share: float = _flag(
        "Share of the training clips by which the best probe and epoch are chosen; they are not "
        "trained on. 0: none, which needs a single probe, whose last epoch counts.",
        0.1,
    )
    eval_freq: int = _flag("Epochs between looks at the clips of --choice_share.", 1)
    seed: int = _flag("Of heads, order, augmentation, and the clips to choose by.", 1)
    shuffle_labels: bool = _flag(
        "Give the training clips each other's labels, as a control.", False
    )

    output_dir: str = _flag(
        "Folder of the run; empty: the data set's name below --save_report, or below "
        "results/attentive_probe.",
        "",
    )
    save_report: str = _flag("Folder to append the published line to: data set and top-1.", "")
    resume: bool = _flag("Continue the run that --output_dir holds.", True)
    save_steps: int = _flag("Steps between checkpoints; 0: at the end of each epoch.", 0)
    bf16: bool = _flag("Run the encoder and the heads' products in bfloat16.", True)
    use_cpu: bool = _flag("Run on the CPU.", False)

    def __post_init__(self) -> None:
        for name, rule, holds in self._rules():
            if not holds:
                raise ValueError(f"--{name} must be {rule}, got {getattr(self, name)!r}")
        data_set = self.data_set()
        if not self.output_dir:
            self.output_dir = f"{self.save_report or 'results/attentive_probe'}/{data_set.name}"
        self.default_epoch = self.default_epoch or data_set.epochs
        self.batch_size = self.batch_size or data_set.batch_size
        kind, count = self.kind_and_count()
        self.input = f"{kind}:{count}"
        if kind != "frames":
            for name, value in (("val_crops", 1), ("crop", "centre")):
                if getattr(self, name) != value:
                    raise ValueError(f"--{name} must be {value} with --input {self.input}")
        parts = self.val_segments * self.num_segments
        if self.cache_dir and (kind != "codec" or parts > 1):
            raise ValueError(
                "--cache_dir must be left out unless the input is codec:K of whole videos, got "
                f"--input {self.input} and {parts} segments"
            )
        if self.selection and kind != "codec":
            raise ValueError(f"--selection is of codec input, got --input {self.input}")

    def _rules(self) -> list[tuple[str, str, bool]]:
        is_drawn = self.augmentation != "none"
        streams = self.features == "streamed"
        rules = [
            ("dataset", "given", bool(self.dataset)),
            ("model_weight", "a folder or a name on the Hub", bool(self.model_weight)),
            ("train_list", "given with --dataset custom", self._has_lists()),
            ("schedule", f"one of {', '.join(SCHEDULES)}", self.schedule in SCHEDULES),
            ("augmentation", f"one of {', '.join(AUGMENTATIONS)}",
             self.augmentation in AUGMENTATIONS),
            ("augmentation", "none with one cached view; raise --train_views, or use --features "
             "streamed", not is_drawn or streams or self.train_views > 1),
            ("train_views", "1 without --augmentation, or with streamed features",
             self.train_views == 1 or (is_drawn and not streams)),
            ("input_dir", "empty with --features streamed", not (streams and self.input_dir)),
            ("val_segments", "1 with --num_segments",
             self.val_segments == 1 or self.num_segments == 1),
            ("val_crops", "1 or 3", self.val_crops in (1, 3)),
            ("label_smoothing", "in [0, 1)", 0 <= self.label_smoothing < 1),
            ("choice_share", "in [0, 1)", 0 <= self.choice_share < 1),
            ("choice_share", "above 0 with several probes",
             self.choice_share > 0 or len(self.probes()) == 1),
            ("default_lr_list", "at least one rate above 0",
             bool(self.default_lr_list) and min(self.default_lr_list) > 0),
            ("default_weight_decay", "at least one decay from 0",
             bool(self.default_weight_decay) and min(self.default_weight_decay) >= 0),
            ("frames_token_num", "a square number, such as 256",
             math.isqrt(max(self.frames_token_num, 0)) ** 2 == self.frames_token_num),
        ]  # fmt: skip
        rules += [
            (name, "at least 1", getattr(self, name) >= 1)
            for name in (
                "eval_freq", "clips_per_shard", "encode_batch", "head_blocks", "val_segments",
                "train_views", "num_segments",
            )
        ]  # fmt: skip
        return rules + [
            (name, "at least 0", getattr(self, name) >= 0)
            for name in (
                "num_workers", "save_steps", "clip_grad", "default_epoch", "batch_size", "K_keep",
                "num_frames", "num_classes", "embedding_size", "input_size",
            )
        ]  # fmt: skip

    def _has_lists(self) -> bool:
        return self.dataset != CUSTOM or bool(self.train_list and self.val_list)

    def data_set(self) -> DataSet:
        """Return the data set."""
        return find_data_set(self.dataset)

    def probes(self) -> list[tuple[float, float]]:
        """Return the learning rate and weight decay of each probe."""
        return [
            (rate, decay) for rate in self.default_lr_list for decay in self.default_weight_decay
        ]

    def kind_and_count(self) -> tuple[Kind, int]:
        """Return the kind of input, and its number of frames or patches.

        Raises:
            ValueError: if the flags contradict each other.
        """
        asks_codec = self.model_family == "ov_encoder_codec" or self.K_keep > 0
        text = self.input or (
            f"codec:{self.K_keep or 2048}" if asks_codec else f"frames:{self.num_frames or 16}"
        )
        kind, _, number = text.partition(":")
        if (
            kind not in ("frames", "codec", "random")
            or not number.isascii()
            or not number.isdigit()
        ):
            raise ValueError(
                f"--input must be frames:F, codec:K or random:K, such as frames:16, got {text!r}"
            )
        count = int(number)
        given = self.num_frames if kind == "frames" else self.K_keep
        if count < 1 or (given and given != count):
            flag = "num_frames" if kind == "frames" else "K_keep"
            raise ValueError(f"--input {text} must fit --{flag}, and be above 0, got {given}")
        if kind == "frames" and asks_codec:
            raise ValueError(
                f"--input {text} must be codec:K with --model_family ov_encoder_codec and --K_keep"
            )
        return kind, count

    def clip_input(self, encoder: FrozenEncoder, index: str = "") -> ClipInput:
        """Return how videos become the input of an encoder.

        Raises:
            ValueError: if the encoder cannot take such input.
        """
        kind, count = self.kind_and_count()
        ours = encoder.family == "ov_encoder"
        if self.embedding_size and self.embedding_size != encoder.width:
            raise ValueError(
                f"--embedding_size must be {encoder.width}, the width of {encoder.name}, got "
                f"{self.embedding_size}"
            )
        if kind != "frames" and not ours:
            raise ValueError(
                f"--input {self.input} needs our encoder, which takes patches with positions; "
                f"{encoder.name} takes frames"
            )
        tokens = self.frames_token_num or (
            256 if ours else (encoder.size_px // encoder.patch_size) ** 2
        )
        size_px = math.isqrt(tokens) * encoder.patch_size
        if not ours and size_px // encoder.patch_size != encoder.size_px // encoder.patch_size:
            raise ValueError(
                f"--frames_token_num must fit --input_size: {encoder.name} has "
                f"{(encoder.size_px // encoder.patch_size) ** 2} tokens a frame, got {tokens}"
            )
        clip_frames = encoder.clip_frames if kind == "frames" else self.num_frames or 64
        last = max(clip_frames - 1, 1)
        scale = (encoder.clip_frames - 1) / last if self.scale_time and kind != "frames" else 1.0
        how = ClipInput(
            time_scale=scale, kind=kind, count=count, size_px=size_px if ours else encoder.size_px,
            patch_size=encoder.patch_size, clip_frames=clip_frames, crop=self.crop,
            augmentation=self.augmentation, index=index, seed=self.seed,
        )  # fmt: skip
        if kind == "frames":
            encoder.check_frames(count)
            return how
        cells = clip_frames * tokens
        if count > cells:
            raise ValueError(
                f"--input {self.input} must keep at most the {cells} cells of {clip_frames} frames"
            )
        return replace(how, config=self._config(how)) if kind == "codec" else how

    def _config(self, how: ClipInput) -> AssetConfig:
        values: dict[str, Any] = {}
        for word in self.selection:
            name, found, value = word.partition("=")
            if not found or name in _SELECTION:
                raise ValueError(
                    "--selection must be settings of cv_reader as NAME=VALUE, without "
                    f"{', '.join(_SELECTION)}, which other flags decide, got {word!r}"
                )
            values[name] = AssetConfig.parse(name, value)
        area = how.grid**2
        config = AssetConfig(
            sequence_length=how.clip_frames, num_images=-(-how.count // area),
            square_size=how.size_px, patch_size=how.patch_size, **values,
        )  # fmt: skip
        is_ordered = config.select == "topk" and config.topk_mode != "time_bucket"
        step = config.block_cells**2 if is_ordered else area
        whole = config.num_whole_slots
        if how.count % step or how.count < whole * area:
            raise ValueError(
                f"--input {self.input} must keep a multiple of {step} patches, and at least the "
                f"{whole * area} of whole frames, with this selection"
            )
        return config

    def index_file(self) -> Path | None:
        """Return the codec index; of a folder the file of the data set."""
        if not self.cache_dir:
            return None
        path = Path(self.cache_dir)
        if not path.is_dir():
            return path
        name = self.data_set().name
        found = [path / f"{name}{suffix}" for suffix in (".jsonl", ".jsonl.zst")]
        return next((file for file in found if file.is_file()), found[0])
