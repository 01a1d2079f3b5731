"""Tokens of a signature's text, and errors with their position.

A token is a string, and the lexer is one regular expression. Positions are computed only for errors, so they cost
nothing when a signature is valid.
"""

from __future__ import annotations

import json
import math
import re
import sys
import unicodedata
from typing import Any, NoReturn

from dspex.errors import SignatureSyntaxError, SignatureTypeError
from dspex.signatures.types.type_registry import TypeFaultError

__all__ = ["MAX_NESTING", "MAX_TEXT", "NATIVE", "PYTHON", "Tokens", "place", "type_error"]

MAX_TEXT = 1_000_000
"""Longest signature text, in characters."""

MAX_NESTING = 64
"""Deepest nesting of types, and of literals."""

_SKIP = r"(?:\s++|\#[^\n]*+)*+"
_STRING = r'"(?:[^"\\\n]|\\[^\n])*+"'
_NUMBER = r"-?\d++(?:\.\d++)?+(?:[eE][+-]?\d++)?+"
_NAME = r"[^\W\d]\w*+"

NATIVE = re.compile(rf"{_SKIP}(->|:{_NAME}|{_NAME}|{_STRING}|{_NUMBER}|\S|\Z)")
"""Tokens of the native language; ``:string`` is one token."""

PYTHON = re.compile(rf"{_SKIP}(->|{_NAME}|{_STRING}|'(?:[^'\\\n]|\\[^\n])*+'|{_NUMBER}|\S|\Z)")
"""Tokens of a DSPy string."""

_NUMBER_ONLY = re.compile(_NUMBER, re.ASCII)
_CONSTANTS = {"true": True, "false": False, "null": None}


