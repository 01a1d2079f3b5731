"""The time to read an answer, beside DSPy's own parsers: ``make bench-answers``.

The same answers and the same signature; the time of a read in microseconds, the best of several rounds, and its ratio
to DSPy's. "Streamed" is an answer in pieces of four characters, with what followers are shown, and then the outputs:
of DSPy, a ``StreamListener`` for each output, and its adapter's parser.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import dspy
from dspy.streaming.streaming_listener import StreamListener

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
ROUNDS = 5


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


def microseconds(read: Callable[[], object], reads: int = 300) -> float:
    def once() -> float:
        began = time.process_time()
        for _ in range(reads):
            read()
        return (time.process_time() - began) / reads * 1e6

    return min(once() for _ in range(ROUNDS))


def in_pieces(prompt: ChatPrompt | JsonPrompt, form: Form, answer: str) -> None:
    names = {theirs: ours for ours, theirs in dspy_names(COMPILED).items()}
    reader = AnswerReader(expected_of(MADE, form, names), Unseen)
    for at in range(0, len(answer), 4):
        reader.feed(answer[at : at + 4])
    answer_fields(prompt, MADE, answer, reader.end())


def listened(adapter: dspy.Adapter, answer: str) -> None:
    """Stream an answer through DSPy's listeners, and parse it."""
    listeners = [StreamListener(name) for name in MADE.output_fields]
    for at in range(0, len(answer), 4):
        delta = SimpleNamespace(content=answer[at : at + 4])
        chunk = SimpleNamespace(choices=[SimpleNamespace(delta=delta)])
        for listener in listeners:
            listener.receive(chunk)
    adapter.parse(MADE, answer)


def rows() -> Iterator[tuple[str, float, float]]:
    """What is read, and the times of DSPy and of DSPex."""
    prompts: tuple[tuple[Form, Any, dspy.Adapter, Any], ...] = (
        ("sections", ChatPrompt(), dspy.ChatAdapter(), in_sections),
        ("object", JsonPrompt(), dspy.JSONAdapter(), json.dumps),
    )
    for form, ours, theirs, write in prompts:
        for sentences in (1, 40):
            answer = write(values(sentences))
            name = f"{form}, {len(answer)} characters"
            yield (
                name,
                microseconds(partial(theirs.parse, MADE, answer)),
                microseconds(partial(ours.parse, MADE, answer)),
            )
            with dspy.context(adapter=theirs):
                streamed = microseconds(partial(listened, theirs, answer), reads=10)
            yield f"{name}, streamed", streamed, microseconds(partial(in_pieces, ours, form, answer), reads=30)


def main() -> None:
    print(f"{'µs':34} {'DSPy':>8} {'DSPex':>8} {'ratio':>6}")
    for name, theirs, ours in rows():
        print(f"{name:34} {theirs:8.0f} {ours:8.0f} {ours / theirs:6.2f}")


if __name__ == "__main__":
    main()
