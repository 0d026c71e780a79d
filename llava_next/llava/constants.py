"""Names and numbers shared by data, model, training and evaluation."""

IGNORE_INDEX = -100
"""Label of a token that is not supervised (the default of ``torch.nn.CrossEntropyLoss``)."""

IMAGE_PLACEHOLDER = "<image>"
"""Placeholder of a visual in a data set's text. It never reaches the tokenizer."""

IMAGE_TOKEN = "<|image_pad|>"
"""The token that a placeholder expands to, once per visual token (Qwen's own special token)."""

VIDEO_TOKEN = "<|video_pad|>"
"""A video in the text of a chat template; the processor writes image tokens for it."""

Expansion = int | tuple[int | str, ...]
"""What one placeholder becomes: so many visual tokens; or runs of them, as numbers, with the text
before and between them."""

VIRTUAL_FRAMES = 64
"""Length of the virtual time line: t runs over 0..63 for videos of every length."""

CLIP_IMAGE_MEAN = (0.48145466, 0.4578275, 0.40821073)
"""Mean of each channel, on pixels scaled to 0..1, as in the encoder's training."""

CLIP_IMAGE_STD = (0.26862954, 0.26130258, 0.27577711)
"""Standard deviation of each channel, on pixels scaled to 0..1, as in the encoder's training."""
