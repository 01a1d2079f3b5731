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
from workers.answers.reasoning import CLOSE, FIRST, OPEN, end_tokens, skip_reasoning, unfinished_tag
from workers.answers.shown import Shown

__all__ = ["END_NAME", "SectionScanner"]

#: The marker that ends an answer has this name.
END_NAME = "completed"

_MARKER = r"(?<=\[)\[[ \t]{0,9}##[ \t]{0,9}(?P<name>\w{1,200})[ \t]{0,9}##[ \t]{0,9}\]\]"
_LANDMARK = re.compile(rf"{FIRST}(?:(?P<marker>{_MARKER})|(?P<open>{OPEN})|(?P<close>{CLOSE}))")
_PART_OF_MARKER = re.compile(r"\[\[[ \t]{0,9}(?:##?[ \t]{0,9}(?:\w{1,200}[ \t]{0,9}(?:##?[ \t]{0,9}\]?)?)?)?\Z")
_SPACE = " \t\r\n"
#: What may stand beside a marker: bold, italics, code, quotes, a heading or a quotation.
_QUOTES = "*_`'\"~"
_QUOTATIONS = (">", '"', "'")
_DECORATION = _QUOTES + "># \t-"
#: After a mark of reasoning that ends its line.
_LINE_END = re.compile(r"[ \t]{0,9}(?:[\r\n]|\[\[|\Z)")
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
    parts: list[str] = field(default_factory=list)
    space: str = ""  # to show once something follows it
    was_interrupted: bool = False
    is_broken: bool = False

    @property
    def is_blank(self) -> bool:
        return not self.parts

    def is_quoted(self, text: str) -> bool:
        """Whether the value seems to be quoted as its marker is: ``> [[ ## name ## ]]``, ``> value``."""
        return self.beside[:1] in _QUOTATIONS and text.startswith(self.beside[:1])


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
        self.is_cut = False
        self.is_end_unknown = False

    def scan(self) -> Pieces[None]:
        while (landmark := (yield from self._landmark())) is not None:
            before, found = landmark
            if found.group("marker"):
                if self._marker(before, found):
                    yield from self._rest()
            elif found.group("open"):
                yield from self._open(before, found)
            else:
                self._close(before, found)
        self._end_answer(is_over=True)

    # landmarks

    def _landmark(self) -> Pieces[tuple[str, re.Match[str]] | None]:
        """Read past the next marker, or mark of reasoning. Returns it with the text before it on its line."""
        source = self._text
        while True:
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
        end = least + end_tokens(text[least:end])
        return least + len(text[least:end].rstrip(_DECORATION + _SPACE))

    def _last(self, text: str) -> None:
        """The text after the last landmark."""
        part = _PART_OF_MARKER.search(text, max(0, len(text) - _LONGEST_MARKER))
        if part and self._section is not None:
            text, self._found.is_cut = text[: part.start()].rstrip(_DECORATION), True
        end = end_tokens(text)
        if end < len(text):
            text = text[:end]
            self._candidates.note("an end token of the model was set aside")
        self._write(text)

    def _begins_line(self, before: str) -> bool:
        return before.endswith("\n") or (not before and not self._is_line_begun)

    # markers

    def _marker(self, before: str, found: re.Match[str]) -> bool:
        """A marker: it counts at the beginning of a line, or anywhere if its name is an output's or the end's.

        Returns whether another turn begins.
        """
        name = found.group("name")
        bare = before.rstrip(_DECORATION)
        begins_line = self._begins_line(bare)
        if not begins_line and name not in self._expected.outputs and name != END_NAME:
            self._write(before + found.group())
            return False
        beside = before[len(bare) :].strip("# \t-")
        end = self._past_decoration(beside.strip("> "), found.end())
        if not begins_line and end == found.end():
            bare = before  # what stands before it belongs to the value
        self._write(bare)
        self._text.at = end
        if end > found.end() or not begins_line or found.group() != f"[[ ## {name} ## ]]" or bare != before:
            self._candidates.note("markers in another form")
        return self._begin(name, beside)

    def _past_decoration(self, beside: str, end: int) -> int:
        """The end of what belongs to a marker: the decoration that it begins with, and a colon."""
        text, mirrored = self._text.text, beside[::-1]
        if mirrored and text.startswith(mirrored, end):
            end, mirrored = end + len(mirrored), ""
        if text.startswith(":", end):
            end += 1
            if mirrored and text.startswith(mirrored, end):
                end += len(mirrored)
        return end

    def _begin(self, name: str, beside: str) -> bool:
        self._end_section()
        self._is_line_begun = False
        output = self._expected.outputs.get(name)
        if output is not None:
            if name in self._found.values:
                self._end_answer()
            self._section = _Section(name, output, beside=beside)
            if self._shown:
                self._shown.open(name)
        elif name == END_NAME:
            self._end_answer()
        elif name in self._expected.inputs and (self._candidates.has_whole or self._ends_whole()):
            return True
        else:
            self._section = _Section(name, None)
        return False

    def _ends_whole(self) -> bool:
        """End the answer before another turn begins. Returns whether it is whole."""
        self._end_answer()
        return self._candidates.has_whole

    def _rest(self) -> Pieces[None]:
        """Set aside what a model wrote for the user after its answer."""
        self._candidates.note("another turn after the answer was set aside")
        while True:
            self._text.at = len(self._text.text)
            if self._text.is_over:
                return
            yield

    # reasoning

    def _open(self, before: str, found: re.Match[str]) -> Pieces[None]:
        """A block of reasoning, which begins a line; in the middle of a line of a value it is text."""
        section = self._section
        if section is not None and not self._begins_line(before.rstrip(" \t")):
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
            self._write(before + found.group())
            return
        self._section, self._found, self._is_line_begun = None, Candidate(), False
        self._candidates.void()
        if self._shown:
            self._shown.void()

    # values

    def _write(self, text: str) -> None:
        """More text of the section, without the whitespace at its ends."""
        if not text:
            return
        self._is_line_begun = text[-1] != "\n"
        section = self._section
        if section is None:
            if text.strip(_SPACE):
                self._candidates.note("text around the sections was set aside")
            return
        if not section.parts:
            text = text.lstrip(_SPACE)
        body = text.rstrip(_SPACE)
        if not body:
            section.space += text if section.parts else ""
            return
        if section.was_interrupted or (section.beside and not section.parts and section.is_quoted(body)):
            section.is_broken = True
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
        if section.is_broken:
            self._found.is_broken = True
            return
        if is_over and (self.is_cut or self._found.is_cut) and not section.output.is_text:
            return  # 12 may be the beginning of 123
        value = self._value(section.name, section.output, "".join(section.parts))
        self._found.values[section.name] = value
        if self._shown and not self._found.is_cut:
            self._shown.field(section.name, value)

    def _value(self, name: str, output: Output, text: str) -> Any:
        """The value that the text of a section spells. What is not JSON stays text."""
        if output.is_text:
            return None if output.is_nullable and text in ("null", "None") else text
        try:
            value, repairs = read_json(without_fence(text))
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
