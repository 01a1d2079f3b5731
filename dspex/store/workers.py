"""Workers, their leases, and the leaders of duties."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Connection, text

__all__ = ["FleetCapacity", "Vitals", "beat", "fleet", "lead", "listing", "register", "resign", "stop"]

_REGISTER = text("""
INSERT INTO dspex.workers (id, host, pid, version, state, concurrency, running, lease_seconds, started_at, heartbeat_at)
VALUES (:id, :host, :pid, :version, 'running', :concurrency, 0, :lease_seconds, clock_timestamp(), clock_timestamp())
""")
_BEAT = text("""
UPDATE dspex.workers SET heartbeat_at = clock_timestamp(), running = :running, concurrency = :concurrency,
    state = :state, trouble = :trouble, memory_bytes = :memory_bytes, cpu = :cpu
WHERE id = :id AND stopped_at IS NULL
""")
_STOP = text("UPDATE dspex.workers SET state = 'stopped', stopped_at = clock_timestamp(), running = 0 WHERE id = :id")
_LEAD = text("""
INSERT INTO dspex.leaderships AS l (duty, worker_id, expires_at)
VALUES (:duty, :worker_id, clock_timestamp() + make_interval(secs => :seconds))
ON CONFLICT (duty) DO UPDATE SET worker_id = excluded.worker_id, expires_at = excluded.expires_at
WHERE l.worker_id = excluded.worker_id OR l.expires_at < clock_timestamp()
RETURNING worker_id
""")
_RESIGN = text("DELETE FROM dspex.leaderships WHERE worker_id = :worker_id")


class Vitals(NamedTuple):
    """The state of a live worker: how many executions it runs, and how many it can; ``state`` is running or stopping;
    ``trouble`` describes what keeps it from working; ``cpu`` is the share of a core that it used lately."""

    running: int
    concurrency: int
    state: str = "running"
    trouble: str | None = None
    memory_bytes: int | None = None
    cpu: float | None = None


def register(
    connection: Connection, *, id: UUID, host: str, pid: int, version: str, concurrency: int, lease_seconds: float
) -> None:
    connection.execute(
        _REGISTER,
        {
            "id": id,
            "host": host,
            "pid": pid,
            "version": version,
            "concurrency": concurrency,
            "lease_seconds": lease_seconds,
        },
    )


def beat(connection: Connection, id: UUID, vitals: Vitals) -> bool:
    """Renew the lease. False when the worker was declared dead: it no longer owns its executions."""
    return connection.execute(_BEAT, {"id": id, **vitals._asdict()}).rowcount == 1


def stop(connection: Connection, id: UUID) -> None:
    """End the lease of a worker that stops."""
    connection.execute(_STOP, {"id": id})


def lead(connection: Connection, duty: str, worker_id: UUID, *, seconds: float) -> bool:
    """Take or keep the lead of a duty for ``seconds``. False while another worker leads."""
    return (
        connection.execute(_LEAD, {"duty": duty, "worker_id": worker_id, "seconds": seconds}).one_or_none() is not None
    )


def resign(connection: Connection, worker_id: UUID) -> None:
    connection.execute(_RESIGN, {"worker_id": worker_id})


@dataclass(frozen=True, slots=True)
class FleetCapacity:
    """The live workers: how many, how many executions they can run together, and how many the smallest can."""

    count: int
    concurrency: int
    smallest: int


def fleet(connection: Connection) -> FleetCapacity:
    """The workers whose lease is valid; workers that are stopping take no executions, and are not counted."""
    row = connection.execute(
        text("""SELECT count(*), coalesce(sum(concurrency), 0), coalesce(min(concurrency), 0) FROM dspex.workers
                WHERE stopped_at IS NULL AND state = 'running'
                AND heartbeat_at > clock_timestamp() - make_interval(secs => lease_seconds)""")
    ).one()
    return FleetCapacity(*map(int, row))


def listing(connection: Connection, *, live_only: bool = True) -> list[Mapping[str, Any]]:
    """Workers, the newest first, each with the age of its heartbeat in seconds."""
    rows = connection.execute(
        text(f"""SELECT w.*, extract(epoch FROM clock_timestamp() - heartbeat_at)::float8 AS heartbeat_age_seconds
                 FROM dspex.workers w {"WHERE stopped_at IS NULL" if live_only else ""} ORDER BY started_at DESC""")  # noqa: S608
    )
    return [dict(row) for row in rows.mappings()]
