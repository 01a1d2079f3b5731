"""A run: one attempt at one execution, as an adapter sees it."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol, TypeVar
from uuid import UUID

from dspex.program.program import Program

__all__ = [
    "Adapter",
    "Answer",
    "Estimate",
    "Journal",
    "ModelUse",
    "Run",
    "Stream",
    "StreamedAnswer",
    "Trail",
    "Tries",
    "once",
]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Answer:
    """What one model call returned: ``response`` is JSON-friendly and complete enough to replay the call."""

    response: dict[str, Any]
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float | None = None
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class ModelUse:
    """What model calls took in this attempt so far; replayed ones took nothing."""

    calls: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a model call may take, rather too much than too little. ``cost_usd`` is None when no price is known."""

    tokens: int
    cost_usd: float | None


class Tries(Protocol):
    """How often a call is made before it counts as failed."""

    async def __call__(self, call: Callable[[], Awaitable[T]], /) -> T:
        """What ``call`` returns, or what it raises in the end."""
        ...


async def once(call: Callable[[], Awaitable[T]], /) -> T:
    """Make the call, and leave it at that."""
    return await call()


class Journal(Protocol):
    """The model calls of an execution: each is stored as it returns, and a later attempt replays it."""

    async def perform(
        self,
        request_hash: str,
        model: str,
        call: Callable[[], Awaitable[Answer]],
        *,
        tries: Tries = once,
        repair: bool = False,
        estimate: Callable[[], Estimate] | None = None,
    ) -> dict[str, Any]:
        """The response to this request: replayed when an earlier attempt got one, else from ``call`` and stored.

        ``request_hash`` is a hex digest of everything that determines the answer; the n-th request with one
        hash replays the n-th answer to it. An ``lm_call`` event is recorded either way, and for each of ``tries`` that
        fails; ``repair`` marks there that a bad answer is sent back with this call. ``estimate`` is asked, before each
        try, if the program or the model has limits of tokens or cost.
        """
        ...

    def reject(self, request_hashes: Collection[str]) -> None:
        """The answers that this attempt was given to these requests are bad, and no repair helped.

        If the attempt fails for its outputs, a later one asks anew for these and replays the others. An adapter that
        cannot tell says nothing: then all are asked anew.
        """
        ...


class Trail(Protocol):
    """The audit events of the attempt, kept until its transition is written."""

    def now(self) -> datetime:
        """The moment by the database's clock: what ``began_at`` is."""
        ...

    def record(self, kind: str, *, began_at: datetime | None = None, **data: Any) -> None:
        """Append an event; ``data`` is JSON-friendly and holds no input, output or secret."""
        ...


class StreamedAnswer(Protocol):
    """One answer of a model, as it is written. Fields are the program's outputs, by its names."""

    def text(self, field: str, more: str) -> None:
        """The model wrote more of a field: of a text field its text, of any other the JSON it is written as."""
        ...

    def field(self, name: str, value: Any) -> None:
        """The field is complete; ``value`` is JSON-friendly, as the model wrote it: not validated."""
        ...


class Stream(Protocol):
    """What is told, while the attempt runs, to whoever follows it. Nothing here waits or fails."""

    def answer(self) -> StreamedAnswer:
        """A model begins to answer with the program's outputs: what was told before is void, and ignored if it
        goes on."""
        ...


@dataclass(frozen=True, slots=True)
class Run:
    """One attempt: ``inputs`` are validated; ``attempt`` counts from 1; it is over at ``deadline``, a moment of
    ``time.monotonic()``. ``stream`` is None unless whoever submitted it wants to follow it."""

    execution_id: UUID
    attempt: int
    program: Program
    inputs: Mapping[str, Any]
    journal: Journal
    trail: Trail
    deadline: float = math.inf
    stream: Stream | None = None


class Adapter(Protocol):
    """Hosts programs. One instance per worker process, made with no arguments, used by many runs at once."""

    async def prepare(self, program: Program) -> None:
        """Load what hosting this program needs, so that no execution waits for it."""
        ...

    async def execute(self, run: Run) -> Mapping[str, Any]:
        """The program's raw outputs by field name; the caller validates them.

        An adapter that can ask a model to mend a bad answer does it here, once, and has it recorded: an
        ``output_validation`` event with what was wrong, and the call with ``repair``.

        Raises dspex errors only: ModelError for the model's failures, ProgramError for the program's own.
        """
        ...

    async def close(self) -> None:
        """Release connections and threads."""
        ...
