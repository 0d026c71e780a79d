"""Copy the modules that some classes need as flat files, as the Hub takes code with weights.

The library loads code of a repository file by file: each may import its neighbours by
``from .name import ...``, and installed packages. So every module ``a.b.c`` of ours becomes a file
``a_b_c.py``, and imports of ours are rewritten; nothing else is changed. Names that a package only
passes on are imported from where they are defined, so that its ``__init__`` need not be copied.
"""

import ast
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

_WITH_STATEMENTS = (ast.stmt, ast.ExceptHandler, ast.match_case)
"""Parts of a program that are or hold statements."""


class _Edit(NamedTuple):
    """Lines ``first`` to ``last`` of a file, counted from 1, that become ``text``."""

    first: int
    last: int
    text: str


def flat_name(module: str) -> str:
    """Return the name of a module's flat file, without ``.py``."""
    return module.replace(".", "_")


def flat_code(
    modules: Sequence[str], packages: Sequence[str], optional: Mapping[str, str]
) -> dict[str, str]:
    """Return modules, and all of ours that they import, as flat files: file name to text.

    Args:
        modules: where to begin.
        packages: names of our packages, whose modules are copied.
        optional: of these, packages that functions may import as installed ones; with what the
            error says where they are not. Modules that are imported at the top are copied.

    Raises:
        ValueError: if an import is of a form that cannot be rewritten.
    """
    files: dict[str, str] = {}
    waiting, seen = list(modules), set(modules)
    while waiting:
        module = waiting.pop()
        text, needed = _flattened(module, packages, optional)
        files[f"{flat_name(module)}.py"] = text
        waiting += [name for name in dict.fromkeys(needed) if name not in seen]
        seen.update(needed)
    return dict(sorted(files.items()))


def _flattened(
    module: str, packages: Sequence[str], optional: Mapping[str, str]
) -> tuple[str, list[str]]:
    """Return the text of a flat file, and the modules that it needs."""
    source = _path(module).read_text(encoding="utf-8")
    edits: list[_Edit] = []
    needed: list[str] = []
    for node, is_inside in _imports(ast.parse(source)):
        if isinstance(node, ast.Import):
            if any(alias.name.split(".")[0] in packages for alias in node.names):
                raise ValueError(f"{module}, line {node.lineno}: import names, not whole modules")
            continue
        target = _absolute(node, module)
        package, indent = target.split(".")[0], " " * node.col_offset
        if package not in packages:
            continue
        if is_inside and package in optional:
            statement = ast.unparse(ast.ImportFrom(target, node.names, 0))
            lines = (
                "try:",
                f"    {statement}",
                "except ImportError as error:",
                f"    raise ImportError({optional[package]!r}) from error",
            )
        else:
            groups = _by_module(node, target)
            needed += groups
            lines = (
                ast.unparse(ast.ImportFrom(flat_name(name), aliases, 1))
                for name, aliases in groups.items()
            )
        text = "".join(f"{indent}{line}\n" for line in lines)
        edits.append(_Edit(node.lineno, node.end_lineno or node.lineno, text))
    lines_of_source = source.splitlines(keepends=True)
    for edit in sorted(edits, reverse=True):
        lines_of_source[edit.first - 1 : edit.last] = [edit.text]
    return f"# A copy of {module}, with flat imports.\n{''.join(lines_of_source)}", needed


def _imports(tree: ast.AST) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    """Yield the imports of a module, and whether each is inside a function."""
    waiting: list[tuple[ast.AST, bool]] = [(tree, False)]
    while waiting:
        node, is_inside = waiting.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node, is_inside
        is_inside |= isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        children = ast.iter_child_nodes(node)
        waiting += [(child, is_inside) for child in children if isinstance(child, _WITH_STATEMENTS)]


def _absolute(node: ast.ImportFrom, module: str) -> str:
    """Return the module that a statement imports from."""
    if not node.level:
        return node.module or ""
    own_package = module if _path(module).name == "__init__.py" else module.rpartition(".")[0]
    for _ in range(node.level - 1):
        own_package = own_package.rpartition(".")[0]
    return f"{own_package}.{node.module}" if node.module else own_package


def _by_module(node: ast.ImportFrom, target: str) -> dict[str, list[ast.alias]]:
    groups: dict[str, list[ast.alias]] = {}
    for alias in node.names:
        groups.setdefault(_defining(target, alias.name), []).append(alias)
    return groups


def _defining(module: str, name: str) -> str:
    """Return the module to import a name from: a package's own imports are followed.

    Raises:
        ValueError: if a package defines the name itself, or it is a module.
    """
    path = _path(module)
    if path.name != "__init__.py":
        return module
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.asname or alias.name for alias in getattr(node, "names", [])]
        if isinstance(node, ast.ImportFrom) and name in names:
            return _defining(_absolute(node, module), node.names[names.index(name)].name)
    raise ValueError(f"{name} must be imported from a module, and {module} is a package")


def _path(module: str) -> Path:
    found = find_spec(module)
    if found is None or found.origin is None:
        raise ValueError(f"there is no module {module}")
    return Path(found.origin)