class Tokens:
    """A cursor over the tokens of ``text``; the last token is ``""``. ``marks`` maps each field to its token."""

    __slots__ = ("at", "marks", "pattern", "text", "tokens")

    def __init__(self, text: str, pattern: re.Pattern[str]) -> None:
        self.text = text
        self.pattern = pattern
        self.at = 0
        self.marks: dict[str, int] = {}
        self.tokens: list[str] = []
        if len(text) > MAX_TEXT:
            self.fail_at(
                0, f"the signature is {len(text):,} characters long", expected=f"at most {MAX_TEXT:,} characters"
            )
        self.tokens = pattern.findall(text)
        if not text.isascii():
            self._refuse_surrogates()

    def _refuse_surrogates(self) -> None:
        try:
            self.text.encode()
        except UnicodeEncodeError as error:
            self.fail_at(error.start, "a lone surrogate is not text", expected="text that can be written as UTF-8")

    @property
    def here(self) -> str:
        return self.tokens[self.at]

    def skip(self, word: str) -> bool:
        """Skip ``word`` if it is the next token. Returns whether it was."""
        if self.tokens[self.at] == word:
            self.at += 1
            return True
        return False

    def expect(self, word: str, expected: str) -> None:
        """Skip ``word``, which must be the next token."""
        if self.tokens[self.at] != word:
            self.fail(expected)
        self.at += 1

    def identifier(self, expected: str) -> str:
        """Read a name, normalized as Python does."""
        word = self.tokens[self.at]
        name = word if word.isascii() else unicodedata.normalize("NFKC", word)
        if not name.isidentifier():
            self.fail(expected)
        self.at += 1
        return sys.intern(name)

    def field_name(self) -> str:
        """Read the name of a new field and remember its token."""
        at = self.at
        name = self.identifier("the field's name")
        if name.startswith("_"):
            self.fail("a name that does not begin with an underscore", problem=f"bad name {name!r}", at=at)
        if name in self.marks:
            self.fail("a name for each field", problem=f"there are two fields called {name!r}", at=at)
        self.marks[name] = at
        return name

    def string(self, expected: str) -> str:
        """Read text in double quotes."""
        word = self.tokens[self.at]
        if len(word) < 2 or word[0] != '"':
            self.fail(expected)
        if "\\" not in word:
            self.at += 1
            return word[1:-1]
        try:
            value = json.loads(word, strict=False)
        except ValueError as error:
            self.fail('a valid escape, as in JSON: \\n \\t \\" \\\\ \\u00e9', problem=f"bad escape ({error})")
        if not value.isprintable() and any("\ud800" <= c <= "\udfff" for c in value):
            self.fail("text that can be written as UTF-8", problem="a lone surrogate is not text")
        self.at += 1
        return str(value)

    def literal(self, depth: int = 0) -> Any:
        """Read a JSON literal."""
        word = self.tokens[self.at]
        if depth > MAX_NESTING:
            self.fail(f"at most {MAX_NESTING} levels", problem="the literal is nested too deep")
        if word.startswith('"'):
            return self.string("text in double quotes")
        if word in _CONSTANTS:
            self.at += 1
            return _CONSTANTS[word]
        if word == "[":
            return self._list(depth)
        if word == "{":
            return self._map(depth)
        return self._number(word)

    def _number(self, word: str) -> int | float:
        if not _NUMBER_ONLY.fullmatch(word):
            self.fail('a literal: a number, "text", true, false, null, [...] or {...}')
        if len(word) > 400:
            self.fail("a shorter number", problem="the number is too long")
        number = int(word) if word.lstrip("-").isdigit() else float(word)
        if isinstance(number, float) and not math.isfinite(number):
            self.fail("a finite number", problem=f"{word} is not finite")
        self.at += 1
        return number

    def _list(self, depth: int) -> list[Any]:
        self.at += 1
        items: list[Any] = []
        while not self.skip("]"):
            items.append(self.literal(depth + 1))
            if self.here != "]":
                self.expect(",", "',' or ']'")
        return items

    def _map(self, depth: int) -> dict[str, Any]:
        self.at += 1
        items: dict[str, Any] = {}
        while not self.skip("}"):
            key = self.string("a key in double quotes")
            if len(self.here) > 1 and self.here[0] == ":":  # {"a":true}: the native lexer reads ":true" as a type
                self.tokens[self.at : self.at + 1] = [self.here[1:]]
            else:
                self.expect(":", "':'")
            items[key] = self.literal(depth + 1)
            if self.here != "}":
                self.expect(",", "',' or '}'")
        return items

    # errors

    def fail(self, expected: str, *, problem: str = "", at: int | None = None) -> NoReturn:
        """Raise an error at the token ``at`` (default: the next one)."""
        index = self.at if at is None else at
        self.fail_at(self.offset(index), problem or self._unexpected(index), expected=expected)

    def fail_at(self, offset: int, problem: str, *, expected: str) -> NoReturn:
        """Raise an error at a character."""
        line, column, snippet = place(self.text, offset)
        message = f"line {line}, column {column}: {problem[:200]}; expected {expected}\n{snippet}"
        raise SignatureSyntaxError(message, line=line, column=column, snippet=snippet, expected=expected)

    def fail_type(self, fault: TypeFaultError, at: int) -> NoReturn:
        """Raise the error for a type, constraint or field at the token ``at``."""
        line, column, snippet = place(self.text, self.offset(at))
        raise fault.as_error(line=line, column=column, snippet=snippet) from None

    def _unexpected(self, index: int) -> str:
        word = self.tokens[index]
        if not word:
            return "the signature ends too early"
        if word == '"':
            return "the text in quotes is not closed on its line"
        return f"unexpected {word[:40]!r}"

    def offset(self, index: int) -> int:
        """The offset of the token ``index`` in the text."""
        for number, match in enumerate(self.pattern.finditer(self.text)):
            if number == index:
                return match.start(1)
        return len(self.text)


def place(text: str, offset: int) -> tuple[int, int, str]:
    """Line and column (from 1) of ``offset``, and the line with a caret under it."""
    if offset >= len(text):
        offset = len(text.rstrip())
    start = text.rfind("\n", 0, offset) + 1
    end = text.find("\n", offset)
    line = text[start : len(text) if end < 0 else end].rstrip("\r")
    column = offset - start
    first = max(0, column - 60)
    shown = "".join(c if c.isprintable() else " " for c in line[first : first + 100])
    return text.count("\n", 0, offset) + 1, column + 1, f"  {shown}\n  {' ' * (column - first)}^"


def type_error(fault: TypeFaultError, where: str) -> SignatureTypeError:
    """The error for a fault in a source without text, such as a class; ``where`` names the position."""
    return fault.as_error(line=1, column=1, snippet="", where=where)
