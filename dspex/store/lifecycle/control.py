"""Operators' control of executions: cancel them, and queue ended ones again.

Each is one statement with its audit entry. The row decides races with workers: the first change wins, and the other
finds another status.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, func, literal_column, select, text

from dspex.store.audit_chain import encode_events
from dspex.store.lifecycle.lm_calls import COUNTED
from dspex.store.lifecycle.selection import Selection
from dspex.store.lifecycle.set_statements import RowFault, for_each_row
from dspex.store.lifecycle.status import Status
from dspex.store.programs import READABLE_CONTENT
from dspex.store.tables import executions

__all__ = ["CANCELLING", "POSTPONE", "RETRIED_AFTER", "UNDISPATCH", "Cancelled", "cancel", "cancel_children",
           "cancel_each", "count_failed", "failed_ids", "now", "retry"]  # fmt: skip

#: No worker has such an execution.
_AT_REST = (Status.QUEUED, Status.WAITING)

# Answers that came after the last attempt, as from a batch API, are counted here, except by a role that may not
# write figures.
_MAY_COUNT = "SELECT has_column_privilege('dspex.executions', 'metrics', 'UPDATE')"
_CANCEL = f"""
WITH wanted AS MATERIALIZED (
    SELECT id, status, attempt, metrics::text AS metrics FROM dspex.executions
    WHERE id = ANY(%(ids)s) ORDER BY id FOR UPDATE
), counted AS MATERIALIZED (
    SELECT l.id, CASE WHEN l.attempt > 0 THEN ({COUNTED}) END AS metrics FROM wanted l
    WHERE l.status IN ('queued', 'waiting')
), cancelled AS (
    UPDATE dspex.executions e
    SET status = 'cancelled', finished_at = now(), dispatched_at = NULL, waiting_for = NULL, waiting_since = NULL,
        metrics = coalesce(n.metrics::json, e.metrics), audit_seq = e.audit_seq + 1,
        audit_hash = dspex.audit_hash(e.audit_hash, e.id, e.audit_seq + 1, e.attempt, now(), NULL,
            CASE WHEN n.metrics IS NOT NULL THEN dspex.outcome_hash(e.result::text, e.error::text, n.metrics,
                e.adapter_used, e.action_results::text) END, %(events)s)
    FROM counted n WHERE e.id = n.id
    RETURNING e.id, e.audit_seq, e.attempt, e.audit_hash,
        CASE WHEN n.metrics IS NOT NULL THEN dspex.outcome_hash(e.result::text, e.error::text, e.metrics::text,
            e.adapter_used, e.action_results::text) END AS outcome_hash
), requested AS (
    UPDATE dspex.executions e SET cancel_requested_at = coalesce(e.cancel_requested_at, now())
    FROM wanted w WHERE e.id = w.id AND w.status = 'running' AND %(running)s
), logged AS (
    INSERT INTO dspex.audit_events (execution_id, seq, attempt, at, outcome_hash, events, hash)
    SELECT id, audit_seq, attempt, now(), outcome_hash, %(events)s::json, audit_hash FROM cancelled
), withdrawn AS (
    DELETE FROM dspex.parked_calls p USING cancelled c WHERE p.execution_id = c.id AND p.bundle_id IS NULL
)
SELECT id, status FROM wanted
"""  # noqa: S608
_CANCEL_UNCOUNTED = _CANCEL.replace(f"({COUNTED})", "NULL").replace(
    "metrics = coalesce(n.metrics::json, e.metrics), ", ""
)
_CHILDREN = "SELECT id FROM dspex.executions WHERE parent_id = ANY(%(ids)s) AND finished_at IS NULL"
# Their parents cannot go on without them.
_TO_RETRY_BELOW = """
SELECT c.id FROM dspex.executions p JOIN dspex.executions c ON c.parent_id = p.id
WHERE p.id = ANY(%(ids)s) AND p.status IN ('failed', 'cancelled') AND c.status IN ('failed', 'cancelled')
"""


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The result of a cancel: executions that ``ended`` at once, ``running`` ones whose workers have to end them, and
    those that were already ``final``, by their status. Children are listed apart."""

    ended: list[UUID]
    running: list[UUID]
    final: dict[UUID, str]
    ended_children: list[UUID] = field(default_factory=list)
    running_children: list[UUID] = field(default_factory=list)


