"""Health reports, and the figures that a health check reads from the database.

The statements use index look-ups and bounded counts, so their cost does not grow with the finished executions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

from dspex.store.lifecycle.selection import EXTERNAL
from dspex.store.partitions import first_id
from dspex.store.programs import READABLE_CONTENT

__all__ = [
    "MOST_COUNTED",
    "Backlog",
    "ModelInUse",
    "backlogs",
    "latest",
    "leader",
    "models_in_use",
    "performance",
    "record",
]

#: The due executions of a program are counted up to so many.
MOST_COUNTED = 5_000


@dataclass(frozen=True, slots=True)
class Backlog:
    """A program's due executions: ``due`` of them, ``dispatched`` of which are on the queue in Redis.

    ``undispatched_wait_seconds`` is how long the oldest of the others has waited for the pump; ``limited``: the program
    has limits that make executions wait. A budget does not: the program is paused once it is spent.
    """

    program: str
    due: int
    dispatched: int
    oldest_wait_seconds: float
    undispatched_wait_seconds: float
    paused: bool
    limited: bool

    @property
    def held_back(self) -> bool:
        """Whether the program is paused or limited, so that waiting may be intended."""
        return self.paused or self.limited


# The oldest of each priority is one look-up in the index executions_due; the dispatched ones are a small window.
BACKLOGS = f"""
WITH dispatched AS MATERIALIZED (
    SELECT program, count(*) AS count, min(run_at) AS oldest FROM dspex.executions
    WHERE status = 'queued' AND dispatched_at IS NOT NULL GROUP BY program
)
SELECT p.name AS program, (coalesce(d.count, 0) + due.count)::int AS due, coalesce(d.count, 0)::int AS dispatched,
    greatest(extract(epoch FROM now() - least(d.oldest, first.oldest)), 0)::float8 AS oldest_wait_seconds,
    coalesce(greatest(extract(epoch FROM now() - first.oldest), 0), 0)::float8 AS undispatched_wait_seconds,
    p.paused_at IS NOT NULL AS paused,
    (p.concurrency IS NOT NULL OR p.per_minute IS NOT NULL) AS limited
