"""An exchange: a request for the model, and its answer sent back once if it is bad.

The prompt and the engine are far apart, with DSPy between them: they share this object.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from dspex.errors import FieldError
from workers.adapters.contract import StreamedAnswer
from workers.answers.answer_reader import AnswerReader
from workers.answers.candidates import AnswerReading
from workers.answers.expected import Expected

__all__ = ["Exchange", "begin_exchange", "current_exchange"]


@dataclass(slots=True)
class Exchange:
    """``requests`` are the hashes of the calls made for it. Once there are ``faults`` of ``answer``, the next call is
    its repair. ``was_cut``: the last answer ended at a limit of tokens; ``is_end_unknown``: the provider did not say
    why it ended.

    Answers are read for what is ``expected``, once, by the engine; ``is_followed``: they are the program's outputs.
    """

    expected: Expected | None = None
    is_followed: bool = False
    requests: list[str] = field(default_factory=list)
    answer: str = ""
    faults: Sequence[FieldError] = ()
    was_cut: bool = False
    is_end_unknown: bool = False
    #: What the answers say, by their text: a call may ask for several.
    readings: dict[str, AnswerReading] = field(default_factory=dict)

    @property
    def is_repair(self) -> bool:
        return bool(self.faults)

    def reader(self, begin: Callable[[], StreamedAnswer] | None = None) -> AnswerReader:
        """A reader for an answer; ``begin`` is as for :class:`AnswerReader`."""
        assert self.expected is not None
        return AnswerReader(self.expected, begin)

    def correction(self, *, was_cut: bool) -> Iterator[str]:
        """The lines that are sent back to the model about its answer."""
        yield "This answer cannot be used:"
        yield from (f"- {fault}" for fault in self.faults)
        if was_cut:
            yield "It was cut off because it is too long: answer more briefly."
        yield "Answer again, completely and in the same form, with this put right."


#: The exchange of this task or thread. Everything started within it sees its changes.
current_exchange: ContextVar[Exchange | None] = ContextVar("current_exchange", default=None)


@contextmanager
def begin_exchange(expected: Expected | None = None, *, is_followed: bool = False) -> Iterator[Exchange]:
    """A new exchange, current until the block ends."""
    exchange = Exchange(expected, is_followed)
    before = current_exchange.set(exchange)
    try:
        yield exchange
    finally:
        current_exchange.reset(before)
