"""The executor: claim → host → settle.

It runs on the worker's asyncio loop. Every exit of an attempt goes through one settlement, which names the
attempt and the worker: when the lease was lost in the meantime it changes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable, Collection, Sequence
from contextvars import Context
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID

import psycopg

from dspex.errors import DspexError, ExecutionCancelled, LeaseLost, ProgramError
from dspex.settings.failpoints import AFTER_CLAIM, BEFORE_CLAIM, BEFORE_SETTLE, failpoint
from dspex.store.lifecycle.executions import Claimed, Settlement
from dspex.store.lifecycle.status import Status
from workers.attempt.attempt_trail import AttemptTrail
from workers.attempt.current import CURRENT, Current
from workers.attempt.host import Host
from workers.attempt.ledger import Ledger
from workers.attempt.settlement import failed, record, told
from workers.attempt.slots import FairSlots
from workers.attempt.stream import Streams
from workers.attempt.supervision import Ending, Supervised
from workers.consume.refusal_counts import RefusalCounts
from workers.lm.journal import AttemptJournal
from workers.observe import metrics, tracing
from workers.observe.redact import redact

__all__ = ["Executor", "OnEnd", "OnStart", "Outcome", "Received"]

log = logging.getLogger("dspex.workers")

#: What a stopping worker takes at most to hand back what it did not finish.
HAND_BACK_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a dispatched id. ``status`` is None when it was not there to claim, or the lease was lost."""

    status: Status | None
    error: DspexError | None = None
    runtime_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Received:
    """A message from the queue: the executions it carries, and what is said of them for the order to run them in.

    A message that lies about its program or priority is served in another order, and nothing else.
    """

    ids: Sequence[UUID]
    program: str
    priority: int


OnStart = Callable[[UUID], None]
OnEnd = Callable[[UUID, Outcome], None]


@dataclass(frozen=True, slots=True)
class _Running:
    attempt: int
    trail: AttemptTrail
    work: Supervised[Settlement]


