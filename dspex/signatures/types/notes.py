"""Notes of types: a title, a description, examples, names of values, and the language of code. They are for models; no
value is checked against them. An answer may have the name of a value in its place, and code in a fence."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from dspex.signatures.fields import literal

__all__ = ["NAMES", "NoteError", "merge"]

NAMES = ("title", "description", "examples", "names", "language")
"""Every note, in the order in which a definition writes them."""


class NoteError(Exception):
    """The note ``name`` has an unusable value. The message says what is expected."""

    def __init__(self, name: str, expected: str) -> None:
        super().__init__(expected)
        self.name = name


def merge(have: tuple[tuple[str, str], ...], given: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """The notes with those that are given in their places; of two descriptions both stay, the given one first.

    Raises :class:`NoteError`.
    """
    if not given:
        return have
    merged = dict(have)
    for name, value in given.items():
        text = _READERS[name](name, value)
        if name == "description" and text and merged.get(name, text) != text:
            text = f"{text}\n{merged[name]}"
        if text:
            merged[name] = text
    return tuple((name, merged[name]) for name in NAMES if name in merged)


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise NoteError(name, "text")
    return _storable(name, value.strip())


def _storable(name: str, text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise NoteError(name, "text without lone surrogates") from None
    return text


def _examples(name: str, value: Any) -> str:
    if not isinstance(value, list | tuple):
        raise NoteError(name, "a list of values")
    try:
        text = literal(json.loads(json.dumps(list(value), allow_nan=False))) if value else ""
    except (TypeError, ValueError, RecursionError):
        raise NoteError(name, "a list of values that JSON can hold") from None
    return _storable(name, text)


def _names(name: str, value: Any) -> str:
    is_text = isinstance(value, Mapping) and all(isinstance(key, str) for key in value)
    if not is_text or not all(type(item) in (str, int) for item in value.values()):
        raise NoteError(name, 'a map from names to texts or integers, such as {"HIGH": 1}')
    return _storable(name, literal(dict(value))) if value else ""


_READERS = {"title": _text, "description": _text, "examples": _examples, "names": _names, "language": _text}
