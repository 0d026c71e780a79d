"""A record to its visual segments, in the order of its placeholders.

Axis letters: F frames.
"""

from PIL import Image

from cv_reader import open_video
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
from llava.positions import uniform_slots
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
        return [frames_segment(_read_frames(record), config)]
    if isinstance(record, ImageRecord):
        return [image_segment(load_image(path), config) for path in record.images]
    return []


def _read_frames(record: VideoRecord) -> list[Image.Image]:
    """Frames floor(linspace(0, N - 1, F)); a video shorter than F repeats frames."""
    with open_video(record.video) as video:
        ids = uniform_slots(record.num_frames, video.index.num_frames).tolist()
        frames = video.frames(sorted(set(ids)), signals=False)
        pictures = {frame.index: Image.fromarray(frame.rgb()) for frame in frames}
    return [pictures[index] for index in ids]
