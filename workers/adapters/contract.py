"""A run: one attempt at one execution, as an adapter sees it."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol, TypeVar
from uuid import UUID

from dspex.program.calls.routes import CallsRoute
from dspex.program.program import Program

__all__ = [
    "Adapter",
    "Answer",
    "BatchAim",
    "Decision",
    "Estimate",
    "Journal",
    "ModelUse",
    "Run",
    "Stream",
    "StreamedAnswer",
    "ToolResult",
    "Trail",
    "Tries",
    "Waits",
    "once",
]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Answer:
    """What one model call returned: ``response`` is JSON-friendly and complete enough to replay the call. ``notes`` are
    recorded with it: how it differs from an ordinary call."""

    response: dict[str, Any]
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float | None = None
    request_id: str | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a tool returned, as JSON holds it; or the error that it raised, of a tool that is called once: ``type`` and
    ``message``."""

    value: Any
    error: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class BatchAim:
    """A model call that may go through a provider's batch API. ``target`` is JSON text that names the model and where
    it is asked (workers/lm/bundles/batch_target.py); ``within_seconds`` is how long the answer may take, ``falls_back``
    whether the call is made the ordinary way then."""

    target: str
    within_seconds: float
    falls_back: bool


@dataclass(frozen=True, slots=True)
class Decision:
    """What somebody decided about a call."""

    approved: bool
    by: str
    note: str | None = None


@dataclass(frozen=True, slots=True)
class ModelUse:
    """The model calls of this attempt so far, without replayed ones."""

    calls: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """An upper estimate of a model call's use. ``cost_usd`` is None when no price is known."""

    tokens: int
    cost_usd: float | None


class Tries(Protocol):
    """Retries of a call: how often it is made before it counts as failed."""

    async def __call__(self, call: Callable[[], Awaitable[T]], /) -> T:
        """The result of ``call``. Raises the error of the last try."""
        ...


async def once(call: Callable[[], Awaitable[T]], /) -> T:
    """Make the call once."""
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
        request: Mapping[str, Any] | None = None,
        batch: BatchAim | None = None,
    ) -> dict[str, Any]:
        """The response to this request: replayed when an earlier attempt got one, else from ``call`` and stored.

        ``request_hash`` is a hex digest of everything that determines the answer; the n-th request with one
        hash replays the n-th answer to it. An ``lm_call`` event is recorded either way, and for each of ``tries`` that
        fails; ``repair`` marks there that a bad answer is sent back with this call. ``estimate`` is called, before each
        try, if the program or the model has limits of tokens or cost. ``request`` is the request as JSON-friendly data,
        without keys: it is kept with the answer if the program's ``record`` is ``"full"``. With ``batch`` the call is
        not made here: the program is left, and a later attempt finds the answer.

        Raises the error of ``call``. When a limit refuses the call, raises an error with the code of that limit: let it
        pass, and the attempt is queued again without being counted.
        """
        ...

    def tool_result(self, digest: str, tool: str) -> ToolResult | None:
        """What an earlier attempt got from this call of a tool; recorded as a ``tool_call`` event. The n-th call with
        one digest gets the n-th result."""
        ...

    async def keep_tool_result(
        self,
        digest: str,
        tool: str,
        value: Any,
        began_at: datetime,
        arguments: Mapping[str, Any] | None = None,
        *,
        error: Mapping[str, str] | None = None,
        always: bool = False,
    ) -> None:
        """Store what a tool returned, which JSON can hold, or its error, so that a later attempt does not call it
        again; ``always``: also if the program keeps no answers. The arguments are kept with it if the program's
        ``record`` is ``"full"``."""
        ...

    def show_tool(self, arguments: Mapping[str, Any], result: Any) -> None:
        """Add a call of a tool to the current span, where traces are to have such content."""
        ...

    def rewind(self) -> None:
        """The program runs again from its beginning, within this attempt: its calls so far are replayed."""
        ...

    def reject(self, request_hashes: Collection[str]) -> None:
        """Mark the answers to these requests as bad: no repair helped.

        If the attempt fails because of its outputs, a later one asks again for these and replays the others. If an
        adapter never calls this, a later attempt asks again for all of them.
        """
        ...


