"""Submitting: one execution, or the rows of a batch, into Postgres and onto the queue."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any, NamedTuple
from uuid import UUID

import psycopg
from sqlalchemy import Connection

from dspex.client.deployed_programs import Catalogue
from dspex.client.session import Session
from dspex.errors import (
    BackendUnavailable,
    ExecutionNotFound,
    FieldError,
    IdempotencyConflict,
    ProgramNotFound,
    ValidationError,
)
from dspex.program.program import Program
from dspex.program.storable_text import STORABLE, is_storable
from dspex.sealing.values import is_sealed
from dspex.settings.failpoints import BETWEEN_CHUNKS, failpoint
from dspex.store.batching.gathering import Hold
from dspex.store.lifecycle import executions
from dspex.store.lifecycle.batch_ids import new_batch_id
from dspex.store.lifecycle.executions import Submission
from dspex.store.lifecycle.status import Status
from dspex.store.operations import webhook_deliveries
from dspex.submit.batch_rows import BatchRows
from dspex.submit.borrowed_connection import borrowed
from dspex.submit.bulk import Intake
from dspex.submit.dedup import DEDUP_PREFIX, dedup_faults, dedup_key, is_of_use, refuse_dedup, with_equals
from dspex.submit.trace_context import is_traced, submitting
from dspex.wait.driver import Row

__all__ = ["Submitter"]

#: The options that need nothing but the preparer: no answer of a backend, and no other statement.
_USUAL_OPTIONS = frozenset(("priority", "run_at", "metadata", "tenant", "webhook", "route", "within", "otherwise"))


class _Route(NamedTuple):
    """The version that a submit goes to: ``pinned`` when it was named, else as of the rollout that is known here."""

    program: Program
    rollout_id: UUID | None = None
    pinned: bool = False


class Submitter:
    """Submits through a session. Safe to share between threads."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def submit(
        self,
        program: str | Program,
        inputs: Mapping[str, Any],
        *,
        idempotency_key: str | None,
        connection: Connection | psycopg.Connection[Any] | None,
        stream: bool,
        dedup: bool | timedelta = False,
        version: str | None = None,
        **options: Any,
    ) -> Row:
        """The row of the execution: see :meth:`dspex.Client.submit`. ``options`` go to Preparer.prepare."""
        if isinstance(connection, psycopg.Connection):
            with borrowed(connection) as shared:
                return self.submit(
                    program, inputs, idempotency_key=idempotency_key, connection=shared, stream=stream, dedup=dedup,
                    version=version, **options,
                )  # fmt: skip
        faults = [
            *_key_faults(idempotency_key), *_connection_faults(connection), *dedup_faults(dedup, idempotency_key),
        ]  # fmt: skip
        is_usual = not stream and connection is None and idempotency_key is None
        connections = self._session.connections
        connections.rate.take()
        with submitting(program if isinstance(program, str) else program.name) as traced:
            for fresh in (False, True):
                route = _route(connections.catalogue, program, version, idempotency_key, fresh=fresh)
                submission = self._session.preparer.prepare(route.program, inputs, faults=faults, **options)
                if not is_usual or traced.traceparent is not None or route.pinned or route.rollout_id is not None:
                    # An id must not be published before its transaction commits: then the pump publishes it.
                    submission = submission._replace(
                        stream=stream, publish=connection is None, traceparent=traced.traceparent, key=idempotency_key,
                        inputs_hash=b"" if idempotency_key is None else _inputs_hash(submission.inputs),
                        pinned=route.pinned, rollout_id=route.rollout_id,
                    )  # fmt: skip
                if dedup is False:
                    stored = self._insert(submission, connection, inputs)
                else:
                    refuse_dedup(route.program, submission)
                    stored = self._insert_unless_equal(submission, dedup, connection)
                if stored is not None:
                    traced.stored(stored["id"])
                    return stored
        why = "is being deployed again and again; try again"
        if connection is not None:
            why = "is not deployed in the connection's database"
        name = route.program.name
        raise ProgramNotFound(f"program {name!r} {why}", program=name, retryable=connection is None)

    def usual(self, program: str | Program, inputs: Mapping[str, Any], options: Mapping[str, Any]) -> Submission | None:
        """The submission of a usual submit, for which no backend is asked; None for any other. Takes the options of
        :meth:`dspex.Client.submit`, and raises its errors."""
        connections = self._session.connections
        if not options.keys() <= _USUAL_OPTIONS or connections.rate.per_minute is not None or is_traced():
            return None
        deployed = connections.catalogue.known(program)
        if deployed is None or deployed.rollout_id is not None:
            return None
        return self._session.preparer.prepare(deployed.program, inputs, **options)

    async def submit_and_wait(self, submission: Submission) -> tuple[Row | None, float | None]:
        """Store the execution, and wait. The caller is woken once.

        Returns its row, which is final unless the next poll came first, and when it was stored, by the monotonic clock.
        Both are None when nothing was stored.
        """
        connections, hold, submitted_at = self._session.connections, Hold(), time.monotonic()
        with connections.waiter.watch_final(submission.id, hold.end, since=submitted_at) as watch:
            stored = await connections.submit_held(submission, hold)
        if watch.row is not None or stored is None:
            return watch.row, hold.since
        return _new_row(submission, stored.created_at, submitted_at), hold.since

    def begin(self, program: str | Program, *, version: str | None = None, **options: Any) -> tuple[BatchRows, Intake]:
        """A new batch without rows, and its intake; ``options`` go to :meth:`intake`.

        All of its rows are executed with one version: the named one, else the one that is current now.
        """
        chosen = self.chosen(program, version)
        batch = BatchRows(new_batch_id(), chosen.name)
        return batch, self.intake(batch, chosen, **options)

    def chosen(self, program: str | Program, version: str | None) -> Program:
        """The version that is named, or the current one. Raises ProgramNotFound, ProgramVersionMismatch."""
        catalogue = self._session.catalogue
        if version is None:
            return catalogue.current(program, fresh=True)
        return catalogue.named(program if isinstance(program, str) else program.name, version)

    def intake(
        self,
        batch: BatchRows,
        program: Program,
        *,
        priority: int = 5,
        run_at: datetime | None = None,
        metadata: Mapping[str, Any] | None = None,
        tenant: str | None = None,
        dedup: bool | timedelta = False,
        **given: Any,
    ) -> Intake:
        """The intake of a batch; ``given`` are timeout, purpose, webhook, route, within and otherwise. Raises
        ValidationError for options that no row could be submitted with."""
        faults = dedup_faults(dedup, None)
        options = self._session.preparer.options(
            program, priority=priority, run_at=run_at, metadata=metadata, tenant=tenant, faults=faults, **given
        )
        store = self._store
        if dedup is not False:
            store = partial(store, equals=partial(with_equals, program=program, dedup=dedup))
        return Intake(batch, options, store, self._announce)

    def _insert(self, submission: Submission, connection: Connection | None, inputs: Mapping[str, Any]) -> Row | None:
        """The row of the execution, stored now or before; None when new submits do not go to its version any more."""
        row = self._stored(submission, connection)
        return self._earlier(submission, connection, inputs) if row is None else row

    def _insert_unless_equal(
        self, submission: Submission, dedup: bool | timedelta, connection: Connection | None
    ) -> Row | None:
        """The row of an equal execution that is of use, or of this one, stored now. None as for :meth:`_insert`."""
        session, key = self._session, dedup_key(submission)
        keyed = submission._replace(key=key, inputs_hash=_inputs_hash(submission.inputs))
        find_key = partial(executions.known_key, program=submission.program, key=key)
        while True:
            if (known := session.run(find_key, connection)) is not None:
                id: UUID = known.execution_id
                found = session.run(partial(executions.find, id=id), connection)
                if found is not None and is_of_use(found, dedup):
                    return {**found, "deduplicated": True}
                release = partial(executions.release_key, program=submission.program, key=key, execution_id=id)
                session.run(release, connection)
            if (row := self._stored(keyed, connection)) is not None:
                return row
            if session.run(find_key, connection) is None:
                return None  # the key is free: new submits do not go to this version any more

    def _stored(self, submission: Submission, connection: Connection | None) -> Row | None:
        """The row of the execution, stored now; None when nothing was stored.

        It shares a statement with what is submitted at the same time, unless ``connection`` has a transaction.
        """
        submitted_at = time.monotonic()
        if connection is None:
            row = self._session.connections.submit(submission)
        else:
            row = self._session.run(partial(executions.insert, submission=submission), connection)
        return None if row is None else _new_row(submission, row.created_at, submitted_at)

    def _earlier(self, submission: Submission, connection: Connection | None, inputs: Mapping[str, Any]) -> Row | None:
        """The row that was stored before with this key or id, if any."""
        session = self._session
        if (key := submission.key) is not None:
            known = session.run(partial(executions.known_key, program=submission.program, key=key), connection)
            if known is not None:
                return self._keyed(submission, key, known, connection, inputs)
        return session.run(partial(executions.find, id=submission.id), connection)

    def _keyed(
        self, submission: Submission, key: str, known: Any, connection: Connection | None, inputs: Mapping[str, Any]
    ) -> Row:
        """The row of the execution that has the idempotency key. Raises IdempotencyConflict, ExecutionNotFound."""
        if not self._same_inputs(submission, known, connection, inputs):
            raise IdempotencyConflict(
                f"idempotency key {key!r} of program {submission.program!r} belongs to execution "
                f"{known.execution_id}, which has other inputs",
                execution_id=str(known.execution_id), key=key,
            )  # fmt: skip
        row = self._session.run(partial(executions.find, id=known.execution_id), connection)
        if row is None:
            raise ExecutionNotFound(
                f"idempotency key {key!r} of program {submission.program!r} belonged to execution "
                f"{known.execution_id}, which retention removed: the next upkeep frees the key",
                execution_id=str(known.execution_id), retryable=True,
            )  # fmt: skip
        return row

    def _same_inputs(
        self, submission: Submission, known: Any, connection: Connection | None, inputs: Mapping[str, Any]
    ) -> bool:
        """Whether the known execution has these inputs. Sealed inputs are opened, as no hash of them is stored; inputs
        of another version are compared as that version has them, with its defaults."""
        if (
            known.inputs_hash
            and not is_sealed(submission.inputs)
            and known.inputs_hash == _inputs_hash(submission.inputs)
        ):
            return True
        stored = self._session.row(known.execution_id, connection)
        if stored["version"] != submission.version:
            return self._fits_as(stored, inputs)
        if known.inputs_hash and not is_sealed(submission.inputs):
            return False
        given = {"id": submission.id, "program": submission.program, "version": submission.version}
        return self._opened({**given, "inputs": submission.inputs}) == self._opened(stored)

    def _fits_as(self, stored: Row, inputs: Mapping[str, Any]) -> bool:
        """Whether these are the inputs of a stored execution, read by its version's signature."""
        signature = self._session.signature(stored)
        try:
            encoded = signature.encode("inputs", signature.validate_inputs(inputs))
        except ValidationError:
            return False
        return self._opened({**stored, "inputs": encoded.decode()}) == self._opened(stored)

    def _opened(self, row: Row) -> bytes:
        session = self._session
        return _canonical(session.sealing.json_values(session.signature(row), "inputs", row["inputs"], row["id"]))

    def _store(self, submissions: Sequence[Submission], equals: Callable[..., list[Submission]] | None = None) -> None:
        """Store all of the submissions or none. A group waits until the rate limit lets it count as one submit.

        Tries once more when the connection breaks, as it may have been cut while it was idle.
        """
        session = self._session
        session.connections.rate.wait()
        with submitting(submissions[0].program, count=len(submissions)) as traced:
            if traced.traceparent is not None:
                submissions = [each._replace(traceparent=traced.traceparent) for each in submissions]
            for again in (False, True):
                try:
                    with session.database.transaction(saved="these rows are not stored") as connection:
                        if equals is not None:
                            submissions = equals(connection, submissions=submissions)
                        executions.copy(connection, submissions, missing_only=again)
                    break
                except (BackendUnavailable, executions.AlreadyStored):
                    if again:
                        raise
        failpoint(BETWEEN_CHUNKS)

    def _announce(self, batch: BatchRows, url: str, tenant: str | None) -> None:
        """Store the webhook of a batch, once. Tries once more when the connection breaks, as for the rows."""
        content = {"program": batch.program, "rows": batch.size, "stored": len(batch), "tenant": tenant}
        add = partial(webhook_deliveries.add_batch, batch_id=batch.id, url=url, content=content)
        for again in (False, True):
            try:
                self._session.database.run(add, saved="the rows are stored, the webhook is not")
                break
            except BackendUnavailable:
                if again:
                    raise


