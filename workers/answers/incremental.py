"""Answers read while a model writes them: pieces of text in, the fields' text and values out.

The result is a preview. The adapter reads the whole answer again once it is complete. Malformed JSON that is repaired
then ends the preview here, and has no other effect.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Collection, Mapping
from typing import Any, Protocol

from workers.adapters.contract import StreamedAnswer

__all__ = ["JsonAnswer", "PartialAnswer", "SectionsAnswer"]


class PartialAnswer(Protocol):
    """Takes an answer's text in pieces, and passes its fields to a :class:`StreamedAnswer`."""

    def feed(self, text: str) -> None:
        """The next piece."""

    def end(self) -> None:
        """There is no more."""


class _OpenField:
    """A field that is being written. One without a name is not an output of the program, and is not passed on."""

    def __init__(self, answer: StreamedAnswer, name: str | None) -> None:
        self._answer = answer
        self._name = name
        self._parts: list[str] = []

    @property
    def is_begun(self) -> bool:
        return bool(self._parts)

    @property
    def text(self) -> str:
        return "".join(self._parts)

    def write(self, text: str) -> None:
        if text and self._name is not None:
            self._parts.append(text)
            self._answer.text(self._name, text)

    def complete(self, value: Any) -> None:
        if self._name is not None:
            self._answer.field(self._name, value)


# -------------------------------------------------------------------------------------------------------- sections

_HEAD, _TAIL = "[[ ## ", " ## ]]"
_HEADER = re.compile(r"\[\[ ## (\w+) ## \]\]")
_HEADER_NAME = re.compile(r"\[\[ ## \w*")
#: The longest header, and the longest key with the space around it. They are read again with each piece.
_MOST = 1_000


class SectionsAnswer:
    """An answer in DSPy's sections: ``[[ ## name ## ]]`` at the beginning of a line, and after it the field.

    ``names`` are the program's names by the names in the answer. The fields in ``texts`` are plain text, the others
    JSON or Python literals.
    """

    def __init__(self, answer: StreamedAnswer, names: Mapping[str, str], texts: Collection[str]) -> None:
        self._answer = answer
        self._left = dict(names)
        self._texts = texts
        self._field: _OpenField | None = None
        self._is_text = False
        self._space: list[str] = []  # whitespace to pass on once something follows it
        self._line: str | None = ""  # a line so far, if it may be a header, without the space before; None: it is not
        self._cut = ""  # "\r", which "\n" may follow

    def feed(self, text: str) -> None:
        text = self._cut + text
        self._cut = "\r" if text.endswith("\r") else ""
        for line in text.removesuffix(self._cut).splitlines(keepends=True):
            words = line.splitlines()[0]
            self._words(words)
            if words != line:
                self._end_line()

    def end(self) -> None:
        self._end_line()
        self._end_field()

    def _words(self, words: str) -> None:
        if self._line is None:
            self._write(words)
            return
        if not self._line:
            begun = words.lstrip()
            self._write(words[: len(words) - len(begun)])
            words = begun
        self._line += words
        if header := _HEADER.match(self._line, 0, _MOST):
            rest = self._line[header.end() :]
            self._line = None
            self._end_field()
            self._begin_field(header.group(1))
            self._write(rest)
        elif len(self._line) >= _MOST or not _begins_header(self._line):
            self._write(self._line)
            self._line = None

    def _end_line(self) -> None:
        self._write((self._line or "") + "\n")
        self._line = ""

    def _begin_field(self, name: str) -> None:
        if name in self._left:
            self._field, self._is_text = _OpenField(self._answer, self._left.pop(name)), name in self._texts

    def _end_field(self) -> None:
        if self._field is not None:
            self._field.complete(self._field.text if self._is_text else _literal(self._field.text))
        self._field, self._space = None, []

    def _write(self, text: str) -> None:
        """Write more of the field, without the whitespace at its ends."""
        if self._field is None:
            return
        if not self._field.is_begun:
            text = text.lstrip()
        body = text.rstrip()
        if body:
            self._field.write("".join(self._space) + body)
            self._space = []
        if self._field.is_begun:
            self._space.append(text[len(body) :])


def _begins_header(text: str) -> bool:
    if len(text) <= len(_HEAD):
        return _HEAD.startswith(text)
    name = _HEADER_NAME.match(text)
    return name is not None and _TAIL.startswith(text[name.end() :])


def _literal(text: str) -> Any:
    for read in (json.loads, ast.literal_eval):
        try:
            value = read(text)
            json.dumps(value)
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            continue
        return value
    return text


# ------------------------------------------------------------------------------------------------------------ JSON

