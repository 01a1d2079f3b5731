"""Batches, computed from their executions: a batch has no row of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import chain
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Connection, text

from dspex.store.lifecycle.selection import CAUSE, EXTERNAL

__all__ = ["LISTING", "STATEMENTS", "UNFINISHED", "ListedBatch", "extent", "failures", "final_indexes", "finished_at",
           "last_index", "listing", "progress", "progress_of", "take_keys", "unfinished_indexes"]  # fmt: skip

#: The rate for the ETA covers so many seconds.
RECENT_SECONDS = 30
#: It is after the id of every batch.
_LAST_ID = UUID(int=2**128 - 1)

_FIRST = text("""
SELECT program, extract(epoch FROM now() - created_at)::float8 AS age_seconds
FROM dspex.executions WHERE batch_id = :batch_id ORDER BY batch_index LIMIT 1
""")
_LAST = text("SELECT max(batch_index) FROM dspex.executions WHERE batch_id = :batch_id")
_GAPS = text("""
SELECT previous + 1 AS first, batch_index AS last FROM (
    SELECT batch_index, lag(batch_index, 1, -1::bigint) OVER (ORDER BY batch_index) AS previous
    FROM dspex.executions WHERE batch_id = :batch_id) numbered
WHERE batch_index > previous + 1 ORDER BY 1
""")
_FINAL = text("""
SELECT batch_index FROM dspex.executions
WHERE batch_id = :batch_id AND batch_index >= :begin AND batch_index < :end AND finished_at IS NOT NULL
ORDER BY batch_index
""")
_FINISHED_AT = text("SELECT max(finished_at) FROM dspex.executions WHERE batch_id = :batch_id")
UNFINISHED = text("""
SELECT batch_index FROM dspex.executions
WHERE batch_id = :batch_id AND batch_index > :after AND status IN ('queued', 'running', 'waiting')
ORDER BY batch_index LIMIT :most
""")
# The index on the rows of batches has all that is read.
_COUNTS = """
SELECT status, count(*) AS n, coalesce(sum(cost_usd), 0) AS cost_usd,
    count(*) FILTER (WHERE unpriced AND finished_at IS NOT NULL) AS unpriced,
    count(*) FILTER (WHERE finished_at > now() - make_interval(secs => :recent_seconds)) AS recent,
    extract(epoch FROM now() - min(finished_at))::float8 AS since_first,
    count(*) FILTER (WHERE waiting_for = 'batch') AS for_a_batch
FROM dspex.executions"""
_PROGRESS = text(f"{_COUNTS} WHERE batch_id = :batch_id GROUP BY status")
_PROGRESS_OF = text(f"""
SELECT b.id AS batch_id, each.* FROM unnest(CAST(:batch_ids AS uuid[])) AS b (id)
CROSS JOIN LATERAL ({_COUNTS} WHERE batch_id = b.id GROUP BY status) each
""")  # noqa: S608
# Nothing is read in a deployment without bundles. What waits for a batch and is in no bundle yet is little.
_BUNDLED = text("""
SELECT b.id AS batch_id,
    (SELECT count(DISTINCT e.id)::int FROM dspex.parked_calls p JOIN dspex.executions e ON e.id = p.execution_id
        WHERE p.kind = 'batch' AND p.bundle_id IS NULL AND p.error IS NULL AND e.batch_id = b.id
            AND e.waiting_for = 'batch') AS unbundled,
    (SELECT coalesce(sum((e.metrics ->> 'saved_usd')::float8), 0)::float8
        FROM dspex.executions e WHERE e.batch_id = b.id) AS saved_usd
