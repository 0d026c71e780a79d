"""Help of the commands: paragraphs as written, and the default of every argument."""

import re

import pytest

from run_kit.arguments import command_parser


def test_help_shows_defaults_of_commands_and_of_their_sub_commands() -> None:
    parser = command_parser("a.module", "Do ``it``.\n\n    python -m a.module OUT")
    parser.add_argument("--name", default="", help="a name")
    parser.add_argument("--type", default="auto", help="a type (default: the file's)")
    commands = parser.add_subparsers()
    for one in (parser, commands.add_parser("go")):
        one.add_argument("--steps", type=int, default=3, help="number of steps")
        one.add_argument("--quick", action="store_true", help="do less")
        text = re.sub(" +", " ", one.format_help())
        assert "--steps N number of steps (default: 3)" in text
        assert "--quick do less\n" in text
    text = parser.format_help()
    assert "Do `it`.\n\n    python -m a.module OUT\n" in text
    assert "a name\n" in text and "(default: the file's)\n" in text


def test_a_wrong_flag_ends_with_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    parser = command_parser("a.module", None)
    parser.add_argument("--steps", type=int, help="number of steps")
    for words, said in (
        (["--step_s", "3"], "unrecognized arguments: --step_s 3; did you mean --steps? `python"),
        (["--steps", "x"], "argument --steps: invalid int value: 'x'; `python -m a.module --help`"),
    ):
        with pytest.raises(SystemExit) as ended:
            parser.parse_args(words)
        assert ended.value.code == 2
        [line] = capsys.readouterr().err.splitlines()
        assert said in line
