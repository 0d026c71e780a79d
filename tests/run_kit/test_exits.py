"""Exceptions become exit codes; what already ends a process is left alone."""

import sys
from collections.abc import Callable

import pytest

from cv_reader import errors, exits
from run_kit.exits import ExitOnError, say


@pytest.mark.parametrize("write", [say, exits.say])
def test_control_characters_of_a_path_reach_no_terminal(
    write: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    error = errors.VideoError("red\x1b[31m\rline\n2\x9b.mp4", "cannot be opened")
    write(str(error))
    shown = "red\\x1b[31m\\x0dline\\n2\\x9b.mp4: cannot be opened\n"
    assert capsys.readouterr().err == shown
    write("é 日\ttab\n\x1b[2J")
    assert capsys.readouterr().err == "é 日\ttab\n\\x1b[2J\n"


def test_a_users_error_shows_its_message_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped, ExitOnError(2, "here"):
        raise ValueError("wrong value")
    assert stopped.value.code == 2
    assert capsys.readouterr().err == "error: here: wrong value\n"


def test_any_other_error_shows_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped, ExitOnError(1) as context:
        context.where = "document 7"
        raise RuntimeError("out of memory")
    assert stopped.value.code == 1
    message = capsys.readouterr().err
    assert "Traceback" in message
    assert message.endswith("error: document 7: out of memory\n")


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_interrupts_pass(kind: type[BaseException]) -> None:
    with pytest.raises(kind), ExitOnError(2):
        raise kind
    with ExitOnError(2):
        pass


def test_a_text_instead_of_a_code_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped, ExitOnError(2):
        sys.exit("video path:a.mp4 does not exist")
    assert stopped.value.code == 2
    assert capsys.readouterr().err == "error: video path:a.mp4 does not exist\n"


def test_errors_of_others_show_where_they_come_from(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit), ExitOnError(2, "there", always_trace=True):
        raise ValueError("wrong value")
    message = capsys.readouterr().err
    assert message.startswith("Traceback")
    assert message.endswith("error: there: wrong value\n")