FROM unnest(CAST(:batch_ids AS uuid[])) AS b (id) WHERE EXISTS (SELECT FROM dspex.bundles)
""")

_FAILURES = text(f"""
SELECT {CAUSE} AS cause, count(*)::int AS n FROM dspex.executions
WHERE batch_id = :batch_id AND status = 'failed' GROUP BY 1 ORDER BY 2 DESC, 1
""")  # noqa: S608
# From one batch to the one before it: each step is a look-up in an index.
LISTING = text(f"""
WITH RECURSIVE found AS (
    (SELECT batch_id, program FROM dspex.executions WHERE batch_id < :before ORDER BY batch_id DESC LIMIT 1)
    UNION ALL
    SELECT earlier.batch_id, earlier.program FROM found f CROSS JOIN LATERAL (
        SELECT e.batch_id, e.program FROM dspex.executions e WHERE e.batch_id < f.batch_id
        ORDER BY e.batch_id DESC LIMIT 1) earlier
)
SELECT batch_id, program, (SELECT max(batch_index) + 1 FROM dspex.executions e WHERE e.batch_id = f.batch_id) AS size
FROM found f
WHERE CASE WHEN CAST(:program AS text) IS NULL THEN :internal OR {EXTERNAL} ELSE program = :program END LIMIT :most
""")  # noqa: S608


#: All statements about a batch, for the test of their plans.
STATEMENTS = (_FIRST, _LAST, _GAPS, _FINAL, _FINISHED_AT, UNFINISHED, _PROGRESS, _FAILURES)


class ListedBatch(NamedTuple):
    """A batch in a list; ``size`` is the number after its last row that is stored."""

    id: UUID
    program: str
    size: int


def extent(connection: Connection, batch_id: UUID) -> tuple[str, int, Sequence[int]] | None:
    """The program of the stored rows, the number after the last row, and the missing numbers before it."""
    first = connection.execute(_FIRST, {"batch_id": batch_id}).one_or_none()
    if first is None:
        return None
    gaps = connection.execute(_GAPS, {"batch_id": batch_id}).all()
    missing = chain.from_iterable(range(gap.first, gap.last) for gap in gaps)
    return first.program, last_index(connection, batch_id) + 1, list(missing)


def last_index(connection: Connection, batch_id: UUID) -> int:
    """The number of the last row stored; -1 when there is none."""
    last = connection.scalar(_LAST, {"batch_id": batch_id})
    return -1 if last is None else int(last)


def final_indexes(connection: Connection, batch_id: UUID, *, begin: int, end: int) -> Sequence[int]:
    """The numbers, from ``begin`` to before ``end``, of the rows whose executions are final."""
    return list(connection.scalars(_FINAL, {"batch_id": batch_id, "begin": begin, "end": end}))


def finished_at(connection: Connection, batch_id: UUID) -> datetime | None:
    """When the last of its executions finished."""
    found: datetime | None = connection.scalar(_FINISHED_AT, {"batch_id": batch_id})
    return found


def unfinished_indexes(connection: Connection, batch_id: UUID, *, after: int, most: int) -> Sequence[int]:
    """The numbers of the next ``most`` rows, after ``after``, whose executions are not final."""
    return list(connection.scalars(UNFINISHED, {"batch_id": batch_id, "after": after, "most": most}))


def progress(connection: Connection, batch_id: UUID) -> dict[str, Any]:
    """How many executions are in each status and how many wait for a provider's batch, their cost so far and what
    batches saved, how many have an unknown cost, and how many finish per second at present."""
    rows = connection.execute(_PROGRESS, {"batch_id": batch_id, "recent_seconds": RECENT_SECONDS}).all()
    bundled = connection.execute(_BUNDLED, {"batch_ids": [batch_id]}).one_or_none()
    return _progress(connection, batch_id, rows, bundled)


def progress_of(
    connection: Connection, batch_ids: Sequence[UUID], *, bundles: bool = True
) -> dict[UUID, dict[str, Any]]:
    """The :func:`progress` of each of these batches; without ``bundles``, and fewer reads, as if none went through a
    provider's batches."""
    given = {"batch_ids": list(batch_ids)}
    rows: dict[UUID, list[Any]] = {id: [] for id in batch_ids}
    for row in connection.execute(_PROGRESS_OF, {**given, "recent_seconds": RECENT_SECONDS}):
        rows[row.batch_id].append(row)
    bundled = {row.batch_id: row for row in connection.execute(_BUNDLED, given)} if bundles else {}
    return {id: _progress(connection, id, rows[id], bundled.get(id)) for id in batch_ids}


