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
from workers.answers.incremental import PartialAnswer

__all__ = ["Exchange", "Reader", "begin_exchange", "current_exchange"]

#: Makes the reader of an answer's text while it is written.
Reader = Callable[[StreamedAnswer], PartialAnswer]


@dataclass(slots=True)
class Exchange:
    """``requests`` are the hashes of the calls made for it. Once there are ``faults`` of ``answer``, the next call is
    its repair. ``reader`` is for answers that are the program's outputs."""

    requests: list[str] = field(default_factory=list)
    answer: str = ""
    faults: Sequence[FieldError] = ()
    reader: Reader | None = None

    @property
    def is_repair(self) -> bool:
        return bool(self.faults)

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
def begin_exchange(reader: Reader | None = None) -> Iterator[Exchange]:
    """A new exchange, current until the block ends."""
    exchange = Exchange(reader=reader)
    before = current_exchange.set(exchange)
    try:
        yield exchange
    finally:
        current_exchange.reset(before)
