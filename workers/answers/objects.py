"""Answers that are JSON objects, with other text around them."""

from __future__ import annotations

import re
from typing import Any

from dspex.signatures.values.loose_json import CUT, STRICT, JsonParser, NotJsonError, Pieces
from workers.answers.answer_text import AnswerText
from workers.answers.candidates import Candidate, Candidates
from workers.answers.expected import Expected
from workers.answers.reasoning import CLOSE, FIRST, OPEN, TURN, skip_reasoning, unfinished_tag
from workers.answers.shown import Shown

__all__ = ["ObjectScanner"]

_LANDMARK = re.compile(rf"[{{<\[◁](?:(?P<brace>(?<=\{{))|(?P<open>{OPEN})|(?P<close>{CLOSE})|(?P<turn>{TURN}))")
_CLOSE = re.compile(rf"{FIRST}{CLOSE}")
#: The beginning of an object in a JSON string, which may be an answer.
_ESCAPED = re.compile(r"\{\\.|\{\s\\", re.DOTALL)
_NO_TEXT = re.compile(r"(?:\s++|```[A-Za-z0-9]{0,20})*+")
_KEY = re.compile(r"[\"'](\w{1,200})[\"']\s{0,9}:")


class ObjectScanner:
    """Finds the objects that have outputs among their keys. In an object, marks of reasoning are text."""

    def __init__(self, text: AnswerText, expected: Expected, candidates: Candidates, shown: Shown | None) -> None:
        self._text = text
        self._expected = expected
        self._candidates = candidates
        self._shown = shown
        self._aside: list[str] = []

    def scan(self) -> Pieces[None]:
        while (kind := (yield from self._landmark())) is not None:
            if kind == "brace":
                yield from self._object()
            elif kind == "open":
                self._candidates.note("reasoning was set aside")
                yield from skip_reasoning(self._text)
            elif kind == "close":
                self._void()
            elif self._candidates.has_whole:
                yield from self._candidates.rest(self._text)

    def _landmark(self) -> Pieces[str | None]:
        """Read up to a brace, or past a mark of reasoning."""
        source = self._text
        while True:
            found = _LANDMARK.search(source.text, source.at)
            if found:
                self._set_aside(source.text[source.at : found.start()])
                source.at = found.start() if found.lastgroup == "brace" else found.end()
                return found.lastgroup
            end = len(source.text) if source.is_over else unfinished_tag(source.text, source.at)
            self._aside.append(source.text[source.at : end])
            source.at = end
            if source.is_over:
                self._set_aside("")
                return None
            yield

    def _set_aside(self, text: str) -> None:
        """The rest of the text before a landmark, or before the end."""
        text = "".join([*self._aside, text])
        self._aside.clear()
        if not _NO_TEXT.fullmatch(text):
            self._candidates.note("text around the JSON was set aside")
            names = map(self._expected.output_named, _KEY.findall(text))
            self._candidates.outside.update(name for name in names if name is not None)

    def _void(self) -> None:
        self._candidates.void()
        if self._shown:
            self._shown.void()

    def _object(self) -> Pieces[None]:
        begin = self._text.place
        found = self._strict()
        if found is None:
            found = yield from self._loose()
            if found.is_cut or found.is_broken:
                closes = list(_CLOSE.finditer(self._text.since(begin)))
                if closes:  # the brace was part of the reasoning
                    self._text.go_back(begin + closes[-1].end())
                    self._void()
                    return
        if not self._candidates.is_empty and found.values and self._shown:
            self._shown.void()
        self._candidates.add(found)

    def _strict(self) -> Candidate | None:
        """An object without a slip, read at once; with followers, it is read as it comes."""
        source = self._text
        if self._shown or not source.is_over:
            return None
        begin = source.at
        try:
            values, source.at = STRICT.raw_decode(source.text, begin)
        except (ValueError, RecursionError):
            return None
        kept = {name: value for name, value in values.items() if name in self._expected.outputs}
        if len(kept) == len(values):
            return Candidate(kept)
        others = [name for name in values if name not in kept]
        if any(map(self._expected.output_named, others)):
            source.at = begin
            return None
        return self._candidate(kept, is_more=True)

    def _candidate(self, values: dict[str, Any], *, is_more: bool) -> Candidate:
        candidate = Candidate(values)
        if is_more and values:
            candidate.repairs.append(("", "a key that is no output was set aside"))
        return candidate

    def _loose(self) -> Pieces[Candidate]:
        parser = _TopParser(self._text, self._expected, self._shown)
        is_broken = False
        is_escaped = _ESCAPED.fullmatch((yield from self._text.have(3))) is not None
        try:
            yield from parser.top()
        except NotJsonError:
            is_broken = True
        found = self._candidate(parser.values, is_more=parser.has_more)
        found.repairs += [("", repair) for repair in parser.repairs]
        found.is_cut, found.is_broken = parser.is_cut, is_broken and (parser.has_output or is_escaped)
        return found


class _TopParser(JsonParser):
    """Parses the object of an answer, and shows its fields."""

    def __init__(self, source: AnswerText, expected: Expected, shown: Shown | None) -> None:
        super().__init__(source)
        self.values: dict[str, Any] = {}
        self.has_more = False
        self.has_output = False
        self._expected = expected
        self._shown = shown
        self._string_of: str | None = None

    def top(self) -> Pieces[None]:
        self.source.at += 1
        while (key := (yield from self.key())) is not None:
            name = self._expected.output_named(key)
            if name is not None:
                self.has_output = True
                if name != key:
                    self.note("a key in other case")
                self.keeps_truth = self._expected.outputs[name].holds_text
                self.put(self.values, name, (yield from self._field(name)))
            else:
                self.has_more = True
                yield from self.value(1)
            if self.is_cut or not (yield from self.goes_on("}")):
                return

    def _field(self, name: str) -> Pieces[Any]:
        if self._shown is None:
            return (yield from self.value(1))
        self._shown.open(name)
        if (yield from self.mark()) in ('"', "'"):
            self._string_of = name
            value = yield from self.value(1)
            self._string_of = None
        else:
            value = yield from self._shown_as_written(name, self._shown)
        if value is not CUT and not self.is_cut:
            self._shown.field(name, value)
        return value

    def _shown_as_written(self, name: str, shown: Shown) -> Pieces[Any]:
        """A value that is no string, whose JSON is shown while it is parsed."""
        parsing, source = self.value(1), self.source
        while True:
            begin = source.at
            try:
                next(parsing)
            except StopIteration as stop:
                shown.text(name, source.text[begin : source.at])
                return stop.value
            shown.text(name, source.text[begin : source.at])
            yield

    def keep(self, text: str) -> None:
        if self._string_of is not None and self._shown is not None:
            self._shown.text(self._string_of, text)