def cancel(connection: Connection, ids: Collection[UUID], *, running: bool = True, by: str | None = None) -> Cancelled:
    """Cancel queued and waiting executions and their children, and record the request for running ones if ``running``.

    ``by`` is in the audit event. Ids that do not exist are in no list.
    """
    found = _cancel(connection, ids, running=running, by=by)
    above = [*found.ended, *found.running, *(id for id, status in found.final.items() if status == "cancelled")]
    _cancel_below(connection, above, found, by=by)
    return found


def cancel_children(connection: Connection, ids: Collection[UUID]) -> Cancelled:
    """Cancel all that is below executions that ended without their children."""
    found = Cancelled([], [], {})
    _cancel_below(connection, ids, found, by=None)
    return found


def _cancel_below(connection: Connection, above: Collection[UUID], found: Cancelled, *, by: str | None) -> None:
    while above := list(connection.exec_driver_sql(_CHILDREN, {"ids": above}).scalars()) if above else []:
        below = _cancel(connection, above, running=True, by=by)
        found.ended_children.extend(below.ended)
        found.running_children.extend(below.running)


def _cancel(connection: Connection, ids: Collection[UUID], *, running: bool, by: str | None) -> Cancelled:
    event = {"kind": "cancelled", **({} if by is None else {"data": {"by": by}})}
    parameters = {"ids": list(ids), "events": encode_events([event]), "running": running}
    statement = _CANCEL if connection.exec_driver_sql(_MAY_COUNT).scalar() else _CANCEL_UNCOUNTED
    rows = connection.exec_driver_sql(statement, parameters).all()
    return Cancelled(
        ended=[row.id for row in rows if row.status in _AT_REST],
        running=[row.id for row in rows if row.status == Status.RUNNING],
        final={row.id: row.status for row in rows if Status(row.status).is_final},
    )


def cancel_each(
    cancel_all: Callable[[Sequence[UUID]], Cancelled], ids: Sequence[UUID]
) -> tuple[Cancelled, list[RowFault[UUID]]]:
    """Cancel all of them but those that Postgres refuses to change, which are returned as well."""
    parts, refused = for_each_row(lambda some: [cancel_all(some)], ids)
    merged = Cancelled([], [], {})
    for part in parts:
        merged.ended.extend(part.ended)
        merged.running.extend(part.running)
        merged.final.update(part.final)
        merged.ended_children.extend(part.ended_children)
        merged.running_children.extend(part.running_children)
    return merged, refused


#: For psycopg: the attempts of a worker for which a cancel was requested.
CANCELLING = """
SELECT id, attempt, cancel_requested_at FROM dspex.executions
WHERE worker_id = %(worker_id)s AND status = 'running' AND cancel_requested_at IS NOT NULL
"""

#: For psycopg: have the pump dispatch an execution again in so many seconds.
POSTPONE = """
UPDATE dspex.executions SET dispatched_at = NULL, run_at = now() + make_interval(secs => %(seconds)s)
WHERE id = %(id)s AND status || '' = 'queued' AND dispatched_at IS NOT NULL
RETURNING id
"""

#: For psycopg: return to the pump dispatched executions that this worker will not run.
UNDISPATCH = """
UPDATE dspex.executions SET dispatched_at = NULL
WHERE id = ANY(%(ids)s) AND status = 'queued' AND dispatched_at IS NOT NULL RETURNING id
"""