def _progress(connection: Connection, batch_id: UUID, rows: Sequence[Any], bundled: Any) -> dict[str, Any]:
    return {
        "counts": {row.status: row.n for row in rows},
        "bundled": 0 if bundled is None else max(sum(row.for_a_batch for row in rows) - bundled.unbundled, 0),
        "saved_usd": 0.0 if bundled is None else bundled.saved_usd,
        "cost_usd": float(sum(row.cost_usd for row in rows)),
        "unpriced": sum(row.unpriced for row in rows),
        "per_second": _rate(connection, batch_id, rows),
    }


def failures(connection: Connection, batch_id: UUID) -> dict[str, int]:
    """How many executions failed by the code of the cause, the most frequent first."""
    rows = connection.execute(_FAILURES, {"batch_id": batch_id})
    return {row.cause or "unknown": row.n for row in rows}


def listing(
    connection: Connection, *, program: str | None, internal: bool, most: int, before: UUID | None = None
) -> list[ListedBatch]:
    """Batches, the newest first; those begun ``before`` another."""
    given = {"program": program, "internal": internal, "most": most, "before": before or _LAST_ID}
    return [ListedBatch(*row) for row in connection.execute(LISTING, given)]


# The keys that are free; it waits for transactions that are about to have one of them.
_TAKE_KEYS = """
INSERT INTO dspex.idempotency_keys (program, key, execution_id, inputs_hash)
SELECT %(program)s, key, id, ''::bytea FROM unnest(%(keys)s::text[], %(ids)s::uuid[]) AS g (key, id) ORDER BY key
ON CONFLICT (program, key) DO NOTHING
"""
_KNOWN_KEYS = """
SELECT k.key, k.execution_id, k.execution_id = ANY(%(ids)s::uuid[]) OR CASE
    WHEN e.finished_at IS NULL THEN e.id IS NOT NULL AND e.cancel_requested_at IS NULL
    ELSE e.status || '' = 'completed'
        AND e.finished_at > clock_timestamp() - make_interval(secs => %(within_seconds)s) END AS is_of_use
FROM dspex.idempotency_keys k LEFT JOIN dspex.executions e ON e.id = k.execution_id
WHERE k.program = %(program)s AND k.key = ANY(%(keys)s::text[])
"""
_RELEASE_KEYS = """
DELETE FROM dspex.idempotency_keys k USING unnest(%(keys)s::text[], %(stale_ids)s::uuid[]) AS g (key, stale_id)
WHERE k.program = %(program)s AND k.key = g.key AND k.execution_id = g.stale_id
"""
#: In seconds: no limit of the age of an execution that stands for others.
FOR_EVER = 1e9


def take_keys(
    connection: Connection, program: str, wanted: Mapping[str, UUID], *, within_seconds: float = FOR_EVER
) -> dict[str, UUID]:
    """The execution that each key stands for: the one that has it, if it is under way or completed in so many seconds;
    else the wanted one, which has it from now on. Needs the transaction that stores the executions."""
    found: dict[str, UUID] = {}
    left = dict(sorted(wanted.items()))
    while left:
        given = {"program": program, "keys": list(left), "ids": list(left.values()), "within_seconds": within_seconds}
        connection.exec_driver_sql(_TAKE_KEYS, given)
        known = connection.exec_driver_sql(_KNOWN_KEYS, given).all()
        found |= {row.key: row.execution_id for row in known if row.is_of_use}
        stale = {row.key: row.execution_id for row in known if not row.is_of_use}
        left = {key: id for key, id in left.items() if key not in found}
        if stale:  # the next round takes them, unless somebody is faster
            released = {"program": program, "keys": list(stale), "stale_ids": list(stale.values())}
            connection.exec_driver_sql(_RELEASE_KEYS, released)
    return found


def _rate(connection: Connection, batch_id: UUID, rows: Sequence[Any]) -> float:
    """The rate of the last half minute, or of the whole time if that is shorter or nothing finished recently; 0 for a
    batch that is over."""
    ended = [row for row in rows if row.since_first is not None]
    if not ended or len(ended) == len(rows):
        return 0.0
    recent, since_first = sum(row.recent for row in ended), max(row.since_first for row in ended)
    if recent and since_first >= RECENT_SECONDS:
        return float(recent / RECENT_SECONDS)
    age_seconds = connection.execute(_FIRST, {"batch_id": batch_id}).one().age_seconds
    return float(sum(row.n for row in ended) / max(age_seconds, 0.001))
