"""Talk to a checkpoint about pictures and videos, in the terminal.

Run: ``python -m llava.serve.chat --model-path DIR [--video FILE]``

Each line is a question. ``/video FILE`` and ``/image FILE`` show something to the next question,
and may be followed by settings such as ``input=frames num_images=4``; ``/new`` forgets everything,
``/help`` lists the commands, ``/quit`` or Ctrl-D ends. Ctrl-C stops an answer.
"""

import shlex
import sys
from collections.abc import Callable, Sequence
from typing import Any

from llava.generation import GenerationSettings
from llava.serve.answer import AnswerStream, Usage
from llava.serve.arguments import (
    add_engine_arguments,
    add_flag,
    generation_settings,
    load_engine,
    read_assignments,
)
from llava.serve.engine import Engine
from llava.serve.session import ChatSession
from run_kit.arguments import command_parser
from run_kit.exits import INTERRUPTED, OK, USAGE, say, without_controls

try:
    from rich.console import Console
    from rich.text import Text
except ImportError as error:  # the extra is not installed
    raise SystemExit(f"llava.serve.chat needs rich ({error}): pip install -e '.[serve]'") from error

_HELP = """/video FILE [NAME=VALUE ...]  show a video, or the folder of an asset
/image FILE                   show a picture
/new                          forget everything
/help                         this text
/quit                         end (also Ctrl-D); Ctrl-C stops an answer"""


class TerminalChat:
    """A conversation in the terminal."""

    def __init__(self, engine: Engine, settings: GenerationSettings, console: Console) -> None:
        """Begin.

        Args:
            engine: answers.
            settings: how answers are generated.
            console: is written to.
        """
        self._engine = engine
        self._settings = settings
        self._console = console
        self._session = ChatSession(engine)

    def show(self, path: str, **shown_as: Any) -> None:
        """Prepare a video or a picture, and say what it took.

        Raises:
            ValueError: if it cannot be read or a setting is wrong.
        """
        with self._console.status("reading and encoding ..."):
            usage = self._session.show(path, **shown_as)
        self._note(f"{path}: {usage.visual_tokens} visual tokens; {_steps(usage)}")

    def say(self, line: str) -> bool:
        """Answer a line or obey it; return whether the conversation continues."""
        command, _, rest = line.strip().partition(" ")
        if command in ("/quit", "/exit"):
            return False
        try:
            if command in ("/video", "/image"):
                path, *values = shlex.split(rest) or [""]
                self.show(path, **read_assignments(values))
            elif command == "/new":
                self._session = ChatSession(self._engine)
                self._note("a new conversation")
            elif command.startswith("/"):
                self._note(_HELP)
            elif command:
                self._answer(self._session.ask(line.strip(), self._settings))
        except ValueError as error:
            self._note(f"error: {error}", style="red")
        return True

    def _answer(self, answer: AnswerStream) -> None:
        """Write an answer while it comes; Ctrl-C stops it."""
        while not answer.is_read:
            try:
                for piece in answer:
                    self._console.print(Text(without_controls(piece)), end="", soft_wrap=True)
            except KeyboardInterrupt:
                answer.stop()
        self._console.print()
        usage = answer.usage
        speed = usage.new_tokens / max(usage.seconds.get("answer", 0.0), 1e-9)
        kept = f", {usage.reused_tokens} kept from before" if usage.reused_tokens else ""
        end = "" if usage.finish == "stop" else f" ({usage.finish})"
        self._note(
            f"{usage.prompt_tokens} tokens read ({usage.visual_tokens} visual{kept}), "
            f"{usage.new_tokens} written{end} at {speed:.1f}/s; {_steps(usage)}"
        )

    def _note(self, text: str, style: str = "dim") -> None:
        self._console.print(Text(without_controls(text), style=style), soft_wrap=True)


def _steps(usage: Usage) -> str:
    return ", ".join(f"{name} {seconds:.2f} s" for name, seconds in usage.seconds.items())


def _read_line() -> str:
    return input("> " if sys.stdin.isatty() else "")


def main(argv: Sequence[str] | None = None, read_line: Callable[[], str] | None = None) -> int:
    """Run the chat; return its exit code."""
    parser = command_parser("llava.serve.chat", "Talk to a checkpoint about pictures and videos.")
    add_engine_arguments(parser)
    add_flag(
        parser,
        "--video",
        action="append",
        default=[],
        metavar="FILE",
        help="video or picture to begin with; may be repeated",
    )
    args = parser.parse_args(argv)
    console = Console(highlight=False)
    try:
        settings = generation_settings(args)
        chat = TerminalChat(load_engine(args), settings, console)
        for path in args.video:
            chat.show(path)
    except ValueError as error:
        say(f"error: {error}")
        return USAGE
    if sys.stdin.isatty():
        console.print("Ask a question, or /help.", style="dim")
    try:
        while chat.say((read_line or _read_line)()):
            pass
    except EOFError:
        return OK
    except KeyboardInterrupt:
        return INTERRUPTED
    return OK


if __name__ == "__main__":
    sys.exit(main())
