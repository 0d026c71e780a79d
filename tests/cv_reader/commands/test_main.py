"""The ``cv_reader`` command line."""

import os
import subprocess
import sys
import warnings

import pytest

from cv_reader.backends import native
from cv_reader.commands import doctor, main
from cv_reader.exits import CLOSED_PIPE, plain_warnings


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in main.COMMANDS)


@pytest.mark.parametrize("arguments", [[], ["stage3"], ["--version"]])
def test_unknown_command_exits_2_with_the_list(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(arguments) == 2
    shown = "".join(capsys.readouterr())
    assert all(name in shown for name in main.COMMANDS)


@pytest.mark.parametrize("name", main.COMMANDS)
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main.main([name, "--help"])
    assert ended.value.code == 0
    assert "usage" in capsys.readouterr().out


def test_the_first_worker_starts_before_anything_heavy_is_imported() -> None:
    code = "import sys, cv_reader.commands.main; print({'numpy', 'av', 'PIL'} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert shown.stdout == "set()\n"


def test_a_worker_imports_no_parser_and_no_check_of_existing_assets() -> None:
    modules = "cv_reader.commands.main, " + ", ".join(
        main.WORKER_MODULES[name] for name in ("stage1", "stage2", "precompute")
    )
    code = f"import sys, {modules}; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = run.stdout.split()
    assert "cv_reader.assets.stage2" in imported
    unwanted = ("argparse", "cv_reader.commands.arguments", "cv_reader.assets.validation", "torch")
    assert not [name for name in imported if name.startswith(unwanted)]


def test_doctor_tells_what_each_codec_gives(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: line.split()[1:] for line in lines if line.startswith("  ")}
    assert rows["mpeg4"][:3] == ["pyav", "direction", "approximate"]
    assert rows["vp9"][:3] == ["estimated", "estimated", "estimated"]
    if not native.is_installed():
        assert rows["h264"][0] == "pyav"
    assert any("PyAV" in line and "libavcodec" in line for line in lines)


def test_doctor_fails_where_a_decoder_is_missing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "DECODERS", {"h264": "h264", "vp9": "no-such-decoder"})
    assert doctor.main([]) == 2
    shown = capsys.readouterr().out
    assert "no decoder" in shown
    assert "pip install" in shown


@pytest.mark.parametrize(
    ("closed", "arguments"),
    [("stdout", ["--help"]), ("stdout", ["doctor"]), ("stderr", ["no-such-command"])],
)
def test_a_closed_pipe_ends_a_command_quietly(closed: str, arguments: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    other = {"stdout": "stderr", "stderr": "stdout"}[closed]
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "cv_reader.commands.main", *arguments],
            check=False,
            **{closed: writing, other: subprocess.PIPE},
        )
    finally:
        os.close(writing)
    assert ended.returncode == CLOSED_PIPE
    assert not getattr(ended, other)


def test_warnings_of_commands_show_no_code() -> None:
    before = warnings.formatwarning
    with plain_warnings():
        text = warnings.formatwarning("HDR is mapped", UserWarning, "reader.py", 3, line="x = 1")
    assert text == "warning: HDR is mapped\n"
    assert warnings.formatwarning is before
