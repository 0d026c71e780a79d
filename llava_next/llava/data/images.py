"""A record to its visual segments, in the order of its placeholders, or to their sizes alone."""

from cv_reader.assets import read_positions
from llava.data.records import (
    AnyRecord,
    CodecRecord,
    FramesRecord,
    ImageRecord,
    SampleError,
    VideoRecord,
)
from llava.visual.batch import VisualSegment
from llava.visual.pictures import load_image, read_image_size
from llava.visual.segments import (
    VisualConfig,
    codec_segment,
    frames_segment,
    image_grid,
    image_segment,
)
from llava.visual.videos import read_uniform_frames


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


def count_visual_tokens(record: AnyRecord, config: VisualConfig) -> list[int]:
    """Language tokens behind each placeholder of a record; no pixel is decoded.

    Raises:
        SampleError: if a file is missing, or its header is damaged; the message names sample and
            file.
    """
    try:
        patches = _count_patches(record, config)
    except ValueError as error:
        raise SampleError(f"{record.name}: {error}") from error
    return [count // config.patches_per_token for count in patches]


def _count_patches(record: AnyRecord, config: VisualConfig) -> list[int]:
    if isinstance(record, CodecRecord):
        positions = read_positions(record.positions, num_images=len(record.images))
        for path in record.images:
            read_image_size(path)
        return [len(positions) // len(record.images)] * len(record.images)
    if isinstance(record, ImageRecord):
        grids = [image_grid(*read_image_size(path), config) for path in record.images]
        return [rows * columns for rows, columns in grids]
    if isinstance(record, FramesRecord):
        for path in record.images:
            read_image_size(path)
        return [config.patches_per_side**2] * len(record.images)
    if isinstance(record, VideoRecord):
        if not record.video.is_file():
            raise ValueError(f"video {record.video} does not exist")
        return [config.patches_per_side**2] * record.num_frames
    return []