# Attempts keep counting, so that every attempt in the journal and the trail is unambiguous; as many more are allowed
# as the program's retry has.
_RETRY = f"""
WITH wanted AS MATERIALIZED (
    SELECT e.id, CASE WHEN v.attempts ~ '^[1-9][0-9]{{0,2}}$' THEN v.attempts::int ELSE 1 END AS attempts
    FROM dspex.executions e LEFT JOIN LATERAL (
        SELECT {READABLE_CONTENT} -> 'retry' ->> 'max_attempts' AS attempts
        FROM dspex.program_versions WHERE name = e.program AND version = e.version) v ON true
    WHERE e.id = ANY(%(ids)s) AND e.status IN ('failed', 'cancelled') ORDER BY e.id FOR UPDATE OF e
), retried AS (
    UPDATE dspex.executions e
    SET status = 'queued', run_at = now(), dispatched_at = NULL, finished_at = NULL, cancel_requested_at = NULL,
        expires_at = NULL, max_attempts = e.attempt + w.attempts,
        audit_seq = e.audit_seq + 1,
        audit_hash = dspex.audit_hash(e.audit_hash, e.id, e.audit_seq + 1, e.attempt, now(), NULL, NULL, %(events)s)
    FROM wanted w WHERE e.id = w.id
    RETURNING e.id, e.batch_id, e.audit_seq, e.attempt, e.audit_hash
), logged AS (
    INSERT INTO dspex.audit_events (execution_id, seq, attempt, at, events, hash)
    SELECT id, audit_seq, attempt, now(), %(events)s::json, audit_hash FROM retried
), hooked AS ( -- the next outcome is sent, too
    UPDATE dspex.webhook_deliveries d SET delivered_at = NULL, dead_at = NULL, first_at = NULL, error = NULL,
        attempts = 0, next_at = now(), claimed_until = NULL, over_before = 0
    WHERE d.id = ANY(ARRAY(
        SELECT w.id FROM retried r JOIN dspex.webhook_deliveries w ON w.execution_id = r.id
        UNION SELECT w.id FROM (SELECT DISTINCT batch_id FROM retried) r
            JOIN dspex.webhook_deliveries w ON w.batch_id = r.batch_id))
)
SELECT id FROM retried
"""  # noqa: S608


#: For psycopg: the last attempt of an execution before an operator retried it, if one did.
RETRIED_AFTER = """
SELECT attempt FROM dspex.audit_events
WHERE execution_id = %(id)s AND events::text LIKE '[{"kind":"retried","data":{"by":%%' ORDER BY seq DESC LIMIT 1
"""


def retry(connection: Connection, ids: Collection[UUID], *, by: str = "operator") -> list[UUID]:
    """Queue failed and cancelled executions again, with fresh attempts; the pump dispatches them. Returns which.

    Their failed and cancelled children are queued first, and those below: a parent waits for them once more.
    """
    events = encode_events([{"kind": "retried", "data": {"by": by}}])
    levels, known = [list(ids)], set(ids)
    while below := [id for id in _to_retry_below(connection, levels[-1]) if id not in known]:
        levels.append(below)
        known.update(below)
    retried: list[UUID] = []
    for level in reversed(levels):
        retried = list(connection.exec_driver_sql(_RETRY, {"ids": level, "events": events}).scalars())
    return retried


def _to_retry_below(connection: Connection, ids: Collection[UUID]) -> Sequence[UUID]:
    return connection.exec_driver_sql(_TO_RETRY_BELOW, {"ids": list(ids)}).scalars().all()


def now(connection: Connection) -> datetime:
    """The database's clock."""
    at: datetime = connection.scalar(text("SELECT clock_timestamp()"))
    return at


def failed_ids(connection: Connection, selection: Selection, *, after: UUID, before: datetime, most: int) -> list[UUID]:
    """Selected executions that failed before a time, in the order of their ids, from ``after`` on."""
    query = select(executions.c.id).where(*_failed(selection, after, before)).order_by(executions.c.id).limit(most)
    return list(connection.scalars(query))


def count_failed(connection: Connection, selection: Selection, *, after: UUID, before: datetime) -> int:
    """How many :func:`failed_ids` would find without its limit."""
    query = select(func.count()).select_from(executions).where(*_failed(selection, after, before))
    return int(connection.scalar(query) or 0)


def _failed(selection: Selection, after: UUID, before: datetime) -> list[ColumnElement[bool]]:
    columns = executions.c
    failed = columns.status == literal_column("'failed'")  # a constant, so that the index of failed executions serves
    return [*selection.conditions(), failed, columns.id > after, columns.finished_at < before]
