"""Former path of ``cv_reader.select.selection``, for code that imports it."""

from cv_reader.select.selection import sample_frame_ids, select_cells

__all__ = ["sample_frame_ids", "select_cells"]
