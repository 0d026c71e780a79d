"""Command-line settings of training: one field per flag, named as in LLaVA-NeXT where it has one.

LLaVA-NeXT's flags without a meaning here do not exist; an unknown flag ends the run before it
starts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import TrainingArguments

from llava.conversation import TEMPLATES
from llava.data.dataset import ON_BAD_SAMPLE
from llava.model.adapters import LoraSettings, Quantisation
from llava.model.assemble import ModelSource
from llava.model.projector import PROJECTOR_TYPES
from llava.train.distributed import prepare_deepspeed
from llava.train.parts import PARTS, PROJECTOR, VISION_TOWER, parse_parts
from llava.train.switches import (
    check_four_bits,
    check_switches,
    finish_fsdp,
    read_liger_config,
    register_liger,
)
from llava.visual.config import parse_pinpoints
from run_kit.arguments import parse_settings


@dataclass
class ModelArguments:
    """The model, and the parts of it that are trained."""

    model_name_or_path: str = field(
        metadata={"help": "LLaVA checkpoint, or plain Qwen2/Qwen3 language model"}
    )
    vision_tower: str | None = field(
        default=None, metadata={"help": "encoder folder, for a plain language model"}
    )
    pretrain_mm_mlp_adapter: str | None = field(
        default=None, metadata={"help": "projector weights, a .safetensors file"}
    )
    mm_projector_type: str | None = field(
        default=None,
        metadata={
            "help": f"{', '.join(PROJECTOR_TYPES)} (default mlp2x_gelu); for a new projector"
        },
    )
    mm_vision_select_layer: int | None = field(
        default=None, metadata={"help": "encoder layer whose output is used: -2 (default) or -1"}
    )
    mm_patches_per_side: int | None = field(
        default=None, metadata={"help": "side of a square image in patches (default 36)"}
    )
    mm_tunable_parts: str = field(
        default=",".join(PARTS), metadata={"help": "comma-separated parts to tune"}
    )
    version: str | None = field(
        default=None, metadata={"help": "prompt template: qwen_1_5 (default) or plain"}
    )
    attn_implementation: str | None = field(
        default=None,
        metadata={
            "help": "eager, sdpa, varlen, flash_attention_2; default: varlen if it runs, else sdpa"
        },
    )

    lora_enable: bool = field(
        default=False,
        metadata={"help": "tune adapters on the language model, in addition to mm_tunable_parts"},
    )
    lora_r: int = field(default=64, metadata={"help": "rank of the adapters"})
    lora_alpha: int = field(
        default=16, metadata={"help": "the adapters are scaled by lora_alpha / lora_r"}
    )
    lora_dropout: float = field(default=0.05, metadata={"help": "dropout on the adapters' input"})
    bits: int = field(
        default=16,
        metadata={"help": "4 keeps the frozen language model in 4 bits (QLoRA, by bitsandbytes)"},
    )
    quant_type: str = field(default="nf4", metadata={"help": "kind of the 4 bits: nf4 or fp4"})
    double_quant: bool = field(
        default=True, metadata={"help": "quantise the scales of the 4 bits, too"}
    )

    def __post_init__(self) -> None:
        parse_parts(self.mm_tunable_parts)
        self.lora()
        self.quantisation()
        if self.version is not None and self.version not in TEMPLATES:
            raise ValueError(
                f"--version must be one of {', '.join(TEMPLATES)}, got {self.version!r}"
            )

    def lora(self) -> LoraSettings | None:
        """Return the size of the adapters, None without adapters."""
        settings = LoraSettings(rank=self.lora_r, alpha=self.lora_alpha, dropout=self.lora_dropout)
        return settings if self.lora_enable else None

    def quantisation(self) -> Quantisation | None:
        """Return how the frozen language model is quantised, None if it is not."""
        if self.bits not in (4, 16):
            raise ValueError(f"--bits must be 4 (QLoRA) or 16 (as loaded), got {self.bits}")
        if self.bits == 4 and not self.lora_enable:
            raise ValueError("--bits 4 freezes the language model; add --lora_enable true")
        settings = Quantisation(quant_type=self.quant_type, double_quant=self.double_quant)
        return settings if self.bits == 4 else None


@dataclass
class DataArguments:
    """The data, and how it is read."""

    data_path: str = field(
        metadata={
            "help": "training data: .jsonl, .json, WebDataset tars, .parquet or .arrow tables, a "
            "folder of either, a .yaml mixture, or {a,b}.json"
        }
    )
    streaming: bool = field(
        default=False,
        metadata={
            "help": "read the data in passing by the library datasets: a name on the Hub, or "
            "tables, JSON or tars; of a mixture what does not say so itself; needs --max_steps"
        },
    )
    shuffle_buffer: int = field(
        default=1000, metadata={"help": "rows of a stream that a reader shuffles together"}
    )
    image_folder: str | None = field(
        default=None, metadata={"help": "folder that relative image and position paths join"}
    )
    video_folder: str | None = field(
        default=None, metadata={"help": "folder that relative video paths join"}
    )
    image_aspect_ratio: str | None = field(
        default=None, metadata={"help": "square, pad, anyres or native; default: the checkpoint's"}
    )
    image_grid_pinpoints: str | None = field(
        default=None, metadata={"help": "canvases of anyres in px: '(574,1120),(1120,574)'"}
    )
    time_marks: bool | None = field(
        default=None,
        metadata={
            "help": "tell the time of a video's visual tokens in the prompt, as <12.3 seconds>; "
            "default: as the checkpoint does"
        },
    )
    on_bad_sample: str = field(
        default="stop", metadata={"help": "stop, or skip: replace the sample and continue"}
    )
    max_bad_fraction: float = field(
        default=0.01, metadata={"help": "share of the samples that may be skipped before a stop"}
    )
    video_time_limit_seconds: float = field(
        default=300, metadata={"help": "a raw video that takes longer to read is a bad sample"}
    )
    eval_data_path: str | None = field(
        default=None,
        metadata={"help": "held-out data for the loss of --eval_strategy, as for --data_path"},
    )
    lengths_file: str | None = field(
        default=None,
        metadata={"help": "lengths.npz of llava.data.validate; default: next to the data"},
    )

    def __post_init__(self) -> None:
        self.pinpoints()
        if self.on_bad_sample not in ON_BAD_SAMPLE:
            raise ValueError(
                f"--on_bad_sample must be one of {', '.join(ON_BAD_SAMPLE)}, "
                f"got {self.on_bad_sample!r}"
            )
        if not 0 <= self.max_bad_fraction <= 1:
            raise ValueError(f"--max_bad_fraction must be in [0, 1], got {self.max_bad_fraction}")

    def pinpoints(self) -> tuple[tuple[int, int], ...] | None:
        """Return ``image_grid_pinpoints`` as (width, height) pairs in pixels."""
        if self.image_grid_pinpoints is None:
            return None
        return parse_pinpoints(self.image_grid_pinpoints)


CHECKPOINTING_POLICIES = ("blocks", "selective")


@dataclass
class LlavaTrainingArguments(TrainingArguments):
    """The library's arguments, some with other defaults, and further ones."""

    model_max_length: int = field(
        default=16384, metadata={"help": "longest sequence in tokens, visual tokens included"}
    )
    pack_sequences: bool = field(
        default=False,
        metadata={"help": "fill rows of model_max_length with several samples, each isolated"},
    )
    balance_lengths: bool = field(
        default=True,
        metadata={
            "help": "let samples of similar length (text and visual tokens) share a step, spread "
            "evenly over the ranks, so that no rank waits for another; the lengths are measured "
            "once and kept next to the data",
            "aliases": ["--group_by_modality_length"],
        },
    )
    checkpointing_policy: str = field(
        default="blocks",
        metadata={
            "help": "what --gradient_checkpointing computes again: blocks, all of each block; or "
            "selective, all but attention and the products that are no wider than their input, "
            "for more memory and less time"
        },
    )
    peak_tflops: float | None = field(
        default=None, metadata={"help": "peak of one device for MFU; default: by its name"}
    )
    mm_projector_lr: float | None = field(
        default=None, metadata={"help": "learning rate of the projector; default: learning_rate"}
    )
    mm_vision_tower_lr: float | None = field(
        default=None, metadata={"help": "learning rate of the encoder; default: learning_rate"}
    )
    warmup_ratio: float | None = field(
        default=None,
        metadata={"help": "share of all steps that warm up; replaces warmup_steps"},
    )
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "must be False: samples are not table columns"}
    )
    logging_steps: float = field(default=1, metadata={"help": "steps between log lines"})
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "hide losses that are NaN or infinite from the log"}
    )
    per_device_eval_batch_size: int = field(
        default=1, metadata={"help": "held-out samples of a batch of one rank"}
    )
    ddp_timeout: int = field(
        default=10800,
        metadata={"help": "seconds that ranks wait for each other, for example for the lengths"},
    )
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "not needed: every trainable weight is used every step"}
    )
    fsdp: bool = field(  # pyright: ignore[reportIncompatibleVariableOverride]
        default=False,
        metadata={"help": "shard the model over the ranks by FSDP2; not with --deepspeed"},
    )
    report_to: None | str | list[str] = field(
        default="none", metadata={"help": "none, tensorboard, wandb, mlflow, swanlab"}
    )
    liger_kernel_config: (  # pyright: ignore[reportIncompatibleVariableOverride]
        dict[str, bool] | str | None
    ) = field(default=None, metadata={"help": "JSON: kernels of Liger by name, true or false"})
    picture_steps: int = field(
        default=0,
        metadata={
            "help": "with --report_to tensorboard, draw visuals at the first step and every N "
            "steps, as the model gets them; 0 draws none"
        },
    )
    resume_from_checkpoint: str | None = field(
        default=None,
        metadata={"help": "checkpoint folder, or 'auto': the newest complete one, if any"},
    )
    resume_with_changes: bool = field(
        default=False,
        metadata={"help": "continue although data or settings differ from the checkpoint's"},
    )

    def __post_init__(self) -> None:
        if self.output_dir is None:
            raise ValueError("--output_dir is required: the folder of checkpoints and logs")
        if self.checkpointing_policy not in CHECKPOINTING_POLICIES:
            raise ValueError(
                f"--checkpointing_policy must be one of {', '.join(CHECKPOINTING_POLICIES)}, got "
                f"{self.checkpointing_policy!r}"
            )
        if self.picture_steps and (
            self.picture_steps < 0 or "tensorboard" not in (self.report_to or [])
        ):
            raise ValueError(
                "--picture_steps must be 0 or more, and needs --report_to tensorboard, got "
                f"{self.picture_steps} and {self.report_to}"
            )
        if self.remove_unused_columns:
            raise ValueError("--remove_unused_columns must be False: samples are not table columns")
        if self.save_on_each_node:
            raise ValueError(
                "--save_on_each_node is not supported: the first process alone has whole weights; "
                "use an --output_dir that all machines share"
            )
        if self.load_best_model_at_end:
            raise ValueError(
                "--load_best_model_at_end is not supported: the run ends with its last weights; "
                "choose a checkpoint by validation_log.jsonl and keep more with --save_total_limit"
            )
        if self.eval_strategy == "steps" and not self.eval_steps:
            raise ValueError("--eval_strategy steps needs --eval_steps: steps between validations")
        self._read_warmup_ratio()
        if isinstance(self.liger_kernel_config, str):
            self.liger_kernel_config = read_liger_config(  # pyright: ignore[reportIncompatibleVariableOverride]
                self.liger_kernel_config
            )
        check_switches(self)
        if self.deepspeed:
            prepare_deepspeed(self.use_cpu, timeout_seconds=self.ddp_timeout)
        super().__post_init__()
        if self.fsdp:
            finish_fsdp(self)
        if self.use_liger_kernel:
            register_liger()

    @property
    def run_folder(self) -> Path:
        """``output_dir`` as a path."""
        assert self.output_dir is not None  # __post_init__ requires it
        return Path(self.output_dir)

    def _read_warmup_ratio(self) -> None:
        if self.warmup_ratio is None:
            return
        if not 0 <= self.warmup_ratio < 1:
            raise ValueError(f"--warmup_ratio must be in [0, 1), got {self.warmup_ratio}")
        if self.warmup_steps:
            raise ValueError("give --warmup_ratio or --warmup_steps, not both")
        self.warmup_steps = self.warmup_ratio  # the library reads a value below 1 as a share

    @property
    def rates_by_part(self) -> dict[str, float]:
        """Learning rate of each part of the model."""
        given = {PROJECTOR: self.mm_projector_lr, VISION_TOWER: self.mm_vision_tower_lr}
        return {
            part: self.learning_rate if given.get(part) is None else given[part] for part in PARTS
        }  # pyright: ignore[reportReturnType]

    def weight_dtype(self, *, lora: bool) -> torch.dtype:
        """Return the type that weights are loaded in.

        DeepSpeed keeps float32 copies of what it tunes; with adapters the base is frozen. Otherwise
        autocast needs the tuned weights themselves in float32.
        """
        if not self.deepspeed and not lora:
            return torch.float32
        return torch.bfloat16 if self.bf16 else torch.float16 if self.fp16 else torch.float32


