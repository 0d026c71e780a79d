"""The container files: read and, where no engine is needed, tried; no image is built."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from support.paths import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FILES = {"encoder": ROOT / "Dockerfile", "llava": ROOT / "llava_next" / "Dockerfile"}
TAGS = {"encoder": "onevision-encoder:2601", "llava": "ov_encoder_llava:26.01"}
FOLDERS = {"encoder": "/workspace/OneVision-Encoder", "llava": "/workspace/OV-Encoder-Llava"}
README = ROOT / "docker" / "README.md"


def _instructions(image: str) -> list[tuple[str, str]]:
    """Return (name, rest) of each instruction; continued lines are joined, comments left out."""
    lines = FILES[image].read_text(encoding="utf-8").splitlines()
    code = [line for line in lines if not line.lstrip().startswith("#")]
    joined = "\n".join(code).replace("\\\n", " ")
    pairs = (line.split(maxsplit=1) for line in joined.splitlines() if line.strip())
    return [(name.upper(), rest) for name, rest in pairs]


def _all(image: str, name: str) -> list[str]:
    return [rest for kind, rest in _instructions(image) if kind == name]


def _commands(start: str) -> list[tuple[str, list[str]]]:
    """Return (image, words) of each command; `cd llava_next` in a block marks the second image."""
    found = []
    for block in re.findall(r"```bash\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL):
        image = "llava" if "cd llava_next\n" in block else "encoder"
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith(start):
                found.append((image, shlex.split(line, comments=True)))
    return found


def test_the_second_image_is_built_on_the_first() -> None:
    arguments = dict(rest.split("=", 1) for image in FILES for rest in _all(image, "ARG"))
    assert _all("encoder", "FROM") == ["${CUDA_IMAGE}"]
    assert re.search(r"^nvidia/cuda:13\.\d+\.\d+-devel-ubuntu", arguments["CUDA_IMAGE"])
    assert _all("llava", "FROM") == ["${ENCODER_IMAGE}"]
    assert arguments["ENCODER_IMAGE"] == TAGS["encoder"]


@pytest.mark.parametrize("image", FILES)
def test_published_build_commands_find_their_file(image: str) -> None:
    [words] = [words for built, words in _commands("docker build") if built == image]
    assert words == ["docker", "build", "-t", TAGS[image], "."]
    context = FILES[image].parent
    assert all((context / rest.split()[0]).exists() for rest in _all(image, "COPY"))


@pytest.mark.parametrize("image", FILES)
def test_containers_mount_the_folder_that_was_installed(image: str) -> None:
    [words] = [words for started, words in _commands("docker run") if started == image]
    assert "--privileged" not in words and "--gpus" in words and TAGS[image] in words
    mounted = words[words.index("-v") + 1].removeprefix("$(pwd):")
    assert mounted == words[words.index("-w") + 1] == FOLDERS[image]
    assert _all(image, "WORKDIR") == [FOLDERS[image]]


def test_needed_files_are_not_excluded_from_the_image() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert {".git", ".venv*", "outputs", "checkpoints", "data", "shared"} <= set(ignored)
    needed = {"llava_next", "Compressed_Video_Reader", "scripts", "pyproject.toml"}
    assert not (needed | {"constraints.txt"}) & set(ignored)


@pytest.mark.parametrize("image", FILES)
def test_images_are_installed_by_the_script_that_people_and_tests_use(image: str) -> None:
    commands = [rest for rest in _all(image, "RUN") if "environment.sh" in rest]
    assert len(commands) == 1 and ("NATIVE=1" in commands[0]) == (image == "encoder")
    for user in ("scripts/test.sh", "examples/quickstart/run.sh"):
        assert "environment.sh" in (ROOT / user).read_text(encoding="utf-8")
    [extras] = re.findall(r"EXTRAS=(\S+)", " ".join(_all(image, "ENV")))
    chosen = set(filter(None, extras.strip('"').split(",")))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert chosen <= set(project["optional-dependencies"])
    assert (image == "llava") == ({"train", "eval"} <= chosen)


@pytest.mark.parametrize("image", FILES)
def test_versions_of_packages_are_set_elsewhere(image: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = project["dependencies"] + sum(project["optional-dependencies"].values(), [])
    names = {Requirement(line).name for line in wanted}
    text = " ".join(rest for _, rest in _instructions(image))
    assert "pip install" not in text and "==" not in text
    assert not names & set(re.findall(r"[\w-]+", text.lower())) - {"torch"}


def test_no_host_is_named_but_by_the_base_image() -> None:
    files = [*FILES.values(), README, ROOT / ".dockerignore"]
    text = "\n".join(file.read_text(encoding="utf-8") for file in files)
    assert not re.search(r"https?://|\w+\.(com|io|org|net)\b|--index-url|--privileged=", text)


def test_the_tools_that_the_native_reader_asks_for_are_installed() -> None:
    text = " ".join(_all("encoder", "RUN"))
    script = ROOT / "Compressed_Video_Reader" / "native" / "build_ffmpeg.sh"
    asked = re.search(r"apt-get install ([\w -]+)\"", script.read_text(encoding="utf-8"))
    assert asked and set(asked[1].split()) <= set(text.split())
    assert {"python3-dev", "python3-venv"} <= set(text.split())


def test_published_commands_run_in_a_container_that_mounts_llava_next_alone(
    tmp_path: Path,
) -> None:
    """The last RUN of the second image is carried out on a small copy of the project."""
    project = tmp_path / "OneVision-Encoder"
    (project / "llava_next").mkdir(parents=True)
    (project / "scripts").symlink_to(ROOT / "scripts")
    (project / "examples").symlink_to(ROOT / "examples")
    (project / "Compressed_Video_Reader").symlink_to(ROOT / "Compressed_Video_Reader")
    mounted = tmp_path / "OV-Encoder-Llava"
    mounted.mkdir()
    for name in ("scripts", "examples", "Compressed_Video_Reader"):
        link = ROOT / "llava_next" / name
        assert link.is_symlink()
        (mounted / name).symlink_to(os.readlink(link))
    layout = _all("llava", "RUN")[-1].replace("/workspace", str(tmp_path))
    subprocess.run(["bash", "-ec", layout], check=True)
    assert (project / "llava_next").resolve() == mounted
    for words in (
        ["bash", "scripts/sft_ov_encoder.sh"],
        ["bash", "examples/training_data_demo/run_training_data_pipeline.sh", "--help"],
        [sys.executable, "Compressed_Video_Reader/tool/stage1.py", "--help"],
    ):
        done = subprocess.run(
            words,
            cwd=mounted,
            env={**os.environ, "DRY_RUN": "1", "SMOKE": "1"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0 and done.stdout, done.stderr


def test_flash_attention_is_optional_and_nothing_is_compiled_at_the_start() -> None:
    arguments = dict(rest.split("=", 1) for rest in _all("encoder", "ARG"))
    assert arguments["FLASH"] == "0"
    for stage in (2, 3):
        settings = json.loads((ROOT / "scripts" / f"zero{stage}.json").read_text(encoding="utf-8"))
        # DeepSpeed compiles its own optimisers when they are first used.
        assert "optimizer" not in settings
        assert "offload_optimizer" not in settings["zero_optimization"]


def test_torch_and_the_base_image_are_of_one_cuda_version() -> None:
    """The pinned torch is made for CUDA 13; its CPU build, which tests use, does not say so."""
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    [torch_pin] = re.findall(r"^torch==(\d+)\.(\d+)", pins, re.MULTILINE)
    cuda = dict(rest.split("=", 1) for rest in _all("encoder", "ARG"))["CUDA_IMAGE"]
    assert tuple(map(int, torch_pin)) >= (2, 11)  # from there on the index has builds for CUDA 13
    assert "cuda:13." in cuda
    assert "a driver for CUDA 13" in README.read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("linter", "pattern"),
    [(["hadolint"], "*Dockerfile"), (["shellcheck", "-x", "-S", "warning"], "*.sh")],
)
def test_linters_find_nothing_where_they_are_installed(linter: list[str], pattern: str) -> None:
    if shutil.which(linter[0]) is None:
        pytest.skip(f"needs {linter[0]}")
    files = subprocess.run(
        ["git", "ls-files", pattern], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert files
    found = subprocess.run([*linter, *files], cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr
