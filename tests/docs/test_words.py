"""Plain words: no text of DSPex contains a word of ``words.txt``.

These texts are read: all pages, the help of every command, the descriptions of all settings, deployment files, and the
strings and comments of the source (docstrings, messages, log lines, SQL, metric help).
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import pytest

from docs.generate.cli import commands
from dspex.settings import Settings, variable
from tests.docs.pages import ROOT, pages

LIST = Path(__file__).with_name("words.txt")
#: Files beside the pages and the source that people read.
OTHERS = (
    "Makefile", "*.yml", "celeryconfig.py", "pyproject.toml", ".github/**/*.yml", "deploy/**/*", "docs/site/*.*",
    "docs/**/*.svg", "docs/reference/*.json",
)  # fmt: skip
#: The folders of the source, and the modules at the top of each package as one.
FOLDERS = sorted(
    {
        "/".join(path.relative_to(ROOT).parts[:2]) if path.parent.parent != ROOT else path.parent.name
        for package in ("dspex", "workers", "docs/generate", "examples")
        for path in (ROOT / package).rglob("*.py")
    }
)


#: Words that stay: the name of an account.
ALLOWED = (("dspex/embedded/child_process.py", "nobody"),)
_TARGET = re.compile(r"\]\([^)]*\)")


@cache
def rules() -> tuple[tuple[re.Pattern[str], str], ...]:
    """Each pattern, and what to write instead."""
    lines = [line for line in LIST.read_text().splitlines() if not line.startswith("#")]
    return tuple(_rule(*line.split(" -> ")) for line in lines)


@cache
def any_rule() -> re.Pattern[str]:
    """All patterns in one: most texts are looked at once."""
    return re.compile("|".join(pattern.pattern for pattern, _ in rules()), re.IGNORECASE)


def _rule(words: str, instead: str) -> tuple[re.Pattern[str], str]:
    spaced = words.replace(" ", r"\s+")
    return re.compile(rf"\b(?:{spaced})\b", re.IGNORECASE), instead


def uses(text: str, where: str, first_line: int = 1) -> Iterator[str]:
    """Each listed word in a text, with its place and what to write instead."""
    if any_rule().search(text) is None:
        return
    for pattern, instead in rules():
        for found in pattern.finditer(text):
            line = first_line + text.count("\n", 0, found.start())
            yield f"{where}:{line}: {found[0]!r}: write {instead!r}"


def in_source(source: str, where: str) -> Iterator[str]:
    """The uses in a module's strings and comments."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from uses(node.value, where, node.lineno)
    if not any(uses(source, where)):  # a comment is a part of a line, and to tokenize takes long
        return
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield from uses(token.string, where, token.start[0])


def modules(folder: str) -> Iterator[Path]:
    nested = "/" in folder
    found = (ROOT / folder).rglob("*.py") if nested else (ROOT / folder).glob("*.py")
    yield from sorted(found)


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_pages(page: Path) -> None:
    text = _TARGET.sub("]()", page.read_text())  # names of files may stay
    assert list(uses(text, str(page.relative_to(ROOT)))) == []


def test_help_of_commands() -> None:
    found: list[str] = []
    for path, command in commands(("dspex",)):
        context = click.Context(command, info_name=" ".join(path))
        found += uses(command.get_help(context), " ".join(path))
    assert found == []


def test_descriptions_of_settings() -> None:
    described = {variable(name): field.description or "" for name, field in Settings.model_fields.items()}
    assert [use for name, text in described.items() for use in uses(text, name)] == []


def test_other_files() -> None:
    found = {pattern: [path for path in sorted(ROOT.glob(pattern)) if path.is_file()] for pattern in OTHERS}
    assert all(found.values()), found
    left_out = {".lock", ".pyc"}
    paths = [path for each in found.values() for path in each if path.suffix not in left_out]
    texts = {str(path.relative_to(ROOT)): path for path in paths}
    assert [use for name, path in texts.items() for use in uses(path.read_text(), name)] == []


@pytest.mark.parametrize("folder", FOLDERS)
def test_source(folder: str) -> None:
    found = [use for path in modules(folder) for use in in_source(path.read_text(), str(path.relative_to(ROOT)))]
    assert [use for use in found if not any(use.startswith(file) and repr(word) in use for file, word in ALLOWED)] == []


def test_listed_words_are_found_in_docstrings_messages_and_comments() -> None:
    source = '"""Nobody\nis told."""\nerror = f"{1} is to be\\nhad"  # a remedy\nmend = 1\n'
    assert sorted(in_source(source, "x.py")) == [
        "x.py:1: 'Nobody': write 'no worker, no client or no user: name it'",
        "x.py:2: 'told': write 'published, sent, notified, reported or printed'",
        "x.py:3: 'is to be\\nhad': write 'available'",
        "x.py:3: 'remedy': write 'fix'",
    ]
