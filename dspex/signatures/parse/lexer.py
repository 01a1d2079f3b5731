"""Tokens of a signature's text, and errors that point at the place.

A token is a plain string and the lexer one regular expression. Positions are worked out only when there is
an error to show, so that reading a correct signature does not pay for them.
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
    """A cursor over the tokens of ``text``; the last token is ``""``. ``marks`` says which token declares a field."""

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
        """Step over ``word`` if it is next; whether it was."""
        if self.tokens[self.at] == word:
            self.at += 1
            return True
        return False

    def expect(self, word: str, expected: str) -> None:
        """Step over ``word``, which must be next."""
        if self.tokens[self.at] != word:
            self.fail(expected)
        self.at += 1

    def identifier(self, expected: str) -> str:
        """The name that must be next, in the normal form Python itself gives to names."""
        word = self.tokens[self.at]
        name = word if word.isascii() else unicodedata.normalize("NFKC", word)
        if not name.isidentifier():
            self.fail(expected)
        self.at += 1
        return sys.intern(name)

    def field_name(self) -> str:
        """The name of a new field, which must be next; its place is marked."""
        at = self.at
        name = self.identifier("the field's name")
        if name.startswith("_"):
            self.fail("a name that does not begin with an underscore", problem=f"bad name {name!r}", at=at)
        if name in self.marks:
            self.fail("a name for each field", problem=f"there are two fields called {name!r}", at=at)
        self.marks[name] = at
        return name

    def string(self, expected: str) -> str:
        """The text in quotes that must be next."""
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
        """The JSON literal that must be next."""
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
        """Refuse the token ``at`` (by default the next one)."""
        index = self.at if at is None else at
        self.fail_at(self.offset(index), problem or self._unexpected(index), expected=expected)

    def fail_at(self, offset: int, problem: str, *, expected: str) -> NoReturn:
        """Refuse the character at ``offset``."""
        line, column, snippet = place(self.text, offset)
        message = f"line {line}, column {column}: {problem[:200]}; expected {expected}\n{snippet}"
        raise SignatureSyntaxError(message, line=line, column=column, snippet=snippet, expected=expected)

    def fail_type(self, fault: TypeFaultError, at: int) -> NoReturn:
        """Refuse the type, constraint or field named by the token ``at``."""
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
        """Where the token ``index`` begins in the text."""
        for number, match in enumerate(self.pattern.finditer(self.text)):
            if number == index:
                return match.start(1)
        return len(self.text)


def place(text: str, offset: int) -> tuple[int, int, str]:
    """Line and column (from 1) of ``offset``, and that line with a caret under the place."""
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
    """The error for a fault in a source that has no text, such as a class: ``where`` names the place."""
    return fault.as_error(line=1, column=1, snippet="", where=where)
