"""Types of the fixtures of ``tests/llava``."""

from llava.model.llava_arch import LlavaForCausalLMMixin
from llava.model.processing import LlavaProcessor
from llava.visual.batch import VisualSegment

MixedSamples = tuple[list[list[dict[str, str]]], list[list[VisualSegment]]]
"""Conversations, and the visuals of each."""

TinyModel = tuple[LlavaForCausalLMMixin, LlavaProcessor]