class Executor:
    """Runs as many executions at once as there are slots. All methods belong to the loop's thread."""

    def __init__(self, ledger: Ledger, host: Host, streams: Streams, slots: FairSlots, refusals: RefusalCounts) -> None:
        self._ledger = ledger
        self._host = host
        self._streams = streams
        self._slots = slots
        self._refusals = refusals
        self._held: set[UUID] = set()
        self._pipelines: set[asyncio.Task[Any]] = set()
        #: Of these, those that still have their slot.
        self._in_slot: set[UUID] = set()
        self._running: dict[UUID, _Running] = {}
        self._unbegun: set[UUID] = set()
        self._stopping = False
        self._drained_by = math.inf
        self._grace: asyncio.Timeout | None = None

    @property
    def concurrency(self) -> int:
        return self._slots.concurrency

    @property
    def running(self) -> int:
        """How many attempts are under way."""
        return len(self._running)

    @property
    def held(self) -> int:
        """How many executions were received and are not over: running, or waiting for a slot or for their claim."""
        return len(self._held)

    def begin(self, received: Received, on_start: OnStart, on_end: OnEnd) -> None:
        """Run these executions; ``on_start`` is called for each that is claimed, ``on_end`` for each that is over.

        An id that is held already is dropped.
        """
        starts = []
        for id in received.ids:
            if id in self._held:
                on_end(id, Outcome(None))
            elif self._stopping:
                self._unbegun.add(id)
                on_end(id, Outcome(None))
            else:
                self._held.add(id)
                starts.append(partial(self._start, id, received.program, on_start, on_end))
        self._slots.ask(received.program, received.priority, starts)

    def _start(self, id: UUID, program: str, on_start: OnStart, on_end: OnEnd) -> None:
        # Its context begins empty: nothing in it is of the execution whose end made room for it.
        pipeline = asyncio.create_task(self._pipeline(id, program, on_start), context=Context())
        self._pipelines.add(pipeline)
        self._in_slot.add(id)
        pipeline.add_done_callback(partial(self._over, id, program, on_end))

    async def _pipeline(self, id: UUID, program: str, on_start: OnStart) -> Outcome:
        """Claim the execution and see its attempt through."""
        if self._stopping:  # it was given back as that began
            return Outcome(None)
        failpoint(BEFORE_CLAIM)
        claimed = await self._ledger.claim(id)
        if claimed is None:
            metrics.missed()
            self._refusals.unclaimed(id)
            return Outcome(None)
        if claimed.program != program:
            self._refusals.note("wrong_program")
        metrics.claimed(claimed)
        failpoint(AFTER_CLAIM)
        on_start(id)
        if (spans := tracing.active()) is None:
            outcome = await self._attempt(claimed, AttemptTrail(claimed.started_at))
        else:
            outcome = await spans.attempt(claimed, self._attempt)
        metrics.attempt_ended(claimed.program, outcome.status, outcome.error, outcome.runtime_seconds)
        return outcome

    def _over(self, id: UUID, program: str, on_end: OnEnd, pipeline: asyncio.Task[Outcome]) -> None:
        """Tell how it ended. One whose pipeline itself broke stays under the lease, and is recovered when that ends."""
        self._pipelines.discard(pipeline)
        self._held.discard(id)
        self._leave_slot(id, program)
        broken = pipeline.cancelled() or pipeline.exception() is not None
        if broken and not pipeline.cancelled():
            log.error("execution %s: the pipeline broke", id, exc_info=pipeline.exception())
        on_end(id, Outcome(None) if broken else pipeline.result())

    def _leave_slot(self, id: UUID, program: str) -> None:
        """Make room for another; nothing when that was done already."""
        if id in self._in_slot:
            self._in_slot.remove(id)
            self._slots.release(program)

    def resize(self, concurrency: int) -> None:
        """Run up to so many at once from now on; what runs beyond that goes on."""
        self._slots.resize(concurrency)

    async def drain(self, grace_seconds: float) -> None:
        """Begin nothing more; give what runs ``grace_seconds`` (:meth:`hurry` shortens them), then hand it back."""
        self._stopping = True
        self.hurry(grace_seconds)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(_when(self._drained_by)) as self._grace:
                # What waits for a slot need not wait for what has one: others can run it now.
                await self._give_back(self._held - self._running.keys())
                await _settled(self._pipelines)
        self._grace = None
        self._end_all(Ending.HANDED_BACK)
        # What is ended still has its settlement to write.
        await _settled(self._pipelines, HAND_BACK_SECONDS)
        await self._give_back(self._unbegun)

    def hurry(self, grace_seconds: float) -> None:
        """Give what runs no more than this from now on, while draining, or once that begins."""
        self._drained_by = min(self._drained_by, asyncio.get_running_loop().time() + grace_seconds)
        if self._grace is not None and not self._grace.expired():
            self._grace.reschedule(_when(self._drained_by))

    def abandon(self) -> None:
        """The lease was lost: stop what runs; its settlements will find no row."""
        self._end_all(Ending.LEASE_LOST)

    def cancel(self, id: UUID, attempt: int, requested_at: datetime) -> None:
        """Somebody wants this attempt cancelled; nothing happens when it is over, or told already."""
        running = self._running.get(id)
        if running is not None and running.attempt == attempt and not running.work.ending:
            running.trail.record("cancel_requested", requested_at=requested_at.isoformat())
            running.work.end(Ending.CANCELLED)

    async def _give_back(self, ids: Collection[UUID]) -> None:
        if ids:
            with contextlib.suppress(TimeoutError):  # the pump finds them in the end
                await asyncio.wait_for(self._ledger.give_back(ids), HAND_BACK_SECONDS)

    def _end_all(self, why: Ending) -> None:
        for running in self._running.values():
            running.work.end(why)

    # ------------------------------------------------------------------------------------------------ one attempt

    async def _attempt(self, claimed: Claimed, trail: AttemptTrail) -> Outcome:
        began = time.monotonic()
        journal = AttemptJournal(claimed.id, claimed.attempt, trail, self._ledger)
        CURRENT.set(Current(claimed.id, claimed.program))
        stream = self._streams.open(claimed.id, claimed.attempt) if claimed.stream else None
        work = Supervised(self._host.run(claimed, trail, journal, stream))
        self._running[claimed.id] = _Running(claimed.attempt, trail, work)
        try:
            settlement, error = await self._supervised(work, claimed, trail)
        finally:
            del self._running[claimed.id]
        # The next one is claimed while this is settled; but what waits for Postgres to settle it is not without bound.
        if len(self._pipelines) - len(self._in_slot) < self.concurrency:
            self._leave_slot(claimed.id, claimed.program)
        failpoint(BEFORE_SETTLE)
        try:
            status = await self._ledger.settle(told(settlement, claimed, trail, journal))
        except psycopg.Error as refused:  # Postgres will not have it: the attempt failed, and is not left running
            trail.withdraw("completed")
            error = ProgramError(f"its outcome cannot be stored: {type(refused).__name__}", code="not_storable")
            log.error("%s of %s: %s", claimed.id, claimed.program, error)  # noqa: TRY400 - the text may quote an output
            settlement = self._failed(claimed, trail, error)
            status = await self._ledger.settle(told(settlement, claimed, trail, journal))
        if stream is not None:
            stream.end(status)
        if status is None:
            log.warning("%s: its lease was lost, attempt %s is discarded", claimed.id, claimed.attempt)
            return Outcome(None, LeaseLost(execution_id=str(claimed.id)), time.monotonic() - began)
        if error is not None:
            log.info(
                "%s of %s: attempt %s: %s → %s",
                claimed.id,
                claimed.program,
                claimed.attempt,
                error.code,
                status,
            )
        return Outcome(status, error, time.monotonic() - began)

    async def _supervised(
        self, work: Supervised[Settlement], claimed: Claimed, trail: AttemptTrail
    ) -> tuple[Settlement, DspexError | None]:
        """The work's settlement, or that of its failure, or of its having been ended."""
        try:
            result = await work.outcome(claimed.timeout_seconds)
            return (result, None) if isinstance(result, Settlement) else self._ended(claimed, trail, result)
        except DspexError as caught:
            error = caught
        except Exception as caught:  # the boundary to code that is not ours: the attempt fails, the worker lives on
            log.exception(
                "%s of %s: unexpected %s", claimed.id, claimed.program, type(caught).__name__, exc_info=_frames(caught)
            )
            error = ProgramError(redact(f"{type(caught).__name__}: {caught}"), code="program_error")
        return self._failed(claimed, trail, error), error

    def _ended(self, claimed: Claimed, trail: AttemptTrail, why: Ending) -> tuple[Settlement, DspexError | None]:
        if why is Ending.DEADLINE:
            error = DspexError(
                f"the attempt took longer than its {claimed.timeout_seconds:g} s",
                code="deadline_exceeded",
                retryable=True,
            )
            return self._failed(claimed, trail, error), error
        if why is Ending.CANCELLED:
            trail.record("cancelled")
            return record(claimed, Status.CANCELLED), ExecutionCancelled(execution_id=str(claimed.id))
        trail.record("recovered", reason="its worker stopped before it was done")
        return record(claimed, Status.QUEUED, counts=False), None

    def _failed(self, claimed: Claimed, trail: AttemptTrail, error: DspexError) -> Settlement:
        return failed(claimed, trail, error, self._host.known(claimed.program, claimed.version))


def _when(at: float) -> float | None:
    """A moment as asyncio's timeouts have it: never is None."""
    return None if math.isinf(at) else at


async def _settled(pipelines: Collection[asyncio.Task[Any]], seconds: float | None = None) -> None:
    if pipelines:
        await asyncio.wait(list(pipelines), timeout=seconds)


def _frames(error: BaseException) -> Any:
    """Where it happened, without the message: that may hold a user's text."""
    bare = type(error)("…") if type(error) is Exception else Exception(type(error).__name__)
    return (type(bare), bare, error.__traceback__)
