"""A conversation about pictures and videos that are prepared once."""

from pathlib import Path
from typing import Any

from llava.generation import GenerationSettings
from llava.messages import Message
from llava.serve.answer import AnswerStream, Usage
from llava.serve.engine import Engine
from llava.serve.memory import PrefixMemory
from llava.visual.loading import is_video


class ChatSession:
    """Questions about what was shown, each answered in the light of those before.

    Attributes:
        messages: all messages so far.
        memory: keys and values of what the model has read; of this conversation alone.
    """

    def __init__(self, engine: Engine) -> None:
        self.messages: list[Message] = []
        self.memory = PrefixMemory()
        self._engine = engine
        self._pending: list[dict[str, Any]] = []
        self._last: AnswerStream | None = None

    def show(self, path: str | Path, **settings: Any) -> Usage:
        """Prepare a video or a picture for the next question: read, encode, prefill.

        Args:
            path: video or picture file, or a folder of an asset.
            **settings: how a video is shown, see ``ClipSettings``.

        Returns:
            Its visual tokens, and the seconds of each step.

        Raises:
            ValueError: if it cannot be read, or a setting is unknown. Nothing is shown then.
        """
        kind = "video" if is_video(str(path)) or Path(path).is_dir() else "image"
        part = {"type": kind, kind: str(path), **settings}
        shown = [*self._pending, part]
        usage = self._engine.prefill(
            [*self.messages, {"role": "user", "content": shown}], self.memory
        )
        self._pending = shown
        return usage

    def ask(self, question: str, settings: GenerationSettings | None = None) -> AnswerStream:
        """Answer a question about all that was shown.

        Args:
            question: plain text.
            settings: greedy by default.

        Returns:
            The answer; read it to its end, or ``stop`` it and then do so, before the next question.

        Raises:
            ValueError: as ``Engine.stream``, or if the last answer has not ended.
        """
        if self._last is not None and not self._last.is_over:
            raise ValueError("the last answer has not ended; stop it or wait for its end")
        parts = [*self._pending, {"type": "text", "text": question}]
        messages = [*self.messages, {"role": "user", "content": parts}]

        def remember(text: str) -> None:
            self.messages = [*messages, {"role": "assistant", "content": text}]
            self._pending = []

        self._last = self._engine.stream(messages, settings, memory=self.memory, then=remember)
        return self._last
