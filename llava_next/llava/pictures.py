"""Former path of ``llava.visual.pictures``, for code that imports it."""

from llava.visual.pictures import (
    fit_on_canvas,
    fitted_size,
    load_image,
    read_image_size,
    resize,
    to_rgb,
)

__all__ = ["fit_on_canvas", "fitted_size", "load_image", "read_image_size", "resize", "to_rgb"]
