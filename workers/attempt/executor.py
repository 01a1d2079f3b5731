"""The executor: claim → host → validate → settle.

It runs on the worker's asyncio loop. Each attempt ends with one settlement, which names the attempt and the worker:
when the lease was lost in the meantime, it changes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from contextvars import Context
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple
from uuid import UUID

import psycopg

from dspex.errors import DspexError, ExecutionCancelled, LeaseLost, ProgramError
from dspex.settings.failpoints import AFTER_CLAIM, BEFORE_CLAIM, BEFORE_SETTLE, failpoint
from dspex.store.lifecycle.executions import Claimed, Settlement
from dspex.store.lifecycle.parked import Park
from dspex.store.lifecycle.status import Status
from dspex.store.workers import Owned
from workers.adapters.unrunnable import UnrunnablePrograms
from workers.attempt.attempt import Attempt
from workers.attempt.attempt_trail import AttemptTrail
from workers.attempt.current import CURRENT, Current
from workers.attempt.host import Host
from workers.attempt.ledger import Ledger
from workers.attempt.settlement import broken_off, cancelled, completed, failed, handed_back, parked
from workers.attempt.slots import FairSlots
from workers.attempt.stream import Streams
from workers.attempt.supervision import Ending, raised_by
from workers.consume.refusal_counts import RefusalCounts
from workers.observe import metrics, tracing
from workers.observe.redact import redact

__all__ = ["Executor", "OnEnd", "OnStart", "Outcome", "Received"]

log = logging.getLogger("dspex.workers")

#: The longest a stopping worker takes to hand back what it did not finish.
LONGEST_HAND_BACK_SECONDS = 10.0
#: How long executions stay here that only other workers can run: they keep their place in the pump's window meanwhile.
LEFT_SECONDS = 1.0
#: The longest grace period of what runs in a worker when a suspect has to run alone there.
LONGEST_CLEARING_SECONDS = 30.0
#: How often it renews its hold on the suspect meanwhile: more often than the pump takes back what was not claimed.
HOLD_SECONDS = 0.5


class Outcome(NamedTuple):
    """The end of a dispatched id. ``status`` is None when there was nothing to claim, or when the lease was lost."""

    status: Status | None
    error: DspexError | None = None
    runtime_seconds: float = 0.0
    waiting_for: str = ""


@dataclass(frozen=True, slots=True)
class Received:
    """A message from the queue: the executions it carries, and their program and priority, which order them.

    A message with a wrong program or priority is served in another order; nothing else depends on them.
    """

    ids: Sequence[UUID]
    program: str
    priority: int
    #: They are suspects: each of them runs while the worker runs nothing else.
    alone: bool = False
    #: They are of a backlog.
    bulk: bool = False


OnStart = Callable[[UUID], None]
OnEnd = Callable[[UUID, Outcome], None]


class Executor:
    """Runs as many executions at once as there are slots. All methods belong to the loop's thread."""

    def __init__(
        self,
        ledger: Ledger,
        host: Host,
        streams: Streams,
        slots: FairSlots,
        refusals: RefusalCounts,
        unrunnable: UnrunnablePrograms,
        *,
        grace_seconds: float,
    ) -> None:
        self._ledger = ledger
        self._host = host
        self._streams = streams
        self._slots = slots
        self._refusals = refusals
        self._unrunnable = unrunnable
        self._left_to_others: set[UUID] = set()
        self._held: set[UUID] = set()
        self._pipelines: set[asyncio.Task[Any]] = set()
        #: The executions that still have their slot.
        self._in_slot: set[UUID] = set()
        self._running: dict[UUID, Attempt] = {}
        #: Running executions that gave their slot away, because they wait for others.
        self._waiting: set[UUID] = set()
        #: The pipelines of suspects, and the right of one of them to have the worker for itself.
        self._suspects: dict[UUID, asyncio.Task[Any]] = {}
        self._whole_worker = asyncio.Lock()
        #: The suspect that has it.
        self._alone: UUID | None = None
        self._clearing_seconds = min(grace_seconds, LONGEST_CLEARING_SECONDS)
        self._unbegun: set[UUID] = set()
        #: The executions whose pipeline a bug ended after the claim.
        self._broken: set[UUID] = set()
        #: The attempts that the last renewal of the lease found to be this worker's, and that did not run here.
        self._idle: set[Owned] = set()
        self._stopping = False
        self._drained_by = math.inf
        self._grace: asyncio.Timeout | None = None

    @property
    def concurrency(self) -> int:
        return self._slots.concurrency

    @property
    def trouble(self) -> str | None:
        """What Postgres refuses to store for now, and why; None while it refuses nothing. Safe in any thread."""
        return self._ledger.trouble

    @property
    def running(self) -> int:
        """The number of attempts under way."""
        return len(self._running)

    def runs_any(self, ids: Collection[UUID]) -> bool:
        """Whether an attempt of one of these executions is under way."""
        return not self._running.keys().isdisjoint(ids)

    @property
    def held(self) -> int:
        """The number of executions received and not over: running, or waiting for a slot or for their claim."""
        return len(self._held)

    def begin(self, received: Received, on_start: OnStart, on_end: OnEnd) -> None:
        """Run these executions. ``on_start`` is called for each that is claimed, ``on_end`` for each that is over.

        Ids that are held already are dropped.
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
                start = self._start_alone if received.alone else partial(self._start, bulk=received.bulk)
                starts.append(partial(start, id, received.program, on_start, on_end))
        if received.alone:
            for begin in starts:
                begin()
        else:
            self._slots.ask(received.program, received.priority, starts, bulk=received.bulk)

    def _start(self, id: UUID, program: str, on_start: OnStart, on_end: OnEnd, *, bulk: bool) -> None:
        # An empty context: the current one may belong to the execution whose end made room for this one.
        pipeline = asyncio.create_task(self._pipeline(id, program, on_start, bulk=bulk), context=Context())
        self._pipelines.add(pipeline)
        self._in_slot.add(id)
        pipeline.add_done_callback(partial(self._over, id, program, on_end))

    def _start_alone(self, id: UUID, program: str, on_start: OnStart, on_end: OnEnd) -> None:
        pipeline = asyncio.create_task(self._run_alone(id, program, on_start), context=Context())
        self._pipelines.add(pipeline)
        self._suspects[id] = pipeline
        pipeline.add_done_callback(partial(self._over, id, program, on_end))

    async def _run_alone(self, id: UUID, program: str, on_start: OnStart) -> Outcome:
        """Run a suspect while nothing else runs here: if it kills this worker, no other execution loses an attempt."""
        await self._whole_worker.acquire()
        self._alone = id
        try:
            if not await self._ledger.hold_suspect(id):  # a late or forged message
                metrics.missed()
                self._refusals.unclaimed(id)
                return Outcome(None)
            log.warning("execution %s lost two attempts with their workers: it runs alone now", id)
            self._slots.close()
            await self._end_others(id)
            return await self._pipeline(id, program, on_start, alone=True)
        finally:
            self._share_worker(id)

    def _share_worker(self, suspect: UUID) -> None:
        """Let others run again beside a suspect; nothing when that was done already."""
        if self._alone == suspect:
            self._alone = None
            del self._suspects[suspect]
            self._slots.open()
            self._whole_worker.release()

    def _make_room(self, id: UUID, program: str) -> None:
        """An execution waits for others from now on: they may have its slot, or the worker that it has for itself."""
        self._share_worker(id)
        self._leave_slot(id, program)
        self._waiting.add(id)
        if self._alone is not None:
            self._end_waiting()

    def _end_waiting(self) -> None:
        """Hand back what waits for others: it may wait for the suspect, and would not end before it."""
        for id in self._waiting:
            self._running[id].work.end(Ending.HANDED_BACK)

    async def _end_others(self, suspect: UUID) -> None:
        """Let what runs here end within the grace period; then hand back the rest."""
        self._end_waiting()
        await self._await_others(suspect, self._clearing_seconds)
        self._end_all(Ending.HANDED_BACK)
        await self._await_others(suspect, LONGEST_HAND_BACK_SECONDS)

    async def _await_others(self, suspect: UUID, seconds: float) -> None:
        """Wait until nothing else runs here, at most so long; the pump leaves the suspect to this worker meanwhile."""
        now = asyncio.get_running_loop().time
        until = now() + seconds
        while (others := self._pipelines.difference(self._suspects.values())) and (left := until - now()) > 0:
            await _settled(others, min(left, HOLD_SECONDS))
            await self._ledger.hold_suspect(suspect)

    async def _pipeline(
        self, id: UUID, program: str, on_start: OnStart, *, alone: bool = False, bulk: bool = False
    ) -> Outcome:
        """Claim the execution, and run its attempt to its settlement."""
        if self._stopping:  # it was given back when the worker began to stop
            return Outcome(None)
        failpoint(BEFORE_CLAIM)
        try:
            claimed = await self._ledger.claim(id, alone=alone, bulk=bulk)
        except psycopg.Error as error:  # the row is at fault: what passes is waited for
            await self._ledger.postpone(id, error)
            return Outcome(None)
        if claimed is None:
            metrics.missed()
            self._refusals.unclaimed(id)
            if program in self._unrunnable:
                self._leave_to_others(id)
            return Outcome(None)
        if self._broken:  # seldom; hashing a UUID takes longer than to look
            self._broken.discard(id)
        if claimed.program != program:
            self._refusals.note("wrong_program")
        metrics.claimed(claimed)
        failpoint(AFTER_CLAIM)
        on_start(id)
        try:
            if (spans := tracing.active()) is None:
                outcome = await self._attempt(claimed, AttemptTrail(claimed.started_at))
            else:
                outcome = await spans.attempt(claimed, self._attempt)
        except asyncio.CancelledError:
            raise
        except BaseException:
            self._broken.add(id)
            raise
        metrics.attempt_ended(claimed.program, outcome.status, outcome.error, outcome.runtime_seconds)
        return outcome

    def _over(self, id: UUID, program: str, on_end: OnEnd, pipeline: asyncio.Task[Outcome]) -> None:
        """Report the outcome. An execution whose pipeline broke is given back after the next renewals of the lease."""
        self._pipelines.discard(pipeline)
        if self._suspects:
            self._suspects.pop(id, None)
        self._held.discard(id)
        self._leave_slot(id, program)
        broken = pipeline.cancelled() or pipeline.exception() is not None
        if broken and not pipeline.cancelled():
            log.error("execution %s: the pipeline broke", id, exc_info=pipeline.exception())
        on_end(id, Outcome(None) if broken else pipeline.result())

    def _leave_slot(self, id: UUID, program: str) -> None:
        """Make room for another execution; nothing when that was done already."""
        held = len(self._in_slot)
        self._in_slot.discard(id)
        if len(self._in_slot) < held:
            self._slots.release(program)

    def resize(self, concurrency: int) -> None:
        """Run up to this many at once from now on. Executions that run beyond that go on."""
        self._slots.resize(concurrency)

    async def drain(self, grace_seconds: float) -> None:
        """Begin no more, let executions run for ``grace_seconds`` (:meth:`hurry` shortens it), then hand them back."""
        self._stopping = True
        self.hurry(grace_seconds)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(_when(self._drained_by)) as self._grace:
                # Executions that wait for a slot are given back at once: other workers can run them.
                await self._give_back(self._held - self._running.keys())
                await _settled(self._pipelines)
        self._grace = None
        self._end_all(Ending.HANDED_BACK)
        # Ended attempts still have to write their settlements.
        await _settled(self._pipelines, LONGEST_HAND_BACK_SECONDS)
        await self._give_back(self._unbegun | self._left_to_others)

    def hurry(self, grace_seconds: float) -> None:
        """Shorten the grace period to this, from now on."""
        self._drained_by = min(self._drained_by, asyncio.get_running_loop().time() + grace_seconds)
        if self._grace is not None and not self._grace.expired():
            self._grace.reschedule(_when(self._drained_by))

    def abandon(self) -> None:
        """The lease was lost: stop all attempts; their settlements will find no row."""
        self._end_all(Ending.LEASE_LOST)

    def cancel(self, id: UUID, attempt: int, requested_at: datetime) -> None:
        """End this attempt because a cancel was requested; nothing when it is over, or ending already."""
        running = self._running.get(id)
        if running is not None and running.claimed.attempt == attempt:
            running.cancel(requested_at)

    def _leave_to_others(self, id: UUID) -> None:
        """Return it to the pump in a moment. At once, it could come back here at once, again and again."""
        if not self._left_to_others:
            asyncio.get_running_loop().call_later(LEFT_SECONDS, self._return_to_pump)
        self._left_to_others.add(id)

    def _return_to_pump(self) -> None:
        if self._left_to_others:
            returning = asyncio.create_task(self._give_back(self._left_to_others), context=Context())
            self._pipelines.add(returning)
            returning.add_done_callback(self._returned)
            self._left_to_others = set()

    def _returned(self, returning: asyncio.Task[None]) -> None:
        self._pipelines.discard(returning)
        if not returning.cancelled() and (error := returning.exception()) is not None:
            # The pump finds them later, as executions that were not claimed in time.
            log.warning("executions of other workers' programs were not returned: %s", type(error).__name__)

    def take_up(self, owned: Iterable[Owned]) -> None:
        """Run the attempts that Postgres has as this worker's and that do not run here, as after a claim whose answer
        was lost; give those back that broke.

        Only what two renewals of the lease in a row find: an attempt may have been settled since Postgres was asked.
        """
        if self._stopping:
            return
        idle = {each for each in owned if each.id not in self._held}
        for each in idle & self._idle:
            log.error("%s: attempt %s is this worker's, and did not run", each.id, each.attempt)
            if each.id in self._broken:
                self._give_up(each)
            else:
                self._ledger.note_owned(each.id)
                received = Received([each.id], each.program, each.priority, alone=each.suspect)
                self.begin(received, _ignore, _ignore)
        self._idle = idle

    def _give_up(self, owned: Owned) -> None:
        settling = asyncio.create_task(self._ledger.settle(broken_off(owned)))
        self._held.add(owned.id)
        self._pipelines.add(settling)
        settling.add_done_callback(partial(self._given_up, owned.id))

    def _given_up(self, id: UUID, settling: asyncio.Task[Status | None]) -> None:
        self._pipelines.discard(settling)
        self._held.discard(id)
        if not settling.cancelled() and settling.exception() is None:
            self._broken.discard(id)

    async def _give_back(self, ids: Collection[UUID]) -> None:
        if ids:
            with contextlib.suppress(TimeoutError):  # then the pump finds them later
                await asyncio.wait_for(self._ledger.give_back(ids), LONGEST_HAND_BACK_SECONDS)

    def _end_all(self, why: Ending) -> None:
        for running in self._running.values():
            running.work.end(why)

    # ------------------------------------------------------------------------------------------------ one attempt

    async def _attempt(self, claimed: Claimed, trail: AttemptTrail) -> Outcome:
        """Host → validate → settle."""
        CURRENT.set(Current(claimed.id, claimed.program))
        attempt = Attempt(
            claimed,
            trail,
            program=self._host.known(claimed.program, claimed.version),
            stream=self._streams.open(claimed.id, claimed.attempt) if claimed.stream else None,
            calls=self._ledger,
            host=self._host.run,
            leave_slot=partial(self._make_room, claimed.id, claimed.program),
        )
        self._running[claimed.id] = attempt
        try:
            settlement, error = await _hosted(attempt)
        finally:
            del self._running[claimed.id]
            if self._waiting:
                self._waiting.discard(claimed.id)
        # The next one is claimed while this is settled; but only so many may wait for Postgres to settle them.
        if len(self._pipelines) - len(self._in_slot) < self.concurrency:
            self._leave_slot(claimed.id, claimed.program)
        failpoint(BEFORE_SETTLE)
        status, error = await self._settle(attempt, settlement, error)
        if attempt.stream is not None:
            attempt.stream.end(status)
        waiting_for = attempt.parking.waiting_for if status is Status.WAITING else ""
        return Outcome(status, error, trail.elapsed_ms / 1000, waiting_for)

    async def _settle(
        self, attempt: Attempt, settlement: Settlement | Park, error: DspexError | None
    ) -> tuple[Status | None, DspexError | None]:
        """Store how the attempt ended. Returns the execution's status, None when the lease was lost, and the error."""
        claimed = attempt.claimed
        try:
            if isinstance(settlement, Park) and attempt.parking.children:
                await self._ledger.submit_children(claimed.id, attempt.parking.children)
            status = await self._ledger.settle(settlement)
        except (psycopg.Error, UnicodeEncodeError) as refused:
            # Its data is at fault: the ledger keeps what Postgres refuses for another reason. So the attempt failed.
            attempt.trail.withdraw("completed")
            attempt.trail.withdraw("parked")
            error = ProgramError(f"its outcome cannot be stored: {type(refused).__name__}", code="not_storable")
            log.error("%s of %s: %s", claimed.id, claimed.program, error)  # noqa: TRY400 - the text may quote an output
            status = await self._ledger.settle(failed(attempt, error))
        if status is None:
            log.warning("%s: its lease was lost, attempt %s is discarded", claimed.id, claimed.attempt)
            return None, LeaseLost(execution_id=str(claimed.id))
        if error is not None:
            log.info("%s of %s: attempt %s: %s → %s", claimed.id, claimed.program, claimed.attempt, error.code, status)
        return status, error


