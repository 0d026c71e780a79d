"""Arguments that chat, server and web page share, and the engine that they describe."""

import argparse
from typing import Any

from llava.generation import GenerationSettings
from llava.serve.engine import Engine
from llava.serve.memory import VisualStore
from llava.visual.clips import VIDEO_INPUTS, ClipSettings


def add_flag(parser: Any, name: str, **options: Any) -> None:
    """Add a flag that may be written with hyphens or underscores."""
    parser.add_argument(*dict.fromkeys((name, "--" + name[2:].replace("-", "_"))), **options)


def add_engine_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what says which model answers, and how it is shown videos."""
    model = parser.add_argument_group("model")
    add_flag(model, "--model-path", required=True, help="folder of a LLaVA checkpoint")
    add_flag(model, "--device", help="cpu, cuda, cuda:1 ... (default: a GPU if there is one)")
    add_flag(
        model, "--dtype", default="auto", help="dtype of the weights (default: the checkpoint's)"
    )
    videos = parser.add_argument_group("videos")
    add_flag(
        videos,
        "--video-input",
        choices=VIDEO_INPUTS,
        default="codec",
        help="show videos as codec input or as whole frames",
    )
    add_flag(
        videos,
        "--num-images",
        type=int,
        default=8,
        help="mosaics or frames per video",
    )
    add_flag(videos, "--codec-cache", help="folder that keeps computed assets (default: none)")
    add_flag(
        videos,
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a setting of assets, such as quality_db=36; may be repeated",
    )
    answers = parser.add_argument_group("answers")
    add_flag(
        answers,
        "--max-new-tokens",
        type=int,
        default=1024,
        help="most tokens of an answer",
    )
    add_flag(
        answers,
        "--temperature",
        type=float,
        default=0.0,
        help="0 takes the likeliest token, more draws",
    )


def clip_settings(args: argparse.Namespace) -> dict[str, Any]:
    """Return how videos are shown, checked.

    Raises:
        ValueError: A setting is unknown or out of range.
    """
    values: dict[str, Any] = {"input": args.video_input, "num_images": args.num_images}
    if args.codec_cache:
        values["cache"] = args.codec_cache
    values |= read_assignments(args.set)
    ClipSettings.parse(values)
    return values


def read_assignments(texts: list[str]) -> dict[str, str]:
    """Read ``NAME=VALUE`` texts.

    Raises:
        ValueError: if one is none.
    """
    values: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise ValueError(f"a setting must read NAME=VALUE, got {text!r}")
        values[name] = value
    return values


def load_engine(args: argparse.Namespace, store: VisualStore | None = None) -> Engine:
    """Load the model that the arguments name.

    Raises:
        ValueError: if it is no checkpoint of this project, or a setting is wrong.
    """
    settings = clip_settings(args)
    engine = Engine.load(args.model_path, args.device, dtype=args.dtype, videos_kwargs=settings)
    if store is not None:
        engine.store = store
    return engine


def generation_settings(args: argparse.Namespace) -> GenerationSettings:
    """Return how answers are generated.

    Raises:
        ValueError: if a value is out of range.
    """
    if args.max_new_tokens < 1 or args.temperature < 0:
        raise ValueError(
            "max_new_tokens must be at least 1 and temperature at least 0, got "
            f"{args.max_new_tokens} and {args.temperature}"
        )
    return GenerationSettings(max_new_tokens=args.max_new_tokens, temperature=args.temperature)
