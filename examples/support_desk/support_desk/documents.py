"""The desk's documents, found by their words (BM25)."""

from __future__ import annotations

import math
import re
from collections import Counter
from functools import cache
from importlib.resources import files
from typing import NamedTuple

__all__ = ["Passage", "search"]

_K, _B = 1.2, 0.75  # the usual BM25 parameters: saturation of repeated words, and the weight of length


class Passage(NamedTuple):
    name: str
    text: str


def search(question: str, count: int) -> list[Passage]:
    """The passages nearest to a question, best first."""
    return _index().search(question, count)


@cache
def _index() -> _Index:
    """The index of all documents: built once per process, and shared by all executions."""
    found = sorted((files(__package__) / "documents").iterdir(), key=lambda file: file.name)
    return _Index([Passage(file.name.removesuffix(".md"), file.read_text()) for file in found])


class _Index:
    def __init__(self, passages: list[Passage]) -> None:
        self._passages = passages
        self._counts = [Counter(_words(passage.text)) for passage in passages]
        self._lengths = [counts.total() for counts in self._counts]
        self._mean = sum(self._lengths) / len(passages)
        self._having = Counter(word for counts in self._counts for word in counts)

    def search(self, question: str, count: int) -> list[Passage]:
        words = _words(question)
        order = sorted(range(len(self._passages)), key=lambda number: -self._score(words, number))
        return [self._passages[number] for number in order[:count]]

    def _score(self, words: list[str], number: int) -> float:
        counts = self._counts[number]
        length = _K * (1 - _B + _B * self._lengths[number] / self._mean)
        return sum(self._rarity(word) * counts[word] * (_K + 1) / (counts[word] + length) for word in words)

    def _rarity(self, word: str) -> float:
        having = self._having[word]
        return math.log(1 + (len(self._passages) - having + 0.5) / (having + 0.5))


def _words(text: str) -> list[str]:
    return [word.removesuffix("s") for word in re.findall(r"[a-z0-9]+", text.lower())]
