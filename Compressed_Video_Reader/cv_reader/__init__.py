"""Reading compressed video: pixels, and what the codec knows about them.

``with open_video(path) as video: for frame in video.frames(ids): ...``
"""

from cv_reader.frames import CodecFrame, VideoIndex
from cv_reader.index import read_index
from cv_reader.reader import Video, open_video

__all__ = ["CodecFrame", "Video", "VideoIndex", "open_video", "read_index"]
