"""How the commands read their arguments: help that keeps paragraphs and shows every default."""

import argparse
import difflib
import re
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from run_kit.exits import USAGE


class _HelpFormatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    def _get_help_string(self, action: argparse.Action) -> str | None:
        has_value = action.default not in (None, "") and not isinstance(
            action.default, (bool, list)
        )
        is_said = "(default" in (action.help or "")
        return super()._get_help_string(action) if has_value and not is_said else action.help

    def _get_default_metavar_for_optional(self, action: argparse.Action) -> str:
        """Call every number N: names of flags in capitals would double the length of the usage."""
        is_number = action.type in (int, float)
        return "N" if is_number else super()._get_default_metavar_for_optional(action)


class _Parser(argparse.ArgumentParser):
    """Sub-commands get a parser of this kind, and with it the same help."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{"formatter_class": _HelpFormatter} | options)

    def error(self, message: str) -> NoReturn:
        """End with code 2 and one line, as ``cv_reader``'s commands do."""
        unknown = re.findall(r"--[\w-]+", message) if message.startswith("unrecognized") else []
        where = f"`{self.prog} --help` shows the arguments"
        self.exit(USAGE, f"{self.prog}: {message}; {_meant(unknown, self)}{where}\n")


def _meant(unknown: Iterable[str], parser: argparse.ArgumentParser) -> str:
    """Return a question about flags whose names are similar to unknown ones, if there are any."""
    known = [flag for action in parser._actions for flag in action.option_strings]
    similar = [match for word in unknown for match in difflib.get_close_matches(word, known, 1)]
    return f"did you mean {', '.join(similar)}? " if similar else ""


def command_parser(module: str, description: str | None, **options: Any) -> argparse.ArgumentParser:
    """Return the parser of a command that is run by ``python -m``.

    Args:
        module: full name of the module.
        description: what the command does, such as the module's docstring.
        options: further arguments of ``ArgumentParser``.
    """
    text = (description or "").replace("``", "`")
    return _Parser(f"python -m {module}", description=text, **options)


def parse_settings(
    module: str,
    kinds: Sequence[type],
    argv: Sequence[str] | None,
    *,
    description: str | None,
    required: str = "",
) -> list[Any]:
    """Read settings whose flags are the fields of dataclasses.

    Args:
        module: full name of the module that ``python -m`` runs.
        kinds: dataclasses; their fields' metadata holds the help.
        argv: arguments; None takes those of the process.
        description: what the command does, such as the module's docstring.
        required: flags that the usage shows, as the others are too many.

    Returns:
        One object of each kind.

    Raises:
        ValueError: A flag is unknown, or a dataclass refuses a value.
        SystemExit: ``--help`` was given (code 0), or a flag is missing or malformed (code 2).
    """
    from transformers import HfArgumentParser

    given: Any = tuple(kinds)
    parser = HfArgumentParser(
        given,
        prog=f"python -m {module}",
        usage=f"%(prog)s {required} [--help] ...",
        description=(description or "").replace("``", "`"),
        formatter_class=_HelpFormatter,
        allow_abbrev=False,
    )
    arguments = None if argv is None else list(argv)
    # Before values are checked: one may be missing because its flag is misspelt.
    _, unknown = parser.parse_known_args(arguments)
    if unknown:
        meant = _meant((word for word in unknown if word.startswith("--")), parser)
        raise ValueError(f"unknown arguments: {' '.join(unknown)}; {meant}see --help")
    return list(parser.parse_args_into_dataclasses(arguments, look_for_args_file=False))
