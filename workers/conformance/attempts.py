"""Attempts without a worker: a run with a worker's own journal, model calls and trail, kept in memory."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

from dspex.program.program import Program
from dspex.store.lifecycle.lm_calls import LMCall
from workers.adapters.contract import Answer, Run
from workers.attempt.attempt_trail import AttemptTrail
from workers.lm.journal import AttemptJournal
from workers.lm.model_calls import ModelCalls

__all__ = ["AttemptUnderTest", "History", "StreamRecord"]


class StreamRecord:
    """The :class:`workers.adapters.contract.Stream` of an attempt: of its last answer, the text of each field so far
    and the value of each complete field."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        self.fields: dict[str, Any] = {}

    def answer(self) -> _AnswerRecord:
        self.texts, self.fields = {}, {}
        return _AnswerRecord(self.texts, self.fields)


@dataclass(frozen=True)
class _AnswerRecord:
    texts: dict[str, str]
    fields: dict[str, Any]

    def text(self, field: str, more: str) -> None:
        self.texts[field] = self.texts.get(field, "") + more

    def field(self, name: str, value: Any) -> None:
        self.fields[name] = value


@dataclass
class AttemptUnderTest:
    """One attempt: the ``run`` to give to an adapter, its calls and its events."""

    run: Run
    journal: AttemptJournal
    calls: WatchedCalls
    trail: AttemptTrail

    @property
    def events(self) -> list[dict[str, Any]]:
        """The audit events recorded so far, as they would be stored."""
        events: list[dict[str, Any]] = json.loads(self.trail.encode())
        return events


@dataclass
class History:
    """The attempts at one execution. ``calls`` are the model calls that were journaled, in order."""

    program: Program
    inputs: Mapping[str, Any]
    id: UUID = field(default_factory=uuid4)
    calls: list[LMCall] = field(default_factory=list)
    attempts: int = 0

    def attempt(self, timeout_seconds: float = 300.0, stream: StreamRecord | None = None) -> AttemptUnderTest:
        """Begin another attempt, which knows the calls of the earlier ones and reports to ``stream``."""
        self.attempts += 1
        trail = AttemptTrail(datetime.now(UTC))
        journal = AttemptJournal(self.id, self.attempts, self)
        journal.recall(sorted(self.calls, key=lambda call: call.occurrence))
        calls = WatchedCalls(journal, trail)
        deadline = time.monotonic() + timeout_seconds
        inputs = self.program.signature.validate_inputs(self.inputs)
        run = Run(self.id, self.attempts, self.program, inputs, calls, trail, deadline, stream)
        return AttemptUnderTest(run, journal, calls, trail)

    async def store_call(self, call: LMCall) -> None:
        self.calls.append(call)

    async def reject_calls(self, execution_id: UUID, attempt: int, request_hashes: Sequence[bytes]) -> None:
        self.calls = [replace(c, rejected=c.rejected or c.request_hash in request_hashes) for c in self.calls]

    async def earlier_use(self, execution_id: UUID, attempt: int) -> Sequence[LMCall]:
        return [call for call in self.calls if call.attempt < attempt]


class WatchedCalls(ModelCalls):
    """A worker's model calls, with ``calling`` set once a call is under way."""

    def __init__(self, journal: AttemptJournal, trail: AttemptTrail) -> None:
        super().__init__(journal, trail)
        self.calling = asyncio.Event()

    async def perform(
        self, request_hash: str, model: str, call: Callable[[], Awaitable[Answer]], **how: Any
    ) -> dict[str, Any]:
        async def watched() -> Answer:
            self.calling.set()
            return await call()

        return await super().perform(request_hash, model, watched, **how)
