"""Executions: every statement that makes, moves or reads them.

Each transition is one statement that changes the row and appends its audit entry, so neither can happen without
the other. ``now`` is the database's clock. Statements written with ``%(name)s`` are used by the worker through
psycopg, many executions at a time, as well as by the producer.

A settling statement names the attempt and the worker: one that lost its lease finds no row (invariant 2).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, Text, bindparam, cast, func, select, text
from sqlalchemy.dialects import postgresql

from dspex.audit import Entry, entry_hash
from dspex.store.tables import executions

__all__ = [
    "ADOPT",
    "CLAIM",
    "SETTLE",
    "Claimed",
    "Settlement",
    "Submission",
    "copy",
    "dispatch",
    "final_among",
    "find",
    "find_many",
    "insert",
    "insert_once",
    "known_key",
    "listing",
    "progress",
    "recover",
    "redispatch",
    "settle_parameters",
    "trail",
]


@dataclass(frozen=True, slots=True)
class Submission:
    """An execution to be stored. ``inputs``, ``metadata`` and ``events`` are JSON text.

    ``run_at`` is None for now. ``publish`` says whether the producer will put the id on the queue itself; otherwise
    the pump does.
    """

    id: UUID
    program: str
    version: str
    inputs: str
    events: str
    priority: int
    max_attempts: int
    timeout_seconds: float
    run_at: datetime | None = None
    publish: bool = True
    metadata: str | None = None
    batch_id: UUID | None = None
    batch_index: int | None = None


_INSERT = """
WITH {key}inserted AS (
    INSERT INTO dspex.executions (id, program, version, status, priority, attempt, max_attempts, timeout_seconds,
        created_at, run_at, dispatched_at, inputs, metadata, audit_seq, audit_hash)
    SELECT %(id)s, p.name, p.version, 'queued', %(priority)s, 0, %(max_attempts)s, %(timeout_seconds)s,
        now(), coalesce(%(run_at)s::timestamptz, now()),
        CASE WHEN %(publish)s AND p.paused_at IS NULL AND coalesce(%(run_at)s::timestamptz, now()) <= now()
            THEN now() END,
        %(inputs)s::json, %(metadata)s::json,
        1, dspex.audit_hash('', %(id)s, 1, 0, now(), %(events)s)
    FROM dspex.programs p{key_table} WHERE p.name = %(program)s AND p.version = %(version)s
    ON CONFLICT (id) DO NOTHING
    RETURNING id, created_at, dispatched_at, audit_hash
), logged AS (
    INSERT INTO dspex.audit_events (execution_id, seq, attempt, at, events, hash)
    SELECT id, 1, 0, created_at, %(events)s::json, audit_hash FROM inserted
)
SELECT created_at, dispatched_at FROM inserted
"""

INSERT = _INSERT.format(key="", key_table="")
INSERT_ONCE = _INSERT.format(
    key="""key AS (
    INSERT INTO dspex.idempotency_keys (program, key, execution_id, inputs_hash)
    SELECT name, %(key)s, %(id)s, %(inputs_hash)s FROM dspex.programs WHERE name = %(program)s AND version = %(version)s
    ON CONFLICT (program, key) DO NOTHING RETURNING execution_id
), """,
    key_table=" JOIN key ON key.execution_id = %(id)s",
)


def insert(connection: Connection, submission: Submission) -> Row[Any] | None:
    """Store it. The row has ``created_at`` and ``dispatched_at`` (None when it is left to the pump).

    None when this version is not the current one, or when this id is stored already.
    """
    return connection.exec_driver_sql(INSERT, _parameters(submission)).one_or_none()


def insert_once(connection: Connection, submission: Submission, key: str, inputs_hash: bytes) -> Row[Any] | None:
    """Store it unless the program has seen ``key``. None then, and in the cases of :func:`insert`."""
    parameters = {**_parameters(submission), "key": key, "inputs_hash": inputs_hash}
    return connection.exec_driver_sql(INSERT_ONCE, parameters).one_or_none()


def known_key(connection: Connection, program: str, key: str) -> Row[Any] | None:
    """The execution that an idempotency key stands for: ``execution_id``, ``inputs_hash``."""
    return connection.execute(
        text("SELECT execution_id, inputs_hash FROM dspex.idempotency_keys WHERE program = :program AND key = :key"),
        {"program": program, "key": key},
    ).one_or_none()


def _parameters(submission: Submission) -> dict[str, Any]:
    return {name: getattr(submission, name) for name in Submission.__slots__}


def copy(connection: Connection, submissions: Sequence[Submission]) -> None:
    """Store many by COPY, all left to the pump."""
    now = connection.scalar(text("SELECT now()"))
    cursor = connection.connection.cursor()
    hashes = [entry_hash(b"", s.id, 1, 0, now, s.events) for s in submissions]
    with cursor.copy(
        "COPY dspex.executions (id, program, version, status, priority, attempt, max_attempts, timeout_seconds,"
        " batch_id, batch_index, created_at, run_at, inputs, metadata, audit_seq, audit_hash) FROM STDIN"
    ) as rows:
        for s, digest in zip(submissions, hashes, strict=True):
            rows.write_row(
                (s.id, s.program, s.version, "queued", s.priority, 0, s.max_attempts, s.timeout_seconds,
                 s.batch_id, s.batch_index, now, s.run_at or now, s.inputs, s.metadata, 1, digest)
            )  # fmt: skip
    with cursor.copy("COPY dspex.audit_events (execution_id, seq, attempt, at, events, hash) FROM STDIN") as rows:
        for s, digest in zip(submissions, hashes, strict=True):
            rows.write_row((s.id, 1, 0, now, s.events, digest))


# ---------------------------------------------------------------------------------------------- claim and settle

CLAIM = """
WITH wanted AS MATERIALIZED (
    SELECT id FROM dspex.executions
    WHERE id = ANY(%(ids)s) AND status = 'queued' AND dispatched_at IS NOT NULL
      AND EXISTS (SELECT FROM dspex.workers WHERE id = %(worker_id)s AND stopped_at IS NULL)
    ORDER BY id FOR UPDATE
), claimed AS (
    UPDATE dspex.executions e
    SET status = 'running', attempt = e.attempt + 1, worker_id = %(worker_id)s, started_at = now(),
        audit_seq = e.audit_seq + 1,
        audit_hash = dspex.audit_hash(e.audit_hash, e.id, e.audit_seq + 1, e.attempt + 1, now(), %(events)s)
    FROM wanted w WHERE e.id = w.id
    RETURNING e.*
), logged AS (
    INSERT INTO dspex.audit_events (execution_id, seq, attempt, at, events, hash)
    SELECT id, audit_seq, attempt, started_at, %(events)s::json, audit_hash FROM claimed
)
SELECT id, program, version, attempt, max_attempts, timeout_seconds, inputs::text, created_at, run_at, started_at,
    worker_id, error->>'code' AS last_error_code