async def _hosted(attempt: Attempt) -> tuple[Settlement | Park, DspexError | None]:
    """The settlement of the outputs, of the failure, or of what ended the attempt from outside; or how it is parked."""
    claimed = attempt.claimed
    try:
        hosted = await attempt.work.outcome(attempt.deadline - time.monotonic())
    except DspexError as caught:
        error = caught
    except Exception as caught:  # the boundary to code that is not ours: the attempt fails, the worker lives on
        raised = raised_by(caught)
        if not attempt.parking.is_leaving:
            log.exception(
                "%s of %s: unexpected %s", claimed.id, claimed.program, type(raised).__name__, exc_info=_frames(raised)
            )
        error = ProgramError(redact(f"{type(raised).__name__}: {raised}"), code="program_error")
    else:
        await _count_late_calls(attempt)
        if attempt.parking.is_leaving and hosted is not Ending.CANCELLED:
            return _left(attempt)
        return _ended(attempt, hosted) if isinstance(hosted, Ending) else (completed(attempt, hosted), None)
    await _count_late_calls(attempt)
    if attempt.parking.is_leaving:  # whatever the program made of its end
        return _left(attempt)
    return failed(attempt, error), error


def _left(attempt: Attempt) -> tuple[Settlement | Park, DspexError | None]:
    """How an attempt is recorded whose program was left: because a limit refused a call, or to wait."""
    if attempt.deferral is not None:
        return failed(attempt, attempt.deferral), attempt.deferral
    try:
        return parked(attempt), None
    except ProgramError as error:
        return failed(attempt, error), error


