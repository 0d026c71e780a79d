"""How the commands read their arguments: help with defaults, errors of one line."""

import argparse
import difflib
import re
from collections.abc import Callable
from typing import Any, NoReturn

from cv_reader.exits import USAGE


class _Parser(argparse.ArgumentParser):
    """A parser that leaves the usage out of its errors: some commands have a page of it."""

    def error(self, message: str) -> NoReturn:
        """End with code 2 and one line: what is wrong, flags of similar names, where help is."""
        known = [flag for action in self._actions for flag in action.option_strings]
        unknown: list[str] = []
        if message.startswith("unrecognized"):
            unknown = re.findall(r"--[\w-]+", message)
        similar = [match for flag in unknown for match in difflib.get_close_matches(flag, known, 1)]
        meant = f"did you mean {', '.join(similar)}? " if similar else ""
        where = f"`{self.prog} --help` shows the arguments"
        self.exit(USAGE, f"{self.prog}: {message}; {meant}{where}\n")


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Show defaults of arguments that have a value, and keep the paragraphs of the description."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        is_shown = action.default not in (None, "") and not isinstance(action.default, (bool, list))
        return super()._get_help_string(action) if is_shown else action.help

    def _get_default_metavar_for_optional(self, action: argparse.Action) -> str:
        """Call every number N: names of flags in capitals would double the length of the usage."""
        is_number = action.type in (int, float)
        return "N" if is_number else super()._get_default_metavar_for_optional(action)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        fill = super()._fill_text
        paragraphs = text.replace("``", "`").split("\n\n")
        return "\n\n".join(fill(paragraph, width, indent) for paragraph in paragraphs)


def new_parser(prog: str, description: str | None) -> argparse.ArgumentParser:
    """Return the parser of a command; its help shows the default of every argument."""
    return _Parser(prog, description=description, formatter_class=_HelpFormatter)


class _Refuse(argparse.Action):
    """A flag of the reference implementation that has no meaning here: exit 2 with the reason."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        parser.error(f"{option_string} is not supported: {self.metavar}")


def refuse(parser: argparse.ArgumentParser, flags: dict[str, str]) -> None:
    """Accept flags, with or without a value, and refuse them with a reason."""
    for flag, reason in flags.items():
        # The help is hidden, so the metavar is free to carry the reason.
        parser.add_argument(
            flag,
            action=_Refuse,
            nargs="?",
            metavar=reason,
            default=argparse.SUPPRESS,
            help=argparse.SUPPRESS,
        )


def only(value: str, reason: str) -> Callable[[str], str]:
    """Return an argument type that accepts one value, and refuses others with the reason."""

    def check(text: str) -> str:
        if text != value:
            raise argparse.ArgumentTypeError(f"{text!r} is not supported, only {value!r}: {reason}")
        return text

    return check
