"""The site's search finds the words that people look for; it finds the beginnings of the words that it knows."""

from __future__ import annotations

import re

import pytest

from tests.docs.pages import ROOT, pages

SEPARATOR = re.compile(re.findall(r"separator: '(.+)'", (ROOT / "docs/site/mkdocs.yml").read_text())[0])


@pytest.mark.parametrize("word", ["csv", "jsonl", "fastapi", "parquet", "kubernetes"])
def test_a_word_is_found(word: str) -> None:
    texts = (page.read_text().lower() for page in pages() if page.is_relative_to(ROOT / "docs"))
    assert any(word in SEPARATOR.split(text) for text in texts)
