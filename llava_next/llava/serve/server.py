"""Requests of the chat protocol through the engine: admission, reading, streaming, counting."""

import asyncio
import hmac
import json
import logging
import time
import uuid
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import anyio
import anyio.to_thread
from fastapi import Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from pydantic import ValidationError

from llava.generation import GenerationSettings
from llava.messages import Message
from llava.serve.answer import AnswerStream, Usage
from llava.serve.engine import Engine
from llava.serve.limits import error_dict
from llava.serve.media import MediaError, MediaLimits, MediaReader
from llava.serve.memory import PrefixMemory, ShownVisual
from llava.serve.schema import ChatRequest

logger = logging.getLogger(__name__)

_READERS = 4
"""Requests whose pictures and videos are read at a time."""
_LOOK_SECONDS = 0.5
"""How often a request that waits looks whether its client is still there."""

_Asked = TypeVar("_Asked")
_Result = TypeVar("_Result")


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """How the server serves.

    Attributes:
        name: name of the model in answers.
        generation: settings of answers that a request leaves open, and the limit of their length.
        media: what requests may show.
        max_body_bytes: size of a request.
        body_seconds: time in which a request must arrive.
        answer_seconds: time in which it must be answered.
        max_requests: requests at a time; more are told to come back.
        kept_conversations: conversations whose keys and values are kept, by ``prompt_cache_key``.
        api_key: is demanded of requests, unless it is empty.
    """

    name: str = "llava"
    generation: GenerationSettings = field(default_factory=GenerationSettings)
    media: MediaLimits = field(default_factory=MediaLimits)
    max_body_bytes: int = 384 << 20
    body_seconds: float = 60.0
    answer_seconds: float = 600.0
    max_requests: int = 64
    kept_conversations: int = 8
    api_key: str = ""


class RefusedError(Exception):
    """A request is answered by an error.

    Attributes:
        status: of HTTP.
        text: for the client.
    """

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


@dataclass(frozen=True)
class Prepared:
    """A request whose visuals were read."""

    messages: list[Message]
    shown: list[ShownVisual]
    seconds: float


