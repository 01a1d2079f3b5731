"""The executor's reads and writes in Postgres, micro-batched, and the message that executions are final."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple
from uuid import UUID

import psycopg
import redis.asyncio
from psycopg.rows import args_row, tuple_row

from dspex.errors import LeaseLost
from dspex.program.stored_program import StoredProgram
from dspex.publish.channels import DONE_CHANNEL, publish_ids
from dspex.publish.redis_clients import async_client
from dspex.settings.failpoints import AFTER_SETTLE, failpoint
from dspex.store import programs
from dspex.store.audit_chain import encode_events
from dspex.store.improvement import dataset_rows
from dspex.store.lifecycle import control, executions, lm_calls, parked
from dspex.store.lifecycle.executions import Claimed, Equal, Settlement
from dspex.store.lifecycle.lm_calls import LMCall
from dspex.store.lifecycle.parked import KnownCall, Park
from dspex.store.lifecycle.status import Status
from dspex.store.operations import refused_messages
from dspex.store.sqlstates import reason
from workers.adapters.unrunnable import UnrunnablePrograms
from workers.attempt.batcher import Batcher, Connection
from workers.attempt.waiting.parking import Child
from workers.attempt.waiting.resuming import Resuming
from workers.observe.metrics import BACKEND_FAILURES

__all__ = ["Ledger"]

log = logging.getLogger("dspex.workers")

#: An execution whose claim Postgres refuses is dispatched again after this time, twice as late each time, up to the
#: second.
POSTPONE_SECONDS, LONGEST_POSTPONE_SECONDS = 2.0, 300.0
#: For how long such an execution is reported: longer than it waits before its next claim. So many are remembered.
REPORT_SECONDS, MOST_REFUSED = 900.0, 1000
#: How long publishing may take: without the message, a waiting client asks Postgres.
ANNOUNCE_SECONDS = 2.0


#: So many children are stored by one statement.
CHILDREN_AT_ONCE = 250


class RefusedClaim(NamedTuple):
    """How often Postgres refused the claim of an execution, why, and when it did so last."""

    times: int
    why: str
    at: float


class WantedClaim(NamedTuple):
    """An execution to claim, and whether its worker runs nothing else meanwhile."""

    id: UUID
    alone: bool


class _Read(NamedTuple):
    """A query, and the execution that it is ``of`` if one query reads the rows of many: each row begins with its id."""

    query: str
    parameters: Mapping[str, Any] = {}
    of: UUID | None = None


class Ledger:
    """Five connections: claims, claims of a backlog, settlements, journal entries and reads do not wait for each other;
    and one for executions that wait for others.

    ``worker_id`` returns the id of the worker whose lease covers the claims. Executions of ``unrunnable`` versions are
    not claimed.
    """

    def __init__(
        self,
        database_url: str,
        broker_url: str,
        worker_id: Callable[[], UUID],
        unrunnable: UnrunnablePrograms | None = None,
    ) -> None:
        self._worker_id = worker_id
        self._unrunnable = unrunnable or UnrunnablePrograms()
        #: Claims that may have been carried out although no answer came.
        self._uncertain: set[UUID] = set()
        #: Settlements that may have been carried out although no answer came: executions and their attempts.
        self._unanswered: set[tuple[UUID, int]] = set()
        self._refused_claims: dict[UUID, RefusedClaim] = {}
        #: The journal entries that are not committed yet, by execution.
        self._unwritten: defaultdict[UUID, set[asyncio.Future[bool]]] = defaultdict(set)
        self._redis = async_client(broker_url, seconds=ANNOUNCE_SECONDS, socket_connect_timeout=ANNOUNCE_SECONDS)
        self._announcing: set[asyncio.Task[None]] = set()
        self._claims: Batcher[WantedClaim, Claimed | None] = Batcher("claim", database_url, self._claim_all)
        self._bulk_claims: Batcher[WantedClaim, Claimed | None] = Batcher("bulk claim", database_url, self._claim_all)
        self._settlements: Batcher[Settlement | Park, Status | None] = Batcher("settle", database_url, self._settle_all)
        self._calls: Batcher[LMCall, bool] = Batcher("journal", database_url, _store_calls)
        self._reads: Batcher[_Read, Any] = Batcher("read", database_url, _read_all)
        self._queued: Callable[[], None] = _nothing
        self._resuming = Resuming(database_url)
        self._batchers: tuple[Batcher[Any, Any], ...] = (
            self._claims, self._bulk_claims, self._settlements, self._calls, self._reads,
        )  # fmt: skip

    def on_queued(self, call: Callable[[], None]) -> None:
        """Have this called whenever executions were queued that wait for the pump."""
        self._queued = self._resuming.on_resumed = call

    async def close(self) -> None:
        await self._resuming.close()
        for batcher in self._batchers:
            await batcher.close()
        await asyncio.gather(*self._announcing, return_exceptions=True)
        await self._redis.aclose()

    @property
    def trouble(self) -> str | None:
        """What Postgres refuses to store for now, and why; None while it refuses nothing. Safe in any thread."""
        return "; ".join(filter(None, (self._claim_trouble(), *(b.trouble for b in self._batchers)))) or None

    def _claim_trouble(self) -> str | None:
        since = time.monotonic() - REPORT_SECONDS
        refused = {id: claim for id, claim in self._refused_claims.copy().items() if claim.at > since}
        if not refused:
            return None
        id, last = max(refused.items(), key=lambda item: item[1].at)
        return f"Postgres refuses the claims of {len(refused)} executions, {id} among them: {last.why}"

    def claim(self, id: UUID, *, alone: bool = False, bulk: bool = False) -> asyncio.Future[Claimed | None]:
        """The execution, now running under this worker's lease; None when it is not there to claim.

        A suspect is there only for a worker that runs nothing else meanwhile: ``alone``. Other claims do not wait for
        claims of a backlog: ``bulk``.
        """
        claims = self._bulk_claims if bulk else self._claims
        return claims.add(WantedClaim(id, alone))

    async def postpone(self, id: UUID, error: psycopg.Error) -> None:
        """Have an execution dispatched later whose claim Postgres refuses. Its reason is logged once."""
        times, why, _ = self._refused_claims.pop(id, RefusedClaim(0, "", 0.0))
        if why != reason(error):
            log.error(
                "%s: Postgres refuses its claim, which is tried again, later each time: %s; see `dspex audit verify`",
                id, reason(error),
            )  # fmt: skip
        while len(self._refused_claims) >= MOST_REFUSED:
            del self._refused_claims[next(iter(self._refused_claims))]
        self._refused_claims[id] = RefusedClaim(times + 1, reason(error), time.monotonic())
        seconds = min(POSTPONE_SECONDS * 2.0 ** min(times, 10), LONGEST_POSTPONE_SECONDS)
        with contextlib.suppress(psycopg.Error):  # the leader cannot take it back either, and sets it aside
            await self._reads.add(_Read(control.POSTPONE, {"id": id, "seconds": seconds}))

    def note_owned(self, id: UUID) -> None:
        """Let the next claim of this execution find it if it runs under this worker's lease already."""
        self._uncertain.add(id)

    async def settle(self, settlement: Settlement | Park) -> Status | None:
        """Store how the attempt ended, or that it is parked. None when this worker no longer owns it: nothing was
        changed.

        The status is the execution's: it may be cancelled although the settlement queues it again. The journal entries
        of the attempt are stored first, so that the next attempt finds them.
        """
        if self._unwritten and (unwritten := self._unwritten.get(settlement.id)):
            await asyncio.wait(set(unwritten))
        return await self._settlements.add(settlement)

    async def hold_suspect(self, id: UUID) -> bool:
        """Have the pump leave a suspect to this worker a little longer. False if it is not dispatched to run alone."""
        return bool(await self._reads.add(_Read(executions.HOLD_SUSPECT, {"id": id, "worker_id": self._worker_id()})))

    async def store_call(self, call: LMCall) -> None:
        """Returns once the call is committed. Raises LeaseLost when its attempt is over and must make no other call.

        A call that was paid for is stored even if its attempt is ended meanwhile.
        """
        written = self._calls.add(call)
        self._unwritten[call.execution_id].add(written)
        written.add_done_callback(partial(self._note_written, call.execution_id))
        if await asyncio.shield(written):
            raise LeaseLost(execution_id=str(call.execution_id))

    def _note_written(self, id: UUID, written: asyncio.Future[bool]) -> None:
        self._unwritten[id].remove(written)
        if not self._unwritten[id]:
            del self._unwritten[id]
        if not written.cancelled() and (error := written.exception()) is not None:
            log.error("%s: a model call cannot be stored: %s", id, reason(error))

    async def calls(self, execution_id: UUID) -> list[LMCall]:
        """The journal of the execution."""
        rows = await self._reads.add(_Read(lm_calls.OF_EXECUTIONS, of=execution_id))
        return [LMCall(execution_id, *row) for row in rows]

    async def retried_after(self, execution_id: UUID) -> int:
        """The last attempt before an operator retried the execution; 0 when none did."""
        rows = await self._reads.add(_Read(control.RETRIED_AFTER, {"id": execution_id}))
        return int(rows[0][0]) if rows else 0

    async def waited_for(self, execution_id: UUID) -> list[KnownCall]:
        """The calls that the execution waited for, and that its journal does not have."""
        rows = await self._reads.add(_Read(parked.OF_EXECUTIONS, of=execution_id))
        return [KnownCall(bytes(row[0]), *row[1:]) for row in rows]

    async def equal(self, id: UUID) -> Equal | None:
        """What has become of an execution that others take their outputs from."""
        rows = await self._reads.add(_Read(executions.EQUAL, {"id": id}))
        return Equal(Status(rows[0][0]), *rows[0][1:]) if rows else None

    async def submit_children(self, parent_id: UUID, children: Sequence[Child]) -> None:
        """Store the executions that a parent waits for, unless an earlier attempt did. The pump dispatches them: the
        first run while the others are stored."""
        for begin in range(0, len(children), CHILDREN_AT_ONCE):
            given = [(child.submission, child.hashed) for child in children[begin : begin + CHILDREN_AT_ONCE]]
            await self._reads.add(_Read(parked.SUBMIT_CHILDREN, parked.children_parameters(parent_id, given)))
            self._queued()

    async def reject_calls(self, execution_id: UUID, attempt: int, request_hashes: Sequence[bytes]) -> None:
        """Never replay the answers to these requests that attempts up to this one were given."""
        parameters = {"execution_id": execution_id, "attempt": attempt, "request_hashes": list(request_hashes)}
        await self._reads.add(_Read(lm_calls.REJECT, parameters))

    async def earlier_use(self, execution_id: UUID, attempt: int) -> list[LMCall]:
        """The calls of the attempts before this one, without their answers."""
        rows = await self._reads.add(_Read(lm_calls.USE, of=execution_id))
        calls = (LMCall(execution_id, *row) for row in rows)
        return [call for call in calls if call.attempt < attempt]

    async def program(self, name: str, version: str) -> StoredProgram | None:
        """The version of a program as it is stored."""
        rows = await self._reads.add(_Read(programs.LOAD, {"name": name, "version": version}))
        return StoredProgram(name, version, rows[0][0]) if rows else None

    async def current_program(self, name: str) -> StoredProgram | None:
        """The current version of a program as it is stored."""
        rows = await self._reads.add(_Read(programs.LOAD_CURRENT, {"name": name}))
        return StoredProgram(name, *rows[0]) if rows else None

    async def dataset_row(self, id: UUID, index: int) -> str | None:
        """The content of a dataset's row as JSON text."""
        rows = await self._reads.add(_Read(dataset_rows.ROW, {"id": id, "index": index}))
        return rows[0][0] if rows else None

    async def cancelling(self) -> list[tuple[UUID, int, datetime]]:
        """Attempts of this worker whose cancel is requested: the execution, the attempt, and when it was requested."""
        rows: list[tuple[UUID, int, datetime]] = await self._reads.add(
            _Read(control.CANCELLING, {"worker_id": self._worker_id()})
        )
        return rows

    async def unknown(self, ids: Collection[UUID]) -> int:
        """The number of these ids that belong to no execution."""
        return len(await self._reads.add(_Read(refused_messages.UNKNOWN, {"ids": list(ids)})))

    async def record_refusals(self, counts: Mapping[str, int]) -> None:
        """Add to the counts of refused messages, by reason."""
        parameters = refused_messages.record_parameters(counts, self._worker_id())
        await self._reads.add(_Read(refused_messages.RECORD, parameters))

    async def give_back(self, ids: Collection[UUID]) -> None:
        """Return executions to the pump that will not be claimed here."""
        await self._reads.add(_Read(control.UNDISPATCH, {"ids": list(ids)}))

    async def _claim_all(self, connection: Connection, wanted: Sequence[WantedClaim]) -> list[Claimed | None]:
        worker_id = self._worker_id()
        ids = [each.id for each in wanted]
        alone = [each.id for each in wanted if each.alone]
        events = encode_events([{"kind": "claimed", "data": {"worker": str(worker_id)}}])
        parameters = executions.claim_parameters(
            ids, worker_id=worker_id, events=events, unrunnable=self._unrunnable.keys, alone=alone
        )
        sent = set(ids)
        uncertain = not self._uncertain.isdisjoint(sent)
        self._uncertain |= sent
        async with connection.cursor(row_factory=args_row(Claimed), binary=True) as cursor:
            found = await (await cursor.execute(executions.CLAIM, parameters)).fetchall()
            if uncertain:
                found += await (await cursor.execute(executions.ADOPT, parameters)).fetchall()
        self._uncertain -= sent
        claimed = {row.id: row for row in found}
        if self._refused_claims:
            for id in self._refused_claims.keys() & claimed.keys():
                del self._refused_claims[id]
        return [claimed.get(id) for id in ids]

    async def _settle_all(
        self, connection: Connection, settlements: Sequence[Settlement | Park]
    ) -> list[Status | None]:
        attempts = {(s.id, s.attempt) for s in settlements}
        sent_before = not self._unanswered.isdisjoint(attempts)
        self._unanswered |= attempts
        parks = [each for each in settlements if isinstance(each, Park)]
        ends = [each for each in settlements if not isinstance(each, Park)]
        rows = []
        async with connection.cursor(row_factory=tuple_row) as cursor:
            for statement, parameters in (
                (executions.settle_statement(ends), executions.settle_parameters(ends) if ends else None),
                (parked.PARK, parked.park_parameters(parks) if parks else None),
            ):
                if parameters is not None:
                    rows += await (await cursor.execute(statement, parameters)).fetchall()
                    if sent_before:
                        rows += await (await cursor.execute(executions.SETTLED, parameters)).fetchall()
        self._unanswered -= attempts
        settled = {id: Status(status) for id, status, _ in rows}
        failpoint(AFTER_SETTLE)
        final = [id for id, status in settled.items() if status.is_final]
        ended = set(final)
        parents = {each.parent_id for each in ends if each.parent_id is not None and each.id in ended}
        parents |= {park.id for park in parks if park.may_be_over}
        self._resuming.look(parents, {id for id, _, is_awaited in rows if is_awaited and id in ended})
        if final:
            task = asyncio.create_task(self._announce(final))
            self._announcing.add(task)
            task.add_done_callback(self._announcing.discard)
            await asyncio.sleep(0)  # the message leaves before the loop ends these executions
        return [settled.get(s.id) for s in settlements]

    async def _announce(self, ids: Sequence[UUID]) -> None:
        try:
            await publish_ids(self._redis, DONE_CHANNEL, ids)
        except (redis.RedisError, OSError) as error:
            BACKEND_FAILURES.labels("redis").inc()
            log.warning("%s executions are settled, but their ids could not be published in Redis: %s", len(ids), error)


def _nothing() -> None:
    """It is called until another function is given."""


async def _read_all(connection: Connection, reads: Sequence[_Read]) -> list[Any]:
    """The rows of each read. Reads of several executions by one query share a statement."""
    shared: defaultdict[str, dict[UUID, list[Any]]] = defaultdict(dict)
    for read in reads:
        if read.of is not None:
            shared[read.query][read.of] = []
    async with connection.cursor(row_factory=tuple_row) as cursor:
        for query, found in shared.items():
            for id, *row in await (await cursor.execute(query, {"ids": list(found)})).fetchall():
                found[id].append(row)
        return [
            shared[read.query][read.of]
            if read.of is not None
            else await (await cursor.execute(read.query, read.parameters)).fetchall()
            for read in reads
        ]


async def _store_calls(connection: Connection, calls: Sequence[LMCall]) -> list[bool]:
    """Store calls. Returns for each whether its attempt is over."""
    async with connection.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute(lm_calls.INSERT, lm_calls.insert_parameters(calls))
        over = {(id, attempt) for id, attempt in await cursor.fetchall()}
    return [(call.execution_id, call.attempt) in over for call in calls]
