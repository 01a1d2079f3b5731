"""The time to read an answer, beside DSPy's own parser: ``python -m tests.performance.bench_answers``.

The same answers and the same signature; the time of a read in microseconds, the best of several rounds. "In pieces" is
an answer as it is streamed, four characters at a time, with what followers are shown.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator

import dspy

from dspex.signatures import signature
from workers.adapters.dspy.dspy_signature import dspy_names, dspy_signature
from workers.adapters.dspy.prompts import ChatPrompt, JsonPrompt, answer_fields, expected_of
from workers.answers.answer_reader import AnswerReader
from workers.answers.expected import Form

COMPILED = signature(
    'signature triage: :string ticket -> :enum("billing", "bug") queue, :string summary, :confidence_score sure, '
    ":list(:string) words, :boolean urgent"
)
MADE = dspy_signature(COMPILED)
SUMMARY = "The customer was charged twice for the same month, and asks for the second amount back. "
ROUNDS, READS = 7, 300


class Unseen:
    """What followers are shown, which nobody looks at."""

    def text(self, field: str, more: str) -> None:
        """More of a field."""

    def field(self, name: str, value: object) -> None:
        """A field is complete."""


def values(sentences: int) -> dict[str, object]:
    return {
        "queue": "billing",
        "summary": SUMMARY * sentences,
        "sure": 0.92,
        "words": ["charge", "twice"],
        "urgent": True,
    }


def in_sections(given: dict[str, object]) -> str:
    written = {name: value if isinstance(value, str) else json.dumps(value) for name, value in given.items()}
    return "".join(f"[[ ## {name} ## ]]\n{text}\n\n" for name, text in written.items()) + "[[ ## completed ## ]]"


def microseconds(read: Callable[[], object]) -> float:
    def once() -> float:
        began = time.process_time()
        for _ in range(READS):
            read()
        return (time.process_time() - began) / READS * 1e6

    return min(once() for _ in range(ROUNDS))


def in_pieces(prompt: ChatPrompt | JsonPrompt, form: Form, answer: str) -> None:
    names = {theirs: ours for ours, theirs in dspy_names(COMPILED).items()}
    reader = AnswerReader(expected_of(MADE, form, names), Unseen)
    for at in range(0, len(answer), 4):
        reader.feed(answer[at : at + 4])
    answer_fields(prompt, MADE, answer, reader.end())


def rows() -> Iterator[tuple[str, float, float, float]]:
    """The answer, and the times of DSPy, of ours, and of ours in pieces."""
    prompts = (
        ("sections", ChatPrompt(), dspy.ChatAdapter(), in_sections),
        ("object", JsonPrompt(), dspy.JSONAdapter(), json.dumps),
    )
    for form, ours, theirs, write in prompts:
        for sentences in (1, 40):
            answer = write(values(sentences))
            yield (
                f"{form}, {len(answer)} characters",
                microseconds(lambda theirs=theirs, answer=answer: theirs.parse(MADE, answer)),  # type: ignore[misc]
                microseconds(lambda ours=ours, answer=answer: ours.parse(MADE, answer)),  # type: ignore[misc]
                microseconds(lambda ours=ours, form=form, answer=answer: in_pieces(ours, form, answer)),  # type: ignore[misc]
            )


def main() -> None:
    print(f"{'µs':28} {'DSPy':>8} {'DSPex':>8} {'in pieces':>10}")
    for name, theirs, ours, streamed in rows():
        print(f"{name:28} {theirs:8.0f} {ours:8.0f} {streamed:10.0f}")


if __name__ == "__main__":
    main()
