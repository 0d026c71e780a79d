"""The pictures and videos of a request, from where the server may read them, to local files.

A request may hold a file itself (``data:`` URL). Files of the machine are read only below one
folder that the server was started with, web addresses only if it was started with ``--allow-urls``,
and then only public ones. No error says whether a file exists.
"""

import os
import shutil
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from uuid import uuid4

from PIL import Image

from llava.messages import Message
from llava.serve.schema import ChatMessage, ImagePart, TextPart, VideoPart
from llava.visual.clips import ClipSettings
from llava.visual.config import VisualConfig
from llava.visual.fetch import FetchError, fetch, is_url
from llava.visual.pictures import decode_data_url

_UPLOAD = "upload:"


class MediaError(ValueError):
    """A request's picture or video is refused; the message names no path and no host."""


@dataclass(frozen=True, kw_only=True)
class MediaLimits:
    """What a request may show.

    Attributes:
        allowed_folder: local files below it may be read; None allows none.
        allow_urls: whether web addresses may be read.
        max_images: pictures per request.
        max_videos: videos per request.
        max_video_images: mosaics or frames per video.
        max_file_bytes: size of one file.
        max_upload_bytes: size of all files that are kept for later requests; the oldest go first.
        max_image_pixels: pixels of one picture.
        video_seconds: seconds that reading one video may take.
    """

    allowed_folder: Path | None = None
    allow_urls: bool = False
    max_images: int = 16
    max_videos: int = 4
    max_video_images: int = 64
    max_file_bytes: int = 256 << 20
    max_upload_bytes: int = 1 << 30
    max_image_pixels: int = 64_000_000
    video_seconds: float = 120.0


