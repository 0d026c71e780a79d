"""Serve a checkpoint by the protocol of the OpenAI chat completions.

Run: ``python -m llava.serve.api --model-path DIR [--port 8000] [--allowed-media-path DIR]``

Messages hold ``image_url`` and ``video_url`` parts. ``usage`` counts visual tokens and what was
kept from an earlier request with the same ``prompt_cache_key``. ``/health`` and ``/metrics`` tell
how the server is. By default it listens to this machine alone, and reads neither its files nor the
web.
"""

import argparse
import logging
import os
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from llava.serve.arguments import (
    add_engine_arguments,
    add_flag,
    generation_settings,
    load_engine,
)
from llava.serve.engine import Engine
from run_kit.arguments import command_parser
from run_kit.exits import OK, USAGE, say

try:
    import uvicorn
    from fastapi import FastAPI, Request, Response
    from fastapi.responses import PlainTextResponse
    from prometheus_client import generate_latest
    from starlette.exceptions import HTTPException

    from llava.serve.limits import BoundedBody, error_response
    from llava.serve.media import MediaLimits
    from llava.serve.server import RefusedError, Server, ServerSettings
except ImportError as error:
    raise SystemExit(
        f"llava.serve.api needs the extra serve ({error}): pip install -e '.[serve]'"
    ) from error

API_KEY_VARIABLE = "LLAVA_API_KEY"
_MIB = 1 << 20


def build_app(engine: Engine, settings: ServerSettings) -> FastAPI:
    """Return the web application of an engine."""
    server = Server(engine, settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        server.media.close()
        engine.close()

    # The pages about the interface load scripts from elsewhere; docs/serving.md describes it.
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    app.state.server = server
    app.add_middleware(
        BoundedBody, max_bytes=settings.max_body_bytes, limit_seconds=settings.body_seconds
    )

    @app.exception_handler(RefusedError)
    async def refuse(_: Request, error: RefusedError) -> Response:
        server.metrics.requests.labels(str(error.status)).inc()
        return error_response(error.status, error.text)

    @app.exception_handler(HTTPException)
    async def unknown(_: Request, error: HTTPException) -> Response:
        server.metrics.requests.labels(str(error.status_code)).inc()
        return error_response(error.status_code, str(error.detail))

    @app.exception_handler(Exception)
    async def fail(_: Request, __: Exception) -> Response:
        server.metrics.requests.labels("500").inc()
        return error_response(500, "internal error")

    @app.post("/v1/chat/completions")
    async def complete(request: Request) -> Response:
        return await server.complete(request)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        model = {"id": settings.name, "object": "model", "owned_by": "llava"}
        return {"object": "list", "data": [model]}

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/metrics")
    async def metrics() -> Response:
        return PlainTextResponse(generate_latest(server.metrics.registry))

    return app


def _parser(module: str) -> argparse.ArgumentParser:
    parser = command_parser(
        module,
        "Serve a checkpoint by the protocol of the OpenAI chat completions. "
        f"If {API_KEY_VARIABLE} is set, requests must bring it as their API key.",
    )
    add_engine_arguments(parser)
    server = parser.add_argument_group("server")
    add_flag(server, "--host", default="127.0.0.1", help="address to listen at")
    add_flag(server, "--port", type=int, default=8000, help="port")
    add_flag(server, "--served-model-name", help="name of the model (default: that of its folder)")
    add_flag(
        server,
        "--allowed-media-path",
        type=Path,
        help="folder whose files requests may show by file:// (default: none)",
    )
    add_flag(
        server,
        "--allow-urls",
        action="store_true",
        help="let requests show files of the public web (default: off)",
    )
    limits = parser.add_argument_group("limits")
    for name, default, text in (
        ("--max-requests", 64, "requests at a time"),
        ("--max-batch", 8, "answers that are generated together"),
        ("--max-body-mib", 384, "size of a request in MiB; base64 takes a third more than a file"),
        ("--max-file-mib", 256, "size of one picture or video in MiB"),
        ("--max-images", 16, "pictures per request"),
        ("--max-videos", 4, "videos per request"),
        ("--body-seconds", 60, "time in which a request must arrive"),
        ("--video-seconds", 120, "time that reading one video may take"),
        ("--answer-seconds", 600, "time in which a request must be answered"),
        ("--kept-conversations", 8, "conversations whose keys and values are kept"),
    ):
        add_flag(limits, name, type=int, default=default, help=text)
    return parser


def server_settings(args: argparse.Namespace) -> ServerSettings:
    """Return the server's settings from its arguments.

    Raises:
        ValueError: if a value is out of range, or the folder of media does not exist.
    """
    folder: Path | None = args.allowed_media_path
    if folder is not None and not folder.is_dir():
        raise ValueError(f"--allowed-media-path must be a folder, got {folder}")
    names = ("max_requests", "max_body_mib", "max_file_mib", "body_seconds", "answer_seconds")
    for name in (*names, "video_seconds", "max_batch"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name} must be at least 1, got {getattr(args, name)}")
    media = MediaLimits(
        allowed_folder=folder,
        allow_urls=args.allow_urls,
        max_images=args.max_images,
        max_videos=args.max_videos,
        max_file_bytes=args.max_file_mib * _MIB,
        video_seconds=args.video_seconds,
    )
    return ServerSettings(
        name=args.served_model_name or Path(args.model_path).resolve().name,
        generation=generation_settings(args),
        media=media,
        max_body_bytes=args.max_body_mib * _MIB,
        body_seconds=args.body_seconds,
        answer_seconds=args.answer_seconds,
        max_requests=args.max_requests,
        kept_conversations=args.kept_conversations,
        api_key=os.environ.get(API_KEY_VARIABLE, ""),
    )


def serve(
    argv: Sequence[str] | None, module: str, extend: Callable[[FastAPI], None] = lambda _: None
) -> int:
    """Serve until the process is ended.

    Args:
        argv: arguments of the command; None takes the process's own.
        module: name of the command.
        extend: adds to the application.

    Returns:
        The exit code.
    """
    args = _parser(module).parse_args(argv)
    try:
        settings = server_settings(args)
        engine = load_engine(args)
        engine.max_batch = args.max_batch
        app = build_app(engine, settings)
    except ValueError as error:
        say(f"error: {error}")
        return USAGE
    extend(app)
    say(f"serving {settings.name} at http://{args.host}:{args.port}")
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    uvicorn.run(app, host=args.host, port=args.port, log_level="warning", timeout_keep_alive=10)
    return OK


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until the process is ended; return the exit code."""
    return serve(argv, "llava.serve.api")


if __name__ == "__main__":
    sys.exit(main())
