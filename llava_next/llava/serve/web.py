"""Serve a checkpoint with a page to talk to it in the browser.

Run: ``python -m llava.serve.web --model-path DIR [--port 8000]``

The same server as ``llava.serve.api``, and a page at its root: a video or picture, how it is shown,
streamed answers that can be stopped, follow-up questions, tokens and seconds. The page is three
files that load nothing from elsewhere.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from llava.serve.api import FastAPI, Response, serve

PAGE = {
    "/": ("index.html", "text/html"),
    "/chat.css": ("chat.css", "text/css"),
    "/chat.js": ("chat.js", "text/javascript"),
}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src blob:; media-src blob:; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


def add_page(app: FastAPI) -> None:
    """Add the page's files to a server."""
    folder = Path(__file__).parent / "page"
    for route, (name, kind) in PAGE.items():
        app.get(route)(_sender((folder / name).read_bytes(), kind))


def _sender(content: bytes, kind: str) -> Callable[[], Response]:
    def send() -> Response:
        return Response(content, media_type=kind, headers=_HEADERS)

    return send


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until the process is ended; return the exit code."""
    return serve(argv, "llava.serve.web", add_page)


if __name__ == "__main__":
    sys.exit(main())
