"""Limits of the server that hold before a request is looked at: size and time of its body."""

import asyncio
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.responses import JSONResponse, Response

_HELD_BODIES = 4
"""How many bodies of the largest size may be in memory at a time."""

_Scope = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
_Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


def error_dict(status: int, message: str) -> dict[str, Any]:
    """Return an error in the form of the protocol."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": message, "type": kind, "param": None, "code": status}}


def error_response(status: int, message: str) -> Response:
    """Return an error in the form of the protocol, as a response."""
    content = error_dict(status, message)
    headers = {"Retry-After": "5"} if status == 503 else {}
    if status in (408, 413):
        headers["Connection"] = "close"
    return JSONResponse(content, status, headers)


class BoundedBody:
    """Receives the whole body of a request within a size and a time, or refuses it."""

    def __init__(self, app: Any, max_bytes: int, limit_seconds: float) -> None:
        """Wrap an application.

        Args:
            app: what serves requests.
            max_bytes: of one body; all bodies in memory may have four times as much.
            limit_seconds: in which a body must arrive.
        """
        self._app = app
        self._max_bytes = max_bytes
        self._limit_seconds = limit_seconds
        self._held_bytes = 0

    async def __call__(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD"):
            await self._app(scope, receive, send)
            return
        held: list[int] = []
        try:
            body = await self._receive(scope, receive, held)
            await self._answer(body, scope, receive, send)
        finally:
            self._held_bytes -= sum(held)

    async def _answer(
        self, body: bytes | Response | None, scope: _Scope, receive: _Receive, send: _Send
    ) -> None:
        if body is None:
            return
        if isinstance(body, Response):
            await body(scope, receive, send)
            return
        given = False

        async def replay() -> MutableMapping[str, Any]:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, replay, send)

    async def _receive(
        self, scope: _Scope, receive: _Receive, held: list[int]
    ) -> bytes | Response | None:
        """Return the body, a refusal, or None where the client has gone.

        Args:
            scope: of the request.
            receive: gives its parts.
            held: receives the sizes that count as held.
        """
        refusal = error_response(413, f"a request may have {self._max_bytes} bytes")
        length = dict(scope["headers"]).get(b"content-length", b"")
        if length.isdigit() and (len(length) > 15 or int(length) > self._max_bytes):
            return refusal
        deadline = time.monotonic() + self._limit_seconds
        chunks: list[bytes] = []
        size, more = 0, True
        while more:
            try:
                message = await asyncio.wait_for(receive(), deadline - time.monotonic())
            except (asyncio.TimeoutError, TimeoutError):
                return error_response(408, "the body of the request came too slowly")
            if message["type"] == "http.disconnect":
                return None
            chunks.append(message.get("body", b""))
            held.append(len(chunks[-1]))
            self._held_bytes += held[-1]
            size += held[-1]
            more = message.get("more_body", False)
            if size > self._max_bytes:
                return refusal
            if self._held_bytes > _HELD_BODIES * self._max_bytes:
                return error_response(503, "too many large requests at a time; try again later")
        return b"".join(chunks)
