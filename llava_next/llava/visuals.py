"""Former path of ``llava.visual``'s settings, for code that imports it."""

from llava.visual.config import VisualConfig

__all__ = ["VisualConfig"]