class Metrics:
    """What ``/metrics`` tells."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        options: dict[str, Any] = {"registry": self.registry}
        self.requests = Counter("llava_requests_total", "Requests by status", ["status"], **options)
        self.tokens = Counter("llava_tokens_total", "Tokens by kind", ["kind"], **options)
        self.inside = Gauge("llava_requests_inside", "Requests that are being served", **options)
        self.seconds = Histogram(
            "llava_step_seconds", "Seconds of each step of an answer", ["step"], **options
        )

    def count(self, usage: Usage) -> None:
        """Count an answer."""
        for kind in ("prompt", "visual", "reused", "new"):
            self.tokens.labels(kind).inc(getattr(usage, f"{kind}_tokens"))
        for step, seconds in usage.seconds.items():
            self.seconds.labels(step).observe(seconds)


class _EventStream(StreamingResponse):
    """Server-sent events of an answer, which ends with them even where the client has gone."""

    def __init__(
        self, events: AsyncIterator[str], answer: AnswerStream, then: Callable[[], None]
    ) -> None:
        super().__init__(events, media_type="text/event-stream")
        self._answer = answer
        self._then = then

    async def __call__(self, *args: Any) -> None:
        """Send it."""
        try:
            await super().__call__(*args)
        finally:
            self._answer.stop()
            self._then()


class Server:
    """The engine behind the protocol."""

    def __init__(self, engine: Engine, settings: ServerSettings) -> None:
        self.engine = engine
        self.settings = settings
        self.media = MediaReader(settings.media, engine.processor.visual)
        self.metrics = Metrics()
        self._inside = 0
        self._memories: OrderedDict[str, PrefixMemory] = OrderedDict()
        self._readers: anyio.CapacityLimiter | None = None

    async def complete(self, request: Request) -> Response:
        """Answer ``/v1/chat/completions``."""
        self.admit(request)
        self.enter()
        handed_over = False
        try:
            asked = await self._parse(request)
            with anyio.fail_after(self.settings.answer_seconds):
                answer = await self._start(asked)
            if asked.stream:
                handed_over = True
                return _EventStream(self._events(answer, asked), answer, self.leave)
            response = await self._whole(answer, request)
            self.metrics.requests.labels("200").inc()
            return response
        except TimeoutError as error:
            raise RefusedError(504, "the answer took too long; show less") from error
        finally:
            if not handed_over:
                self.leave()

    def enter(self) -> None:
        """Count a request that is being served, until ``leave``."""
        self._inside += 1
        self.metrics.inside.inc()

    def leave(self) -> None:
        """Count a request less."""
        self._inside -= 1
        self.metrics.inside.dec()

    def admit(self, request: Request, content_type: str = "application/json") -> None:
        """Refuse a request by its header, or because there are too many.

        Args:
            request: as it came.
            content_type: what its body must be; "" where it has none.

        Raises:
            RefusedError: saying why.
        """
        key = self.settings.api_key
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if key and not hmac.compare_digest(given.encode(), key.encode()):
            raise RefusedError(401, "the API key is missing or wrong")
        # A page in a browser cannot send this type to another host without being allowed to.
        given = request.headers.get("content-type", "").partition(";")[0].strip()
        if content_type and given != content_type:
            raise RefusedError(415, f"the content type must be {content_type}")
        if self._inside >= self.settings.max_requests:
            raise RefusedError(
                503,
                f"the queue is full: {self.settings.max_requests} requests are being served or "
                "wait (--max-requests); try again in a few seconds",
            )

    async def _parse(self, request: Request) -> ChatRequest:
        body = await request.body()
        try:
            return await anyio.to_thread.run_sync(ChatRequest.model_validate_json, body)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            place = ".".join(map(str, first["loc"]))[:200]
            text = f"{place}: {first['msg'][:300]}" if place else first["msg"][:300]
            raise RefusedError(400, text) from None

    async def _start(self, asked: ChatRequest) -> AnswerStream:
        """Read what a request shows, and have it answered.

        Raises:
            RefusedError: if it cannot be read or answered.
        """
        prepared = await self.read(self._prepare, asked)
        try:
            answer = await anyio.to_thread.run_sync(self._ask, asked, prepared)
        except ValueError as error:
            raise RefusedError(400, str(error)) from error
        answer.usage.seconds["visuals"] = prepared.seconds
        return answer

    async def read(self, work: Callable[[_Asked], _Result], asked: _Asked) -> _Result:
        """Do what reads pictures and videos in a thread; a few at a time."""
        self._readers = self._readers or anyio.CapacityLimiter(_READERS)
        return await anyio.to_thread.run_sync(
            work, asked, limiter=self._readers, abandon_on_cancel=True
        )

    def _prepare(self, asked: ChatRequest) -> Prepared:
        started = time.perf_counter()
        try:
            with self.media.resolved(asked.messages) as messages:
                shown = self.show(messages)
        except MediaError as error:
            raise RefusedError(400, str(error)) from error
        return Prepared(messages, shown, time.perf_counter() - started)

    def show(self, messages: list[Message]) -> list[ShownVisual]:
        """Read what messages show, which are local files.

        Raises:
            MediaError: saying that it cannot be read; the log says why.
        """
        try:
            return self.engine.show(messages)
        except (ValueError, OSError, MemoryError) as error:
            logger.warning("a request's visual was refused: %s", error)
            raise MediaError(
                "a picture or video cannot be read: it is damaged, of an unknown kind, took too "
                "long, or does not fit its settings"
            ) from error

    def _ask(self, asked: ChatRequest, prepared: Prepared) -> AnswerStream:
        settings = asked.generation(self.settings.generation)
        memory = self._memory(asked.prompt_cache_key)
        return self.engine.stream(prepared.messages, settings, shown=prepared.shown, memory=memory)

    def _memory(self, key: str | None) -> PrefixMemory | None:
        """Return what is kept of a conversation; the conversations used last are kept."""
        if key is None or not self.settings.kept_conversations:
            return None
        memory = self._memories.pop(key, None) or PrefixMemory()
        self._memories[key] = memory
        while len(self._memories) > self.settings.kept_conversations:
            self._memories.popitem(last=False)
        return memory

    async def _pieces(self, answer: AnswerStream) -> AsyncIterator[str]:
        """Yield the text of an answer; "" now and then while there is none.

        Raises:
            TimeoutError: if it takes too long.
        """
        loop, news = asyncio.get_running_loop(), asyncio.Event()

        def notify() -> None:
            # The loop is closed where the server ended before the answer.
            if not loop.is_closed():
                loop.call_soon_threadsafe(news.set)

        answer.listen(notify)
        deadline = time.monotonic() + self.settings.answer_seconds
        try:
            while True:
                news.clear()
                for piece in answer.poll():
                    yield piece
                if answer.is_read:
                    self.metrics.count(answer.usage)
                    return
                if time.monotonic() > deadline:
                    raise TimeoutError
                try:
                    await asyncio.wait_for(news.wait(), _LOOK_SECONDS)
                except (asyncio.TimeoutError, TimeoutError):
                    yield ""
        finally:
            answer.stop()

    async def _whole(self, answer: AnswerStream, request: Request) -> Response:
        """Wait for an answer and send it."""
        async for piece in self._pieces(answer):
            if not piece and await request.is_disconnected():
                raise RefusedError(499, "the client has gone")
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": answer.text},
            "finish_reason": answer.usage.finish,
        }
        body = self._envelope("chat.completion", [choice]) | {"usage": usage_dict(answer.usage)}
        return JSONResponse(body)

    async def _events(self, answer: AnswerStream, asked: ChatRequest) -> AsyncIterator[str]:
        """Yield an answer as server-sent events."""
        frame = self._envelope("chat.completion.chunk", [])

        def event(delta: dict[str, str], finish: str | None = None) -> str:
            choice = {"index": 0, "delta": delta, "finish_reason": finish}
            return f"data: {json.dumps(frame | {'choices': [choice]})}\n\n"

        try:
            yield event({"role": "assistant", "content": ""})
            async for piece in self._pieces(answer):
                yield event({"content": piece}) if piece else f": waiting {answer.ahead}\n\n"
            yield event({}, answer.usage.finish)
            if asked.stream_options is not None and asked.stream_options.include_usage:
                last = frame | {"choices": [], "usage": usage_dict(answer.usage)}
                yield f"data: {json.dumps(last)}\n\n"
            yield "data: [DONE]\n\n"
            self.metrics.requests.labels("200").inc()
        except TimeoutError:
            yield f"data: {json.dumps(error_dict(504, 'the answer took too long'))}\n\n"
            self.metrics.requests.labels("504").inc()
        except Exception:  # noqa: BLE001  (the status was sent; the client must still learn of it)
            logger.exception("an answer failed")
            yield f"data: {json.dumps(error_dict(500, 'internal error'))}\n\n"
            self.metrics.requests.labels("500").inc()

    def _envelope(self, kind: str, choices: list[Any]) -> dict[str, Any]:
        return {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "object": kind,
            "created": int(time.time()),
            "model": self.settings.name,
            "choices": choices,
        }


def usage_dict(usage: Usage) -> dict[str, Any]:
    """Return what an answer took, by the names of the protocol and some more."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.new_tokens,
        "total_tokens": usage.prompt_tokens + usage.new_tokens,
        "prompt_tokens_details": {
            "cached_tokens": usage.reused_tokens,
            "visual_tokens": usage.visual_tokens,
        },
        "seconds": {name: round(seconds, 4) for name, seconds in usage.seconds.items()},
    }
