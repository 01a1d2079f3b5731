"""Answers in sections: ``[[ ## name ## ]]``, and after it the value of an output."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from dspex.signatures.values.code_fence import without_fence
from dspex.signatures.values.loose_json import NotJsonError, Pieces, read_json
from workers.answers.answer_text import AnswerText
from workers.answers.candidates import Candidate, Candidates
from workers.answers.expected import Expected, Output
from workers.answers.reasoning import CLOSE, FIRST, OPEN, TURN, skip_reasoning, unfinished_tag
from workers.answers.shown import Shown

__all__ = ["END_NAME", "SectionScanner"]

#: The marker that ends an answer has this name.
END_NAME = "completed"

_MARKER = r"(?<=\[)\[[ \t]{0,9}##[ \t]{0,9}(?P<name>\w{1,200})[ \t]{0,9}##[ \t]{0,9}\]\]"
_LANDMARK = re.compile(rf"{FIRST}(?:(?P<marker>{_MARKER})|(?P<open>{OPEN})|(?P<close>{CLOSE})|(?P<turn>{TURN}))")
_PART_OF_MARKER = re.compile(r"\[\[[ \t]{0,9}(?:##?[ \t]{0,9}(?:\w{1,200}[ \t]{0,9}(?:##?[ \t]{0,9}\]?)?)?)?\Z")
#: Text that seems to be meant as a marker, if it has the name of one.
_LIKE_A_MARKER = re.compile(
    r"(?:\[\[|【|\\\[)[\s#\\*_`\"'\[]{0,12}(?P<a>\w{1,200}?)[\s#\\*_`\"':.]{0,12}[\]】\\]"
    r"|\[\s?\\?#[\s#\\*_`\"']{0,12}(?P<b>\w{1,200})"
    r"|^[ \t*_`>]{0,9}#{2,6}[ \t*_`]{0,9}(?P<c>\w{1,200})[ \t*_`:.]{0,9}##"
    r"|\n[ \t]{0,9}[#<\[({|*][^\w\n]{0,9}(?P<d>completed)[^\w\n]{0,9}\Z",
    re.MULTILINE,
)
#: What precedes a text in a wrapper, and what ends it then.
_WRAPPERS = (
    (re.compile(r"```\w{0,20}\Z"), r"(?:\n|\A)```\Z"),
    (re.compile(r"<(\w{1,20})>\Z"), r"</{0}>\Z"),
    (re.compile(r"<\|\w{1,40}\|>\Z"), r"<\|/?\w+\|>\Z"),
)
_SPACE = " \t\r\n"
#: What may stand beside a marker: bold, italics, code, quotes, brackets, a heading, a quotation, a table or a number.
_QUOTES = "*_`'\"~([{<"
_MIRRORED = str.maketrans("([{<", ")]}>")
_DECORATION = _QUOTES + ">#| \t-"
_NUMBERED = re.compile(r"(?:\A|\n)[ \t]{0,9}(\d{1,2}[.)][ \t]{0,9})\Z")
_LONGEST_NUMBERED = 22
_QUOTATIONS = (">", '"', "'", "|")
_HELD = _DECORATION + "\r\n.)0123456789"
#: Text of a value that can neither hold a mark nor end with part of one.
_PLAIN = re.compile(rf"[^<\[◁]*+(?<=[^{re.escape(_HELD)}])")
#: After a marker: a sign that belongs to it or to the value.
_SIGN = re.compile(r"</|[ \t]{0,3}(?:=>?|->|→|[–—])[ \t\r\n]")
#: After a mark of reasoning that ends its line, or a token that ends a turn.
_LINE_END = re.compile(r"[ \t]{0,9}(?:[\r\n]|\[\[|\Z)")
_TURN_END = re.compile(r"[ \t]{0,9}(?:[\r\n<]|\[\[|\Z)")
_LONGEST_MARKER = 300
_MOST_HELD = 1_000
#: What decides about a mark stands in this many characters after it.
_AFTER = 12


@dataclass(slots=True)
class _Section:
    """A section that is being read. One without an ``output`` is set aside."""

    name: str
    output: Output | None
    beside: str = ""  # what stands before the marker on its line
    is_open: bool = False  # whether what stands before it has no end behind it
    parts: list[str] = field(default_factory=list)
    space: str = ""  # to show once something follows it
    was_interrupted: bool = False
    has_tag: bool = False  # the beginning of a block of reasoning, as text
    has_strike: bool = False  # <s>
    is_broken: bool = False

    @property
    def is_blank(self) -> bool:
        return not self.parts

    def is_quoted(self, text: str) -> bool:
        """Whether the value seems to be quoted as its marker is: ``> [[ ## name ## ]]``, ``> value``; or with it."""
        quote = self.beside.strip()[:1]
        if quote in _QUOTATIONS and text.startswith(quote):
            return True
        return self.is_open and text.endswith(quote.translate(_MIRRORED))


class SectionScanner:
    """Finds the sections of outputs. A name that comes again, and the end marker, begin another answer."""

    def __init__(self, text: AnswerText, expected: Expected, candidates: Candidates, shown: Shown | None) -> None:
        self._text = text
        self._expected = expected
        self._candidates = candidates
        self._shown = shown
        self._found = Candidate()
        self._section: _Section | None = None
        self._is_line_begun = False
        self._last_written = ""
        self._ahead = ""  # the end of the text before the first section
        self.is_cut = False
        self.is_end_unknown = False

    def scan(self) -> Pieces[None]:
        while (landmark := (yield from self._landmark())) is not None:
            before, found = landmark
            if found.group("marker"):
                if self._marker(before, found):
                    yield from self._candidates.rest(self._text)
            elif found.group("open"):
                yield from self._open(before, found)
            elif found.group("close"):
                self._close(before, found)
            elif self._turn(before, found):
                yield from self._candidates.rest(self._text)
        self._end_answer(is_over=True)

    # landmarks

    def _landmark(self) -> Pieces[tuple[str, re.Match[str]] | None]:
        """Read past the next marker, or mark of reasoning. Returns it with the text before it on its line."""
        source = self._text
        while True:
            while not source.is_over and _PLAIN.fullmatch(source.text, source.at):
                self._write(source.text[source.at :])
                source.at = len(source.text)
                yield
            found = _LANDMARK.search(source.text, source.at)
            if found and (source.is_over or found.end() + _AFTER <= len(source.text)):
                before = source.text[source.at : found.start()]
                source.at = found.end()
                return before, found
            if source.is_over:
                self._last(source.text[source.at :])
                source.at = len(source.text)
                return None
            end = self._unfinished(found.start() if found else None)
            self._write(source.text[source.at : end])
            source.at = end
            yield

    def _unfinished(self, landmark: int | None) -> int:
        """Where the text begins that the next piece may make a marker, or part of one."""
        text, at = self._text.text, self._text.at
        end = unfinished_tag(text, at) if landmark is None else landmark
        marker = text.rfind("[[", max(at, len(text) - _LONGEST_MARKER), end + 2)
        if marker >= 0 and text.find("]]", marker) < 0:
            end = min(end, marker)
        least = max(at, end - _MOST_HELD)
        return least + len(text[least:end].rstrip(_HELD))

    def _last(self, text: str) -> None:
        """The text after the last landmark."""
        part = _PART_OF_MARKER.search(text, max(0, len(text) - _LONGEST_MARKER))
        if part and self._section is not None:
            text, self._found.is_cut = text[: part.start()].rstrip(_DECORATION), True
        self._write(text)

    def _begins_line(self, before: str) -> bool:
        return before.endswith("\n") or (not before and not self._is_line_begun)

    # markers

    def _marker(self, before: str, found: re.Match[str]) -> bool:
        """A marker: it counts at the beginning of a line, or anywhere if its name is an output's or the end's.

        Returns whether another turn begins.
        """
        written = found.group("name")
        name = END_NAME if written.casefold() == END_NAME else self._expected.output_named(written) or written
        is_known = name == END_NAME or name in self._expected.outputs
        line = self._line(before)
        begins_line = self._begins_line(line)
        if not begins_line and not is_known:
            self._write(before + found.group())
            return False
        quotes = before[len(before.rstrip(_QUOTES)) :]
        end = self._past(quotes.translate(_MIRRORED)[::-1], found.end())
        is_closed = end > found.end()
        bare = line if begins_line else before[: len(before) - len(quotes)] if quotes and is_closed else before
        is_alone = _LINE_END.match(self._text.text, end) is not None
        self._write(bare)
        self._text.at = end
        if is_closed or not begins_line or found.group() != f"[[ ## {name} ## ]]" or bare != before:
            self._candidates.note("markers in another form")
        beside = before[len(bare) :].strip("# \t-") or quotes
        return self._begin(name, _Section(name, None, beside, is_open=bool(quotes) and not is_closed), is_alone)

    def _line(self, before: str) -> str:
        """The text before a marker, without what stands beside the marker at the beginning of its line."""
        numbered = _NUMBERED.search(before, max(0, len(before) - _LONGEST_NUMBERED))
        if numbered and self._begins_line(before[: numbered.start(1)]):
            return before[: numbered.start(1)]
        return before.rstrip(_DECORATION)

    def _past(self, mirrored: str, end: int) -> int:
        """The end of what belongs to a marker: the decoration that it begins with, and a colon."""
        text = self._text.text
        if mirrored and text.startswith(mirrored, end):
            end, mirrored = end + len(mirrored), ""
        if text.startswith(":", end):
            end += 1
            if mirrored and text.startswith(mirrored, end):
                end += len(mirrored)
        return end

    def _begin(self, name: str, section: _Section, is_alone: bool) -> bool:
        is_output = name in self._expected.outputs
        if not is_output and name != END_NAME and name not in self._expected.inputs:
            self._check_other(is_alone)
        self._end_section()
        self._is_line_begun = False
        if is_output:
            if name in self._found.values:
                self._end_answer()
            section.output = self._expected.outputs[name]
            section.is_broken = _SIGN.match(self._text.text, self._text.at) is not None
            self._section = section
            if self._shown:
                self._shown.open(name)
        elif name == END_NAME:
            self._end_answer()
        elif name in self._expected.inputs and (self._candidates.has_whole or self._ends_whole()):
            return True
        else:
            self._section = section
        return False

    def _check_other(self, is_alone: bool) -> None:
        """A marker with the name of no field, within a value: it may be part of the value."""
        section = self._section
        if section is not None and section.output is not None and (section.is_blank or not is_alone):
            section.is_broken = True

    def _ends_whole(self) -> bool:
        """End the answer before another turn begins. Returns whether it is whole."""
        self._end_answer()
        return self._candidates.has_whole

    def _turn(self, before: str, found: re.Match[str]) -> bool:
        """A token that ends a turn; within a line it is text. In a section, nothing may follow it: the section has two
        meanings then. Returns whether the answer is whole, and what follows is another turn."""
        section = self._section
        if not _TURN_END.match(self._text.text, self._text.at) or self._is_markup(before, found.group()):
            if section is not None and self._text.text[self._text.at].isalnum():
                section.is_broken = True
            self._write(before + found.group())
            return False
        self._write(before)
        self._candidates.note("an end token of the model was set aside")
        if section is None:
            return self._candidates.has_whole
        section.was_interrupted |= not section.is_blank
        return False

    def _is_markup(self, before: str, mark: str) -> bool:
        """Whether ``</s>`` ends text that is struck through."""
        return mark == "</s>" and ("<s>" in before or (self._section is not None and self._section.has_strike))

    # reasoning

    def _open(self, before: str, found: re.Match[str]) -> Pieces[None]:
        """A block of reasoning, which begins a line; in the middle of a line of a value it is text."""
        section = self._section
        if section is not None and not self._begins_line(before.rstrip(" \t")):
            section.has_tag = True
            self._write(before + found.group())
            return
        self._write(before)
        self._candidates.note("reasoning was set aside")
        is_closed = yield from skip_reasoning(self._text)
        self._is_line_begun = False
        if section is not None:
            section.was_interrupted |= not section.is_blank
            self._found.is_cut |= not is_closed

    def _close(self, before: str, found: re.Match[str]) -> None:
        """The end of a block without its beginning. In the middle of a line of a value it is text."""
        counts = self._section is None or self._begins_line(before.rstrip(" \t"))
        if not counts and not _LINE_END.match(self._text.text, self._text.at):
            self._check_glued(before)
            self._write(before + found.group())
            return
        self._section, self._found, self._is_line_begun = None, Candidate(), False
        self._candidates.void()
        if self._shown:
            self._shown.void()

    def _check_glued(self, before: str) -> None:
        """The end of a block between two words, without its beginning, is no text."""
        section = self._section
        last, following = (before or self._last_written)[-1:], self._text.text[self._text.at]
        if section is not None and not section.has_tag and following.isalnum():
            section.is_broken |= not last.isspace() and last not in "`'\"("

    # values

    def _write(self, text: str) -> None:
        """More text of the section, without the whitespace at its ends."""
        if not text:
            return
        self._is_line_begun, self._last_written = text[-1] != "\n", text[-1]
        section = self._section
        if section is None:
            self._ahead = (self._ahead + text)[-100:] if not self._found.values else ""
            if text.strip(_SPACE):
                self._candidates.note("text around the sections was set aside")
            return
        if not section.parts:
            text = text.lstrip(_SPACE)
        body = text.rstrip(_SPACE)
        if not body:
            section.space += text if section.parts else ""
            return
        section.is_broken |= section.was_interrupted
        section.has_strike |= "<s>" in text
        section.parts.append(section.space + body)
        section.space = text[len(body) :]
        if self._shown and section.output is not None:
            self._shown.text(section.name, section.parts[-1])

    def _end_section(self, *, is_over: bool = False) -> None:
        section, self._section = self._section, None
        if section is None:
            return
        self._found.is_cut |= is_over and self.is_end_unknown  # there is no end marker
        if section.output is None:
            self._found.repairs.append(("", "a section that is no output was set aside"))
            return
        text = self._unwrapped("".join(section.parts)) if is_over else "".join(section.parts)
        if section.is_broken or self._is_doubtful(section, text):
            self._found.is_broken = True
            return
        if is_over and (self.is_cut or self._found.is_cut) and not section.output.is_text:
            return  # 12 may be the beginning of 123
        if is_over and not text and not self._expected.outputs[section.name].is_nullable:
            return  # the text ends after a marker
        value = self._value(section.name, section.output, text)
        self._found.values[section.name] = value
        if self._shown and not self._found.is_cut:
            self._shown.field(section.name, value)

    def _unwrapped(self, text: str) -> str:
        """The text of the last section without the end of a wrapper that was begun before the first."""
        for begin, end in _WRAPPERS:
            opened = begin.search(self._ahead.rstrip(_SPACE))
            closed = re.search(end.format(*opened.groups()), text[-100:]) if opened else None
            if closed:
                self._candidates.note("a wrapper around the sections was set aside")
                return text[: len(text) - len(closed.group())].rstrip(_SPACE)
        return text

    def _is_doubtful(self, section: _Section, text: str) -> bool:
        """Whether part of the text may belong to a marker."""
        if section.beside and section.is_quoted(text):
            return True
        if section.output is None or not section.output.is_text:
            return False
        if "[" not in text and "##" not in text and "【" not in text and "completed" not in text[-30:]:
            return False
        names = (name for found in _LIKE_A_MARKER.finditer(text) for name in found.groups() if name)
        return any(map(self._is_known, names))

    def _is_known(self, name: str) -> bool:
        return name.casefold() == END_NAME or self._expected.output_named(name) is not None

    def _value(self, name: str, output: Output, text: str) -> Any:
        """The value that the text of a section spells. What is not JSON stays text."""
        if output.is_text:
            return None if output.is_nullable and text in ("null", "None") else text
        try:
            value, repairs = read_json(without_fence(text), keeps_truth=output.holds_text)
        except NotJsonError:
            return text
        self._found.repairs += [(name, repair) for repair in repairs]
        if len(text) > 3 and text.startswith("```"):
            self._found.repairs.append((name, "JSON in a fence"))
        return value

    def _end_answer(self, *, is_over: bool = False) -> None:
        self._end_section(is_over=is_over)
        if self._shown and self._found.values:
            self._shown.void()
        self._candidates.add(self._found)
        self._found = Candidate()
