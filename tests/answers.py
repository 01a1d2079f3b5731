"""Answers of models, read as each adapter reads them, whole and in pieces."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from dspy.utils.exceptions import AdapterParseError

from dspex.errors import ValidationError
from dspex.signatures import Signature
from workers.adapters.direct.direct_prompt import declared, expected_outputs
from workers.adapters.dspy.answer_repair import declared_outputs
from workers.adapters.dspy.dspy_signature import dspy_names, dspy_signature
from workers.adapters.dspy.prompts import ChatPrompt, JsonPrompt, answer_fields, expected_of
from workers.answers.answer_reader import AnswerReader
from workers.answers.candidates import AnswerReading
from workers.answers.expected import Expected

__all__ = ["PROMPTS", "Followed", "Outcome", "read", "sections"]

PROMPTS = ("chat", "json", "direct")


@dataclass(frozen=True)
class Outcome:
    """The outputs, or None if the answer is sent back, and the repairs."""

    outputs: dict[str, Any] | None
    repairs: tuple[str, ...] = ()


class Followed:
    """What a client has seen: the texts and values of the fields, since the last reset."""

    def __init__(self) -> None:
        self.resets = -1
        self.texts: dict[str, str] = {}
        self.values: dict[str, Any] = {}

    def begin(self) -> Followed:
        """A new answer: what was shown before is taken back."""
        self.resets += 1
        self.texts, self.values = {}, {}
        return self

    def text(self, field: str, more: str) -> None:
        assert field not in self.values, "text after the field was complete"
        self.texts[field] = self.texts.get(field, "") + more

    def field(self, name: str, value: Any) -> None:
        self.values[name] = value


def sections(**fields: str) -> str:
    """An answer in DSPy's sections."""
    return "\n\n".join(f"[[ ## {name} ## ]]\n{text}" for name, text in fields.items()) + "\n\n[[ ## completed ## ]]"


def read(
    signature: Signature,
    prompt: str,
    answer: str,
    *,
    is_cut: bool = False,
    on_cut: str = "retry",
    cuts: Iterable[int] | None = None,
) -> Outcome:
    """What an answer is read as. It is read whole, and as a follower sees it, in the pieces that ``cuts`` makes, or in
    single characters; both must be the same."""
    prompting = _Prompting(signature, prompt)
    how = {"is_cut": is_cut, "accepts_cut": on_cut == "accept"}
    reader = AnswerReader(prompting.expected)
    reader.feed(answer)
    reading = reader.end(**how)
    followed = Followed()
    reader = AnswerReader(prompting.expected, followed.begin)
    for piece in _pieces(answer, range(len(answer)) if cuts is None else cuts):
        reader.feed(piece)
    assert reader.end(**how) == reading
    outcome = prompting.outcome(reading)
    if outcome.outputs is not None:
        names = {output.name: name for name, output in prompting.expected.outputs.items()}
        assert followed.values == {name: reading.values[names[name]] for name in followed.values}
        assert {names[name] for name in followed.values} == reading.values.keys()
    return outcome


def _pieces(text: str, cuts: Iterable[int]) -> Sequence[str]:
    places = sorted({0, *cuts, len(text)})
    return [text[a:b] for a, b in itertools.pairwise(places)]


class _Prompting:
    """One way to ask for the outputs of a signature."""

    def __init__(self, signature: Signature, prompt: str) -> None:
        self._signature = signature
        self.expected: Expected
        if prompt == "direct":
            self._adapter = None
            self.expected = expected_outputs(signature)
        else:
            self._adapter = ChatPrompt() if prompt == "chat" else JsonPrompt()
            self._made = dspy_signature(signature)
            names = {
                theirs: ours for ours, theirs in dspy_names(signature).items() if theirs in self._made.output_fields
            }
            self.expected = expected_of(self._made, self._adapter.form, names, self._fits)

    def outcome(self, reading: AnswerReading) -> Outcome:
        try:
            checked = self._signature.check_outputs(self._values(reading))
        except (AdapterParseError, ValidationError):
            return Outcome(None)
        made = [repair for _, repair in reading.repairs] + [repair.what for repair in checked.repairs]
        return Outcome(checked.values, tuple(dict.fromkeys(made)))

    def _values(self, reading: AnswerReading) -> dict[str, Any]:
        if self._adapter is not None:
            return declared_outputs(self._signature, answer_fields(self._adapter, self._made, "", reading))
        if reading.problem or reading.missing(self.expected):
            raise AdapterParseError("direct", dspy_signature(self._signature), "")
        return declared(self._signature, reading.values)

    def _fits(self, values: Any) -> bool:
        return self.outcome(AnswerReading(dict(values), is_found=True)).outputs is not None