FROM dspex.programs p
LEFT JOIN dispatched d ON d.program = p.name
CROSS JOIN LATERAL (
    SELECT min(due_first.run_at) AS oldest FROM generate_series(0, 9) AS n (priority) CROSS JOIN LATERAL (
        SELECT e.run_at FROM dspex.executions e
        WHERE e.program = p.name AND e.priority = n.priority AND e.status = 'queued' AND e.dispatched_at IS NULL
            AND e.held_at IS NULL AND e.run_at <= now()
        ORDER BY e.run_at LIMIT 1) due_first
) first
CROSS JOIN LATERAL (
    SELECT count(*) AS count FROM (
        SELECT FROM dspex.executions e
        WHERE first.oldest IS NOT NULL AND e.program = p.name AND e.status = 'queued' AND e.dispatched_at IS NULL
            AND e.held_at IS NULL AND e.run_at <= now() LIMIT {MOST_COUNTED}) counted
) due
WHERE d.count > 0 OR due.count > 0
ORDER BY 4 DESC
"""  # noqa: S608


def backlogs(connection: Connection) -> list[Backlog]:
    """The programs with something due, those that have waited longest first."""
    return [Backlog(**row) for row in connection.execute(text(BACKLOGS)).mappings()]


#: Averages cover the latest executions, up to so many, that ended within so long.
RECENT_SECONDS, RECENT_ROWS = 600, 200

# A forged entry of a trail, which `dspex audit verify` names, is not counted.
PERFORMANCE = f"""
WITH ended AS MATERIALIZED (
    SELECT id, program, status, extract(epoch FROM finished_at - started_at) * 1000 AS ms FROM dspex.executions
    WHERE finished_at > now() - interval '{RECENT_SECONDS} s' ORDER BY finished_at DESC LIMIT {RECENT_ROWS}
), recent AS (
    SELECT id, ms FROM ended WHERE status = 'completed' AND {EXTERNAL}
), calls AS (
    SELECT CASE WHEN event #>> '{{data,duration_ms}}' ~ '^[0-9]{{1,15}}([.][0-9]+)?$'
        THEN (event #>> '{{data,duration_ms}}')::float8 END AS ms FROM dspex.audit_events a
    CROSS JOIN LATERAL json_array_elements(CASE WHEN json_typeof(a.events) = 'array' THEN a.events END) event
    WHERE a.execution_id = ANY(ARRAY(SELECT id FROM recent)) AND event ->> 'kind' = 'adapter_execution'
)
SELECT (SELECT avg(ms)::float8 FROM calls) AS adapter_call_ms, (SELECT avg(ms)::float8 FROM recent) AS execution_ms
"""  # noqa: S608


def performance(connection: Connection) -> dict[str, float | None]:
    """The mean time of recent completed executions, and of the adapters in them; None without any.

    DSPex's own executions, such as the doctor's, are not counted.
    """
    row = connection.execute(text(PERFORMANCE)).mappings().one()
    return {name: None if value is None else round(value, 3) for name, value in row.items()}


def leader(connection: Connection, duty: str) -> Mapping[str, Any] | None:
    """The leader of a duty: ``host pid overdue_seconds``, above 0 when its lead has ended, and ``trouble``: what it
    cannot do (workers/process/leader/duties.py). None without one."""
    row = connection.execute(
        text("SELECT w.host, w.pid, extract(epoch FROM clock_timestamp() - l.expires_at)::float8 AS overdue_seconds, "
             "l.trouble FROM dspex.leaderships l JOIN dspex.workers w ON w.id = l.worker_id WHERE l.duty = :duty"),
        {"duty": duty},
    ).mappings().one_or_none()  # fmt: skip
    return dict(row) if row else None


def record(connection: Connection, *, overall: str, worker_id: UUID | None, report: Mapping[str, Any]) -> int:
    """Store a report. Returns its id."""
    id: int = connection.execute(
        text("INSERT INTO dspex.health_checks (overall, worker_id, report) "
             "VALUES (:overall, :worker_id, CAST(:report AS json)) RETURNING id"),
        {"overall": overall, "worker_id": worker_id, "report": json.dumps(report)},
    ).scalar_one()  # fmt: skip
    return id


def latest(connection: Connection) -> Mapping[str, Any] | None:
    """The last report stored (``id at overall worker_id report``), and ``age_seconds`` by the database's clock."""
    row = connection.execute(
        text("SELECT *, extract(epoch FROM clock_timestamp() - at)::float8 AS age_seconds "
             "FROM dspex.health_checks ORDER BY id DESC LIMIT 1")
    ).mappings().one_or_none()  # fmt: skip
    return dict(row) if row else None


#: The model of a program that was not used for so long is not checked.
IN_USE_SECONDS = 86_400.0

MODELS = f"""
SELECT p.name AS program, v.content ->> 'model' AS model, v.content ->> 'api_base' AS api_base,
    v.content ->> 'api_key_env' AS api_key_env
FROM dspex.programs p JOIN dspex.program_versions stored USING (name, version)
CROSS JOIN LATERAL (SELECT {READABLE_CONTENT} AS content) v
WHERE v.content ->> 'model' IS NOT NULL AND (
    p.deployed_at > now() - make_interval(secs => :seconds)
    OR EXISTS (SELECT FROM dspex.executions e WHERE e.program = p.name AND e.id >= :since))
ORDER BY p.name
"""  # noqa: S608

# Which programs' models answered recently, and which failed, with which code.
OUTCOMES = f"""
WITH recent AS MATERIALIZED (
    SELECT id, program, status, error, finished_at FROM dspex.executions
    WHERE finished_at > now() - interval '{RECENT_SECONDS} s' ORDER BY finished_at DESC LIMIT {RECENT_ROWS}
)
SELECT program, coalesce(error #>> '{{details,cause,code}}', error ->> 'code') AS code, count(*)::int AS ended,
    extract(epoch FROM now() - max(finished_at))::float8 AS age_seconds
FROM recent WHERE status IN ('completed', 'failed') GROUP BY 1, 2
"""  # noqa: S608

CALLS = f"""
SELECT c.model, count(*)::int AS calls,
    coalesce(avg(c.duration_ms) FILTER (WHERE c.duration_ms > 0), 0)::float8 AS average_ms
FROM dspex.lm_calls c
WHERE c.execution_id = ANY(ARRAY(
    SELECT id FROM dspex.executions WHERE finished_at > now() - interval '{RECENT_SECONDS} s'
    ORDER BY finished_at DESC LIMIT {RECENT_ROWS}))
GROUP BY c.model
"""  # noqa: S608


@dataclass(frozen=True, slots=True)
class ModelInUse:
    """A program that calls a model, and the recent outcomes of its executions.

    ``failures`` counts them by the code of their cause. ``answered_seconds_ago`` is None without a completed one,
    ``failed_seconds_ago`` without a failed one. ``calls`` and ``average_ms`` cover the model's calls by all programs.
    """

    program: str
    model: str
    api_base: str | None
    api_key_env: str | None
    completed: int
    failures: Mapping[str, int]
    answered_seconds_ago: float | None
    failed_seconds_ago: float | None
    calls: int
    average_ms: float | None


def models_in_use(connection: Connection) -> list[ModelInUse]:
    """The deployed programs that call a model and were deployed or used within a day."""
    since = first_id(connection.scalar(text("SELECT now() - make_interval(secs => :s)"), {"s": IN_USE_SECONDS}))
    used = connection.execute(text(MODELS), {"seconds": IN_USE_SECONDS, "since": since}).mappings().all()
    outcomes = connection.execute(text(OUTCOMES)).all()
    calls = {row.model: row for row in connection.execute(text(CALLS))}
    found = []
    for row in used:
        ended = [outcome for outcome in outcomes if outcome.program == row["program"]]
        failed = [outcome for outcome in ended if outcome.code is not None]
        answered = next((outcome for outcome in ended if outcome.code is None), None)
        made = calls.get(row["model"])
        found.append(
            ModelInUse(
                **row,
                completed=answered.ended if answered else 0,
                failures={outcome.code: outcome.ended for outcome in failed},
                answered_seconds_ago=answered.age_seconds if answered else None,
                failed_seconds_ago=min((outcome.age_seconds for outcome in failed), default=None),
                calls=made.calls if made else 0,
                average_ms=round(made.average_ms, 3) if made else None,
            )
        )
    return found
