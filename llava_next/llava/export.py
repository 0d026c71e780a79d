"""Write a checkpoint as a folder that transformers loads by itself, with code and weights.

    python -m llava.export CHECKPOINT OUT [--max_shard_size 5GB] [--dtype bfloat16]

Adapters are merged. ``AutoProcessor`` and ``AutoModelForImageTextToText`` load the folder with
``trust_remote_code=True`` where transformers (5.7 or newer), torch, numpy and Pillow are
installed: pictures, frames and codec assets need nothing else. Raw videos also need ``cv_reader``,
and say so.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi

from llava.model.adapters import ADAPTER_CONFIG_FILE, merge_adapters
from llava.model.loading import load_pretrained
from llava.model.processing import LlavaProcessor
from run_kit.arguments import command_parser
from run_kit.exits import OK, USAGE, say
from run_kit.files import write_json
from run_kit.flat_code import flat_code, flat_name

PACKAGES = ("llava", "onevision_encoder", "run_kit", "cv_reader")
_OPTIONAL = {
    "cv_reader": "reading a video needs cv_reader of the project that made this checkpoint: run "
    "pip install -e . in a checkout of it; pictures, frames and codec assets need nothing more"
}
_MODELS = ("AutoModelForCausalLM", "AutoModelForImageTextToText")

_README = """---
library_name: transformers
pipeline_tag: image-text-to-text
---

```python
from transformers import AutoModelForImageTextToText, AutoProcessor

processor = AutoProcessor.from_pretrained(FOLDER, trust_remote_code=True)
model = AutoModelForImageTextToText.from_pretrained(FOLDER, trust_remote_code=True)

picture = {"type": "image", "path": "picture.jpg"}
messages = [{"role": "user", "content": [picture, {"type": "text", "text": "What is it?"}]}]
inputs = processor.apply_chat_template(
    messages, tokenize=True, return_dict=True, add_generation_prompt=True
).to(model.device)
output = model.generate(**inputs, max_new_tokens=64)
print(processor.decode(output[0, inputs["input_ids"].shape[1] :]))
```

It needs transformers 5.7 or newer. A video is given as `{"type": "video", "video": PATH}`: a folder
with a codec asset, a folder of frames, or, where `cv_reader` is installed, a video file.
"""


def export_checkpoint(
    checkpoint: str | Path, out: str | Path, *, dtype: str = "auto", max_shard_size: str = "5GB"
) -> Path:
    """Write a checkpoint with the code that loads it.

    Args:
        checkpoint: folder or name that ``load_pretrained`` takes; adapters are merged.
        out: folder to write; it must be empty or absent.
        dtype: of the written weights; ``auto`` keeps the checkpoint's.
        max_shard_size: largest file of weights, such as ``500MB``.

    Returns:
        The folder.

    Raises:
        ValueError: if there is no such checkpoint, or the folder is not empty.
    """
    folder = Path(out)
    if folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f"{folder} must be empty or absent; remove it or choose another")
    loaded = load_pretrained(checkpoint, dtype=dtype)
    model: Any = loaded[0]
    if (Path(checkpoint) / ADAPTER_CONFIG_FILE).is_file():
        merge_adapters(model)
    models, processing = type(model).__module__, LlavaProcessor.__module__
    model.config.auto_map = {
        "AutoConfig": f"{flat_name(models)}.{type(model.config).__name__}",
        **{name: f"{flat_name(models)}.{type(model).__name__}" for name in _MODELS},
    }
    model.save_pretrained(folder, max_shard_size=max_shard_size)
    loaded[1].save_pretrained(folder)
    _name_processor(folder, f"{flat_name(processing)}.{LlavaProcessor.__name__}")
    for name, text in flat_code((models, processing), PACKAGES, _OPTIONAL).items():
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "README.md").write_text(_README, encoding="utf-8")
    return folder


def _name_processor(folder: Path, reference: str) -> None:
    """Say in the files of processor and tokenizer which class ``AutoProcessor`` is to load."""
    path = folder / "processor_config.json"
    values = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    values |= {"processor_class": LlavaProcessor.__name__, "auto_map": {"AutoProcessor": reference}}
    write_json(path, values)


def upload(folder: Path, repo_id: str, *, dry_run: bool = False) -> list[str]:
    """Upload a folder to a repository of the hub, which is made where it is missing.

    Args:
        folder: what ``export_checkpoint`` wrote.
        repo_id: ``owner/name``.
        dry_run: only return what would be uploaded.

    Returns:
        A line per file: name and bytes.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    lines = [f"{path.relative_to(folder)} {path.stat().st_size}" for path in files]
    if not dry_run:
        hub = HfApi()
        hub.create_repo(repo_id, exist_ok=True)
        hub.upload_folder(repo_id=repo_id, folder_path=folder)
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = command_parser(
        "llava.export", "Write a checkpoint as a folder that transformers loads by itself."
    )
    parser.add_argument("checkpoint", help="folder of a checkpoint, or of adapters to merge")
    parser.add_argument("out", type=Path, help="folder to write; must be empty or absent")
    parser.add_argument(
        "--dtype",
        choices=("auto", "bfloat16", "float16", "float32"),
        default="auto",
        help="type of the written weights (default: the checkpoint's)",
    )
    parser.add_argument(
        "--max_shard_size",
        default="5GB",
        help="largest file of weights, such as 500MB",
    )
    parser.add_argument("--push_to_hub", metavar="REPO", help="also upload the folder to this repo")
    parser.add_argument(
        "--dry_run", action="store_true", help="with --push_to_hub: list the files, upload nothing"
    )
    args = parser.parse_args(argv)
    try:
        folder = export_checkpoint(
            args.checkpoint, args.out, dtype=args.dtype, max_shard_size=args.max_shard_size
        )
        listed = upload(folder, args.push_to_hub, dry_run=args.dry_run) if args.push_to_hub else []
    except (ValueError, OSError) as error:
        say(f"error: {error}")
        return USAGE
    sys.stdout.write("".join(f"{line}\n" for line in [*listed, str(folder)]))
    return OK


if __name__ == "__main__":
    sys.exit(main())
