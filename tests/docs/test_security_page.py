"""docs/explanation/security.md: each line about a party names tests, and these tests exist."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache

from tests.docs.pages import ROOT

PAGE = (ROOT / "docs" / "explanation" / "security.md").read_text()
PARTIES = PAGE[PAGE.index("## What each party can do at worst") : PAGE.index("## What DSPex never does")]
_NAMED = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")


def lines_of_parties() -> Iterator[str]:
    """Each line of the tables, without their heads."""
    for line in PARTIES.splitlines():
        cells = line.split("|")
        if line.startswith("|") and cells[-2].strip() not in ("test", "---"):
            yield line


@cache
def names_in(path: str) -> frozenset[str]:
    tree = ast.parse((ROOT / path).read_text())
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def test_a_line_about_a_party_names_its_tests() -> None:
    lines = list(lines_of_parties())
    assert len(lines) > 30
    assert [line for line in lines if not any(name for _, name in _NAMED.findall(line.split("|")[-2]))] == []


def test_every_named_test_exists() -> None:
    missing = [
        f"{path}::{name}" if name else path
        for path, name in _NAMED.findall(PAGE)
        if not (ROOT / path).is_file() or (name and name not in names_in(path))
    ]
    assert missing == []


def test_every_party_has_lines() -> None:
    parties = PARTIES.split("\n### ")[1:]
    without = [party.splitlines()[0] for party in parties if "|---|" not in party]
    assert without == ["The publisher of a dependency"]  # `make audit` watches it
