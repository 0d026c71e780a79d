"""What the page in the browser asks for, besides answers: facts, files, what is kept of a video."""

import asyncio
import json
import logging
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import anyio.to_thread
from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from pydantic import BaseModel, ValidationError

from llava.messages import visual_parts
from llava.serve.limits import error_dict
from llava.serve.media import MediaError
from llava.serve.page.samples import SAMPLES, make_samples
from llava.serve.schema import ChatMessage, VideoPart
from llava.serve.server import RefusedError, Server
from llava.visual.batch import VisualSegment
from llava.visual.clips import clip_moments
from llava.visual.video_process import progress_told

logger = logging.getLogger(__name__)

PAGE = {
    "/": ("index.html", "text/html"),
    "/chat.css": ("chat.css", "text/css"),
    "/chat.js": ("chat.js", "text/javascript"),
    "/player.js": ("player.js", "text/javascript"),
}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src blob:; media-src blob:; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}
_PLAIN = "application/octet-stream"


def describe_kept(
    segment: VisualSegment, slots: Sequence[int], seconds: Sequence[float], grid: int
) -> dict[str, Any]:
    """Return which cells of which moments a video's segment holds, ready for JSON.

    Args:
        segment: the video as the model takes it.
        slots: the t of each moment, ascending.
        seconds: when each is shown, from the start of the video.
        grid: cells along a side of the padded square that holds the picture.

    Returns:
        ``visual_tokens``, ``grid`` and ``slots``: per frame its ``seconds`` and its ``cells``,
        numbers ``row * grid + column`` of the padded square, ascending. Frames without a cell are
        included; moments that repeat a frame, of a short video, are one.
    """
    times = [round(float(second), 4) for second in seconds]
    time_of = dict(zip(slots, times, strict=True))
    cells: dict[float, set[int]] = {second: set() for second in times}
    for t, h, w in segment.positions.tolist():
        cells[time_of[t]].add(h * grid + w)
    return {
        "visual_tokens": sum(segment.placeholder_tokens),
        "grid": grid,
        "slots": [{"seconds": second, "cells": sorted(kept)} for second, kept in cells.items()],
    }


class _Fetch(BaseModel):
    """The body of ``/page/fetch``."""

    url: str


def add_page(app: FastAPI) -> None:
    """Add the page to a server: its files, and what they ask for."""
    folder = Path(__file__).parent
    for route, (name, kind) in PAGE.items():
        app.get(route)(_sender((folder / name).read_bytes(), kind))
    app.state.page = _Page(app.state.server)
    app.state.page.add(app)


def _sender(content: bytes, kind: str) -> Callable[[], Response]:
    def send() -> Response:
        return Response(content, media_type=kind, headers=_HEADERS)

    return send