async def _count_late_calls(attempt: Attempt) -> None:
    try:
        await attempt.journal.count_late_calls()
    except psycopg.Error as error:  # the outcome is recorded all the same
        log.warning("%s: calls of earlier attempts may be missing in its metrics: %s", attempt.claimed.id, error)


def _ended(attempt: Attempt, why: Ending) -> tuple[Settlement, DspexError | None]:
    if why is Ending.CANCELLED:
        return cancelled(attempt), ExecutionCancelled(execution_id=str(attempt.claimed.id))
    if why is not Ending.DEADLINE:
        return handed_back(attempt), None
    allowed = attempt.claimed.allowed_seconds
    text = (
        f"the attempt took longer than its {allowed:g} s" if allowed else "its time was over before the attempt began"
    )
    error = DspexError(text, code="deadline_exceeded", retryable=True)
    return failed(attempt, error), error


def _ignore(_id: UUID, _outcome: Outcome | None = None) -> None:
    """Nothing: no message waits for this execution."""


def _when(at: float) -> float | None:
    """The time in the form of asyncio's timeouts, where None means never."""
    return None if math.isinf(at) else at


async def _settled(pipelines: Collection[asyncio.Task[Any]], seconds: float | None = None) -> None:
    if pipelines:
        await asyncio.wait(list(pipelines), timeout=seconds)


def _frames(error: BaseException) -> Any:
    """The traceback without the message, which may hold a user's text."""
    bare = type(error)("…") if type(error) is Exception else Exception(type(error).__name__)
    return (type(bare), bare, error.__traceback__)
