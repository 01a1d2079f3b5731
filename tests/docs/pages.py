"""The examples of the pages: every fenced block of README, docs/ and examples/.

A block is run unless the line above it says ``<!-- not run: reason -->``. One that begins with a path in a comment
(``# acme/vault.py``) is that file: the tests write it where the page's other blocks find it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ROOT", "Block", "blocks", "pages"]

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(r"(?:<!-- not run: (?P<reason>[^>]+?) -->\n)?^```(?P<language>\w+)\n(?P<text>.*?)^```", re.M | re.S)
_PATH = re.compile(r"# ([\w./-]+\.\w+)(?:: [^\n]*)?\n")


@dataclass(frozen=True, slots=True)
class Block:
    """An example: the page's line at which it begins, its ``path`` if it is a file, ``reason`` if it is not run."""

    page: Path
    line: int
    language: str
    text: str
    path: str | None
    reason: str | None

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def pages() -> list[Path]:
    """All pages, written by hand or generated."""
    found = [*(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md"), *ROOT.glob("*.md")]
    return sorted(page for page in found if "documents" not in page.parts)


def blocks(page: Path) -> Iterator[Block]:
    """The page's blocks, in order."""
    text = page.read_text()
    for found in _BLOCK.finditer(text):
        path = _PATH.match(found["text"])
        line = text.count("\n", 0, found.start("text")) + 1
        yield Block(page, line, found["language"], found["text"], path[1] if path else None, found["reason"])
