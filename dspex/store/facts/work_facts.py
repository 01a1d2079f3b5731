"""Executions under way: what waits, what is stuck, what failed lately. Counts stop at :data:`MOST_COUNTED`."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection, text

from dspex.store.facts.rows import all_rows, one_row
from dspex.store.lifecycle.selection import EXTERNAL
from dspex.store.workers import LEADER_PRESENT

__all__ = [
    "MOST_COUNTED",
    "DueWork",
    "FoundExecutions",
    "PausedProgram",
    "count_programs",
    "count_running",
    "due",
    "failed",
    "held_by_dead_workers",
    "latest_ids",
    "overdue",
    "paused_programs",
    "programs_refused_by_provider",
    "unclaimed",
]

MOST_COUNTED = 100_000
#: So many of the latest failed executions are read.
FAILURES_READ = 1_000


@dataclass(frozen=True, slots=True)
class DueWork:
    """Queued executions that are due, and how long the oldest has been. The executions of programs with limits that
    make them wait are counted apart."""

    count: int
    oldest_seconds: float
    limited: int
    oldest_limited_seconds: float


@dataclass(frozen=True, slots=True)
class PausedProgram:
    """A paused program, why, and how many of its executions are queued."""

    name: str
    reason: str | None
    queued: int


@dataclass(frozen=True, slots=True)
class FoundExecutions:
    """How many executions were found, and the id of one of them."""

    count: int
    example: str | None


_DUE = text(f"""
SELECT count(*) FILTER (WHERE NOT limited),
    coalesce(extract(epoch FROM now() - min(run_at) FILTER (WHERE NOT limited)), 0)::float8,
    count(*) FILTER (WHERE limited), coalesce(extract(epoch FROM now() - min(run_at) FILTER (WHERE limited)), 0)::float8
FROM (
    SELECT e.run_at, p.concurrency IS NOT NULL OR p.per_minute IS NOT NULL AS limited FROM dspex.executions e
    JOIN dspex.programs p ON p.name = e.program
    WHERE e.status = 'queued' AND e.held_at IS NULL AND e.run_at <= now() AND p.paused_at IS NULL
    LIMIT {MOST_COUNTED}) q
""")  # noqa: S608
_PAUSED = text(f"""
SELECT p.name, p.paused_reason, (SELECT count(*) FROM (
    SELECT FROM dspex.executions e WHERE e.program = p.name AND e.status = 'queued' LIMIT {MOST_COUNTED}) q)
FROM dspex.programs p WHERE p.paused_at IS NOT NULL ORDER BY p.name
""")  # noqa: S608
_HELD = text(f"""
SELECT count(*), min(e.id::text) FROM dspex.executions e JOIN dspex.workers w ON w.id = e.worker_id
WHERE e.status = 'running' AND (w.stopped_at IS NOT NULL
    OR (w.heartbeat_at < now() - make_interval(secs => w.lease_seconds + :grace_seconds) AND NOT {LEADER_PRESENT}))
""")  # noqa: S608
_OVERDUE = text("""
SELECT count(*), min(id::text) FROM dspex.executions
WHERE status = 'running' AND deadline_at < now() - make_interval(secs => :seconds)
""")
_UNCLAIMED = text(f"""
SELECT count(*), min(id::text) FROM (SELECT id FROM dspex.executions
    WHERE status = 'queued' AND dispatched_at < now() - make_interval(secs => :seconds) LIMIT {MOST_COUNTED}) q
""")  # noqa: S608
_FAILED = text(f"""
SELECT count(*), max(id::text) FROM (SELECT id, error, finished_at FROM dspex.executions
    WHERE status = 'failed' AND {EXTERNAL} ORDER BY id DESC LIMIT {FAILURES_READ}) f
WHERE (error->>'code' = 'poisoned') = :poisoned AND finished_at > now() - make_interval(days => :days)
""")  # noqa: S608
_COUNT_PROGRAMS = text(f"""
SELECT count(*) FROM (SELECT name AS program FROM dspex.programs) p WHERE {EXTERNAL}
""")  # noqa: S608
_REFUSED = text(f"""
SELECT DISTINCT program FROM (SELECT program, error, finished_at FROM dspex.executions
    WHERE status = 'failed' ORDER BY id DESC LIMIT {FAILURES_READ}) f
WHERE finished_at > now() - interval '1 day' AND (error->>'code' = 'authentication'
    OR error->'details'->'cause'->>'code' = 'authentication')
""")  # noqa: S608


def due(connection: Connection) -> DueWork:
    """Executions that are due, of programs that are not paused."""
    return one_row(connection, DueWork, _DUE)


def paused_programs(connection: Connection) -> list[PausedProgram]:
    return all_rows(connection, PausedProgram, _PAUSED)


def held_by_dead_workers(connection: Connection, *, grace_seconds: float = 5) -> FoundExecutions:
    """Executions that run under a lease which ended longer ago than the grace."""
    return one_row(connection, FoundExecutions, _HELD, grace_seconds=grace_seconds)


def overdue(connection: Connection, *, seconds: float) -> FoundExecutions:
    """Running executions whose deadline passed longer ago."""
    return one_row(connection, FoundExecutions, _OVERDUE, seconds=seconds)


def unclaimed(connection: Connection, *, seconds: float) -> FoundExecutions:
    """Executions that were dispatched longer ago and that no worker has claimed."""
    return one_row(connection, FoundExecutions, _UNCLAIMED, seconds=seconds)


def failed(connection: Connection, *, poisoned: bool, days: int = 7) -> FoundExecutions:
    """Executions that failed within so many days: those that are poisoned, or all others."""
    return one_row(connection, FoundExecutions, _FAILED, poisoned=poisoned, days=days)


def latest_ids(connection: Connection, most: int) -> list[UUID]:
    """The ids of the latest executions."""
    return list(
        connection.scalars(text("SELECT id FROM dspex.executions ORDER BY id DESC LIMIT :most"), {"most": most})
    )


def count_running(connection: Connection) -> int:
    return int(connection.scalar(text("SELECT count(*) FROM dspex.executions WHERE status = 'running'")) or 0)


def count_programs(connection: Connection) -> int:
    """How many programs are deployed, without DSPex's own."""
    return int(connection.scalar(_COUNT_PROGRAMS) or 0)


def programs_refused_by_provider(connection: Connection) -> set[str]:
    """Programs with an execution that failed within a day because its key was missing or wrong."""
    return set(connection.scalars(_REFUSED))
