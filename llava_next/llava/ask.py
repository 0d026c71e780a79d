"""Ask a checkpoint about a video or an image: in three lines of Python, or by a command.

``Assistant.load("checkpoints/my_model").ask("clip.mp4", "What happens?")``, or
``python -m llava.ask checkpoints/my_model clip.mp4 "What happens?"``.

A video is shown as codec assets show it in evaluation: the selected patches of 64 frames, in as
many mosaics as ``num_images`` says. ``video_input="frames"`` shows that many whole frames instead.
Every other setting of assets can be given by its name: ``select="rate_distortion"``, or the flag
``--select rate_distortion``.
"""

import argparse
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

from cv_reader.assets import AssetConfig
from llava.model.llava_arch import LlavaForCausalLMMixin
from llava.model.loading import load_pretrained
from llava.model.processing import LlavaProcessor
from llava.visual.loading import is_video
from run_kit.arguments import command_parser
from run_kit.exits import OK, USAGE, say


class Assistant:
    """A loaded checkpoint that answers questions, greedily.

    Attributes:
        model: the model in evaluation mode, on its device.
        processor: tokenizer, prompt template and preprocessing of the checkpoint.
    """

    def __init__(self, model: LlavaForCausalLMMixin, processor: LlavaProcessor) -> None:
        self.model: Any = model
        self.processor = processor

    @classmethod
    def load(cls, checkpoint: str | Path, device: str | None = None) -> "Assistant":
        """Load a checkpoint folder.

        Args:
            checkpoint: a folder that training, ``llava.model.merge`` or ``llava.model.tiny`` wrote.
            device: such as ``cuda:1``; None takes a GPU where there is one, else the CPU.

        Raises:
            ValueError: if the folder holds no checkpoint of this project.
        """
        chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
        return cls(*load_pretrained(checkpoint, device=chosen))

    @torch.inference_mode()
    def ask(
        self,
        path: str | Path,
        question: str,
        *,
        video_input: str = "codec",
        num_images: int = 8,
        max_new_tokens: int = 256,
        **settings: Any,
    ) -> str:
        """Return the answer to a question about one video or image file.

        Args:
            path: any container and codec that the reader knows, or an image.
            question: plain text, without placeholders.
            video_input: ``codec`` for selected patches of 64 frames, ``frames`` for whole frames.
            num_images: mosaics or frames; the visual tokens grow with it.
            max_new_tokens: limit of the answer.
            settings: of ``cv_reader.assets.AssetConfig``, such as ``select`` or ``quality_db``.

        Raises:
            ValueError: if the file cannot be read, or a setting or ``video_input`` is unknown.
        """
        shown = (
            {"type": "video", "video": path}
            if is_video(str(path))
            else {"type": "image", "image": path}
        )
        messages = [{"role": "user", "content": [shown, {"type": "text", "text": question}]}]
        inputs = self.processor.apply_chat_template(
            messages,
            tokenize=True,
            return_dict=True,
            add_generation_prompt=True,
            videos_kwargs={"input": video_input, "num_images": num_images, **settings},
        ).to(self.model.device)
        config = GenerationConfig(
            max_new_tokens=max_new_tokens,
            do_sample=False,
            eos_token_id=self.model.generation_config.eos_token_id,
            pad_token_id=self.processor.pad_token_id,
        )
        output = self.model.generate(**inputs, generation_config=config)
        return self.processor.decode(output[:, inputs["input_ids"].shape[1] :])[0]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    names = [item.name for item in fields(AssetConfig) if item.name != "num_images"]
    parser = command_parser(
        "llava.ask",
        "Ask a checkpoint about a video or an image.",
        epilog=textwrap.fill(
            "Each setting of assets is a flag too; `cv_reader precompute --help` says what it "
            f"means: {', '.join(f'--{name}' for name in names)}."
        ),
    )
    parser.add_argument("checkpoint", help="folder of a LLaVA checkpoint")
    parser.add_argument("path", help="video or image file")
    parser.add_argument("question", help="question to ask")
    parser.add_argument(
        "--video_input",
        choices=("codec", "frames"),
        default="codec",
        help="show a video as codec input or as whole frames",
    )
    parser.add_argument(
        "--num_images",
        type=int,
        default=8,
        help="number of mosaics or frames",
    )
    parser.add_argument(
        "--max_new_tokens",
        type=int,
        default=256,
        help="most tokens of the answer",
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: a GPU if there is one)")
    for name in names:
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    settings = {name: text for name in names if (text := getattr(args, name)) is not None}
    # Before the model is loaded, which may take minutes; SHARD.tar#KEY names an asset in a shard.
    is_local = "://" not in args.path
    if is_local and not any(Path(p).exists() for p in (args.path, args.path.partition("#")[0])):
        say(f"error: {args.path}: no such file or folder; check the path")
        return USAGE
    try:
        answer = Assistant.load(args.checkpoint, args.device).ask(
            args.path,
            args.question,
            video_input=args.video_input,
            num_images=args.num_images,
            max_new_tokens=args.max_new_tokens,
            **settings,
        )
    except ValueError as error:
        say(f"error: {error}")
        return USAGE
    sys.stdout.write(f"{answer}\n")
    return OK


if __name__ == "__main__":
    sys.exit(main())
