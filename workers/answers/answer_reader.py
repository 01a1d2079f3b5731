"""The reader of model answers, for every prompt, streamed or not. Its specification is docs/reference/answers.md."""

from __future__ import annotations

from collections.abc import Callable, Generator

from dspex.signatures.values.code_fence import without_fence
from dspex.signatures.values.loose_json import STRICT
from workers.adapters.contract import StreamedAnswer
from workers.answers.answer_text import AnswerText
from workers.answers.candidates import AnswerReading, Candidates
from workers.answers.characters import HALF, join_halves
from workers.answers.expected import Expected, Form
from workers.answers.objects import ObjectScanner
from workers.answers.sections import SectionScanner
from workers.answers.shown import Shown

__all__ = ["AnswerReader"]


class AnswerReader:
    """Reads one answer in pieces: :meth:`feed`, then :meth:`end`.

    ``begin``, for answers that are followed, begins what followers are shown: see
    :class:`workers.adapters.contract.Stream`. The result does not depend on where the text was cut into pieces. The
    time is linear in its length.
    """

    def __init__(self, expected: Expected, begin: Callable[[], StreamedAnswer] | None = None) -> None:
        self._expected = expected
        self._shown = None if begin is None else Shown(begin, expected.outputs)
        self._text = AnswerText()
        self._candidates = Candidates(expected)
        self._half = ""
        self._are_halves_joined = False
        self._scanner = self._scanner_of(expected.form, self._text, self._shown)
        self._scan: Generator[None, None, None] | None = self._scanner.scan() if begin else None

    @property
    def text(self) -> str:
        """The text so far."""
        return self._text.whole

    def feed(self, text: str) -> None:
        """The next piece."""
        text = self._with_whole_characters(text)
        if text:
            self._text.feed(text)
            if self._scan is not None:
                next(self._scan)

    def end(self, *, is_cut: bool = False, accepts_cut: bool = False, is_end_unknown: bool = False) -> AnswerReading:
        """What the answer says. ``is_cut``: it ended at a limit of tokens; ``accepts_cut``: it is used nevertheless, if
        it has all outputs; ``is_end_unknown``: it is cut unless its form says that it is complete. Followers are shown
        what is read, if they were not."""
        self._text.feed(self._half)
        self._text.is_over = True
        if isinstance(self._scanner, SectionScanner):
            self._scanner.is_cut, self._scanner.is_end_unknown = is_cut, is_end_unknown
        _finish(self._scan or self._scanner.scan())
        if self._candidates.is_empty:
            self._read_another_form()
        if self._are_halves_joined:
            self._candidates.note("the halves of a character were joined")
        reading = self._candidates.choose(is_cut=is_cut, accepts_cut=accepts_cut)
        if not reading.is_found and not reading.problem:
            return self._nothing_found()
        if self._shown and reading.is_found and not reading.problem:
            self._shown.settle(reading.values)
        return reading

    def _nothing_found(self) -> AnswerReading:
        if not self.text.strip():
            return AnswerReading({}, problem="empty")
        is_reasoning = not self._candidates.notes.keys() - {"reasoning was set aside"}
        return AnswerReading({}, problem="reasoning only" if self._candidates.notes and is_reasoning else "")

    def _scanner_of(self, form: Form, text: AnswerText, shown: Shown | None) -> ObjectScanner | SectionScanner:
        if form == "sections":
            return SectionScanner(text, self._expected, self._candidates, shown)
        return ObjectScanner(text, self._expected, self._candidates, shown)

    def _read_another_form(self) -> None:
        """An object where sections were asked for, if it is the whole text; sections, or JSON in JSON text, where an
        object was."""
        whole = without_fence(self.text).strip()
        if self._expected.form == "object" and whole.startswith("[["):
            self._read_as("sections", whole, "sections where JSON was asked for")
        elif self._expected.form == "object" and whole.startswith('"'):
            inner = _json_text(whole)
            if inner is not None:
                self._read_as("object", inner, "JSON in JSON text")
        elif self._expected.form == "sections" and whole.startswith("{") and whole.endswith("}"):
            self._read_as("object", whole, "JSON where sections were asked for")

    def _read_as(self, form: Form, text: str, note: str) -> None:
        source = AnswerText()
        source.feed(text)
        source.is_over = True
        self._candidates = Candidates(self._expected)
        self._candidates.note(note)
        _finish(self._scanner_of(form, source, None).scan())

    def _with_whole_characters(self, text: str) -> str:
        """The text, with characters joined that arrive in two halves. A half alone stays as it is."""
        if not self._half and (text.isascii() or not HALF.search(text)):
            return text
        text = self._half + text
        self._half = text[-1] if "\ud800" <= text[-1] <= "\udbff" else ""
        text = text.removesuffix(self._half)
        joined = join_halves(text)
        self._are_halves_joined |= len(joined) < len(text)
        return joined


def _json_text(text: str) -> str | None:
    try:
        inner = STRICT.decode(text)
    except (ValueError, RecursionError):
        return None
    return inner if isinstance(inner, str) else None


def _finish(scan: Generator[None, None, None]) -> None:
    for _ in scan:
        raise AssertionError("a text that is over has no more")
