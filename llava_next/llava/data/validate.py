"""Read a whole mixture before a GPU is spent: counts, token histograms, broken samples, steps.

Run: ``python -m llava.data.validate MIXTURE --model_name_or_path DIR [--out DIR]``

Sizes of pictures come from file headers; ``--deep`` decodes the pictures, too. ``--out`` receives
``report.json``, ``lengths.npz`` (training takes it with ``--lengths_file``) and ``failures.jsonl``,
one line per broken sample. ``--fix DIR`` writes the data again into ``DIR``: samples that can be
repaired are, those that cannot are left out, and ``DIR/fixes.jsonl`` says what was done to which.

Exit codes: 0 all samples can be used; 1 some cannot; 2 settings or data path wrong.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoTokenizer
from transformers.utils import logging as transformers_logging

from llava.conversation import TEMPLATES
from llava.data.dataset import SupervisedDataset
from llava.data.lengths import Lengths, keep_lengths, measure_lengths, save_lengths
from llava.data.repair import write_repaired
from llava.data.sampler import RankBatches, packed_rows, single_rows
from llava.data.training_memory import read_model_size, training_gigabytes
from llava.visual.config import (
    IMAGE_MODES,
    PROCESSOR_FILE,
    VisualConfig,
    parse_pinpoints,
    read_processor_settings,
)
from run_kit.arguments import command_parser
from run_kit.exits import FAILED_SAMPLES, OK, USAGE, say

_SHOWN_FAILURES = 20


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    args = _parser().parse_args(argv)
    try:
        dataset = _open(args)
        lengths = measure_lengths(dataset, workers=args.workers, pixels=args.pixels)
        keep_lengths(lengths, dataset)
        report = make_report(dataset, lengths, _run_shape(args))
        if args.memory:
            report["memory_gigabytes"] = _memory(args, report)
        if args.fix is not None:
            report["fix"] = write_repaired(dataset, lengths, args.fix)
    except (ValueError, OSError) as error:
        say(f"error: {error}")
        return USAGE
    if args.out is not None:
        _write(args.out, dataset, lengths, report)
    sys.stdout.write(format_report(report, lengths))
    return FAILED_SAMPLES if lengths.bad_samples else OK


@dataclass(frozen=True)
class RunShape:
    """The training flags that decide the number of steps, by the same names."""

    batch_size: int
    accumulation: int
    world_size: int
    epochs: float
    max_length: int
    packed: bool


def make_report(dataset: SupervisedDataset, lengths: Lengths, run: RunShape) -> dict[str, Any]:
    """Return all figures as plain values."""
    entries, sets = dataset.entries, []
    for number, name in enumerate(entries.names):
        rows = np.array(entries.set_range(number))
        text, visual = lengths.text[rows], lengths.visual[rows]
        sets.append(
            {
                "name": name,
                "samples": len(rows),
                "broken": int((text == 0).sum()),
                "text_tokens": int(text.sum(dtype=np.int64)),
                "visual_tokens": int(visual.sum(dtype=np.int64)),
            }
        )
    usable = lengths.usable
    return {
        "samples": len(dataset),
        "broken": len(lengths.bad_samples),
        "datasets": sets,
        "text_histogram": histogram(lengths.text[usable]),
        "visual_histogram": histogram(lengths.visual[usable]),
        "read_as_published": dict(lengths.notes),
        "longest_sample": int(lengths.total.max()),
        **_steps(lengths, run),
    }


def histogram(values: np.ndarray) -> dict[str, int]:
    """Count values in the classes 0, 1, 2..3, 4..7 and so on; only classes that occur."""
    if not len(values):
        return {}
    classes = np.where(values > 0, np.floor(np.log2(np.maximum(values, 1))), -1).astype(int)
    numbers, counts = np.unique(classes, return_counts=True)
    return {
        "0"
        if number < 0
        else "1"
        if number == 0
        else f"{2**number}..{2 ** (number + 1) - 1}": count
        for number, count in zip(numbers.tolist(), counts.tolist(), strict=True)
    }


def _steps(lengths: Lengths, run: RunShape) -> dict[str, Any]:
    usable, total = lengths.usable, lengths.total
    if not len(usable):
        return {"rows": 0, "steps": 0, "row_tokens": 0}
    rows = packed_rows(usable, total, run.max_length, seed=0) if run.packed else single_rows(usable)
    batches = RankBatches(rows, batch_rows=run.batch_size, world_size=run.world_size)
    per_epoch = math.ceil(len(batches) / run.accumulation)
    longest = np.sort(rows.sums(total))[-run.batch_size :]
    return {
        "rows": len(rows),
        "steps": math.ceil(per_epoch * run.epochs),
        "row_tokens": int(longest.sum() if run.packed else run.batch_size * longest.max()),
    }


def format_report(report: dict[str, Any], lengths: Lengths) -> str:
    """Return the report as text."""
    lines = [f"{'data set':<28}{'samples':>10}{'broken':>8}{'text tokens':>14}{'visual':>14}"]
    lines += [
        f"{row['name']:<28}{row['samples']:>10}{row['broken']:>8}"
        f"{row['text_tokens']:>14}{row['visual_tokens']:>14}"
        for row in report["datasets"]
    ]
    for kind in ("text", "visual"):
        lines.append(f"\n{kind} tokens per sample")
        counts = report[f"{kind}_histogram"]
        most = max(counts.values(), default=1)
        lines += [
            f"{span:>16} {count:>9} {'#' * math.ceil(40 * count / most)}"
            for span, count in counts.items()
        ]
    lines.append(
        f"\nlongest sample: {report['longest_sample']} tokens; largest batch of a rank: "
        f"{report['row_tokens']} tokens; optimiser steps: {report['steps']}"
    )
    for name, gigabytes in report.get("memory_gigabytes", {}).items():
        lines.append(f"memory per GPU, {name}: about {gigabytes} GB")
    lines += [f"read as published: {note} ({n} samples)" for note, n in lengths.notes.items()]
    if lengths.bad_samples:
        lines.append(f"\n{report['broken']} samples cannot be used:")
        lines += [bad["message"] for bad in lengths.bad_samples[:_SHOWN_FAILURES]]
        more = report["broken"] - _SHOWN_FAILURES
        lines += [f"... and {more} more; --out DIR lists all"] if more > 0 else []
    if "fix" in report:
        fix = report["fix"]
        lines.append(f"\nwrote {fix['mixture']}: {fix['repaired']} samples repaired")
        lines.append(f"{fix['left_out']} left out, see left_out.jsonl next to it")
        lines += [f"{count:>9}  {what}" for what, count in fix["changes"].items()]
        lines.append(
            "train on it with --data_path, the same --image_folder and --video_folder; relative "
            f"paths of this data are below {fix['image_folder']} and {fix['video_folder']}"
        )
    elif lengths.bad_samples:
        lines.append("--fix DIR writes the data again, repaired where that is possible")
    return "\n".join(lines) + "\n"


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("llava.data.validate", __doc__, allow_abbrev=False)
    parser.add_argument(
        "data_path",
        type=Path,
        metavar="MIXTURE",
        help="training data: .jsonl, .json, tars, tables, or .yaml mixture",
    )
    parser.add_argument(
        "--model_name_or_path",
        type=Path,
        required=True,
        help="checkpoint whose tokenizer and visual settings are used",
    )
    parser.add_argument(
        "--vision_tower",
        type=Path,
        help="encoder folder, which --memory needs for a plain language model",
    )
    parser.add_argument(
        "--version", choices=TEMPLATES, help="prompt template (default: the checkpoint's)"
    )
    parser.add_argument(
        "--image_folder", type=Path, help="folder that relative image and position paths start from"
    )
    parser.add_argument(
        "--video_folder", type=Path, help="folder that relative video paths start from"
    )
    parser.add_argument(
        "--image_aspect_ratio",
        choices=IMAGE_MODES,
        help="how images are laid out (default: the checkpoint's)",
    )
    parser.add_argument(
        "--image_grid_pinpoints", help="canvases of anyres, in pixels: '(574,1120),(1120,574)'"
    )
    parser.add_argument(
        "--time_marks",
        action=argparse.BooleanOptionalAction,
        help="tell the times of videos in the prompt (default: as the checkpoint does)",
    )
    parser.add_argument(
        "--mm_patches_per_side",
        type=int,
        help="side of a square image, in patches (default: the checkpoint's)",
    )
    parser.add_argument(
        "--merge_side_patches",
        type=int,
        help="side of the patch blocks that make one visual token: 2 for spatial_merge",
    )
    parser.add_argument(
        "--model_max_length",
        type=int,
        default=16384,
        help="most tokens of a sample",
    )
    parser.add_argument(
        "--pack_sequences",
        action="store_true",
        help="count rows packed from several samples, as training with this flag makes them",
    )
    _add_run_arguments(parser)
    parser.add_argument(
        "--pixels", "--deep", action="store_true", help="also decode every picture and video"
    )
    parser.add_argument(
        "--workers", type=int, help="number of processes that read (default: as many as save time)"
    )
    parser.add_argument(
        "--out", type=Path, help="folder to write report.json and failures.jsonl to"
    )
    parser.add_argument("--fix", type=Path, help="new folder for a repaired copy of the data")
    return parser


def _add_run_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the planned run")
    group.add_argument(
        "--per_device_train_batch_size",
        type=_positive,
        default=1,
        help="samples per GPU and step",
    )
    group.add_argument(
        "--gradient_accumulation_steps",
        type=_positive,
        default=1,
        help="batches per optimiser step",
    )
    group.add_argument(
        "--num_gpus",
        type=_positive,
        default=1,
        help="number of GPUs",
    )
    group.add_argument(
        "--num_train_epochs",
        type=float,
        default=1.0,
        help="number of epochs",
    )
    group.add_argument(
        "--zero_stage",
        type=int,
        choices=range(4),
        default=3,
        help="ZeRO stage, for --memory",
    )
    group.add_argument(
        "--memory", action="store_true", help="estimate GPU memory from the sizes of the weights"
    )


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def _open(args: argparse.Namespace) -> SupervisedDataset:
    folder: Path = args.model_name_or_path
    if not folder.is_dir():
        raise ValueError(f"{folder} must be the folder of a model; download it first")
    visual, template = VisualConfig(), "qwen_1_5"
    if (folder / PROCESSOR_FILE).is_file():
        visual, template = read_processor_settings(folder)
    changes = {
        "image_aspect_ratio": args.image_aspect_ratio,
        "image_grid_pinpoints": args.image_grid_pinpoints
        and parse_pinpoints(args.image_grid_pinpoints),
        "patches_per_side": args.mm_patches_per_side,
        "time_marks": args.time_marks,
        "merge_side_patches": args.merge_side_patches,
    }
    return SupervisedDataset(
        args.data_path,
        _read_tokenizer(folder),
        replace(visual, **{name: value for name, value in changes.items() if value is not None}),
        image_folder=args.image_folder,
        video_folder=args.video_folder,
        template=args.version or template,
        max_length=args.model_max_length,
    )


def _read_tokenizer(folder: Path) -> Any:
    """Read a tokenizer; the library would warn of model types that only ``llava.model`` knows."""
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        return AutoTokenizer.from_pretrained(str(folder))
    finally:
        transformers_logging.set_verbosity(level)


def _run_shape(args: argparse.Namespace) -> RunShape:
    return RunShape(
        batch_size=args.per_device_train_batch_size,
        accumulation=args.gradient_accumulation_steps,
        world_size=args.num_gpus,
        epochs=args.num_train_epochs,
        max_length=args.model_max_length,
        packed=args.pack_sequences,
    )


def _memory(args: argparse.Namespace, report: dict[str, Any]) -> dict[str, float]:
    others = [] if args.vision_tower is None else [args.vision_tower]
    return training_gigabytes(
        read_model_size(args.model_name_or_path, *others),
        row_tokens=report["row_tokens"],
        world_size=args.num_gpus,
        zero_stage=args.zero_stage,
    )


def _write(
    folder: Path, dataset: SupervisedDataset, lengths: Lengths, report: dict[str, Any]
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    save_lengths(lengths, folder / "lengths.npz", dataset.fingerprint())
    text = json.dumps(report, indent=2) + "\n"
    (folder / "report.json").write_text(text, encoding="utf-8")
    failures = "".join(json.dumps(bad) + "\n" for bad in lengths.bad_samples)
    (folder / "failures.jsonl").write_text(failures, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
