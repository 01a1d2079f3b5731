"""The client: deploy programs, submit executions, read what became of them."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Self, TypeVar
from uuid import UUID

from sqlalchemy import Connection

from dspex.client.audit_trail import AuditTrail
from dspex.client.batch import Batch, BatchRows, Progress, Rejected, new_batch_id
from dspex.client.deployed_programs import Catalogue
from dspex.client.execution import Execution, Result
from dspex.client.follow import StreamEvent, follow
from dspex.client.lookup import not_found
from dspex.client.operator import Control
from dspex.errors import (
    BackendUnavailable,
    ExecutionCancelled,
    ExecutionFailed,
    ExecutionNotFound,
    ExecutionTimedOut,
    FieldError,
    IdempotencyConflict,
    ProgramNotFound,
    ValidationError,
)
from dspex.operations.alerts.alert import Alert
from dspex.operations.alerts.evaluation import list_alerts
from dspex.operations.audit.verify_audit import verify_trails
from dspex.operations.health.backend_checks import client_check
from dspex.operations.health.conditions import HealthReport
from dspex.operations.report.monitoring_report import MonitoringReport, gather
from dspex.program.program import Program
from dspex.publish.broker import Broker
from dspex.sealing.values import Sealing, is_sealed
from dspex.settings import Settings
from dspex.settings.failpoints import AFTER_INSERT, BETWEEN_CHUNKS, arm, failpoint
from dspex.store import migrate, workers
from dspex.store.audit_chain import Verdict
from dspex.store.database import Database
from dspex.store.lifecycle import batches, executions
from dspex.store.lifecycle.status import Status
from dspex.store.programs import Deployed
from dspex.submit.bulk import MAP_ROWS, Intake, chunks, mapped
from dspex.submit.prepare import Preparer
from dspex.submit.rate_limit import SubmitRate
from dspex.submit.size_limits import Bounds
from dspex.submit.trace_context import submitting
from dspex.wait.completion import Slot, any_final
from dspex.wait.driver import BlockingDriver, iterate, steps
from dspex.wait.hints import Waiter, Watch

__all__ = ["Client"]

T = TypeVar("T")

log = logging.getLogger("dspex")


class Client:
    """Submits and reads. Share one between threads; close it, or use it as a context manager.

    ``settings`` come from ``DSPEX_*`` and ``dspex.toml`` when not given; ``database_url`` and ``broker_url`` override
    them. Nothing is connected before the first call.

    Raises ConfigurationError for wrong settings, BackendUnavailable when no stack is configured or running.
    """

    def __init__(
        self, settings: Settings | None = None, *, database_url: str | None = None, broker_url: str | None = None
    ) -> None:
        urls = {"database_url": database_url, "broker_url": broker_url}
        self.settings = settings or Settings.load(**{name: url for name, url in urls.items() if url})
        arm(self.settings.failpoints)
        self._backends = self.settings.backends()
        self.sealing = Sealing.of(self.settings)
        self._preparer = Preparer(Bounds.of(self.settings), self.sealing)
        self._connect()
        _clients.add(self)

    def _connect(self) -> None:
        """What owns sockets, threads and locks; nothing is opened yet."""
        self._database = Database(self._backends.database_url, application_name="dspex client")
        self._broker = Broker(self._backends.broker_url)
        self._rate = SubmitRate(self.settings, self._broker)
        self._waiter = Waiter(self._broker)
        self.driver = BlockingDriver(self)
        self._control = Control(self._database, self._broker)
        self._health = client_check(self._backends, interval_seconds=self.settings.health_interval_seconds)
        self._catalogue = Catalogue(self._database)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Release connections and end the waiting thread; executions go on."""
        self._waiter.close()
        self._rate.close()
        self._broker.close()
        self._database.close()

    @property
    def broker_url(self) -> str:
        return self._broker.url

    # ------------------------------------------------------------------------------------------------- programs

    def deploy(self, program: Program) -> Deployed:
        """Store the program and make this version the current one. The same content is the same version.

        Raises EncryptionError for a program with secret fields when there is no key, ValidationError for one that is
        larger than DSPEX_MAX_PROGRAM_BYTES.
        """
        self.sealing.require(program)
        return self._catalogue.deploy(program, self._preparer.bounds)

    def program(self, name: str, version: str | None = None) -> Program:
        """The deployed program: its current version, or the one named. Raises ProgramNotFound."""
        return self._catalogue.current(name, fresh=True) if version is None else self._catalogue.version(name, version)

    def resolve(self, program: str | Program, *, fresh: bool = False) -> Program:
        """The deployed program that is meant; ``fresh``: asked for in any case. Raises ProgramVersionMismatch."""
        return self._catalogue.current(program, fresh=fresh)

    # --------------------------------------------------------------------------------------------------- submit

    def submit(
        self,
        program: str | Program,
        inputs: Mapping[str, Any],
        *,
        idempotency_key: str | None = None,
        priority: int = 5,
        run_at: datetime | None = None,
        timeout: float | None = None,
        metadata: Mapping[str, Any] | None = None,
        connection: Connection | None = None,
        stream: bool = False,
    ) -> Execution:
        """Store an execution and wake a worker for it. When this returns, it is in Postgres and will run.

        ``program``          the name of a deployed program, or the program itself, which must be the deployed version
        ``idempotency_key``  a second submit with the same key (1 to 255 characters) returns the first execution
        ``priority``         0 to 9; 0 runs first
        ``run_at``           not before this moment (with a time zone)
        ``timeout``          seconds an attempt may take, instead of the program's
        ``metadata``         JSON-friendly data to keep with it
        ``connection``       a SQLAlchemy connection (psycopg) to the same database: the submit is part of its
                             transaction. It can be read, and runs, once that has committed; rolled back, it never was
        ``stream``           have :meth:`Execution.stream` give what the model writes while it writes it. That text goes
                             through Redis and stays there for some minutes

        Raises ValidationError (nothing was stored), RateLimited (nothing was stored: see
        DSPEX_RATE_LIMIT_PER_MINUTE), EncryptionError, ProgramNotFound, ProgramVersionMismatch, IdempotencyConflict, and
        BackendUnavailable when Postgres is out of reach (nothing was stored). When only Redis is out of reach the
        execution is stored, a warning is logged, and it runs once Redis is back.
        """
        fault = [*_key_fault(idempotency_key), *_connection_fault(connection)]
        self._rate.take()
        with submitting(program if isinstance(program, str) else program.name) as traced:
            for fresh in (False, True):
                current = self.resolve(program, fresh=fresh)
                submission = self._preparer.prepare(
                    current, inputs, priority=priority, run_at=run_at, timeout=timeout, metadata=metadata, faults=fault
                )
                # Nobody may hear of what is not committed yet: the pump finds it then.
                submission = submission._replace(
                    stream=stream, publish=connection is None, traceparent=traced.traceparent
                )
                stored = self._submit(submission, idempotency_key, connection)
                if stored is not None:
                    traced.stored(stored.id)
                    return stored
        why = "is being deployed again and again; try again"
        if connection is not None:
            why = "is not deployed in the connection's database"
        raise ProgramNotFound(f"program {current.name!r} {why}", program=current.name, retryable=connection is None)

    def execute(
        self, program: str | Program, inputs: Mapping[str, Any], *, timeout: float | None = None, **options: Any
    ) -> Result:
        """Submit, and wait up to ``timeout`` seconds for the result; ``options`` are those of :meth:`submit`.

        Raises what :meth:`submit` and :meth:`Execution.result` raise. A wait that is over does not end the execution.
        """
        return self.submit(program, inputs, **options).result(timeout)

    def submit_many(
        self,
        program: str | Program,
        rows: Iterable[Mapping[str, Any]],
        *,
        priority: int = 5,
        run_at: datetime | None = None,
        metadata: Mapping[str, Any] | None = None,
        on_rejected: Callable[[Rejected], None] | None = None,
    ) -> Batch:
        """Store an execution for each row, a thousand at a time, however many there are; workers begin at once.

        A row that does not fit the signature is not stored and does not stop the others: it is in
        ``batch.rejected`` with its index and its error, or is given to ``on_rejected`` instead of being kept. With a
        rate limit, each group of rows counts as one submit and waits for its turn.

        Raises BackendUnavailable when Postgres is lost on the way; its ``details`` say how many rows were stored
        and under which ``batch_id``.
        """
        current = self.resolve(program, fresh=True)
        batch = Batch(self, new_batch_id(), current.name)
        intake = self.intake(batch, current, priority=priority, run_at=run_at, metadata=metadata)
        report = on_rejected or batch.rejected.append
        for chunk in chunks(rows):
            for rejected in intake.add(chunk):
                report(rejected)
        return batch

    def map(
        self,
        program: str | Program,
        rows: Iterable[Mapping[str, Any]],
        *,
        timeout: float | None = None,
        return_exceptions: bool = False,
        priority: int = 5,
        metadata: Mapping[str, Any] | None = None,
    ) -> Iterator[Any]:
        """The result of each row, in the order of the rows, while later rows are still being submitted.

        At most a few thousand rows are under way, so any number of them may come. At a row that was rejected or
        failed its error is raised, which ends the iteration (what was submitted goes on); with
        ``return_exceptions`` the error stands in the place of the result. Raises ExecutionTimedOut when all of it
        takes longer than ``timeout`` seconds.
        """
        current = self.resolve(program, fresh=True)
        batch = Batch(self, new_batch_id(), current.name)
        intake = self.intake(batch, current, priority=priority, metadata=metadata)
        pairs = mapped(self.driver, batch, intake, steps(self.driver, chunks(rows, MAP_ROWS)), timeout)
        return (self.outcome(slot, row, return_exceptions=return_exceptions) for slot, row in iterate(pairs))

    def batch(self, id: UUID | str) -> Batch:
        """A batch that was submitted before, by whichever process: the rows that are stored of it by now.

        Why rows were rejected is known only to the submit that did it. Raises ExecutionNotFound when nothing of it
        is stored.
        """
        found = self._database.run(partial(batches.extent, batch_id=(batch_id := _uuid(id))))
        if found is None:
            raise ExecutionNotFound(f"no execution of a batch {str(id)!r} is stored", batch_id=str(id))
        program, size, missing = found
        return Batch(self, batch_id, program, size=size, missing=missing)

    def outcome(self, slot: Slot, row: Mapping[str, Any] | None, *, return_exceptions: bool) -> Any:
        """What :meth:`map` yields, or raises, for a row."""
        try:
            if row is None:
                raise slot.error or ExecutionNotFound()
            return Execution(self, row).result(0)
        except (ValidationError, ExecutionFailed, ExecutionCancelled) as error:
            if not return_exceptions:
                raise
            return error

    def intake(
        self,
        batch: BatchRows,
        program: Program,
        *,
        priority: int = 5,
        run_at: datetime | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Intake:
        """What takes rows into a batch. Raises ValidationError for options that no row could be submitted with."""
        options = self._preparer.options(program, priority=priority, run_at=run_at, metadata=metadata)
        return Intake(batch, options, self._store)

    # ----------------------------------------------------------------------------------------------------- read

    def get(self, id: UUID | str) -> Execution:
        """The execution. Raises ExecutionNotFound."""
        return Execution(self, self.row(_uuid(id)))

    def list(
        self,
        *,
        program: str | None = None,
        status: Status | str | None = None,
        since: datetime | None = None,
        limit: int = 100,
    ) -> list[Execution]:
        """Executions, the newest first; ``status="failed"`` are the dead letters."""
        wanted = None if status is None else Status(status).value
        find = partial(executions.listing, program=program, status=wanted, since=since, limit=limit)
        return [Execution(self, row) for row in self._database.run(find)]

    def health(self) -> HealthReport:
        """How everything is that executions need: each component, since when, and what to do where it is not well.

        Answers within some seconds whatever is away; a report is given again for a moment, so asking often costs
        nothing. Raises nothing for a backend that is out of reach: the report says so.
        """
        return self._health.report()

    def workers(self) -> Sequence[Mapping[str, Any]]:
        """The live workers: id, host, pid, version, state, running, concurrency, heartbeat_age_seconds."""
        return self._database.run(workers.listing)

    def alerts(self, *, resolved_within: timedelta = timedelta(days=1)) -> Sequence[Alert]:
        """Alerts that fire or are about to, then those resolved so recently, each the newest first."""
        return list_alerts(self._database, resolved_within=resolved_within)

    def report(self, since: datetime | timedelta = timedelta(days=1)) -> MonitoringReport:
        """What happened from a moment on, or for so long: outcomes, times, costs, errors, events, alerts and trends."""
        return gather(self._database, since=since)

    def row(self, id: UUID, connection: Connection | None = None) -> Mapping[str, Any]:
        """The execution's row as stored, or as ``connection`` sees it. Raises ExecutionNotFound."""
        row = self._run(partial(executions.find, id=id), connection)
        if row is None:
            raise not_found(self._database, id)
        return row

    def rows(self, ids: Collection[UUID]) -> Sequence[Mapping[str, Any]]:
        """The rows of those of these executions that exist."""
        return self._database.run(partial(executions.find_many, ids=ids))

    def final_rows(self, ids: Collection[UUID]) -> Sequence[Mapping[str, Any]]:
        """The rows of those of these executions that are final."""
        return self._database.run(partial(executions.find_many, ids=ids, final=True))

    def final_indexes(self, batch_id: UUID, begin: int, end: int) -> Sequence[int]:
        """The indexes, from ``begin`` to before ``end``, of the batch's executions that are final."""
        return self._database.run(partial(batches.final_indexes, batch_id=batch_id, begin=begin, end=end))

    def progress(self, batch_id: UUID) -> Progress:
        """How far a batch is, counted in the database, now."""
        return Progress.of(self._database.run(partial(batches.progress, batch_id=batch_id)))

    def audit_trail(self, id: UUID) -> AuditTrail:
        """The audit trail of an execution. Raises ExecutionNotFound."""
        found = self._database.run(partial(executions.trail, id=id))
        if found is None:
            raise not_found(self._database, id)
        entries, head_seq, head_hash = found
        return AuditTrail(id, entries, head_seq=head_seq, head_hash=head_hash)

    def check_schema(self) -> None:
        """Raise SchemaOutdated unless the database has the schema this version needs."""
        self._database.run(migrate.check)

    # ----------------------------------------------------------------------------------------------------- wait

    def wait(self, execution: Execution, timeout: float | None) -> Mapping[str, Any] | None:
        """The execution's row once it is final; None when ``timeout`` seconds pass first."""
        return next(self.wait_any([execution.id], timeout), None)

    def wait_any(self, ids: Collection[UUID], timeout: float | None) -> Iterator[Mapping[str, Any]]:
        """The row of each of these executions as it becomes final; ends with the last, or after ``timeout`` seconds."""
        return iterate(any_final(self.driver, ids, timeout))

    def follow(self, id: UUID, after: str | None, timeout: float | None) -> Iterator[StreamEvent]:
        """See :meth:`Execution.stream`."""
        return iterate(follow(self.driver, self, id, after, timeout))

    def watch(self, keys: Iterable[str], wake: Callable[[], None]) -> AbstractContextManager[Watch]:
        """Have ``wake`` called when what these keys stand for may be final: see dspex/wait/hints.py."""
        return self._waiter.watch(keys, wake)

    # -------------------------------------------------------------------------------------------------- control

    def cancel(self, id: UUID | str) -> bool:
        """Cancel a queued execution at once, and have the worker of a running one end it, within about a second.

        True when it is cancelled, or its worker was asked: it may still complete if that comes first, so ask for its
        status. False when it had completed or failed already. Raises ExecutionNotFound.
        """
        return self._control.cancel(_uuid(id))

    def cancel_batch(self, id: UUID | str, on_progress: Callable[[int, int], None] = lambda _done, _total: None) -> int:
        """See :meth:`Batch.cancel`. Nothing is cancelled of a batch of which nothing is stored: 0."""
        return self._control.cancel_batch(_uuid(id), on_progress)

    def retry(self, id: UUID | str) -> Execution:
        """Queue a failed or cancelled execution again, with as many attempts as its program allows.

        The model calls it paid for are replayed. Raises TransitionRefused for any other status, ExecutionNotFound.
        """
        self._control.retry(_uuid(id))
        return self.get(id)

    def retry_failed(
        self, program: str | None = None, *, on_progress: Callable[[int, int], None] = lambda _done, _total: None
    ) -> int:
        """Queue every execution that has failed by now again, of one program or of all. Returns how many.

        ``on_progress`` is told how many so far, and of how many.
        """
        return self._control.retry_failed(program, on_progress)

    def pause(self, program: str) -> None:
        """Begin no execution of the program until :meth:`resume`, also of versions deployed meanwhile.

        Those that run go on, and submits are still taken. Raises ProgramNotFound.
        """
        self._control.pause(program)

    def resume(self, program: str) -> None:
        """Begin executions of a paused program again. Raises ProgramNotFound."""
        self._control.resume(program)

    def paused(self) -> Mapping[str, str]:
        """The paused programs by name, each with the reason."""
        return self._control.paused()

    def verify_audit(
        self,
        *,
        program: str | None = None,
        since: datetime | None = None,
        on_progress: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> Mapping[UUID, Verdict]:
        """The executions whose audit trail is not whole, each with what is wrong: none, in a database nobody edited.

        Trails are verified a page at a time; ``on_progress`` is told how many were, and of how many.
        """
        return dict(verify_trails(self._database, program=program, since=since, on_progress=on_progress))

    def timed_out(self, execution: Execution, timeout: float | None) -> ExecutionTimedOut:
        """The error of a wait that is over, with what is known about why."""
        status = execution.status
        live = len(self.workers())
        reason = "" if live else "; no worker is alive: start one with `dspex worker`"
        if why := self.paused().get(execution.program):
            reason = f"; its program is paused ({why}): `dspex resume {execution.program}`"
        return ExecutionTimedOut(
            f"execution {execution.id} is {status} after {timeout} s and goes on{reason}",
            execution_id=str(execution.id), status=str(status), live_workers=live,
        )  # fmt: skip

    # -------------------------------------------------------------------------------------------------- private

    def _submit(
        self, submission: executions.Submission, key: str | None, connection: Connection | None
    ) -> Execution | None:
        """The execution, stored now or before; None when its version is not the current one."""
        if key is None:
            insert = partial(executions.insert, submission=submission)
        else:
            digest = _inputs_hash(submission.inputs)
            insert = partial(executions.insert_once, submission=submission, key=key, inputs_hash=digest)
        if (row := self._run(insert, connection)) is None:
            return self._earlier(submission, key, connection)
        failpoint(AFTER_INSERT)
        if row.dispatched_at is not None:
            self._publish([submission.id], submission.program, submission.priority)
        return Execution(self, _new_row(submission, row.created_at))

    def _run(self, work: Callable[[Connection], T], connection: Connection | None) -> T:
        """``work`` in the caller's transaction, or on a connection of this client's own."""
        return self._database.run(work) if connection is None else self._database.within(connection, work)

    def _earlier(
        self, submission: executions.Submission, key: str | None, connection: Connection | None
    ) -> Execution | None:
        """The execution a submit that stored nothing stands for, if it was stored before."""
        if key is not None:
            known = self._run(partial(executions.known_key, program=submission.program, key=key), connection)
            if known is not None:
                if not self._same_inputs(submission, known, connection):
                    raise IdempotencyConflict(
                        f"idempotency key {key!r} of program {submission.program!r} stands for execution "
                        f"{known.execution_id}, which has other inputs",
                        execution_id=str(known.execution_id), key=key,
                    )  # fmt: skip
                row = self._run(partial(executions.find, id=known.execution_id), connection)
                if row is None:
                    raise ExecutionNotFound(
                        f"idempotency key {key!r} of program {submission.program!r} stood for execution "
                        f"{known.execution_id}, which retention removed: the next upkeep frees the key",
                        execution_id=str(known.execution_id), retryable=True,
                    )  # fmt: skip
                return Execution(self, row)
        row = self._run(partial(executions.find, id=submission.id), connection)
        return Execution(self, row) if row else None

    def _same_inputs(self, submission: executions.Submission, known: Any, connection: Connection | None) -> bool:
        """Whether the execution that is known has these inputs; sealed ones are opened, for no hash of them is kept."""
        if known.inputs_hash and not is_sealed(submission.inputs):
            return bool(known.inputs_hash == _inputs_hash(submission.inputs))
        row = self.row(known.execution_id, connection)
        given = self._inputs(submission.program, submission.version, submission.inputs, submission.id)
        return _canonical(given) == _canonical(self._inputs(row["program"], row["version"], row["inputs"], row["id"]))

    def _inputs(self, program: str, version: str, stored: str, id: UUID) -> dict[str, Any]:
        signature = self._catalogue.version(program, version).signature
        return self.sealing.json_values(signature, "inputs", stored, id)

    def _store(self, submissions: Sequence[executions.Submission]) -> None:
        """All of them or none; once more when the connection breaks, for it may be an old one that was cut since.

        A group counts as one submit, and waits until it may be counted.
        """
        self._rate.wait()
        with submitting(submissions[0].program, count=len(submissions)) as traced:
            if traced.traceparent is not None:
                submissions = [each._replace(traceparent=traced.traceparent) for each in submissions]
            for again in (False, True):
                try:
                    with self._database.transaction(saved="these rows are not stored") as connection:
                        executions.copy(connection, submissions, missing_only=again)
                    break
                except (BackendUnavailable, executions.AlreadyStored):
                    if again:
                        raise
        failpoint(BETWEEN_CHUNKS)

    def _publish(self, ids: Sequence[UUID], program: str, priority: int) -> None:
        try:
            self._broker.publish(ids, program=program, priority=priority)
        except BackendUnavailable as error:
            log.warning("%s", error)


_clients: weakref.WeakSet[Client] = weakref.WeakSet()
#: What a forked child inherited and must not touch, nor close: the parent goes on using the same sockets.
_inherited: list[object] = []


def _leave_to_parent() -> None:
    for client in _clients:
        _inherited.extend((client._database, client._broker, client._waiter))
        client._connect()


os.register_at_fork(after_in_child=_leave_to_parent)


def _new_row(submission: executions.Submission, created_at: datetime) -> Mapping[str, Any]:
    """The row just stored, without reading it again."""
    return {
        "id": submission.id,
        "program": submission.program,
        "version": submission.version,
        "status": Status.QUEUED,
        "priority": submission.priority,
        "attempt": 0,
        "inputs": submission.inputs,
        "created_at": created_at,
        "metadata": None if submission.metadata is None else json.loads(submission.metadata),
        "error": None, "metrics": None, "adapter_used": None, "action_results": None,
        "started_at": None, "finished_at": None, "stream": submission.stream, "traceparent": submission.traceparent,
    }  # fmt: skip


def _inputs_hash(inputs: str) -> bytes:
    """Nothing of sealed inputs: what few values they may have could be tried out."""
    return b"" if is_sealed(inputs) else hashlib.sha256(_canonical(json.loads(inputs))).digest()


def _canonical(values: Any) -> bytes:
    return json.dumps(values, sort_keys=True, separators=(",", ":")).encode()


def _connection_fault(connection: object) -> list[FieldError]:
    drivers = ("psycopg", "psycopg_async")
    if connection is None or (isinstance(connection, Connection) and connection.dialect.driver in drivers):
        return []
    expected = "a SQLAlchemy Connection through psycopg (of a Session: session.connection())"
    return [FieldError("connection", expected, type(connection).__name__)]


def _key_fault(key: str | None) -> list[FieldError]:
    if key is None or (isinstance(key, str) and 1 <= len(key) <= 255 and "\x00" not in key):
        return []
    return [FieldError("idempotency_key", "text of 1 to 255 characters", repr(key)[:40])]


def _uuid(id: UUID | str) -> UUID:
    if isinstance(id, UUID):
        return id
    try:
        return UUID(str(id))
    except ValueError:
        raise ExecutionNotFound(f"{id!r} is not an execution id", execution_id=str(id)) from None
