"""Help of the commands: paragraphs as written, and the default of every argument."""

import re

from run_kit.arguments import command_parser


def test_help_shows_defaults_of_commands_and_of_their_sub_commands() -> None:
    parser = command_parser("a.module", "Do ``it``.\n\n    python -m a.module OUT")
    parser.add_argument("--name", default="", help="a name")
    commands = parser.add_subparsers()
    for one in (parser, commands.add_parser("go")):
        one.add_argument("--steps", type=int, default=3, help="number of steps")
        one.add_argument("--quick", action="store_true", help="do less")
        text = re.sub(" +", " ", one.format_help())
        assert "--steps N number of steps (default: 3)" in text
        assert "--quick do less\n" in text
    text = parser.format_help()
    assert "Do `it`.\n\n    python -m a.module OUT\n" in text
    assert "a name\n" in text
