"""How the commands read their arguments: help that keeps paragraphs and shows every default."""

import argparse
from typing import Any


class _HelpFormatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    def _get_help_string(self, action: argparse.Action) -> str | None:
        is_shown = action.default not in (None, "") and not isinstance(action.default, (bool, list))
        return super()._get_help_string(action) if is_shown else action.help

    def _get_default_metavar_for_optional(self, action: argparse.Action) -> str:
        """Call every number N: names of flags in capitals would double the length of the usage."""
        is_number = action.type in (int, float)
        return "N" if is_number else super()._get_default_metavar_for_optional(action)


class _Parser(argparse.ArgumentParser):
    """Sub-commands get a parser of this kind, and with it the same help."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{"formatter_class": _HelpFormatter} | options)


def command_parser(module: str, description: str | None, **options: Any) -> argparse.ArgumentParser:
    """Return the parser of a command that is run by ``python -m``.

    Args:
        module: full name of the module.
        description: what the command does, such as the module's docstring.
        options: further arguments of ``ArgumentParser``.
    """
    text = (description or "").replace("``", "`")
    return _Parser(f"python -m {module}", description=text, **options)
