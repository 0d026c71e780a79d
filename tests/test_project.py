"""The project holds its own rules: layout, import directions, sizes, versions, style."""

import ast
import re
import subprocess
import sys
from functools import cache
from itertools import product
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from support.paths import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PACKAGES = {
    "cv_reader": ROOT / "Compressed_Video_Reader" / "cv_reader",
    "onevision_encoder": ROOT / "llava_next" / "onevision_encoder",
    "encoder_training": ROOT / "llava_next" / "encoder_training",
    "run_kit": ROOT / "llava_next" / "run_kit",
    "llava": ROOT / "llava_next" / "llava",
}
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
READER_BORDER = {
    "cv_reader",
    "cv_reader.assets",
    "cv_reader.assets.make",
    "cv_reader.codec_index",
    "cv_reader.cores",
    "cv_reader.pricing",
    "cv_reader.reader",
    "cv_reader.remote.addresses",
    "cv_reader.remote.cache",
    "cv_reader.remote.videos",
    "cv_reader.shards",
    "cv_reader.video_lists",
}
"""All that other packages may import of the reader."""


@cache
def python_files(package: str) -> list[Path]:
    return sorted(PACKAGES[package].rglob("*.py"))


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def module_name(path: Path) -> str:
    for root in PACKAGES.values():
        if path.is_relative_to(root):
            parts = path.relative_to(root.parent).with_suffix("").parts
            return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    raise AssertionError(path)


@cache
def imported_modules(path: Path) -> set[str]:
    """Every module that a file imports anywhere, with relative imports made absolute."""
    package = module_name(path)
    if path.name != "__init__.py":
        package = package.rpartition(".")[0]
    names = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")
                kept = parents[: len(parents) - node.level + 1]
                base = ".".join([*kept, base] if base else kept)
            names.add(base)
    return names


def below(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


FORBIDDEN = [
    (
        "cv_reader",
        ["llava", "encoder_training", "run_kit", "onevision_encoder", "torch", "transformers"],
    ),
    ("onevision_encoder", ["llava", "encoder_training", "run_kit", "cv_reader"]),
    ("run_kit", ["llava", "encoder_training", "onevision_encoder", "cv_reader"]),
    ("encoder_training", ["llava"]),
    ("llava", ["encoder_training"]),
    ("llava.model", ["llava.data", "llava.train", "llava.eval", "cv_reader"]),
    ("llava.data", ["llava.model", "llava.train", "llava.eval", "onevision_encoder"]),
    # Patches and positions are the encoder's own: llava.visual takes onevision_encoder.patches.
    ("llava.visual", ["llava.model", "llava.data", "llava.train", "llava.eval"]),
    ("llava.train", ["llava.eval"]),
    ("llava.eval", ["llava.train", "llava.data"]),
    ("llava.serve", ["llava.train", "llava.data", "llava.eval"]),
]


@pytest.mark.parametrize(("package", "forbidden"), FORBIDDEN, ids=[row[0] for row in FORBIDDEN])
def test_imports_flow_one_way(package: str, forbidden: list[str]) -> None:
    files = [
        path for path in python_files(package.split(".")[0]) if below(module_name(path), package)
    ]
    assert files
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in files
        for name in imported_modules(path)
        if any(below(name, other) for other in forbidden)
    ]
    assert not wrong


def test_others_use_only_the_border_of_the_reader() -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for package in ("llava", "encoder_training")
        for path in python_files(package)
        for name in imported_modules(path)
        if below(name, "cv_reader") and name not in READER_BORDER
    ]
    assert not wrong


LEAVES = {"errors", "constants", "cores", "exits"}
"""Modules at the top of a package that every room may import; they import no room themselves."""

