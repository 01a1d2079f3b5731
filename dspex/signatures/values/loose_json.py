"""JSON as models write it: a parser that takes the text in pieces, repairs what has one meaning, and refuses the rest.

It repairs a comma before a closing bracket, comments, keys without quotes, single quotes, Python's ``True``, ``False``
and ``None``, line breaks in strings, and a repeated key, of which the last counts. Each repair is noted. Text that can
be read in several ways is not JSON: ``{'z': 'it's'}``, ``"a" + "b"``, ``{"z": Paris}``.

A number keeps the text that it was written as: see :class:`NumberText`. The time is linear in the length of the text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Generator
from typing import Any, Final, NoReturn, TypeVar

__all__ = ["CUT", "STRICT", "JsonParser", "NotJsonError", "NumberText", "Pieces", "TextSource", "read_json"]

T = TypeVar("T")
#: A step of a parser: it yields when it needs more text, and returns what it read.
Pieces = Generator[None, None, T]

MOST_DEPTH: Final = 100
_MOST_DIGITS: Final = 400


class NotJsonError(ValueError):
    """The text is not JSON, or has several meanings."""


class NumberText(float):
    """A number with the ``text`` that it was written as, where Python writes another: ``1.10``, ``12E5``."""

    __slots__ = ("text",)
    text: str

    def __new__(cls, text: str) -> NumberText:
        number = super().__new__(cls, text)
        number.text = text
        return number


class TextSource:
    """Text that arrives in pieces: ``text`` from ``at`` on has not been read; after ``is_over`` no more follows."""

    __slots__ = ("at", "is_over", "text")

    def __init__(self, text: str = "", *, is_over: bool = False) -> None:
        self.text, self.at, self.is_over = text, 0, is_over

    def feed(self, text: str) -> None:
        self.text, self.at = self.text[self.at :] + text, 0

    @property
    def is_used_up(self) -> bool:
        return self.at == len(self.text)

    def have(self, count: int) -> Pieces[str]:
        """The next ``count`` characters; fewer at the end of the text. They are not read yet."""
        while len(self.text) - self.at < count and not self.is_over:
            yield
        return self.text[self.at : self.at + count]

    def past(self, mark: str) -> Pieces[bool]:
        """Read to the end of ``mark``; False if it does not come."""
        while True:
            found = self.text.find(mark, self.at)
            if found >= 0:
                self.at = found + len(mark)
                return True
            self.at = len(self.text) if self.is_over else max(self.at, len(self.text) - len(mark) + 1)
            if self.is_over:
                return False
            yield


class _Cut:
    """A value of which the text ended too early."""


CUT: Final = _Cut()


def _number(text: str) -> float:
    value = float(text)
    return value if repr(value) == text else NumberText(text)


def _integer(text: str) -> int | float:
    return NumberText(text) if text == "-0" else int(text)


def _refuse(word: str) -> NoReturn:
    raise NotJsonError(word)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise NotJsonError("a key twice")
    return found


#: Reads what is JSON and needs no repair.
STRICT: Final = json.JSONDecoder(
    parse_float=_number, parse_int=_integer, parse_constant=_refuse, object_pairs_hook=_object
)

_BLANK = re.compile(r"\s*+")
_PLAIN = {'"': re.compile(r'[^"\\]*+'), "'": re.compile(r"[^'\\]*+")}
_CONTROL = re.compile(r"[\x00-\x1f]")
_WORD = re.compile(r"[^\s,:{}\[\]\"'`/]*+")
_NUMBER = re.compile(r"-?(?:0|[1-9]\d*+)(\.\d++)?([eE][+-]?\d++)?", re.ASCII)
_LOOSE_NUMBER = re.compile(r"[+-]?(?:\d++(?:\.\d*+)?|\.\d++)(?:[eE][+-]?\d++)?|NaN|[+-]?Infinity", re.ASCII)
#: [1,000] may be one number; 0 and three digits after a comma without a blank are no number of JSON.
_THOUSANDS = re.compile(r"0\d\d(?!\d)", re.ASCII)
_KEY = re.compile(r"[^\W\d][\w-]*+")
_ESCAPES = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_UNIT = re.compile(r"\\u([0-9a-fA-F]{4})")
_LOW = re.compile(r"\\u([dD][c-fC-F][0-9a-fA-F]{2})")
_WORDS = {"true": True, "false": False, "null": None}
_PYTHON = {"True": True, "False": False, "None": None}


class JsonParser:
    """Parses one value of a :class:`TextSource`, and leaves the source behind it.

    ``repairs`` are in the order in which they were made. ``is_cut``: the text ended within the value; what is there of
    it is returned, or :data:`CUT`. With ``keeps_truth``, ``True`` and ``False`` stay text: text is expected there.
    Raises :class:`NotJsonError`.
    """

    def __init__(self, source: TextSource, *, keeps_truth: bool = False) -> None:
        self.source = source
        self.keeps_truth = keeps_truth
        self.repairs: dict[str, None] = {}
        self.is_cut = False
        self._is_glued = False  # whether a digit followed the last comma

    def value(self, depth: int = 0) -> Pieces[Any]:
        mark = yield from self.mark()
        if mark and mark in "{[":
            if depth == MOST_DEPTH:
                raise NotJsonError("too deep")
            return (yield from (self.object(depth + 1) if mark == "{" else self._list(depth + 1)))
        if mark and mark in "\"'":
            return (yield from self.string(mark))
        return (yield from self._scalar())

    def object(self, depth: int) -> Pieces[dict[str, Any]]:
        """An object, from its brace on."""
        found: dict[str, Any] = {}
        self.source.at += 1
        while (key := (yield from self.key())) is not None:
            value = yield from self.value(depth)
            self.put(found, key, value)
            if self.is_cut or not (yield from self.goes_on("}")):
                break
        return found

    def key(self) -> Pieces[str | None]:
        """The next key with its colon; None after the last."""
        mark = yield from self.mark()
        if self._ends(mark, "}"):
            return None
        if mark in "\"'":
            key = yield from self.string(mark)
        else:
            key = yield from self._word()
            if self.source.is_used_up:
                self.is_cut = True
                return None
            if not _KEY.fullmatch(key):
                raise NotJsonError("no key")
            self.note("a key without quotes")
        mark = yield from self.mark()
        if not mark:
            self.is_cut = True
        if self.is_cut:
            return None
        if mark != ":":
            raise NotJsonError("no colon")
        self.source.at += 1
        return key

    def put(self, found: dict[str, Any], key: str, value: Any) -> None:
        if value is CUT:
            return
        if key in found and found[key] != value:
            self.note("the last of a repeated key")
        found[key] = value

    def goes_on(self, bracket: str) -> Pieces[bool]:
        """Whether another item follows: reads the comma, or the closing bracket."""
        mark = yield from self.mark()
        if mark != ",":
            if not self._ends(mark, bracket):
                raise NotJsonError("no comma")
            return False
        self.source.at += 1
        self._is_glued = (yield from self.source.have(1)).isdigit()
        mark = yield from self.mark()
        if self._ends(mark, bracket):
            self.note("a comma before a closing bracket")
            return False
        return True

    def _ends(self, mark: str, bracket: str) -> bool:
        self.is_cut |= not mark
        self.source.at += mark == bracket
        return mark in ("", bracket)

    def _list(self, depth: int) -> Pieces[list[Any]]:
        found: list[Any] = []
        self.source.at += 1
        mark = yield from self.mark()
        if self._ends(mark, "]"):
            return found
        while True:
            value = yield from self.value(depth)
            if value is not CUT:
                found.append(value)
            if self.is_cut or not (yield from self.goes_on("]")):
                return found
            if (
                self._is_glued
                and type(value) is int
                and abs(value) < 1_000
                and _THOUSANDS.match((yield from self.source.have(4)))
            ):
                raise NotJsonError("a comma between thousands")

    def mark(self) -> Pieces[str]:
        """The next character that is neither blank nor in a comment, which is not read; "" at the end of the text."""
        source = self.source
        while True:
            blank = _BLANK.match(source.text, source.at)
            source.at = blank.end() if blank else source.at
            if source.is_used_up:
                if source.is_over:
                    return ""
                yield
            elif source.text[source.at] == "/":
                yield from self._comment()
            else:
                return source.text[source.at]

    def _comment(self) -> Pieces[None]:
        end = {"//": "\n", "/*": "*/"}.get((yield from self.source.have(2)))
        if end is None:
            raise NotJsonError("no comment")
        self.note("comments in JSON")
        self.source.at += 2
        yield from self.source.past(end)

    def string(self, quote: str) -> Pieces[str]:
        """A string, from its quote on."""
        if quote == "'":
            self.note("single quotes in JSON")
        source, plain, parts = self.source, _PLAIN[quote], list[str]()
        source.at += 1
        while True:
            found = plain.match(source.text, source.at)
            if found and (text := found.group()):
                source.at = found.end()
                self._check(text)
            elif source.is_used_up:
                self.is_cut = source.is_over
                if self.is_cut:
                    return "".join(parts)
                yield
                continue
            elif source.text[source.at] == quote:
                source.at += 1
                return "".join(parts)
            else:
                text = yield from self._escape()
            parts.append(text)
            self.keep(text)

    def keep(self, text: str) -> None:
        """More of a string was read. Nothing, unless a subclass shows it to followers."""

    def _check(self, text: str) -> None:
        if not text.isprintable() and _CONTROL.search(text):
            self.note("a line break or another control character in a JSON string")

    def _escape(self) -> Pieces[str]:
        source = self.source
        begun = yield from source.have(2)
        if begun == "\\u":
            return (yield from self._unit())
        source.at += len(begun)
        if len(begun) < 2:
            return ""
        if begun == "\\'":
            self.note("an escaped single quote in JSON")
            return "'"
        if begun[1] not in _ESCAPES:
            raise NotJsonError("no escape")
        return _ESCAPES[begun[1]]

    def _unit(self) -> Pieces[str]:
        """An escaped character, of which both halves may be escaped."""
        source = self.source
        text = yield from source.have(6)
        first = _UNIT.fullmatch(text)
        source.at += len(text)
        if first is None:
            if len(text) < 6:
                return ""
            raise NotJsonError("no escape")
        letter = chr(int(first.group(1), 16))
        if "\ud800" <= letter <= "\udbff":
            low = _LOW.fullmatch((yield from source.have(6)))
            if low:
                source.at += 6
                return chr(0x10000 + ((ord(letter) - 0xD800) << 10) + int(low.group(1), 16) - 0xDC00)
        return letter

    def _word(self) -> Pieces[str]:
        """The characters up to the next mark of JSON; the text may have ended after them."""
        source, parts = self.source, list[str]()
        while True:
            found = _WORD.match(source.text, source.at)
            if found:
                parts.append(found.group())
                source.at = found.end()
            if not source.is_used_up or source.is_over:
                return "".join(parts)
            yield

    def _scalar(self) -> Pieces[Any]:
        word = yield from self._word()
        if self.source.is_used_up:  # 12 may be the beginning of 123
            self.is_cut = True
            return CUT
        return self.scalar(word)

    def scalar(self, word: str) -> Any:
        """The value that a word spells. A number that JSON does not have is returned as its text."""
        if word in _WORDS:
            return _WORDS[word]
        if word in _PYTHON:
            self.note("True, False or None in JSON")
            return word if self.keeps_truth and word != "None" else _PYTHON[word]
        if len(word) <= _MOST_DIGITS:
            if number := _NUMBER.fullmatch(word):
                return _integer(word) if number.group(1) is number.group(2) is None else _number(word)
            if _LOOSE_NUMBER.fullmatch(word):
                self.note("a number in another form than JSON's")
                return word
        raise NotJsonError("no value")

    def note(self, repair: str) -> None:
        self.repairs[repair] = None


def read_json(text: str, *, keeps_truth: bool = False) -> tuple[Any, tuple[str, ...]]:
    """The value that the whole text is, and the repairs; ``keeps_truth`` is as for JsonParser. Raises NotJsonError."""
    try:
        return STRICT.decode(text), ()
    except (ValueError, RecursionError):
        pass
    parser = JsonParser(TextSource(text, is_over=True), keeps_truth=keeps_truth)
    value = _run(_whole(parser))
    if value is CUT or parser.is_cut:
        raise NotJsonError("cut off")
    return value, tuple(parser.repairs)


def _whole(parser: JsonParser) -> Pieces[Any]:
    mark = yield from parser.mark()
    if mark and mark not in "{[\"'":
        word = parser.source.text[parser.source.at :].strip()
        return parser.scalar(word)
    value = yield from parser.value()
    if (yield from parser.mark()):
        raise NotJsonError("more after the value")
    return value


def _run(parsing: Pieces[T]) -> T:
    """What the parsing of a text that is over returns."""
    try:
        next(parsing)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]
    raise AssertionError("a text that is over has no more")
