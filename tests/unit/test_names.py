"""One name, one thing: modules and classes of dspex/ and workers/ have unique names, and folders stay small."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = sorted(path for package in ("dspex", "workers") for path in (ROOT / package).rglob("*.py"))
#: The most modules of a folder, without __init__.py and __main__.py.
MOST_MODULES = 15
#: The modules at the top of each package; everything else is in a folder.
TOP = {"dspex": {"__init__", "errors"}, "workers": {"__init__", "__main__", "app", "tasks", "pool"}}

_CLASS = re.compile(r"^ *class (?P<name>[^\W_]\w*)(?=[(:\[])", re.MULTILINE)


def named() -> Iterator[Path]:
    """The modules that have a name of their own; Alembic names migrations and reads ``env``."""
    return (path for path in MODULES if not path.stem.startswith("__") and "migrations" not in path.parts)


def classes(path: Path) -> Iterator[str]:
    """The names of the classes in a module, in examples of its docstrings, too; without private ones."""
    return (found["name"] for found in _CLASS.finditer(path.read_text()))


def test_module_names_are_unique() -> None:
    counts = Counter(path.stem for path in named())
    assert [name for name, count in counts.items() if count > 1] == []


def test_class_names_are_unique() -> None:
    homes = defaultdict(set)
    for path in MODULES:
        for name in classes(path):
            homes[name].add(str(path.relative_to(ROOT)))
    assert {name: sorted(places) for name, places in homes.items() if len(places) > 1} == {}


def test_no_folder_holds_many_modules() -> None:
    counts = Counter(str(path.parent.relative_to(ROOT)) for path in named())
    assert {folder: count for folder, count in counts.items() if count > MOST_MODULES} == {}


@pytest.mark.parametrize("package", sorted(TOP))
def test_the_top_of_a_package_has_its_fixed_modules(package: str) -> None:
    assert {path.stem for path in (ROOT / package).glob("*.py")} == TOP[package]
