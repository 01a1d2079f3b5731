"""The figures that alerts compare with thresholds, from statements whose cost does not grow with history."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, text

from dspex.store.lifecycle.selection import EXTERNAL
from dspex.store.operations import health
from dspex.store.operations.health import Backlog
from dspex.store.workers import LEADER_PRESENT

__all__ = ["DEAD", "MOST_RECENT", "RECENT", "Figures", "ProgramFigures", "WorkerMemory", "read"]

#: The latest executions that ended are read, up to so many; a busy deployment is judged by a shorter time.
MOST_RECENT = 50_000
COST_SECONDS = 3600.0

# A failure is counted by its cause: the code attempts_exhausted carries little information. DSPex's own executions are
# not judged.
RECENT = f"""
WITH recent AS MATERIALIZED (
    SELECT program, status, finished_at, extract(epoch FROM finished_at - started_at)::float8 AS ran_seconds, cost_usd,
        CASE WHEN status = 'failed' THEN error ->> 'code' END AS code,
        CASE WHEN status = 'failed' THEN error #>> '{{details,cause,code}}' END AS cause
    FROM dspex.executions
    WHERE finished_at > CAST(:at AS timestamptz) - make_interval(secs => :horizon_seconds)
    ORDER BY finished_at DESC LIMIT :most
), covered AS (
    SELECT CASE WHEN count(*) < :most THEN :cost_seconds
        ELSE greatest(extract(epoch FROM CAST(:at AS timestamptz) - min(finished_at)), 1) END AS seconds FROM recent
), judged AS (
    SELECT *, finished_at > CAST(:at AS timestamptz) - make_interval(secs => :window_seconds) AS lately FROM recent
)
SELECT program,
    count(*) FILTER (WHERE lately AND status <> 'cancelled')::int AS ended,
    count(*) FILTER (WHERE lately AND status = 'failed')::int AS failed,
    count(*) FILTER (WHERE lately AND code = 'poisoned')::int AS poisoned,
    coalesce(percentile_cont(0.95) WITHIN GROUP (ORDER BY ran_seconds)
        FILTER (WHERE lately AND status <> 'cancelled'), 0)::float8 AS p95_seconds,
    mode() WITHIN GROUP (ORDER BY coalesce(cause, code)) FILTER (WHERE lately) AS commonest_error,
    (coalesce(sum(cost_usd), 0) * :cost_seconds / (SELECT seconds FROM covered))::float8 AS cost_per_hour_usd
FROM judged WHERE {EXTERNAL} GROUP BY program ORDER BY program
"""  # noqa: S608

# Workers that the reaper found, and those that it would find if any worker were alive.
DEAD = f"""
SELECT host, pid, greatest(heartbeat_at, coalesce(stopped_at, heartbeat_at)) AS at FROM dspex.workers
WHERE (state = 'dead' AND stopped_at > CAST(:at AS timestamptz) - make_interval(secs => :window_seconds))
    OR (stopped_at IS NULL AND heartbeat_at < CAST(:at AS timestamptz) - make_interval(secs => lease_seconds)
        AND NOT {LEADER_PRESENT})
ORDER BY at DESC
"""  # noqa: S608

_MEMORY = text("""
SELECT host, pid, memory_bytes / 1048576.0::float8 AS memory_mb FROM dspex.workers
WHERE stopped_at IS NULL AND memory_bytes IS NOT NULL
""")


@dataclass(frozen=True, slots=True)
class ProgramFigures:
    """The outcomes of a program's executions within the window; ``cost_per_hour_usd`` covers the last hour."""

    program: str
    ended: int
    failed: int
    poisoned: int
    p95_seconds: float
    commonest_error: str | None
    cost_per_hour_usd: float


@dataclass(frozen=True, slots=True)
class WorkerMemory:
    host: str
    pid: int
    memory_mb: float


@dataclass(frozen=True, slots=True)
class Figures:
    """The figures at a time, ``at``, by the database's clock. ``dead`` has ``host:pid``; ``health`` is the last stored
    report, with ``age_seconds``."""

    at: datetime
    window_seconds: float
    programs: Sequence[ProgramFigures]
    backlogs: Sequence[Backlog]
    memory: Sequence[WorkerMemory]
    dead: Sequence[str]
    health: Mapping[str, Any] | None


def read(connection: Connection, *, window_seconds: float, cost: bool) -> Figures:
    """The current figures. ``cost``: read an hour for the cost, which is slower; else only the window."""
    at = connection.scalar(text("SELECT clock_timestamp()"))
    times = {"at": at, "window_seconds": window_seconds}
    cost_seconds = max(COST_SECONDS, window_seconds) if cost else window_seconds
    recent = {"horizon_seconds": cost_seconds, "cost_seconds": cost_seconds, "most": MOST_RECENT}
    programs = connection.execute(text(RECENT), {**times, **recent}).mappings()
    return Figures(
        at=at,
        window_seconds=window_seconds,
        programs=[ProgramFigures(**row) for row in programs],
        backlogs=health.backlogs(connection),
        memory=[WorkerMemory(**row) for row in connection.execute(_MEMORY).mappings()],
        dead=[f"{row.host}:{row.pid}" for row in connection.execute(text(DEAD), times)],
        health=health.latest(connection),
    )
