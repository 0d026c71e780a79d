"""The pages and the project's own files: links, published commands, workflows."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from support.paths import ROOT

PAGES = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "docker/*.md", "examples/*.md", ".github/*.md")
    for path in ROOT.glob(pattern)
)
PUBLISHED = (ROOT / "docs" / "published_commands.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        name, _, anchor = target.partition("#")
        if target.startswith(("http:", "https:", "mailto:")):
            continue
        file = page.parent / name if name else page
        assert file.exists(), f"{page.name} links to {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = {
                re.sub(r"[^\w\- ]", "", h).strip().lower().replace(" ", "-") for h in headings
            }
            assert anchor in anchors, f"{page.name} links to {target}"


def test_every_page_is_listed() -> None:
    listed = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    # Published pages link to datacard.md, which leads to data_card.md.
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md", "datacard.md"}
    assert not {name for name in pages if f"({name})" not in listed}


def _same_commands() -> list[str]:
    rows = re.findall(r"^\| (.*?) \| same(.*?) \|$", PUBLISHED, re.MULTILINE)
    return [command for left, _ in rows for command in re.findall(r"`([^`]+)`", left)]


def test_published_scripts_are_found_from_both_folders() -> None:
    scripts = {
        word for line in _same_commands() for word in re.findall(r"(?:bash|python) (\S+)", line)
    }
    assert len(scripts) >= 8
    for script in scripts:
        assert (ROOT / script).is_file() and (ROOT / "llava_next" / script).is_file(), script


def test_no_published_command_is_missing() -> None:
    assert "not here" not in PUBLISHED
    rows = re.findall(r"^\| (.*?) \| (`bash scripts/encoder/.*?) \|$", PUBLISHED, re.MULTILINE)
    scripts = [word for left, _ in rows for word in re.findall(r"/(\w+\.sh)`", left)]
    assert len(scripts) >= 4
    assert not [name for name in scripts if not (ROOT / "scripts" / "encoder" / name).is_file()]


def test_hub_commands_exist() -> None:
    program = Path(sys.executable).with_name("hf")
    done = subprocess.run([program, "download", "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "--include" in done.stdout and "--local-dir" in done.stdout


def test_glossary_is_in_order() -> None:
    text = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    words = [word.lower() for word in re.findall(r"^\| ([^|]+?) \|", text, re.MULTILINE)[1:]]
    assert words == sorted(words) and len(words) > 30


def test_workflows_run_scripts_that_exist_on_every_supported_python() -> None:
    texts = {
        path.name: path.read_text(encoding="utf-8")
        for path in (ROOT / ".github" / "workflows").glob("*.yml")
    }
    assert {"tests.yml", "wheels.yml", "docs.yml"} <= set(texts)
    for text in texts.values():
        named = re.findall(r"(?:scripts|tests|examples|Compressed_Video_Reader)/[\w/.]*\w", text)
        assert not [name for name in named if not (ROOT / name).exists()]
    matrix = yaml.safe_load(texts["tests.yml"])["jobs"]["default"]["strategy"]["matrix"]
    assert matrix == {"python": ["3.10", "3.11", "3.12", "3.13"], "native": [True, False]}
    assert 'requires-python = ">=3.10,<3.14"' in (ROOT / "pyproject.toml").read_text("utf-8")
