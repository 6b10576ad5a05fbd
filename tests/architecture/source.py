"""The tree as the rules see it: files, their syntax trees, what they import, and how a broken rule is told."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
SIBLINGS = ("consensus", "p2p", "storage", "compute")
PACKAGES = ("protocol", *SIBLINGS, "node", "simnet")
# Written for people, so words are looked for here too.
TEXTS = (
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "Makefile",
    "pyproject.toml",
    "constraints.txt",
)


@dataclass(frozen=True, slots=True)
class Source:
    """One Python file."""

    path: Path  # from the root of the repository

    @property
    def module(self) -> str:
        """Its dotted name: ``p2p.io.host``, and ``p2p`` for an ``__init__``."""
        parts = self.path.with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    @property
    def package(self) -> str:
        return self.path.parts[0]

    @property
    def is_outside(self) -> bool:
        """Whether it lives in an ``io/`` folder, where the outside is touched."""
        return "io" in self.path.parts[:-1]

    @property
    def text(self) -> str:
        return (ROOT / self.path).read_text(encoding="utf-8")

    @property
    def tree(self) -> ast.Module:
        return _parse(self.path)


@functools.cache
def _parse(path: Path) -> ast.Module:
    return ast.parse((ROOT / path).read_text(encoding="utf-8"), filename=str(path))


@functools.cache
def sources(*folders: str) -> tuple[Source, ...]:
    """Every Python file below these folders, in order; folders that do not exist hold none."""
    paths = sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    return tuple(Source(path.relative_to(ROOT)) for path in paths)


@dataclass(frozen=True, slots=True)
class Import:
    """``import name`` or ``from name import ...``; a relative import is written out."""

    name: str
    line: int


def imports(source: Source) -> Iterator[Import]:
    """What a file imports, also inside functions; a name taken from a module counts as the module and as a submodule."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = source.module.split(".") + (["__init__"] if source.path.name == "__init__.py" else [])
                base = ".".join([*parts[: -node.level], *([node.module] if node.module else [])])
            yield Import(base, node.lineno)
            yield from (Import(f"{base}.{alias.name}", node.lineno) for alias in node.names)


def dotted(node: ast.AST) -> str:
    """``a.b.c`` of a name or of attributes of one; empty for anything else."""
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=value, attr=attribute):
            before = dotted(value)
            return f"{before}.{attribute}" if before else ""
        case _:
            return ""


@dataclass(frozen=True, slots=True, order=True)
class Broken:
    """A rule broken at a place, and what to do instead."""

    path: str
    line: int
    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.what}. {self.remedy}"


def broken(source: Source, line: int, what: str, remedy: str) -> Broken:
    return Broken(str(source.path), line, what, remedy)


def check(found: Iterable[Broken]) -> None:
    """Fail with one line for each place, and nothing else."""
    lines = [str(item) for item in sorted(set(found))]
    if lines:
        pytest.fail("\n".join(lines), pytrace=False)
