"""The processor: conversations and their visuals to what the model takes.

A ``ProcessorMixin`` of the library, so that ``AutoProcessor``, ``apply_chat_template`` and
pipelines work as with other models. Saved next to a checkpoint as ``llava_processor.json`` and the
tokenizer's own files, so that a checkpoint says how its prompts and pixels were prepared.

Axis letters: B samples, T text tokens.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.processing_utils import ProcessorMixin

from llava.chat_template import chat_template
from llava.constants import IMAGE_TOKEN, VIDEO_TOKEN
from llava.conversation import TEMPLATES, Turn, encode, expand_placeholders, render
from llava.messages import (
    VisualPart,
    fill_prompt,
    images_of,
    to_turns,
    videos_of,
    visual_parts,
)
from llava.model.weights import resolve_folder
from llava.visual.batch import VisualSegment, pack_segments
from llava.visual.clips import ClipSettings, load_clip
from llava.visual.config import (
    ProcessorSettings,
    VisualConfig,
    read_processor_settings,
    write_processor_settings,
)
from llava.visual.inputs import LlavaImageProcessor, LlavaInputs


class LlavaProcessor(ProcessorMixin):
    """Tokenizer, prompt template and preprocessing settings of one checkpoint.

    Attributes:
        tokenizer: must know the image token and a padding token.
        image_processor: turns pictures into patches.
        pad_token_id: padding token of the tokenizer.
        template: name of the prompt template.
        chat_template: the same template in Jinja.
        image_token: placeholder of a picture in a prompt that is given as text.
        video_token: placeholder of a video there.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        visual: VisualConfig | None = None,
        template: str = "qwen_1_5",
        image_processor: LlavaImageProcessor | None = None,
    ) -> None:
        if not isinstance(tokenizer.pad_token_id, int):
            raise ValueError(
                f"the tokenizer of {tokenizer.name_or_path!r} has no padding token; set pad_token "
                "in its tokenizer_config.json (Qwen uses <|endoftext|>)"
            )
        if template not in TEMPLATES:
            raise ValueError(f"template must be one of {', '.join(TEMPLATES)}, got {template!r}")
        text = chat_template(template)
        super().__init__(
            tokenizer=tokenizer,
            image_processor=image_processor or LlavaImageProcessor(visual),
            chat_template=text,
        )
        # The language model's own template is not the one that this checkpoint is trained with.
        tokenizer.chat_template = text
        self.pad_token_id: int = tokenizer.pad_token_id
        self.template = template
        self.image_token, self.video_token = IMAGE_TOKEN, VIDEO_TOKEN

    @property
    def visual(self) -> VisualConfig:
        """How pixels become patches."""
        return self.image_processor.visual

    @property
    def model_input_names(self) -> list[str]:
        """Names of what a call returns."""
        return ["input_ids", "attention_mask", "visual"]

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        images: Any = None,
        text: Any = None,
        videos: Any = None,
        *,
        videos_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> LlavaInputs:
        """Prepare prompts that are given as text, for ``generate`` or a forward pass.

        ``apply_chat_template`` is the safer way: it prepares messages, in which text is only text.
        Here, special tokens in the text are special. Conversations with segments are taken as
        well, as ``prepare`` takes them: ``processor(conversations, segments)``.

        Args:
            images: the pictures of one prompt, or a list of them per prompt: PIL images, arrays,
                paths or URLs.
            text: a prompt or a list of prompts, with ``image_token`` once per picture and
                ``video_token`` once per video.
            videos: the videos of one prompt, or a list of them per prompt.
            videos_kwargs: how videos are shown, see ``ClipSettings``.
            **kwargs: of ``prepare``.

        Returns:
            As ``prepare``.

        Raises:
            ValueError: if tokens and visuals of a prompt differ in number, or one cannot be read.
        """
        if _is_conversations(images) or (isinstance(images, list | tuple) and not images):
            return self.prepare(images, text, **_renamed(videos, kwargs))
        if text is None:
            raise ValueError(
                "a processor's call needs text; for pictures alone use image_processor"
            )
        prompts = [text] if isinstance(text, str) else list(text)
        pictures, clips = images_of(prompts, images), videos_of(prompts, videos)
        rows: list[list[int]] = []
        samples: list[list[VisualSegment]] = []
        for index, prompt in enumerate(prompts):
            parts = [VisualPart("image", source, {}) for source in pictures[index]]
            parts += [VisualPart("video", source, {}) for source in clips[index]]
            segments = self.load_visuals(parts, videos_kwargs)
            given = len(pictures[index])
            filled, ordered = fill_prompt(prompt, segments[:given], segments[given:])
            rows.append(self.tokenizer.encode(filled, add_special_tokens=False))
            samples.append(ordered)
        return self._pad(rows, samples, **kwargs)

    def prepare(
        self,
        conversations: Sequence[Sequence[Turn]],
        segments: Sequence[Sequence[VisualSegment]],
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        return_assistant_tokens_mask: bool = False,
        **kwargs: Any,
    ) -> LlavaInputs:
        """Prepare a batch of conversations for ``generate`` or a forward pass.

        Args:
            conversations: B conversations; ``<image>`` marks the place of a visual.
            segments: per conversation its visuals, in the order of their placeholders.
            add_generation_prompt: open the answer that is to be generated.
            continue_final_message: leave the last answer open, for more of it.
            return_assistant_tokens_mask: also return ``assistant_masks``, int64 (B, T), 1 at what
                training supervises.
            **kwargs: ``padding``, ``padding_side``, ``max_length``, ``pad_to_multiple_of`` and
                ``return_tensors``, as of tokenizers. By default tensors, padded on the left.

        Returns:
            ``input_ids`` and ``attention_mask``, int64 (B, T), and ``visual``, a VisualBatch or
            None where no sample has one.

        Raises:
            ValueError: if placeholders and visuals of a sample differ in number.
        """
        if len(conversations) != len(segments):
            raise ValueError(
                "conversations and segments must have one entry per sample, got "
                f"{len(conversations)} and {len(segments)}"
            )
        rows: list[list[int]] = []
        masks: list[list[int]] = []
        for index, (turns, visuals) in enumerate(zip(conversations, segments, strict=True)):
            sample = f"sample {index}"
            # A conversation that ends with a question is rendered as one that is to be answered.
            is_asked = add_generation_prompt or turns[-1:] and turns[-1]["from"] == "human"
            pieces = render(
                turns,
                self.template,
                sample=sample,
                add_generation_prompt=bool(is_asked),
                continue_final_message=continue_final_message,
            )
            if is_asked and not add_generation_prompt:
                pieces = pieces[: len(pieces) - len(TEMPLATES[self.template].answer_header)]
            counts = [item for segment in visuals for item in segment.expansions]
            ids, supervised = encode(
                expand_placeholders(pieces, counts, sample=sample), self.tokenizer
            )
            rows.append(ids)
            masks.append([int(flag) for flag in supervised])
        if return_assistant_tokens_mask:
            kwargs["assistant_masks"] = masks
        return self._pad(rows, segments, **kwargs)

    def load_visuals(
        self, parts: Sequence[VisualPart], videos_kwargs: Mapping[str, Any] | None = None
    ) -> list[VisualSegment]:
        """Read the pictures and videos of one sample, in order.

        Args:
            parts: what is shown.
            videos_kwargs: settings of ``ClipSettings`` for videos that do not have their own.

        Raises:
            ValueError: if one cannot be read, or a setting is unknown.
        """
        pictures = [part.source for part in parts if part.kind == "image"]
        images = iter(self.image_processor.segments(pictures))
        return [
            next(images)
            if part.kind == "image"
            else load_clip(
                part.source,
                self.visual,
                ClipSettings.parse({**(videos_kwargs or {}), **part.settings}),
            )
            for part in parts
        ]

    def apply_chat_template(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        conversation: Any,
        chat_template: str | None = None,
        *,
        tokenize: bool = False,
        return_dict: bool = False,
        processor_kwargs: Mapping[str, Any] | None = None,
        videos_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Prepare messages for ``generate``, or write them as a prompt.

        Args:
            conversation: messages, or a list of conversations; see ``llava.messages``. A video
                part takes a path, ``input`` (``codec`` or ``frames``), a budget (``num_images``,
                ``max_patches`` or ``quality_db``) and every other name of ``ClipSettings``.
            chat_template: another template in Jinja; None is the checkpoint's.
            tokenize: return token ids. They are those of training and evaluation, and text in a
                message never becomes a special token. Otherwise return the prompt as text, with one
                ``image_token`` or ``video_token`` per visual.
            return_dict: return what ``prepare`` returns, in place of ``input_ids`` alone.
            processor_kwargs: more of ``kwargs``, as the library passes them.
            videos_kwargs: settings of all videos, see ``ClipSettings``.
            **kwargs: of ``prepare`` and, for another template, of the library's method.
                ``add_generation_prompt`` is off by default, as in the library.

        Returns:
            ``LlavaInputs``, ``input_ids`` (B, T), or text (a list of it for a list).

        Raises:
            ValueError: if messages cannot be rendered, or a visual cannot be read.
        """
        options = {**kwargs, **(processor_kwargs or {})}
        if not tokenize or chat_template not in (None, self.chat_template):
            if tokenize:
                options["processor_kwargs"] = {"videos_kwargs": videos_kwargs}
            return super().apply_chat_template(
                conversation, chat_template, tokenize=tokenize, return_dict=return_dict, **options
            )
        videos_kwargs = options.pop("videos_kwargs", videos_kwargs)
        asks = options.pop("add_generation_prompt", False)
        for ignored in ("tools", "documents", "sanitize_control_tokens"):
            if options.pop(ignored, None) and ignored != "sanitize_control_tokens":
                raise ValueError(f"{ignored} have no place in the template {self.template}")
        if options.get("return_tensors") == "auto":
            del options["return_tensors"]
        conversations = conversation if _is_batch(conversation) else [conversation]
        samples = [self.load_visuals(visual_parts(item), videos_kwargs) for item in conversations]
        turns = [
            to_turns(item, segments) for item, segments in zip(conversations, samples, strict=True)
        ]
        inputs = self.prepare(turns, samples, add_generation_prompt=asks, **options)
        return inputs if return_dict else inputs["input_ids"]

    def _pad(
        self,
        rows: list[list[int]],
        segments: Sequence[Sequence[VisualSegment]],
        *,
        assistant_masks: list[list[int]] | None = None,
        padding: Any = True,
        padding_side: str = "left",
        return_tensors: Any = "pt",
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        truncation: Any = False,
    ) -> LlavaInputs:
        if truncation and max_length is not None and max(map(len, rows)) > max_length:
            raise ValueError(
                f"a prompt of {max(map(len, rows))} tokens exceeds max_length {max_length}, and a "
                "visual must not be cut; show fewer or smaller visuals"
            )
        padded = self.tokenizer.pad(
            {"input_ids": rows},
            padding=padding,
            padding_side=padding_side,
            max_length=max_length,
            pad_to_multiple_of=pad_to_multiple_of,
            return_attention_mask=True,
            return_tensors=return_tensors,
        )
        data: dict[str, Any] = {name: padded[name] for name in ("input_ids", "attention_mask")}
        if assistant_masks is not None:
            length = max(map(len, padded["input_ids"]))
            masks = [
                [0] * (length - len(mask)) + mask
                if padding_side == "left"
                else mask + [0] * (length - len(mask))
                for mask in assistant_masks
            ]
            data["assistant_masks"] = torch.tensor(masks) if return_tensors == "pt" else masks
        return LlavaInputs({**data, "visual": pack_segments(segments)})

    def decode(self, token_ids: Any, skip_special_tokens: bool = True, **kwargs: Any) -> Any:
        """Return the text of tokens (T,), or the texts of (B, T) with their ends stripped."""
        options = {"skip_special_tokens": skip_special_tokens, **kwargs}
        if getattr(token_ids, "ndim", 1) == 1 and not (
            isinstance(token_ids, list) and token_ids and isinstance(token_ids[0], list)
        ):
            return self.tokenizer.decode(token_ids, **options)
        return [text.strip() for text in self.tokenizer.batch_decode(token_ids, **options)]

    def to_dict(self) -> dict[str, Any]:
        """Return the settings by name, as ``llava_processor.json`` has them."""
        return {
            "processor_class": type(self).__name__,
            "template": self.template,
            "visual": self.visual.to_dict(),
        }

    def save_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, save_directory: str | Path, push_to_hub: bool = False, **kwargs: Any
    ) -> None:
        """Write ``llava_processor.json`` and the tokenizer's files, with our chat template.

        Args:
            save_directory: folder, made where it is missing.
            push_to_hub: also upload the files to the repository ``repo_id`` of the hub.
            **kwargs: of ``push_to_hub``.
        """
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        self.tokenizer.chat_template = chat_template(self.template)
        self.tokenizer.save_pretrained(str(folder))
        write_processor_settings(folder, ProcessorSettings(self.visual, self.template))
        if push_to_hub:
            self.push_to_hub(kwargs.pop("repo_id", folder.name), **kwargs)

    @classmethod
    def from_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls, pretrained_model_name_or_path: str | Path, **kwargs: Any
    ) -> "LlavaProcessor":
        """Read what ``save_pretrained`` wrote: from a folder, or a repository on the hub.

        Args:
            pretrained_model_name_or_path: the folder or repository.
            **kwargs: what the library passes to every processor; only ``trust_remote_code`` has an
                effect, for folders of ``llava.export``.

        Raises:
            ValueError: if the file is absent or of another schema.
        """
        folder = resolve_folder(str(pretrained_model_name_or_path))
        settings = read_processor_settings(folder)
        trusts = bool(kwargs.get("trust_remote_code"))
        tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=trusts)
        return cls(tokenizer, settings.visual, settings.template)


def _is_batch(conversation: Any) -> bool:
    """Return whether this is a list of conversations."""
    return bool(conversation) and not isinstance(conversation[0], Mapping)


def _is_conversations(value: Any) -> bool:
    """Return whether a call's first argument is a batch of turns, not of pictures."""
    return (
        isinstance(value, list | tuple)
        and bool(value)
        and isinstance(value[0], list | tuple)
        and bool(value[0])
        and isinstance(value[0][0], Mapping)
    )


def _renamed(videos: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of ``prepare``, whose third was the generation prompt."""
    return kwargs if videos is None else {"add_generation_prompt": videos, **kwargs}
