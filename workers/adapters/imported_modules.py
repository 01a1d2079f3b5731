"""The modules that a module of the user's imports, by its source: what an earlier import brought is among them."""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Collection, Iterator
from importlib.util import resolve_name
from types import ModuleType

from dspex.program.modules import is_within

__all__ = ["imported_by"]


def imported_by(module: str, packages: Collection[str]) -> Collection[str]:
    """This module and the modules in ``packages`` that this process has imported with it, directly or through others.

    An import that is made by other means than the statement is not seen.
    """
    found: set[str] = set()
    left = [module]
    while left:
        name = left.pop()
        imported = sys.modules.get(name)
        if imported is not None and name not in found and is_within(name, packages):
            found.add(name)
            left += [*_with_parents(name), *_named_by(imported)]
    return found


def _named_by(module: ModuleType) -> Iterator[str]:
    """What its import statements name, and the packages around that; not all of it is modules."""
    for node in ast.walk(_syntax_tree(module)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and (origin := _origin(module, node)):
            names = [origin, *(f"{origin}.{alias.name}" for alias in node.names)]
        for name in names:
            yield from _with_parents(name)


def _syntax_tree(module: ModuleType) -> ast.Module:
    try:
        return ast.parse(inspect.getsource(module))
    except (OSError, TypeError, SyntaxError):  # it has no source, or that has changed
        return ast.Module([], [])


def _origin(module: ModuleType, statement: ast.ImportFrom) -> str:
    """The module that the statement imports from; empty for a relative import that leads out of the packages."""
    try:
        return resolve_name("." * statement.level + (statement.module or ""), module.__package__)
    except ImportError:
        return ""


def _with_parents(name: str) -> Iterator[str]:
    """``a.b.c``, ``a.b`` and ``a``: to import a module is to import the packages around it."""
    while name:
        yield name
        name = name.rpartition(".")[0]