class Waits(Protocol):
    """What an execution waits for besides model calls, and what it must not do twice. All methods belong to the
    worker's loop. Those that wait do not return in this attempt: they raise asyncio's CancelledError, and the program
    is left."""

    @property
    def is_left(self) -> bool:
        """Whether the program was left: what it still returns or raises does not count."""
        ...

    def under_way(self) -> AbstractContextManager[None]:
        """Around what the program awaits and must not be left in, such as a tool."""
        ...

    def tool_place(self, digest: str) -> int:
        """Number a call of a tool among the equal ones of the execution, from 0: the same in every attempt."""
        ...

    async def decision(self, digest: str, tool: str, arguments: Mapping[str, Any], expires: float | None) -> Decision:
        """What was decided about a call; waits until somebody decides."""
        ...

    async def intend(self, digest: str, tool: str) -> bool:
        """Store the intention to make a call. False when an earlier attempt had it, or an earlier run of this one: what
        became of that call is not known."""
        ...

    async def child(self, program: str, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """The outputs of a program that runs as a child execution; waits until it is over.

        Raises ProgramError ``child_failed`` or ``child_cancelled`` with its cause, ``child_limit`` for too many or too
        deep children, ValidationError for inputs that do not fit, ProgramNotFound.
        """
        ...

    def withdraw(self) -> None:
        """The program runs again from its beginning, within this attempt: end the calls that wait."""
        ...


class Trail(Protocol):
    """The audit events of the attempt, kept until its transition is written."""

    def now(self) -> datetime:
        """The time by the database's clock, for ``began_at``."""
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
    """Publishes outputs while the attempt runs, for those who follow it. No method waits or fails."""

    def answer(self) -> StreamedAnswer:
        """Begin a new answer with the program's outputs. Earlier answers of the attempt become void, and what is still
        written to them is ignored."""
        ...


@dataclass(frozen=True, slots=True)
class Run:
    """One attempt: ``inputs`` are validated; ``attempt`` counts from 1; it is over at ``deadline``, a moment of
    ``time.monotonic()``. ``stream`` is None unless the execution was submitted to be streamed,
    ``waits`` only outside of a worker; ``route`` is how its model calls are made. An adapter adds to
    ``repairs`` what it did to read the answers that it uses: the name of an output or "", and the repair; and to
    ``extra`` what the program gave besides its outputs, such as its reasoning, as JSON-friendly data. If ``traced`` is
    a mapping, an adapter that can puts the calls of its program's predictors there. ``temperature`` replaces the
    program's, if it is given. ``leave_slot`` gives the slot of the execution to another one: for a run that from now on
    mostly waits for other executions."""

    execution_id: UUID
    attempt: int
    program: Program
    inputs: Mapping[str, Any]
    journal: Journal
    trail: Trail
    deadline: float = math.inf
    stream: Stream | None = None
    waits: Waits | None = None
    route: CallsRoute = field(default_factory=CallsRoute)
    repairs: list[tuple[str, str]] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)
    traced: dict[str, Any] | None = None
    temperature: float | None = None
    leave_slot: Callable[[], None] = lambda: None


class Adapter(Protocol):
    """Hosts programs. One instance per worker process, made with no arguments, used by many runs at once."""

    async def prepare(self, program: Program) -> None:
        """Load what hosting this program needs, so that no execution waits for it."""
        ...

    async def execute(self, run: Run) -> Mapping[str, Any]:
        """The program's raw outputs by field name; the caller validates them.

        An adapter that can ask a model to repair a bad answer does so here, once, and records it: an
        ``output_validation`` event with the faults, and the call with ``repair``.

        Raises dspex errors only: ModelError for the model's failures, ProgramError for the program's own.
        """
        ...

    async def close(self) -> None:
        """Release connections and threads."""
        ...