ROOMS = {
    "cv_reader": "former media reader streams",
    "cv_reader.assets": "media partial_files reader remote select shards",
    "cv_reader.backends": "media",
    "cv_reader.codec_index": "assets select",
    "cv_reader.commands": "assets backends codec_index engines ledger media pricing reader remote"
    " select shards streams video_lists views",
    "cv_reader.compat": "media reader",
    "cv_reader.engines": "remote",
    "cv_reader.exits": "errors",
    "cv_reader.former": "",
    "cv_reader.ledger": "engines",
    "cv_reader.media": "partial_files",
    "cv_reader.partial_files": "",
    "cv_reader.pricing": "assets reader remote select",
    "cv_reader.reader": "backends media",
    "cv_reader.remote": "partial_files",
    "cv_reader.select": "media",
    "cv_reader.shards": "remote",
    "cv_reader.streams": "assets backends media select",
    "cv_reader.video_lists": "",
    "cv_reader.views": "assets media reader select",
    "encoder_training.pretrain": "pretrain.concepts pretrain.data",
    "encoder_training.pretrain.concepts": "pretrain.data",
    "encoder_training.pretrain.data": "",
    "encoder_training.pretrain.proof": "pretrain pretrain.concepts pretrain.data",
    "encoder_training.probe": "pretrain.data pretrain.proof",
    "llava.ask": "model visual",
    "llava.chat_template": "conversation",
    "llava.conversation": "",
    "llava.data": "conversation visual",
    "llava.export": "model",
    "llava.eval": "eval.benchmarks eval.plugin eval.report",
    "llava.eval.benchmarks": "eval",
    "llava.eval.plugin": "eval eval.benchmarks generation messages model visual",
    "llava.eval.report": "eval eval.benchmarks eval.plugin visual",
    "llava.eval.study": "conversation eval.report model visual",
    "llava.generation": "",
    "llava.messages": "conversation visual",
    "llava.model": "chat_template conversation messages visual",
    "llava.pictures": "visual",
    "llava.serve": "generation messages model visual",
    "llava.train": "conversation data model train.report train.run visual",
    "llava.train.report": "train.run",
    "llava.train.run": "data train visual",
    "llava.visual": "",
    "llava.visuals": "visual",
    "llava.vllm_plugin": "messages model visual",
    "run_kit.checkpoints": "files ranks",
    "run_kit.clips": "files",
    "run_kit.exits": "",
    "run_kit.flat_code": "",
    "run_kit.files": "",
    "run_kit.log": "files",
    "run_kit.pages": "",
    "run_kit.ranks": "",
    "run_kit.speed": "",
    "run_kit.versions": "",
}
"""Room to the other rooms of its package that it may import. A room is a folder of modules, or a
module at the top of its package; the folders of ``HALLS`` have rooms of their own."""

HALLS = ("llava.train", "llava.eval", "encoder_training.pretrain")


def room_of(name: str) -> str:
    parts = name.split(".")
    inner = len(parts) > 3 and ".".join(parts[:2]) in HALLS
    return ".".join(parts[: 3 if inner else 2])


@pytest.mark.parametrize("package", ["cv_reader", "encoder_training", "run_kit", "llava"])
def test_rooms_import_only_the_rooms_listed(package: str) -> None:
    files = python_files(package)
    rooms = {room_of(module_name(path)) for path in files} - {package}
    wrong = []
    for path in files:
        room = room_of(module_name(path))
        listed = {f"{package}.{other}" for other in ROOMS.get(room, "").split()}
        if room.rpartition(".")[2] not in LEAVES:
            listed |= {f"{package}.{leaf}" for leaf in LEAVES}
        others = {room_of(name) for name in imported_modules(path) if below(name, package)}
        for other in sorted((others & rooms) - listed - {room}):
            wrong.append(f"{path.relative_to(ROOT)} imports {other}")
    assert not wrong


SHARED_NAMES = {
    "main": "every command has one, by custom",
    "build_body": "the pages of llava.train.report and llava.eval.report, with one interface",
    "build_page": "the pages of llava.train.report and llava.eval.report, with one interface",
    "probe": "one interface of all backends",
    "read": "one interface of all backends",
    "run_tasks": "one interface of all engines",
    "figure": "cv_reader has its own kit of pages: it needs no other package",
    "table": "cv_reader has its own kit of pages: it needs no other package",
    "replace_file": "cv_reader and run_kit write files alike; cv_reader needs no other package",
    "write_json": "cv_reader and run_kit write files alike; cv_reader needs no other package",
    "duration_text": "cv_reader and run_kit speak alike; cv_reader needs no other package",
    "say": "cv_reader and run_kit speak alike; cv_reader needs no other package",
}
"""Public names that have more than one definition by design, and why."""


def test_a_public_name_has_one_definition() -> None:
    places: dict[str, list[str]] = {}
    for package in PACKAGES:
        for path in python_files(package):
            for node in tree(path).body:
                is_named = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
                if is_named and not node.name.startswith("_"):
                    places.setdefault(node.name, []).append(module_name(path))
    several = {name: modules for name, modules in places.items() if len(modules) > 1}
    assert {name: found for name, found in several.items() if name not in SHARED_NAMES} == {}
    assert several.keys() == SHARED_NAMES.keys(), "a name of the list has one definition only"