_SPACE = re.compile(r"[\s,]*")
_KEY = re.compile(r'("(?:[^"\\]++|\\.)*+")\s*:\s*(?=\S)', re.DOTALL)
#: A key of which more is to come.
_KEY_BEGUN = re.compile(r'(?:"(?:[^"\\]++|\\.)*+\\?(?:"\s*(?::\s*)?)?)?', re.DOTALL)
_STRING = re.compile(r'(?:[^"\\]++|\\u[0-9a-fA-F]{4}|\\[^u])*+', re.DOTALL)
#: Half a character at the end of a string, whose other half may follow.
_SURROGATE = re.compile(r"\\u[dD][89abAB][0-9a-fA-F]{2}\Z")
_ESCAPES = len(r"\ud83d\ude00")
_SCALAR = re.compile(r"[^\s,}\]]*")
_NESTED = re.compile(r'[^"\[\]{}]*')


class _NotJson(Exception):
    """The rest of the answer cannot be read."""


class JsonAnswer:
    """An answer that is one JSON object, perhaps after other text. ``names`` are the program's names by its keys."""

    def __init__(self, answer: StreamedAnswer, names: Mapping[str, str]) -> None:
        self._answer = answer
        self._names = names
        self._text = ""
        self._at = 0  # the text before it is used up
        self._step = self._object
        self._field = _OpenField(answer, None)
        self._depth = 0
        self._kept: list[str] = []  # the parts of a value

    def feed(self, text: str) -> None:
        self._text, self._at = self._text[self._at :] + text, 0
        try:
            while not self._is_used_up and self._step():
                pass
        except (_NotJson, ValueError, RecursionError):
            self._step = self._nothing
            self._nothing()

    def end(self) -> None:
        """Nothing: a value that is not closed is not complete."""

    # Each step takes the text that it can use, and returns False when it needs more.

    def _object(self) -> bool:
        begin = self._text.find("{", self._at)
        self._at = begin + 1 or len(self._text)
        if begin >= 0:
            self._step = self._key
        return begin >= 0

    def _key(self) -> bool:
        self._at = _end(_SPACE, self._text, self._at)
        key = _KEY.match(self._text, self._at, self._at + _MOST)
        if key is None:
            if self._text.startswith("}", self._at):
                self._step = self._nothing
            elif len(self._text) - self._at >= _MOST or not _KEY_BEGUN.fullmatch(self._text, self._at):
                raise _NotJson
            return False
        self._field = _OpenField(self._answer, self._names.get(json.loads(key.group(1), strict=False)))
        self._at = key.end()
        first = self._text[self._at]
        if first == '"':
            self._at += 1
        self._step = self._string if first == '"' else self._nested if first in "[{" else self._scalar
        self._kept, self._depth = [], 0
        return True

    def _string(self) -> bool:
        end = _end(_STRING, self._text, self._at)
        closed = self._text.startswith('"', end)
        half = None if closed else _SURROGATE.search(self._text, max(self._at, end - 6), end)
        self._keep(json.loads(f'"{self._take(half.start() if half else end)}"', strict=False))
        self._check_escape()
        if closed:
            self._at += 1
            self._complete("".join(self._kept))
        return closed

    def _scalar(self) -> bool:
        self._keep(self._take(_end(_SCALAR, self._text, self._at)))
        if self._is_used_up:
            return False
        self._complete(json.loads("".join(self._kept)))
        return True

    def _nested(self) -> bool:
        self._keep(self._take(_end(_NESTED, self._text, self._at)))
        if self._is_used_up:
            return False
        mark = self._keep(self._take(self._at + 1))
        self._depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(mark, 0)
        if mark == '"':
            self._step = self._nested_string
        elif self._depth == 0:
            self._complete(json.loads("".join(self._kept), strict=False))
        return True

    def _nested_string(self) -> bool:
        self._keep(self._take(_end(_STRING, self._text, self._at)))
        self._check_escape()
        if not self._text.startswith('"', self._at):
            return False
        self._keep(self._take(self._at + 1))
        self._step = self._nested
        return True

    def _nothing(self) -> bool:
        self._at = len(self._text)
        return False

    def _check_escape(self) -> None:
        """A string may stop at an escape of which more is to come, or at half a character: 11 characters at most."""
        if not self._text.startswith('"', self._at) and len(self._text) - self._at >= _ESCAPES:
            raise _NotJson

    @property
    def _is_used_up(self) -> bool:
        return self._at == len(self._text)

    def _take(self, end: int) -> str:
        taken, self._at = self._text[self._at : end], end
        return taken

    def _keep(self, text: str) -> str:
        self._kept.append(text)
        self._field.write(text)
        return text

    def _complete(self, value: Any) -> None:
        self._field.complete(value)
        self._step = self._key


def _end(pattern: re.Pattern[str], text: str, begin: int) -> int:
    """The end of the longest match, or ``begin``."""
    found = pattern.match(text, begin)
    return found.end() if found else begin
