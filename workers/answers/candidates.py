"""The answers that a text may hold, and the choice among them."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from dspex.errors import FieldError
from dspex.signatures.values.loose_json import Pieces, TextSource
from workers.answers.expected import Expected
from workers.answers.reasoning import FIRST, TURN

__all__ = ["NO_TEXT", "AnswerReading", "Candidate", "Candidates", "Problem"]

#: Why an answer is not used, apart from outputs that it lacks.
Problem = Literal["", "empty", "reasoning only", "cut off", "unreadable", "ambiguous"]

_TURN = re.compile(rf"{FIRST}{TURN}")
_PLACEHOLDER = re.compile(r"\s*+(?:<[^<>]{1,60}>|\{\w{1,60}\}|str(?:ing)?)?\s*+")
#: More different answers than these are not compared.
_MOST = 8
NO_TEXT: Final = FieldError("the answer", "text", "nothing")
_WORDS: Mapping[str, str] = {
    "empty": "the model answered nothing",
    "reasoning only": "the model wrote its reasoning and no answer",
    "cut off": "it is not complete",
    "unreadable": "it cannot be read in one way only",
    "ambiguous": "it has several answers that differ, of which the last is not complete",
}
_FAULTS: Mapping[str, FieldError] = {
    "empty": NO_TEXT,
    "reasoning only": FieldError("the answer", "an answer after the reasoning", "reasoning only"),
    "cut off": FieldError("the answer", "a complete answer", "one that was cut off"),
    "unreadable": FieldError("the answer", "the form that was asked for", "text that cannot be read in one way only"),
    "ambiguous": FieldError("the answer", "one answer", "several that differ, of which the last is not complete"),
}


@dataclass(slots=True, eq=False)
class Candidate:
    """What may be the answer: the outputs that were read, by name, and the repairs: the name of an output or "", and
    what was done. ``is_cut``: the text ended within it; ``is_broken``: it cannot be read to its end."""

    values: dict[str, Any] = field(default_factory=dict)
    repairs: list[tuple[str, str]] = field(default_factory=list)
    is_cut: bool = False
    is_broken: bool = False

    def says_else(self, other: Candidate) -> bool:
        """Whether it has a value that differs from the other's."""
        return self.is_broken or any(other.values.get(name) != value for name, value in self.values.items())

    @property
    def is_placeholder(self) -> bool:
        """Whether it only shows the form of an answer: ``{"answer": "..."}``."""
        return bool(self.values) and all(value in ("...", "…") for value in self.values.values())

    @property
    def may_be_placeholder(self) -> bool:
        """Whether all of its texts are empty, or words for what should stand there."""
        texts = [value for value in self.values.values() if isinstance(value, str)]
        return bool(texts) and all(map(_PLACEHOLDER.fullmatch, texts))


@dataclass(frozen=True, slots=True)
class AnswerReading:
    """What an answer says: its outputs by name, those it has; ``problem`` if it cannot be used for another reason than
    an output that is missing or wrong. ``repairs``: the name of an output or "", and what was done."""

    values: dict[str, Any]
    repairs: tuple[tuple[str, str], ...] = ()
    problem: Problem = ""
    #: Whether there is an answer in the text: at least one output.
    is_found: bool = False

    def why(self, missing: Sequence[str]) -> str:
        """Why the answer cannot be used, in words."""
        return _WORDS[self.problem] if self.problem else f"no value for {', '.join(missing)}"

    @property
    def faults(self) -> list[FieldError]:
        """The problem, for the model."""
        return [_FAULTS[self.problem]] if self.problem else []

    def missing(self, expected: Expected) -> list[str]:
        """The outputs without which the answer cannot be used. If none was found, those that are optional, too."""
        needed = expected.required if self.is_found else expected.outputs
        return [name for name in expected.outputs if name in needed and name not in self.values]


class Candidates:
    """The candidates in a text, in their order."""

    def __init__(self, expected: Expected) -> None:
        self._expected = expected
        self._found: deque[Candidate] = deque(maxlen=_MOST)
        #: What was done to find them.
        self.notes: dict[str, None] = {}
        #: Outputs whose keys stand in the text around the candidates.
        self.outside: set[str] = set()

    @property
    def is_empty(self) -> bool:
        """Whether none has an output."""
        return not any(candidate.values for candidate in self._found)

    @property
    def has_whole(self) -> bool:
        """Whether one of them has all outputs that it must have."""
        return any(map(self._is_whole, self._found))

    def add(self, candidate: Candidate) -> None:
        if candidate.values or candidate.is_broken:
            self._found.append(candidate)

    def void(self) -> None:
        """All so far was reasoning."""
        self._found.clear()
        self.notes.clear()
        self.outside.clear()
        self.note("reasoning was set aside")

    def note(self, repair: str) -> None:
        self.notes[repair] = None

    def rest(self, source: TextSource) -> Pieces[None]:
        """Set aside another turn, which a model wrote after its answer."""
        parts: list[str] = []
        while True:
            parts.append(source.text[source.at :])
            source.at = len(source.text)
            if source.is_over:
                break
            yield
        if _TURN.sub("", "".join(parts)).strip():
            self.note("another turn after the answer was set aside")

    def choose(self, *, is_cut: bool, accepts_cut: bool) -> AnswerReading:
        """The last whole candidate that fits the signature."""
        found = [c for c in self._found if not c.is_placeholder] or list(self._found)
        if not found:
            return AnswerReading({}, problem="cut off" if is_cut else "")
        is_cut = is_cut or found[-1].is_cut
        if is_cut and not accepts_cut:
            return AnswerReading(found[-1].values, problem="cut off", is_found=True)
        if is_cut:
            self.note("an answer that was cut off was closed")
        chosen = self._last_that_fits(found)
        if chosen is None:
            return AnswerReading(found[-1].values, problem="unreadable" if found[-1].is_broken else "", is_found=True)
        later = found[found.index(chosen) + 1 :]
        is_incomplete = not self.outside <= chosen.values.keys()
        if is_incomplete or any(not self._is_whole(other) and other.says_else(chosen) for other in later):
            return AnswerReading(chosen.values, problem="ambiguous", is_found=True)
        if any(other.values != chosen.values for other in found):
            if chosen.may_be_placeholder:
                return AnswerReading(chosen.values, problem="ambiguous", is_found=True)
            self.note("the last of several answers was taken")
        notes = [("", repair) for repair in self.notes]
        return AnswerReading(chosen.values, (*notes, *chosen.repairs), is_found=True)

    def _last_that_fits(self, found: list[Candidate]) -> Candidate | None:
        whole = [candidate for candidate in found if self._is_whole(candidate)]
        if len(whole) < 2:
            return whole[0] if whole else None
        return next((c for c in reversed(whole) if self._expected.fits(c.values)), whole[-1])

    def _is_whole(self, candidate: Candidate) -> bool:
        return not candidate.is_broken and self._expected.required <= candidate.values.keys()
