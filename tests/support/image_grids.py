"""The grid of an image that is its sample's only one."""

from llava.visual.config import VisualConfig
from llava.visual.sizes import plan_images


def image_grid(width_px: int, height_px: int, config: VisualConfig) -> tuple[int, int]:
    """Return rows and columns."""
    [plan] = plan_images([(width_px, height_px)], config)
    return plan.rows, plan.columns
