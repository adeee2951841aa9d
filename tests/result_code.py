"""One hash of the code that decides each stage's results; `python -m tests.result_code` keeps them.

A stage's code is what its root modules import, in functions too. The hash is of its meaning:
comments, docstrings, imports, the order of definitions, and the modules that they stand in are no
part of it.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import grimp
import yaml

from xling.files.result_versions import REASONS

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "tests" / "data" / "result_code.json"
PACKAGES = ("xling", "analysis")

# The module of each kind of run. What only some cells do beyond it has roots of its own.
ROOTS: Mapping[str, tuple[str, ...]] = {
    "prepare": ("xling.execution.prepare",),
    "train": ("xling.execution.finetune.run_finetune",),
    "score": ("xling.execution.evaluate.run_evaluate",),
    "chain-of-thought": ("xling.scoring.reasoning", "xling.scoring.generation"),
    "permuted": ("xling.scoring.option_orders",),
    "cloze": ("xling.scoring.answer_spans", "xling.scoring.cloze"),
    "routing": ("xling.routing",),
    "server": ("xling.scoring.server",),
    "simulate": ("analysis.simulation.answers",),
}
# A cell that does one of these names it, so the other stages leave out its roots.
INSTRUMENTS = ("chain-of-thought", "permuted", "cloze", "routing", "server")
# What never decides a number, with all that lies under it.
WINGS = (
    "xling.messages",
    "xling.tracking",
    # Part of a fingerprint as they are: versions, and the sha256 of the adapter that was found.
    "xling.execution.evaluate.find_adapters",
    "xling.files.result_versions",
    "xling.files.fingerprint",
    "xling.files.requirements",
)
# Embedded data, by the files' names.
DATA: Mapping[str, tuple[str, ...]] = {
    "prepare": ("languages.json", "patterns.yaml"),
    "simulate": ("languages.json",),
}
# In texts: of messages, and of `python -m`.
MODULE_OR_PATH = re.compile(r"\b(?:xling|analysis)(?:[./]\w+)+")

Change = Callable[[str, str], str]
"""From a module's name and its source to another source."""


def result_code(change: Change = lambda module, source: source) -> dict[str, str]:
    """Hash the code of every stage.

    Args:
        change: what becomes of each module's source first.

    Returns:
        Hexadecimal sha256 by stage.
    """
    known = frozenset(import_graph().modules)

    @cache
    def units(module: str) -> frozenset[str]:
        return frozenset(_units(change(module, source_of(module)), known))

    return {
        stage: _sha256(
            sorted(
                {unit for module in reached(stage) for unit in units(module)}
                | {_data_unit(name) for name in DATA.get(stage, ())}
            )
        )
        for stage in ROOTS
    }


def reached(stage: str) -> set[str]:
    """List the modules that a stage's roots import, directly or through others, and the roots.

    Raises:
        ValueError: a root is no module.
    """
    graph = import_graph()
    others = {root for each in INSTRUMENTS if each != stage for root in ROOTS[each]}
    found: set[str] = set()
    waiting = list(ROOTS[stage])
    while waiting:
        module = waiting.pop()
        if module not in graph.modules:
            raise ValueError(f"tests/result_code.py: stage {stage}: no module {module}; correct it")
        if module not in found and not _is_under(module, (*WINGS, *others)):
            found.add(module)
            waiting += graph.find_modules_directly_imported_by(module)
    return found


@cache
def import_graph() -> grimp.ImportGraph:
    """Who imports whom, in functions too; types decide nothing."""
    return grimp.build_graph(*PACKAGES, exclude_type_checking_imports=True, cache_dir=None)


def source_of(module: str) -> str:
    """Read a module's source."""
    path = ROOT.joinpath(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return file.read_text(encoding="utf-8")


def differences(kept: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Say for each stage whose code is not what was kept what to do about it."""
    return [
        f"stage {stage}'s code changed: raise its version in xling/files/result_versions.py if "
        "results change, then `make lock`"
        for stage in sorted({*kept, *now})
        if kept.get(stage) != now.get(stage)
    ]


def main() -> None:
    """Write the lock file."""
    now = result_code()
    text = json.dumps({stage: now[stage] for stage in REASONS}, indent=2)
    LOCK.write_text(f"{text}\n", encoding="utf-8")


def _is_under(module: str, rooms: Iterable[str]) -> bool:
    return any(module == room or module.startswith(f"{room}.") for room in rooms)


def _units(source: str, modules: frozenset[str]) -> Iterator[str]:
    """Hash each top-level statement of a module."""
    tree = ast.parse(source)
    meaning = _Meaning(_modules_in(tree, modules)).visit(tree)
    for statement in meaning.body:
        if not _assigns_all(statement):
            yield _sha256(ast.dump(statement))


def _modules_in(tree: ast.Module, modules: frozenset[str]) -> set[str]:
    """Find the names that stand for modules in a source, as in `from xling import tracking`."""
    return {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if f"{node.module}.{alias.name}" in modules
    }


def _assigns_all(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.Assign)
        and isinstance(statement.targets[0], ast.Name)
        and statement.targets[0].id == "__all__"
    )


class _Meaning(ast.NodeTransformer):
    """Takes out of a syntax tree what decides nothing.

    Args:
        modules: names that stand for modules.
    """

    def __init__(self, modules: set[str]) -> None:
        self._modules = modules

    def visit_Import(self, node: ast.Import) -> None:
        """Drop it."""

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        """Drop it."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        """Drop docstrings, also those of constants and attributes."""
        if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            return None
        return self.generic_visit(node)

    def visit_If(self, node: ast.If) -> ast.AST | None:
        """Drop a block that held imports alone."""
        self.generic_visit(node)
        return node if node.body or node.orelse else None

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        """Drop the module of a function that is called by it."""
        if isinstance(node.value, ast.Name) and node.value.id in self._modules:
            return ast.Name(node.attr, node.ctx)
        return self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        """Drop names of modules and their paths."""
        if isinstance(node.value, str):
            return ast.Constant(MODULE_OR_PATH.sub("", node.value))
        return node


def _data_unit(name: str) -> str:
    """Hash what the one embedded file of a name says, its comments left out."""
    (path,) = [path for package in PACKAGES for path in (ROOT / package).rglob(name)]
    text = path.read_text(encoding="utf-8")
    return _sha256(json.loads(text) if path.suffix == ".json" else yaml.safe_load(text))


def _sha256(content: Sequence[Any] | Mapping[str, Any] | str) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


if __name__ == "__main__":
    main()