class MediaReader:
    """Turns the parts of requests into parts that the engine takes.

    Files that requests bring along get names by their content and a fixed time stamp, so that the
    engine recognises a video that it has seen. They are deleted when the last request that uses
    them ends. ``upload`` keeps a file for later requests.
    """

    def __init__(self, limits: MediaLimits, visual: VisualConfig) -> None:
        self._limits = limits
        self._visual = visual
        self._folder = tempfile.TemporaryDirectory(prefix="llava_serve_")
        self._users: dict[Path, int] = {}
        self._uploads: OrderedDict[str, Path] = OrderedDict()
        self._lock = threading.Lock()

    def close(self) -> None:
        """Delete all files of requests."""
        self._folder.cleanup()

    def upload(self, content: bytes) -> str:
        """Keep a file for later requests; return the URL by which they show it.

        Raises:
            MediaError: if it is too large.
        """
        self._check_size(len(content))
        name, files = uuid4().hex, list[Path]()
        path = self._keep(content, files)
        gone: list[Path] = []
        with self._lock:
            self._uploads[name] = path
            kept = {item: item.stat().st_size for item in self._uploads.values()}
            while len(self._uploads) > 1 and sum(kept.values()) > self._limits.max_upload_bytes:
                _, oldest = self._uploads.popitem(last=False)
                gone.append(oldest)
                if oldest not in self._uploads.values():
                    del kept[oldest]
        for item in gone:
            self._release(item)
        return _UPLOAD + name

    def upload_of(self, url: str) -> str:
        """Download a file of the web and keep it as ``upload`` does; return its new URL.

        Raises:
            MediaError: if web addresses are not allowed, or this one cannot be downloaded.
        """
        if not is_url(url):
            raise MediaError("a web address must begin with https:// or http://")
        return self.upload(self._fetched(url))

    def uploaded(self, url: str) -> bytes:
        """Return the content of an upload.

        Raises:
            MediaError: if it is not here any more.
        """
        files: list[Path] = []
        content = self._upload(url, files).read_bytes()
        self._release(files[0])
        return content

    @contextmanager
    def resolved(self, messages: Sequence[ChatMessage]) -> Iterator[list[Message]]:
        """Give messages whose pictures and videos are local files; uploads exist within the block.

        Raises:
            MediaError: if something is not allowed, too large or no file that can be read.
        """
        self._count(messages)
        files: list[Path] = []
        try:
            yield [self._message(message, files) for message in messages]
        finally:
            for path in files:
                self._release(path)

    def _count(self, messages: Sequence[ChatMessage]) -> None:
        parts = [
            part for item in messages if isinstance(item.content, list) for part in item.content
        ]
        for kind, name, limit in (
            (ImagePart, "pictures", self._limits.max_images),
            (VideoPart, "videos", self._limits.max_videos),
        ):
            found = sum(isinstance(part, kind) for part in parts)
            if found > limit:
                raise MediaError(f"a request may show {limit} {name}, got {found}")

    def _message(self, message: ChatMessage, files: list[Path]) -> Message:
        role = "system" if message.role == "developer" else message.role
        content = message.content or ""
        if isinstance(content, str):
            return {"role": role, "content": content}
        return {"role": role, "content": [self._part(part, files) for part in content]}

    def _part(self, part: TextPart | ImagePart | VideoPart, files: list[Path]) -> dict[str, Any]:
        if isinstance(part, TextPart):
            return {"type": "text", "text": part.text}
        if isinstance(part, ImagePart):
            path = self._file(part.image_url.url, files)
            self._check_image(path)
            return {"type": "image", "path": path}
        try:
            settings = part.video_url.settings()
            shown = ClipSettings.parse(settings).images(self._visual)
        except (ValueError, OverflowError, TypeError) as error:
            raise MediaError(str(error)) from error
        if shown > self._limits.max_video_images:
            raise MediaError(
                f"a video may be shown as {self._limits.max_video_images} images, got {shown}"
            )
        path = self._file(part.video_url.url, files)
        limit = {"time_limit_seconds": self._limits.video_seconds}
        return {"type": "video", "path": path, **settings, **limit}

    def _file(self, url: str, files: list[Path]) -> Path:
        """Return a local file with the content of a URL."""
        if url.startswith("data:"):
            try:
                content = decode_data_url(url)
            except ValueError as error:
                raise MediaError("a data URL must read data:TYPE;base64,CONTENT") from error
            self._check_size(len(content))
            return self._keep(content, files)
        if is_url(url):
            return self._keep(self._fetched(url), files)
        if url.startswith(_UPLOAD):
            return self._upload(url, files)
        return self._local(url)

    def _check_size(self, size_bytes: int) -> None:
        if size_bytes > self._limits.max_file_bytes:
            raise MediaError(f"a file may have {self._limits.max_file_bytes} bytes")

    def _upload(self, url: str, files: list[Path]) -> Path:
        with self._lock:
            path = self._uploads.get(url.removeprefix(_UPLOAD))
            if path is None:
                raise MediaError("the upload is not here any more; send the file again")
            self._uploads.move_to_end(url.removeprefix(_UPLOAD))
            self._users[path] += 1
        files.append(path)
        return path

    def _fetched(self, url: str) -> bytes:
        if not self._limits.allow_urls:
            raise MediaError("web addresses are not allowed here; send the file as a data URL")
        with tempfile.NamedTemporaryFile(dir=self._folder.name) as file:
            try:
                fetch(
                    url,
                    Path(file.name),
                    max_bytes=self._limits.max_file_bytes,
                    limit_seconds=self._limits.video_seconds,
                    public_only=True,
                )
            except FetchError as error:
                raise MediaError(str(error)) from error
            return Path(file.name).read_bytes()

    def _local(self, url: str) -> Path:
        folder = self._limits.allowed_folder
        refusal = MediaError(
            "a file must be below the folder that the server allows (--allowed-media-path)"
        )
        if folder is None:
            raise MediaError("files of the server are not allowed here; send a data URL")
        try:
            text = unquote(urlsplit(url).path) if url.startswith("file://") else url
            path = (folder / text).resolve(strict=True)
            is_fit = path.is_relative_to(folder.resolve()) and path.is_file()
            size = path.stat().st_size
        except (OSError, ValueError, RuntimeError):
            raise refusal from None
        if not is_fit:
            raise refusal
        self._check_size(size)
        return path

    def _keep(self, content: bytes, files: list[Path]) -> Path:
        """Write the file of a request, or share it with requests that brought the same."""
        # A folder of its own: FFmpeg lets a play list name the files next to it.
        path = Path(self._folder.name) / sha256(content).hexdigest() / "file"
        with self._lock:
            if path not in self._users:
                path.parent.mkdir()
                path.write_bytes(content)
                os.utime(path, (0, 0))
            self._users[path] = self._users.get(path, 0) + 1
        files.append(path)
        return path

    def _release(self, path: Path) -> None:
        with self._lock:
            self._users[path] -= 1
            if not self._users[path]:
                del self._users[path]
                shutil.rmtree(path.parent, ignore_errors=True)

    def _check_image(self, path: Path) -> None:
        """Refuse a picture by its header, before any pixel takes memory."""
        try:
            with Image.open(path) as image:
                pixels = image.width * image.height
        except Exception as error:  # noqa: BLE001  (Pillow's plug-ins raise errors of any type)
            raise MediaError("a picture cannot be read: damaged, or of an unknown kind") from error
        if pixels > self._limits.max_image_pixels:
            raise MediaError(f"a picture may have {self._limits.max_image_pixels} pixels")
