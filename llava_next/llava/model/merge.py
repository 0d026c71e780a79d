"""Merge a folder of adapters into its base model and write a plain checkpoint.

Run: ``python -m llava.model.merge --adapters DIR --out DIR``
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llava.model.adapters import ADAPTER_CONFIG_FILE, merge_adapters
from llava.model.loading import load_pretrained
from run_kit.arguments import command_parser
from run_kit.exits import OK, USAGE, say


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = command_parser("llava.model.merge", "Merge adapters into their base model.")
    parser.add_argument("--adapters", type=Path, required=True, help="folder that training wrote")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument(
        "--max_shard_size",
        default="50GB",
        help="largest file of weights, such as 500MB",
    )
    args = parser.parse_args(argv)
    try:
        if not (args.adapters / ADAPTER_CONFIG_FILE).is_file():
            raise ValueError(f"{args.adapters} holds no {ADAPTER_CONFIG_FILE}; give a LoRA run")
        loaded = load_pretrained(args.adapters)
    except (ValueError, OSError) as error:
        say(f"error: {error}")
        return USAGE
    model: Any = loaded[0]
    merge_adapters(model)
    model.save_pretrained(args.out, max_shard_size=args.max_shard_size)
    loaded[1].save_pretrained(args.out)
    sys.stdout.write(f"{args.out}\n")
    return OK


if __name__ == "__main__":
    sys.exit(main())