FROM claimed
"""

# What a claim brought whose answer was lost with the connection: this worker's already, though it does not know.
ADOPT = """
SELECT id, program, version, attempt, max_attempts, timeout_seconds, inputs::text, created_at, run_at, started_at,
    worker_id, error->>'code' AS last_error_code
FROM dspex.executions WHERE id = ANY(%(ids)s) AND status = 'running' AND worker_id = %(worker_id)s
"""


@dataclass(frozen=True, slots=True)
class Claimed:
    """An execution that a worker now runs: what CLAIM returns."""

    id: UUID
    program: str
    version: str
    attempt: int
    max_attempts: int
    timeout_seconds: float
    inputs: str
    created_at: datetime
    run_at: datetime
    started_at: datetime
    worker_id: UUID
    last_error_code: str | None


SETTLE = """
WITH given AS (
    SELECT * FROM unnest(%(ids)s::uuid[], %(attempts)s::int[], %(worker_ids)s::uuid[], %(statuses)s::text[],
        %(results)s::text[], %(errors)s::text[], %(metrics)s::text[], %(adapters)s::text[],
        %(delays)s::float8[], %(events)s::text[])
        AS g (id, attempt, worker_id, status, result, error, metrics, adapter_used, delay_seconds, events)
), owned AS MATERIALIZED (
    SELECT e.id FROM dspex.executions e JOIN given g
        ON e.id = g.id AND e.attempt = g.attempt AND e.worker_id = g.worker_id
    WHERE e.status = 'running' ORDER BY e.id FOR UPDATE OF e
), settled AS (
    UPDATE dspex.executions e
    SET status = g.status, result = g.result::json, error = g.error::json, metrics = g.metrics::json,
        adapter_used = g.adapter_used,
        worker_id = NULL,
        dispatched_at = CASE WHEN g.status = 'queued' THEN NULL ELSE e.dispatched_at END,
        run_at = CASE WHEN g.status = 'queued' THEN now() + make_interval(secs => g.delay_seconds) ELSE e.run_at END,
        finished_at = CASE WHEN g.status = 'queued' THEN NULL ELSE now() END,
        audit_seq = e.audit_seq + 1,
        audit_hash = dspex.audit_hash(e.audit_hash, e.id, e.audit_seq + 1, e.attempt, now(), g.events)
    FROM given g JOIN owned o ON g.id = o.id WHERE e.id = g.id
    RETURNING e.id, e.audit_seq, e.attempt, g.events, e.audit_hash
), logged AS (
    INSERT INTO dspex.audit_events (execution_id, seq, attempt, at, events, hash)
    SELECT id, audit_seq, attempt, now(), events::json, audit_hash FROM settled
)
SELECT id FROM settled
"""


@dataclass(frozen=True, slots=True)
class Settlement:
    """How an attempt ends. ``status`` is the execution's next: a terminal one, or ``queued`` for another attempt
    after ``delay_seconds``. ``result``, ``error``, ``metrics`` and ``events`` are JSON text."""

    id: UUID
    attempt: int
    worker_id: UUID
    status: str
    events: str
    metrics: str
    result: str | None = None
    error: str | None = None
    adapter_used: str | None = None
    delay_seconds: float = 0.0


def settle_parameters(settlements: Sequence[Settlement]) -> dict[str, Any]:
    """The arguments of SETTLE."""
    columns = {
        "ids": "id",
        "attempts": "attempt",
        "worker_ids": "worker_id",
        "statuses": "status",
        "results": "result",
        "errors": "error",
        "metrics": "metrics",
        "adapters": "adapter_used",
        "delays": "delay_seconds",
        "events": "events",
    }
    return {name: [getattr(s, column) for s in settlements] for name, column in columns.items()}


# ------------------------------------------------------------------------------------------- dispatch and recover

_DISPATCH = text("""
WITH waiting AS (
    SELECT count(*) AS dispatched FROM (
        SELECT FROM dspex.executions WHERE status = 'queued' AND dispatched_at IS NOT NULL LIMIT :window) w
), due AS MATERIALIZED (
    SELECT e.id FROM dspex.executions e JOIN dspex.programs p ON p.name = e.program
    WHERE e.status = 'queued' AND e.dispatched_at IS NULL AND e.run_at <= now() AND p.paused_at IS NULL
    ORDER BY e.priority, e.run_at
    LIMIT (SELECT greatest(:window - dispatched, 0) FROM waiting)
    FOR UPDATE OF e SKIP LOCKED
)
UPDATE dspex.executions e SET dispatched_at = now() FROM due WHERE e.id = due.id RETURNING e.id, e.priority, e.program
""")


def dispatch(connection: Connection, window: int) -> list[Row[Any]]:
    """Mark what is due as dispatched, most urgent first, so that at most ``window`` wait in Redis."""
    rows = connection.execute(_DISPATCH, {"window": window}).all()
    return sorted(rows, key=lambda row: (row.priority, row.program, row.id))


_REDISPATCH = text("""
UPDATE dspex.executions e SET dispatched_at = NULL
FROM (
    SELECT id FROM dspex.executions
    WHERE status = 'queued' AND dispatched_at < now() - make_interval(secs => :older_than)
    ORDER BY dispatched_at LIMIT :most FOR UPDATE SKIP LOCKED
) lost WHERE e.id = lost.id
""")


def redispatch(connection: Connection, *, older_than: float, most: int) -> int:
    """Take back executions dispatched more than ``older_than`` seconds ago and never claimed. Returns how many."""
    return connection.execute(_REDISPATCH, {"older_than": older_than, "most": most}).rowcount


# A worker is dead when its lease ran out. The poisoned are those whose worker died at every attempt they had.
_RECOVER = """
WITH dead AS (
    UPDATE dspex.workers SET state = 'dead', stopped_at = now()
    WHERE stopped_at IS NULL AND heartbeat_at < now() - make_interval(secs => lease_seconds)
    RETURNING id
), lost AS MATERIALIZED (
    SELECT e.id, w.heartbeat_at, e.attempt >= e.max_attempts AS spent
    FROM dspex.executions e JOIN dspex.workers w ON w.id = e.worker_id
    WHERE e.status = 'running' AND (w.stopped_at IS NOT NULL OR w.id IN (SELECT id FROM dead))
    ORDER BY e.id LIMIT %(most)s FOR UPDATE OF e SKIP LOCKED
), entries AS (
    SELECT e.id, l.spent, json_build_array(
        json_build_object('kind', 'lease_expired', 'data', json_build_object(
            'worker', e.worker_id, 'last_heartbeat_at', l.heartbeat_at)),
        json_build_object('kind', CASE WHEN l.spent THEN 'failed' ELSE 'recovered' END, 'data', json_build_object(
            'code', CASE WHEN l.spent THEN 'poisoned' END, 'by', %(worker_id)s::uuid)))::text AS events
    FROM dspex.executions e JOIN lost l USING (id)
), recovered AS (
    UPDATE dspex.executions e
    SET status = CASE WHEN n.spent THEN 'failed' ELSE 'queued' END,
        worker_id = NULL, dispatched_at = NULL,
        run_at = CASE WHEN n.spent THEN e.run_at ELSE now() END,
        finished_at = CASE WHEN n.spent THEN now() END,
        error = CASE WHEN n.spent THEN json_build_object(
            'type', 'ExecutionFailed', 'code', 'poisoned', 'retryable', false,
            'message', format('its worker died at each of its %%s attempts', e.attempt),
            'details', json_build_object('worker', e.worker_id)) END,
        audit_seq = e.audit_seq + 1,
        audit_hash = dspex.audit_hash(e.audit_hash, e.id, e.audit_seq + 1, e.attempt, now(), n.events)
    FROM entries n WHERE e.id = n.id
    RETURNING e.id, e.status, e.audit_seq, e.attempt, n.events, e.audit_hash, e.batch_id
), logged AS (
    INSERT INTO dspex.audit_events (execution_id, seq, attempt, at, events, hash)
    SELECT id, audit_seq, attempt, now(), events::json, audit_hash FROM recovered
)
SELECT id, status, batch_id FROM recovered
"""


def recover(connection: Connection, worker_id: UUID, *, most: int = 1000) -> list[Row[Any]]:
    """Find workers whose lease ran out and requeue what they ran, or fail what has no attempt left.

    ``worker_id`` is the one that does it. Returns ``id, status, batch_id`` of each.
    """
    return list(connection.exec_driver_sql(_RECOVER, {"worker_id": worker_id, "most": most}).all())


# ------------------------------------------------------------------------------------------------------- reading

UUIDS = postgresql.ARRAY(postgresql.UUID(as_uuid=True))
# Inputs and result as the text that was stored: only the signature knows how to read it.
_AS_TEXT = ("inputs", "result")
_COLUMNS = [
    cast(column, Text).label(column.name) if column.name in _AS_TEXT else column
    for column in executions.c
    if column.name not in ("audit_seq", "audit_hash", "dispatched_at")
]


def find(connection: Connection, id: UUID) -> Mapping[str, Any] | None:
    row = connection.execute(select(*_COLUMNS).where(executions.c.id == id)).mappings().one_or_none()
    return dict(row) if row else None


def listing(
    connection: Connection, *, program: str | None, status: str | None, since: datetime | None,
    batch_id: UUID | None = None, limit: int,
) -> list[Mapping[str, Any]]:  # fmt: skip
    """The newest first."""
    query = select(*_COLUMNS).order_by(executions.c.id.desc()).limit(limit)
    for column, value in (("program", program), ("status", status), ("batch_id", batch_id)):
        if value is not None:
            query = query.where(executions.c[column] == value)
    if since is not None:
        query = query.where(executions.c.created_at >= since)
    return [dict(row) for row in connection.execute(query).mappings()]


def find_many(connection: Connection, ids: Collection[UUID]) -> list[Mapping[str, Any]]:
    """The rows of those of these executions that exist, in any order."""
    query = select(*_COLUMNS).where(executions.c.id == func.any(bindparam("ids", list(ids), UUIDS)))
    return [dict(row) for row in connection.execute(query).mappings()]


def final_among(connection: Connection, ids: Collection[UUID]) -> list[UUID]:
    """Which of these executions are final."""
    query = text("SELECT id FROM dspex.executions WHERE id = ANY(:ids) AND finished_at IS NOT NULL")
    return list(connection.scalars(query, {"ids": list(ids)}))


def trail(connection: Connection, id: UUID) -> tuple[list[Entry], int, bytes] | None:
    """The audit entries of an execution, and the number and hash of the last as its own row has them."""
    head = connection.execute(
        select(executions.c.audit_seq, executions.c.audit_hash).where(executions.c.id == id)
    ).one_or_none()
    if head is None:
        return None
    rows = connection.execute(
        text("SELECT seq, attempt, at, events::text AS events, hash FROM dspex.audit_events "
             "WHERE execution_id = :id ORDER BY seq"), {"id": id},
    )  # fmt: skip
    return [Entry(r.seq, r.attempt, r.at, r.events, r.hash) for r in rows], head.audit_seq, head.audit_hash


def progress(connection: Connection, batch_id: UUID) -> dict[str, Any]:
    """How many executions of a batch are in each status, and what they cost so far."""
    rows = connection.execute(
        text("""SELECT status, count(*) AS n, coalesce(sum((metrics->>'cost_usd')::numeric), 0) AS cost
                FROM dspex.executions WHERE batch_id = :batch_id GROUP BY status"""),
        {"batch_id": batch_id},
    ).all()
    counts = {row.status: row.n for row in rows}
    return {"counts": counts, "cost_usd": float(sum(row.cost for row in rows))}