Arguments = tuple[ModelArguments, DataArguments, LlavaTrainingArguments]


def parse_arguments(argv: Sequence[str] | None = None) -> Arguments:
    """Read the command line (``sys.argv`` where None).

    Raises:
        ValueError: A flag is unknown, or a value is out of range.
        SystemExit: ``--help`` was given (code 0), or a flag is missing or malformed (code 2).
    """
    model_args, data_args, training_args = parse_settings(
        "llava.train.train",
        (ModelArguments, DataArguments, LlavaTrainingArguments),
        argv,
        description="Train a LLaVA model; the scripts of scripts/ set these flags by variables.",
        required="--model_name_or_path DIR --data_path FILE --output_dir DIR",
    )
    if (data_args.eval_data_path is None) != (training_args.eval_strategy == "no"):
        raise ValueError(
            "validation needs both --eval_data_path FILE and --eval_strategy steps or epoch, got "
            f"{data_args.eval_data_path!r} and {training_args.eval_strategy.value!r}"
        )
    if model_args.bits == 4:
        check_four_bits(training_args)
    return model_args, data_args, training_args


def model_source(arguments: Arguments) -> ModelSource:
    """Return where the model comes from, as the flags say it."""
    model_args, data_args, training_args = arguments
    return ModelSource(
        model_name_or_path=model_args.model_name_or_path,
        vision_tower=model_args.vision_tower,
        projector_file=model_args.pretrain_mm_mlp_adapter,
        projector_type=model_args.mm_projector_type,
        select_layer=model_args.mm_vision_select_layer,
        patches_per_side=model_args.mm_patches_per_side,
        image_aspect_ratio=data_args.image_aspect_ratio,
        image_grid_pinpoints=data_args.pinpoints(),
        time_marks=data_args.time_marks,
        template=model_args.version,
        seed=training_args.seed,
    )
