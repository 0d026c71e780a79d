"""Reading compressed video: pixels, and what the codec knows about them.

``with open_video(path) as video: for frame in video.frames(ids): ...``
``with stream(url) as live: for window in live: ...``
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from cv_reader.former import forward_imports

if TYPE_CHECKING:
    from cv_reader.media.frames import CodecFrame, VideoIndex
    from cv_reader.media.index import read_index
    from cv_reader.reader import Video, open_video
    from cv_reader.streams.live import Stream, stream
    from cv_reader.streams.settings import StreamSettings
    from cv_reader.streams.windows import StreamWindow

__all__ = [
    "CodecFrame",
    "Stream",
    "StreamSettings",
    "StreamWindow",
    "Video",
    "VideoIndex",
    "open_video",
    "read_index",
    "stream",
]

forward_imports()

_MODULES = {
    "CodecFrame": "media.frames",
    "Stream": "streams.live",
    "StreamSettings": "streams.settings",
    "StreamWindow": "streams.windows",
    "Video": "reader",
    "VideoIndex": "media.frames",
    "open_video": "reader",
    "read_index": "media.index",
    "stream": "streams.live",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for, and no sooner: commands start their workers before they do."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