def test_folders_hold_few_modules() -> None:
    counts: dict[Path, int] = {}
    for package in PACKAGES:
        for path in python_files(package):
            if path.name not in ("__init__.py", "__main__.py"):
                counts[path.parent] = counts.get(path.parent, 0) + 1
    assert not {str(folder.relative_to(ROOT)): n for folder, n in counts.items() if n > 14}


SMALL_MODULES = {
    "llava.eval.plugin.entry": "the entry point of lmms_eval.models in pyproject.toml",
    "llava.model.merge": "a documented command, python -m llava.model.merge",
    "llava.pictures": "the old path of the picture helpers, which users import",
    "llava.serve.web": "a documented command, python -m llava.serve.web",
    "llava.visuals": "the old path of the segment helpers, which users import",
}
"""Modules below 60 lines with at most one importer that stay on their own, and why."""


def test_small_modules_serve_several_others() -> None:
    paths = {module_name(path): path for package in PACKAGES for path in python_files(package)}
    imports = {name: imported_modules(path) for name, path in paths.items()}
    small = {
        name
        for name, path in paths.items()
        if path.name not in ("__init__.py", "__main__.py")
        and path.read_text(encoding="utf-8").count("\n") < 60
        and sum(name in imported for imported in imports.values()) < 2
    }
    assert not small - SMALL_MODULES.keys(), "join each with the module that imports it"
    assert not SMALL_MODULES.keys() - small, "no longer small or alone: take it off the list"


def test_no_class_is_a_generic_named_tuple() -> None:
    """Python 3.10 cannot import one, and vermin does not see it."""
    named = re.compile(r"^ *class \w+\((?=[^)]*\bNamedTuple\b)[^)]*,", re.MULTILINE)
    paths = [path for package in PACKAGES for path in python_files(package)]
    wrong = [path for path in paths if named.search(path.read_text(encoding="utf-8"))]
    assert not wrong


@pytest.mark.slow
def test_the_oldest_supported_python_suffices() -> None:
    """Pyright cannot check this: the stubs of numpy need a newer Python than we support."""
    folders = ["llava_next", "Compressed_Video_Reader/cv_reader", "examples", "scripts"]
    vermin = Path(sys.executable).with_name("vermin")
    command = [str(vermin), "--target=3.10-", "--no-tips", "-vvv", *folders]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def test_modules_form_no_import_cycle() -> None:
    edges = {
        module_name(path): imported_modules(path)
        for package in PACKAGES
        for path in python_files(package)
    }
    finished: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join([*trail, name])
        if name not in finished:
            for other in edges[name] & edges.keys() - {name}:
                visit(other, (*trail, name))
            finished.add(name)

    for name in edges:
        visit(name, ())


def test_files_and_functions_stay_small() -> None:
    wrong = []
    for package in PACKAGES:
        for path in python_files(package):
            text = path.read_text(encoding="utf-8")
            if text.count("\n") > 400:
                wrong.append(f"{path.relative_to(ROOT)}: {text.count(chr(10))} lines > 400")
            for node in ast.walk(tree(path)):
                if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                    lines = (node.end_lineno or node.lineno) - node.lineno + 1
                    if lines > 80:
                        wrong.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: {lines}")
    assert not wrong


def test_every_folder_of_modules_is_a_package() -> None:
    """Setuptools would leave out a folder without ``__init__.py``."""
    folders = {path.parent for package in PACKAGES for path in python_files(package)}
    assert not [str(f.relative_to(ROOT)) for f in folders if not (f / "__init__.py").is_file()]


def test_every_module_says_what_it_is() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in python_files(package)
        if not ast.get_docstring(tree(path))
    ]
    assert not silent


def test_every_argument_has_a_help_text() -> None:
    """Parsers without ``--help`` only pick out arguments of others."""
    silent = []
    for package in PACKAGES:
        for path in python_files(package):
            for function in ast.walk(tree(path)):
                if not isinstance(function, ast.FunctionDef):
                    continue
                calls = [node for node in ast.walk(function) if isinstance(node, ast.Call)]
                if any(keyword.arg == "add_help" for c in calls for keyword in c.keywords):
                    continue
                silent += [
                    f"{path.relative_to(ROOT)}:{call.lineno}"
                    for call in calls
                    if isinstance(call.func, ast.Attribute)
                    and call.func.attr == "add_argument"
                    and not {keyword.arg for keyword in call.keywords} & {"help", None}
                ]
    assert not silent


