"""Exceptions become exit codes; what already ends a process is left alone."""

import sys

import pytest

from run_kit.exits import ExitOnError


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