class _Page:
    """The routes below ``/page``, and the sample clips."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._folder = tempfile.TemporaryDirectory(prefix="llava_samples_")
        self._samples = make_samples(Path(self._folder.name))

    def add(self, app: FastAPI) -> None:
        """Register the routes."""
        app.get("/page/facts")(self.facts)
        app.get("/page/samples/{name}")(self.sample)
        app.get("/page/files/{name}")(self.file)
        app.post("/page/files")(self.upload)
        app.post("/page/fetch")(self.fetch)
        app.post("/page/shown")(self.shown)

    async def facts(self) -> dict[str, Any]:
        """Return what the page must know of the server."""
        settings = self._server.settings
        return {
            "model": settings.name,
            "needs_key": bool(settings.api_key),
            "allows_urls": settings.media.allow_urls,
            "max_file_bytes": settings.media.max_file_bytes,
            "max_images": settings.media.max_video_images,
            "samples": [{"name": item.name, "title": item.title} for item in SAMPLES],
        }

    async def sample(self, name: str) -> Response:
        """Return a sample clip."""
        if name not in self._samples:
            raise RefusedError(404, "there is no such sample clip")
        return FileResponse(self._samples[name], media_type="video/mp4")

    async def upload(self, request: Request) -> Response:
        """Keep a file, the body of the request; return the URL by which questions show it."""
        self._server.admit(request, _PLAIN)
        return await self._kept(self._server.media.upload, await request.body())

    async def fetch(self, request: Request) -> Response:
        """Download a file of the web and keep it, if the server allows web addresses."""
        self._server.admit(request)
        try:
            asked = _Fetch.model_validate_json(await request.body())
        except ValidationError as error:
            raise RefusedError(400, 'the body must read {"url": ADDRESS}') from error
        return await self._kept(self._server.media.upload_of, asked.url)

    async def _kept(self, keep: Callable[[Any], str], what: bytes | str) -> Response:
        self._server.enter()
        try:
            return JSONResponse({"url": await self._server.read(keep, what)})
        except MediaError as error:
            raise RefusedError(400, str(error)) from error
        finally:
            self._server.leave()

    async def file(self, request: Request, name: str) -> Response:
        """Return an upload, so that the page can play what the server downloaded."""
        self._server.admit(request, "")
        try:
            read = self._server.media.uploaded
            content = await anyio.to_thread.run_sync(read, f"upload:{name}")
        except MediaError as error:
            raise RefusedError(404, str(error)) from error
        return Response(content, media_type=_PLAIN, headers=_HEADERS)

    async def shown(self, request: Request) -> Response:
        """Read a video, and tell how far that is and at last what is kept of it.

        The answer is lines of JSON: ``done`` and ``wanted`` while frames are read, then what
        ``describe_kept`` returns with the ``took`` seconds, or an ``error``. A question about the
        same video in the same form finds it read.
        """
        self._server.admit(request)
        try:
            part = VideoPart.model_validate_json(await request.body())
        except ValidationError as error:
            raise RefusedError(400, "the body must be a part of type video_url") from error
        return StreamingResponse(self._lines(part), media_type="application/x-ndjson")

    async def _lines(self, part: VideoPart) -> AsyncIterator[str]:
        loop = asyncio.get_running_loop()
        news: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()

        def put(line: dict[str, Any] | None) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(news.put_nowait, line)

        def describe(part: VideoPart) -> dict[str, Any]:
            with progress_told(lambda done, wanted: put({"done": done, "wanted": wanted})):
                return self._describe(part)

        self._server.enter()
        try:
            task = asyncio.ensure_future(self._result(self._server.read(describe, part)))
            task.add_done_callback(lambda _: news.put_nowait(None))
            while (line := await news.get()) is not None:
                yield json.dumps(line) + "\n"
            yield json.dumps(task.result()) + "\n"
        finally:
            self._server.leave()

    @staticmethod
    async def _result(work: Awaitable[dict[str, Any]]) -> dict[str, Any]:
        try:
            return await work
        except MediaError as error:
            return error_dict(400, str(error))
        except Exception:  # noqa: BLE001  (the status was sent; the page must still learn of it)
            logger.exception("a video could not be described")
            return error_dict(500, "internal error")

    def _describe(self, part: VideoPart) -> dict[str, Any]:
        """Read a video and describe what is kept of it.

        Raises:
            MediaError: if it is not allowed or cannot be read.
        """
        engine, started = self._server.engine, time.perf_counter()
        message = ChatMessage(role="user", content=[part])
        with self._server.media.resolved([message]) as messages:
            [visual] = self._server.show(messages)
            [video] = visual_parts(messages)
            settings = engine.clip_settings(video)
            processing = engine.processor.visual
            try:
                slots, seconds = clip_moments(video.source, processing, settings)
            except ValueError as error:
                raise MediaError("the times of a video cannot be read") from error
        grid = processing.patches_per_side
        if settings.input == "codec":
            grid = settings.asset_config(processing).grid
        kept = describe_kept(visual.segment, slots, seconds, grid)
        return kept | {"took": round(time.perf_counter() - started, 3)}
