"""An answer while it is generated, and what it took."""

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Usage:
    """What one answer took.

    Attributes:
        prompt_tokens: tokens of the conversation, visual ones included.
        visual_tokens: those of pictures and videos.
        reused_tokens: tokens of the prompt that were kept from before.
        new_tokens: tokens of the answer.
        finish: ``stop`` where the answer ended, ``length`` at the limit, ``cancelled`` where it was
            stopped from outside.
        seconds: seconds of each step: ``visuals`` (reading and choosing), ``wait`` (for earlier
            requests), ``prompt`` (encoder and prompt, to the first token), ``answer`` (the rest).
    """

    prompt_tokens: int = 0
    visual_tokens: int = 0
    reused_tokens: int = 0
    new_tokens: int = 0
    finish: str = "stop"
    seconds: dict[str, float] = field(default_factory=dict)


class AnswerStream:
    """The text of an answer while it is generated.

    Iterate over it for pieces of text; all of them together are ``text``. Leaving the loop early
    does not end the generation: call ``stop``.

    Attributes:
        usage: what it took; complete when the iteration ends.
        text: the text so far.
        ahead: answers that the model works on or will work on before this one.
    """

    def __init__(self, usage: Usage, then: Callable[[str], None] | None = None) -> None:
        """Wait for text.

        Args:
            usage: filled in while the answer is generated.
            then: called once with the whole text, before the iteration ends; not after an error.
        """
        self.usage = usage
        self.text = ""
        self.ahead = 0
        self._then = then
        self._pieces: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._stopped, self._over, self._ended = threading.Event(), threading.Event(), False
        self._generated = ""
        self._notify: Callable[[], None] = lambda: None

    def __iter__(self) -> Iterator[str]:
        """Yield pieces of text.

        Raises:
            RuntimeError, ValueError: what went wrong while the answer was generated.
        """
        while not self._ended:
            piece = self._pieces.get()
            if isinstance(piece, str):
                self.text += piece
                yield piece
                continue
            self._ended = True
            if piece is not None:
                raise piece

    def stop(self) -> None:
        """End the answer after the current token."""
        self._stopped.set()

    @property
    def is_stopped(self) -> bool:
        """Whether ``stop`` was called."""
        return self._stopped.is_set()

    @property
    def is_over(self) -> bool:
        """Whether no more text will come."""
        return self._over.is_set()

    @property
    def is_read(self) -> bool:
        """Whether an iteration has come to the end."""
        return self._ended

    def read(self) -> str:
        """Wait for the end and return the whole text."""
        for _ in self:
            pass
        return self.text

    def listen(self, notify: Callable[[], None]) -> None:
        """Call a function, from the engine's thread, whenever ``poll`` may have something new."""
        self._notify = notify
        notify()

    def poll(self) -> list[str]:
        """Return the pieces that have come, without waiting; for event loops.

        Raises:
            RuntimeError, ValueError: as iterating does.
        """
        pieces: list[str] = []
        while not self._ended and not self._pieces.empty():
            piece = self._pieces.get()
            if isinstance(piece, str):
                self.text += piece
                pieces.append(piece)
                continue
            self._ended = True
            if piece is not None:
                raise piece
        return pieces

    def put(self, piece: str) -> None:
        """Add text."""
        if piece:
            self._generated += piece
            self._pieces.put(piece)
            self._notify()

    def end(self, error: Exception | None = None) -> None:
        """End it, by an error if there is one."""
        if error is None and self._then is not None:
            self._then(self._generated)
        self._over.set()
        self._pieces.put(error)
        self._notify()
