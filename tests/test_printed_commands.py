"""The commands of the pages: every flag and variable that they name exists."""

import contextlib
import importlib
import io
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from support.paths import ROOT

PAGES = sorted({*ROOT.glob("*.md"), *ROOT.glob("*/*.md")} - {ROOT / "CHANGELOG.md"})
TOOLS = {
    "stage1.py": "stage1",
    "stage2.py": "stage2",
    "offline_precompute_llava_codec_assets.py": "precompute",
}
COMMAND = r"cv_reader (\w+)|tool/(\w+\.py)"
MODULE = r"-m ((?:llava|encoder_training|onevision_encoder)[\w.]*)"


def _printed() -> Iterator[str]:
    """Yield the lines of all blocks of commands, and the commands within texts."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for block in re.findall(r"```(?:bash|sh)\n(.*?)```", text, re.DOTALL):
            yield from block.replace("\\\n", " ").splitlines()
        yield from re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))


def _flags_by(pattern: str) -> dict[str, set[str]]:
    """Return what a pattern finds in commands, to the flags after it, up to a comment or pipe."""
    found: dict[str, set[str]] = {}
    for line in _printed():
        if match := re.search(pattern, line):
            rest = re.sub(r"\"[^\"]*\"|'[^']*'", "", line[match.end() :])
            rest = re.split(r"\s[#|>]\s", rest)[0]
            flags = re.findall(r"(?<![\w-])--?[A-Za-z][\w-]*", rest)
            found.setdefault(next(filter(None, match.groups())), set()).update(flags)
    return found


@cache
def _help(module: str, *words: str) -> set[str]:
    """Return the flags in the help of a command, which runs in this process."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text), pytest.raises(SystemExit):
        importlib.import_module(module).main([*words, "--help"])
    return set(re.findall(r"(?<![\w-])--?[A-Za-z][\w-]*", text.getvalue()))


def test_commands_of_the_reader_have_the_printed_flags() -> None:
    found = _flags_by(COMMAND)
    assert len(found) > 10
    for name, flags in found.items():
        known = _help(f"cv_reader.commands.{TOOLS.get(name, name)}")
        if "--stage" in flags:
            known = known | _help("cv_reader.commands.precompute", "--stage", "1,2")
        assert not flags - known, f"{name} does not know {flags - known}"


@pytest.mark.slow
def test_modules_have_the_printed_flags() -> None:
    found = _flags_by(MODULE)
    assert len(found) > 20
    for name, flags in found.items():
        package = (ROOT / "llava_next" / name.replace(".", "/")).is_dir()
        module = f"{name}.__main__" if package else name
        known = _help(module)
        if name == "encoder_training.pretrain.concepts":
            for command in ("features", "cluster", "label", "report"):
                known = known | _help(module, command)
        assert not flags - known, f"{name} does not know {flags - known}"


def test_programs_have_the_printed_flags() -> None:
    found = _flags_by(r"python ((?:scripts|examples)/[\w/]+\.py)")
    assert len(found) > 15
    for name, flags in found.items():
        files = [ROOT / name, *(ROOT / name).parent.glob("measure.py")]
        text = "".join(file.read_text(encoding="utf-8") for file in files)
        unknown = {flag for flag in flags if f'"{flag}"' not in text}
        assert not unknown, f"{name} does not know {unknown}"


def test_scripts_know_the_printed_variables() -> None:
    scripts: dict[str, set[str]] = {}
    for line in _printed():
        if match := re.search(r"bash ((?:scripts|examples)/[\w/]+\.sh)", line):
            names = re.findall(r"(?<![\w/])([A-Z][A-Z0-9_]+)=", line[: match.start()])
            scripts.setdefault(match[1], set()).update(names)
    assert sum(map(len, scripts.values())) > 15
    for script, names in scripts.items():
        folder = (ROOT / script).parent
        files = [ROOT / script, *folder.glob("*.sh"), *(ROOT / "scripts").glob("*.sh")]
        text = "".join(file.read_text(encoding="utf-8") for file in files)
        assert not [name for name in names if not re.search(rf"\b{name}\b", text)], script


@pytest.mark.parametrize(
    "script",
    [
        "Compressed_Video_Reader/install.sh",
        "examples/learning_study/run.sh",
        "scripts/environment.sh",
    ],
)
def test_scripts_that_install_or_compute_explain_themselves_first(
    script: str, tmp_path: Path
) -> None:
    nothing = {"PATH": "/usr/bin:/bin", "VENV": str(tmp_path), "CV_READER_CACHE": str(tmp_path)}
    done = subprocess.run(
        ["bash", str(ROOT / script), "--help"], env=nothing, capture_output=True, text=True
    )
    assert done.returncode == 0 and not done.stderr and not list(tmp_path.iterdir())
    assert f"bash {Path(script).name}" in done.stdout or f"bash {script}" in done.stdout
    assert "set -e" not in done.stdout