def test_every_command_says_how_it_is_started() -> None:
    """Without a name argparse shows that of the file, which cannot be typed as it is."""
    nameless = [
        f"{path.relative_to(ROOT)}:{call.lineno}"
        for package in PACKAGES
        for path in python_files(package)
        for call in ast.walk(tree(path))
        if isinstance(call, ast.Call)
        and ast.unparse(call.func).endswith("ArgumentParser")
        and not call.args
        and not {keyword.arg for keyword in call.keywords} & {"prog", "add_help"}
    ]
    assert not nameless


def pinned_versions() -> dict[str, str]:
    pins = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            name, _, version = line.partition("==")
            pins[name.lower().replace("_", "-")] = version
    return pins


def test_tested_versions_lie_in_the_supported_ranges() -> None:
    pins = pinned_versions()
    project = PYPROJECT["project"]
    wanted = list(project["dependencies"])
    for name, extra in project["optional-dependencies"].items():
        if name != "flash":  # needs a CUDA compiler to build: pinned by the user's CUDA version
            wanted += extra
    for requirement in map(Requirement, wanted):
        version = pins[requirement.name.lower()]
        assert requirement.specifier.contains(version), f"{requirement} against pin {version}"


def test_requirements_list_what_the_project_needs() -> None:
    """No path of the project is in the file, so that pip reads it from any folder."""
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    first, *listed = [line for line in lines if not line.startswith("#")]
    project = PYPROJECT["project"]
    wanted = list(project["dependencies"])
    for extra in ("train", "eval"):
        wanted += project["optional-dependencies"][extra]
    assert first == "-c constraints.txt"
    assert listed == wanted, "copy the dependencies of pyproject.toml (core, train, eval)"
    conda = (ROOT / "environment.yml").read_text(encoding="utf-8")
    assert "- -r requirements.txt\n" in conda and "- -e .\n" in conda


def test_architecture_page_is_true() -> None:
    """Every file, folder and name of docs/architecture.md exists, and its arrows are permitted."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    starts = [ROOT, ROOT / "Compressed_Video_Reader", ROOT / "llava_next"]
    starts += [PACKAGES["llava"] / room for room in ("train", "eval")] + [PACKAGES["cv_reader"]]
    starts += [PACKAGES["encoder_training"]]
    named = set(re.findall(r"`([\w.]+(?:/[\w.]*)+)`", page))
    assert len(named) > 40
    missing = sorted(n for n in named if not any((start / n).exists() for start in starts))
    assert not missing, "docs/architecture.md names what is no longer there"
    code = "".join(p.read_text(encoding="utf-8") for name in PACKAGES for p in python_files(name))
    unknown = [name for name in re.findall(r"`(_?[A-Z_]{6,}|\w+_\w+)`", page) if name not in code]
    assert not set(unknown) - {"ROOMS", "READER_BORDER"}
    wrong = []
    for line in re.findall(r"```mermaid\n(.*?)```", page, re.DOTALL)[0].splitlines():
        ends = [end.replace(" ", "").split("&") for end in line.split("-->")]
        for sources, targets in zip(ends, ends[1:], strict=False):
            for source, target in product(sources, targets):
                package = "cv_reader" if f"cv_reader.{source}" in ROOMS else "llava"
                allowed = ROOMS.get(f"{package}.{source}", "").split()
                if target not in [*allowed, "encoder", "kit"]:
                    wrong.append(f"{source} --> {target}")
    assert not wrong


def test_style() -> None:
    for command in (["check"], ["format", "--check"]):
        result = subprocess.run(
            [sys.executable, "-m", "ruff", *command, str(ROOT)], capture_output=True, text=True
        )
        assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_types() -> None:
    """Pyright, strict on ``cv_reader``: about 90 processor seconds."""
    pyright = Path(sys.executable).with_name("pyright")
    result = subprocess.run([str(pyright)], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def test_continuous_integration_runs_the_test_command_of_the_readme() -> None:
    assert "bash scripts/test.sh" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "bash scripts/test.sh" in readme
    assert "bash examples/quickstart/run.sh" in readme
    assert readme.count("\n") < 250
