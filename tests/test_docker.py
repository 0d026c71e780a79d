"""The container's files: read, not built, for tests run without an engine."""

import re
import shlex
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from support.paths import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FOLDER = ROOT / "docker"


def _instructions() -> list[tuple[str, str]]:
    """(name, rest) of each instruction, continued lines joined, comments left out."""
    text = (FOLDER / "Dockerfile").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    pairs = (line.split(maxsplit=1) for line in joined.splitlines() if line.strip())
    return [(name.upper(), rest) for name, rest in pairs]


def _stages() -> dict[str, tuple[str, list[tuple[str, str]]]]:
    """Stage to (what it is from, its instructions), in order."""
    stages: dict[str, tuple[str, list[tuple[str, str]]]] = {}
    current: list[tuple[str, str]] = []
    for name, rest in _instructions():
        if name == "FROM":
            parent, _, stage = rest.partition(" AS ")
            current = []
            stages[stage] = (parent, current)
        else:
            current.append((name, rest))
    return stages


def _fences(path: Path) -> str:
    blocks = re.findall(r"```bash\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)
    return "\n".join(blocks).replace("\\\n", " ")


def _commands(start: str) -> list[list[str]]:
    lines = _fences(FOLDER / "README.md").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.startswith(start)]


def test_both_images_come_from_one_base_and_the_last_is_the_default():
    stages = _stages()
    assert list(stages) == ["base", "encoder", "llava"]
    assert stages["encoder"][0] == stages["llava"][0] == "base"
    assert stages["base"][0] == "${CUDA_IMAGE}"
    assert re.search(r"^nvidia/cuda:13\.\d+\.\d+-devel-ubuntu", dict(_arguments())["CUDA_IMAGE"])


def _arguments():
    return (rest.split("=", 1) for name, rest in _instructions() if name == "ARG" and "=" in rest)


def test_what_is_copied_exists_and_is_not_what_git_ignores():
    sources = [
        source for name, rest in _instructions() if name == "COPY" for source in rest.split()[:-1]
    ]
    assert sources and all((ROOT / source).exists() for source in sources)
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert {".git", ".venv*", "outputs", "checkpoints", "data", "shared"} <= set(ignored)
    needed = (
        "llava_next",
        "Compressed_Video_Reader",
        "scripts",
        "pyproject.toml",
        "constraints.txt",
    )
    assert not set(needed) & set(ignored)


@pytest.mark.parametrize("stage", ["encoder", "llava"])
def test_images_are_installed_by_the_script_that_people_and_tests_use(stage):
    instructions = _stages()[stage][1]
    commands = [rest for name, rest in instructions if name == "RUN" and "environment.sh" in rest]
    assert len(commands) == 1 and "NATIVE=1" in commands[0]
    for user in ("scripts/test.sh", "examples/quickstart/run.sh"):
        assert "environment.sh" in (ROOT / user).read_text(encoding="utf-8")
    variables = dict(re.findall(r"(\w+)=(\S+)", " ".join(r for n, r in instructions if n == "ENV")))
    script = (ROOT / "scripts" / "environment.sh").read_text(encoding="utf-8")
    assert all(f"${{{name}" in script or f"${name}" in script for name in variables)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    chosen = variables["EXTRAS"].strip('"')
    assert set(filter(None, chosen.split(","))) <= set(extras)
    assert (stage == "llava") == ({"train", "eval"} <= set(chosen.split(",")))


def test_versions_of_packages_stand_elsewhere():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = project["dependencies"] + sum(project["optional-dependencies"].values(), [])
    names = {Requirement(line).name for line in wanted}
    text = " ".join(rest for _, rest in _instructions())
    assert "pip install" not in text and "==" not in text
    assert not names & set(re.findall(r"[\w-]+", text.lower())) - {"torch"}


def test_no_host_is_named_but_by_the_base_image():
    files = [FOLDER / "Dockerfile", FOLDER / "README.md", ROOT / ".dockerignore"]
    text = "\n".join(file.read_text(encoding="utf-8") for file in files)
    assert not re.search(r"https?://|\w+\.(com|io|org|net)\b|--index-url|--privileged=", text)


def test_the_tools_that_the_native_reader_asks_for_are_installed():
    text = " ".join(rest for name, rest in _stages()["base"][1] if name == "RUN")
    script = ROOT / "Compressed_Video_Reader" / "native" / "build_ffmpeg.sh"
    asked = re.search(r"apt-get install ([\w -]+)\"", script.read_text(encoding="utf-8"))
    assert asked and set(asked[1].split()) <= set(text.split())
    assert {"python3-dev", "python3-venv"} <= set(text.split())


def test_the_readme_builds_every_target_under_the_promised_tags():
    builds = _commands("docker build")
    tags = {
        words[words.index("--target") + 1] if "--target" in words else list(_stages())[-1]: words[
            words.index("-t") + 1
        ]
        for words in builds
    }
    assert tags == {"encoder": "onevision-encoder:2601", "llava": "ov_encoder_llava:26.01"}
    for words in builds:
        assert words[words.index("-f") + 1] == "docker/Dockerfile" and words[-1] == "."


def test_containers_run_where_the_code_was_installed_and_without_all_privileges():
    runs = _commands("docker run")
    folders = {
        rest for stage in ("encoder", "llava") for name, rest in _stages()[stage][1]
        if name == "WORKDIR"
    }  # fmt: skip
    seen = set()
    for words in runs:
        assert "--privileged" not in words and "--gpus" in words
        mounted = words[words.index("-v") + 1].removeprefix("$(pwd):")
        assert mounted == words[words.index("-w") + 1]
        seen.add(mounted)
    assert seen == folders and len(runs) == 2
