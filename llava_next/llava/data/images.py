"""A record to its visual segments, in the order of its placeholders."""

from cv_reader.assets import read_positions
from llava.batch import VisualSegment
from llava.data.records import (
    AnyRecord,
    CodecRecord,
    FramesRecord,
    ImageRecord,
    SampleError,
    VideoRecord,
)
from llava.pictures import load_image
from llava.videos import read_uniform_frames
from llava.visuals import VisualConfig, codec_segment, frames_segment, image_segment


def load_segments(record: AnyRecord, config: VisualConfig) -> list[VisualSegment]:
    """Read and preprocess all visuals of a record; none for text.

    Raises:
        SampleError: if a file is missing or damaged, or mosaics and positions do not belong
            together; the message names sample and file.
    """
    try:
        return _load_segments(record, config)
    except ValueError as error:
        raise SampleError(f"{record.name}: {error}") from error


def _load_segments(record: AnyRecord, config: VisualConfig) -> list[VisualSegment]:
    if isinstance(record, CodecRecord):
        positions = read_positions(record.positions, num_images=len(record.images))
        mosaics = [load_image(path) for path in record.images]
        return [codec_segment(mosaics, positions, config)]
    if isinstance(record, FramesRecord):
        return [frames_segment([load_image(path) for path in record.images], config)]
    if isinstance(record, VideoRecord):
        return [frames_segment(read_uniform_frames(record.video, record.num_frames), config)]
    if isinstance(record, ImageRecord):
        return [image_segment(load_image(path), config) for path in record.images]
    return []
