"""Workers that died."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, text

from dspex.store.facts.rows import all_rows

__all__ = ["WorkerDeath", "deaths"]


@dataclass(frozen=True, slots=True)
class WorkerDeath:
    """A worker that was declared dead ``noticed_seconds`` after its last heartbeat."""

    host: str
    pid: int
    noticed_seconds: float


_DEATHS = text("""
SELECT host, pid, extract(epoch FROM stopped_at - heartbeat_at)::float8 FROM dspex.workers
WHERE state = 'dead' AND stopped_at > now() - make_interval(hours => :hours) ORDER BY stopped_at DESC LIMIT :most
""")


def deaths(connection: Connection, *, hours: int, most: int) -> list[WorkerDeath]:
    """Workers that were declared dead within so many hours, the latest first."""
    return all_rows(connection, WorkerDeath, _DEATHS, hours=hours, most=most)