def _route(
    catalogue: Catalogue, program: str | Program, version: str | None, key: str | None, *, fresh: bool
) -> _Route:
    """The version that the submit goes to: the named one, else the current one or the one of a rollout."""
    if version is not None:
        name = program if isinstance(program, str) else program.name
        return _Route(catalogue.named(name, version), pinned=True)
    deployed = catalogue.deployed(program, fresh=fresh)
    chosen = deployed.chosen(key) if isinstance(program, str) else deployed.program
    return _Route(chosen, rollout_id=deployed.rollout_id)


def _new_row(submission: Submission, created_at: datetime, submitted_at: float) -> Row:
    """The row just stored, without reading it from Postgres; and a time before that by the monotonic clock."""
    return {
        "submitted_at": submitted_at,
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
        "tenant": submission.tenant,
        "purpose": None if submission.purpose is None else json.loads(submission.purpose),
    }  # fmt: skip


def _inputs_hash(inputs: str) -> bytes:
    """The hash of the inputs; empty for sealed ones, whose values could be guessed by trying."""
    return b"" if is_sealed(inputs) else hashlib.sha256(_canonical(json.loads(inputs))).digest()


def _canonical(values: Any) -> bytes:
    return json.dumps(values, sort_keys=True, separators=(",", ":")).encode()


def _connection_faults(connection: object) -> list[FieldError]:
    drivers = ("psycopg", "psycopg_async")
    if connection is None or (isinstance(connection, Connection) and connection.dialect.driver in drivers):
        return []
    expected = "a SQLAlchemy Connection through psycopg (of a Session: session.connection()), or a psycopg.Connection"
    return [FieldError("connection", expected, type(connection).__name__)]


def _key_faults(key: str | None) -> list[FieldError]:
    if key is None:
        return []
    if isinstance(key, str) and 1 <= len(key) <= 255 and is_storable(key) and not key.startswith(DEDUP_PREFIX):
        return []
    expected = f"1 to 255 characters of {STORABLE}, which do not begin with {DEDUP_PREFIX!r}"
    return [FieldError("idempotency_key", expected, repr(key)[:40])]
