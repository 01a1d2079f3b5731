"""Counts for a period: outcomes by when executions ended, events and model calls by when their executions were
submitted. It reads the whole period, so use it only now and then."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, text

from dspex.store.lifecycle.lm_calls import OTHERS_PATTERN
from dspex.store.lifecycle.selection import CAUSE, EXTERNAL
from dspex.store.partitions import first_id

__all__ = ["read"]

_ENDED = f"""
SELECT program, status, finished_at, cost_usd,
    extract(epoch FROM finished_at - started_at)::float8 AS ran_seconds,
    extract(epoch FROM started_at - greatest(created_at, run_at))::float8 AS queued_seconds,
    (metrics ->> 'prompt_tokens')::bigint AS prompt_tokens,
    (metrics ->> 'completion_tokens')::bigint AS completion_tokens,
    unpriced,
    CASE WHEN status = 'failed' THEN {CAUSE} END AS code
FROM dspex.executions WHERE finished_at >= :since AND finished_at < :until AND (:internal OR {EXTERNAL})
"""  # noqa: S608
# The known part of the cost: NULL if no part is known. Beside it, how many have an unknown cost.
_COST = """
    CASE WHEN coalesce(sum(cost_usd), 0) > 0 OR NOT coalesce(bool_or({unpriced}), false)
        THEN coalesce(sum(cost_usd), 0)::float8 END AS cost_usd,
    count(*) FILTER (WHERE {unpriced})::int AS unpriced
"""
_FIGURES = f"""
    count(*) FILTER (WHERE status = 'completed')::int AS completed,
    count(*) FILTER (WHERE status = 'failed')::int AS failed,
    count(*) FILTER (WHERE status = 'cancelled')::int AS cancelled,
    percentile_cont(0.5) WITHIN GROUP (ORDER BY ran_seconds) FILTER (WHERE status <> 'cancelled') AS p50_seconds,
    percentile_cont(0.95) WITHIN GROUP (ORDER BY ran_seconds) FILTER (WHERE status <> 'cancelled') AS p95_seconds,
    {_COST.format(unpriced="unpriced")}
"""
_BUCKET = "width_bucket(extract(epoch FROM {at}), extract(epoch FROM CAST(:since AS timestamptz)), " \
    "extract(epoch FROM CAST(:until AS timestamptz)), :buckets) - 1"  # fmt: skip

# GROUPING distinguishes the row of all programs from the rows of each.
_PROGRAMS = f"""
WITH ended AS ({_ENDED})
SELECT CASE WHEN grouping(program) = 0 THEN program END AS program, {_FIGURES},
    percentile_cont(0.95) WITHIN GROUP (ORDER BY queued_seconds) AS p95_queued_seconds,
    coalesce(sum(prompt_tokens), 0)::bigint AS prompt_tokens,
    coalesce(sum(completion_tokens), 0)::bigint AS completion_tokens
FROM ended GROUP BY GROUPING SETS ((program), ()) ORDER BY grouping(program) DESC, count(*) DESC, program
"""  # noqa: S608
_TREND = f"""
WITH ended AS ({_ENDED}) SELECT {_BUCKET.format(at="finished_at")} AS bucket, {_FIGURES} FROM ended GROUP BY 1
"""  # noqa: S608
_SUBMITTED = f"""
SELECT {_BUCKET.format(at="created_at")} AS bucket,
    count(*) FILTER (WHERE :internal OR {EXTERNAL})::int AS count,
    count(*) FILTER (WHERE NOT (:internal OR {EXTERNAL}))::int AS left_out FROM dspex.executions
WHERE id >= :first AND id < :last AND created_at >= :since AND created_at < :until GROUP BY 1
"""  # noqa: S608
_ERRORS = f"""
WITH ended AS ({_ENDED})
SELECT program, code, count(*)::int AS count FROM ended WHERE status = 'failed' GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2
"""  # noqa: S608
# The calls and events of executions that are left out: those tables have no program.
_LEFT_OUT = f"""
    AND (:internal OR NOT EXISTS (SELECT FROM dspex.executions e
        WHERE e.id = execution_id AND e.id >= :first AND e.id < :last AND NOT (e.{EXTERNAL})))
"""
_CALL_COST = _COST.format(unpriced="cost_usd IS NULL")
# Each event begins with its kind; a forged entry need not have events. It is not parsed as JSON, because programs may
# have written U+0000, which Postgres refuses to read.
_EVENTS = f"""
SELECT substring(event::text FROM '^\\s*\\{{\\s*"kind"\\s*:\\s*"([^"]+)"') AS kind, count(*)::int AS count
FROM dspex.audit_events, json_array_elements(CASE WHEN json_typeof(events) = 'array' THEN events END) AS event
WHERE execution_id >= :first AND execution_id < :last {_LEFT_OUT} GROUP BY 1 ORDER BY 2 DESC, 1
"""  # noqa: S608
_MODELS = f"""
SELECT model, count(*)::int AS calls, sum(prompt_tokens)::bigint AS prompt_tokens,
    sum(completion_tokens)::bigint AS completion_tokens, {_CALL_COST},
    coalesce(sum(list_cost_usd - cost_usd), 0)::float8 AS saved_usd,
    percentile_cont(0.5) WITHIN GROUP (ORDER BY duration_ms) FILTER (WHERE duration_ms > 0) / 1000 AS p50_seconds,
    percentile_cont(0.95) WITHIN GROUP (ORDER BY duration_ms) FILTER (WHERE duration_ms > 0) / 1000 AS p95_seconds
FROM dspex.lm_calls WHERE execution_id >= :first AND execution_id < :last {_LEFT_OUT}
    AND model !~ '{OTHERS_PATTERN}'
GROUP BY 1 ORDER BY 2 DESC, 1
"""  # noqa: S608
_WORKERS = """
SELECT count(*) FILTER (WHERE stopped_at IS NULL)::int AS live,
    count(*) FILTER (WHERE started_at >= :since)::int AS started,
    count(*) FILTER (WHERE state = 'dead' AND stopped_at >= :since)::int AS died,
    coalesce(max(memory_bytes), 0) / 1048576.0::float8 AS most_memory_mb
FROM dspex.workers WHERE stopped_at IS NULL OR stopped_at >= :since
"""
_ALERTS = """
SELECT id, rule, subject, state, value, threshold, summary, since, seen_at, fired_at, resolved_at FROM dspex.alerts
WHERE fired_at < :until AND (resolved_at IS NULL OR resolved_at >= :since) ORDER BY fired_at, id
"""
_STATEMENTS = {
    "programs": _PROGRAMS, "trend": _TREND, "submitted": _SUBMITTED, "errors": _ERRORS, "events": _EVENTS,
    "models": _MODELS, "workers": _WORKERS, "alerts": _ALERTS,
}  # fmt: skip


def read(
    connection: Connection, *, since: datetime, until: datetime, buckets: int, internal: bool
) -> Mapping[str, list[Mapping[str, Any]]]:
    """The rows of each statement; in a repeatable-read transaction all see the same state of the database.

    ``internal``: DSPex's own executions are counted, too.
    """
    given = {
        "since": since, "until": until, "buckets": buckets, "first": first_id(since), "last": first_id(until),
        "internal": internal,
    }  # fmt: skip
    return {
        name: [dict(row) for row in connection.execute(text(statement), given).mappings()]
        for name, statement in _STATEMENTS.items()
    }
