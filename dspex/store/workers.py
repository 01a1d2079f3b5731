"""Workers, their leases, and the leaders of duties."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Connection, text

from dspex.program.modules import is_within
from dspex.program.program import Program

__all__ = [
    "LEADER_PRESENT",
    "LIVE",
    "FleetCapacity",
    "Heartbeat",
    "Lead",
    "Owned",
    "UnrunnableVersion",
    "Vitals",
    "beat",
    "declare_dead",
    "fleet",
    "heartbeats",
    "lead",
    "listing",
    "owned",
    "refused_modules",
    "register",
    "resign",
    "served_seconds",
    "stop",
]

#: For statements: whether the pump has a leader, which would declare a dead worker ``w`` dead.
LEADER_PRESENT = """EXISTS (SELECT FROM dspex.leaderships WHERE duty = 'pump'
    AND expires_at BETWEEN clock_timestamp() AND clock_timestamp() + interval '5 s')"""
#: For statements: whether the worker ``w`` is alive. The leader decides it, because Postgres' clock may be set; ages by
#: that clock count only while there is no leader.
LIVE = f"""(w.stopped_at IS NULL AND (
    abs(extract(epoch FROM clock_timestamp() - w.heartbeat_at)) < w.lease_seconds OR {LEADER_PRESENT}))"""

_REGISTER = text("""
INSERT INTO dspex.workers (id, host, pid, version, state, concurrency, running, lease_seconds, unrunnable,
    program_packages, dspy, code_interpreter, setups, started_at, heartbeat_at)
VALUES (:id, :host, :pid, :version, 'running', :concurrency, 0, :lease_seconds, CAST(:unrunnable AS text[]),
    CAST(:program_packages AS text[]), :dspy, :code_interpreter, CAST(:setups AS json),
    clock_timestamp(), clock_timestamp())
""")
_BEAT = text("""
UPDATE dspex.workers SET heartbeat_at = clock_timestamp(), running = :running, concurrency = :concurrency,
    state = :state, trouble = :trouble, memory_bytes = :memory_bytes, cpu = :cpu,
    unrunnable = CAST(:unrunnable AS text[]), setups = CAST(:setups AS json)
WHERE id = :id AND stopped_at IS NULL
""")
_OWNED = text("""
SELECT id, attempt, max_attempts, worker_id, program, priority, lost_attempts >= 2 FROM dspex.executions
WHERE worker_id = :id AND status = 'running'
""")
_STOP = text("UPDATE dspex.workers SET state = 'stopped', stopped_at = clock_timestamp(), running = 0 WHERE id = :id")
_HEARTBEATS = text("SELECT id, heartbeat_at, lease_seconds FROM dspex.workers WHERE stopped_at IS NULL")
_DECLARE_DEAD = text("""
UPDATE dspex.workers w SET state = 'dead', stopped_at = clock_timestamp()
FROM unnest(CAST(:ids AS uuid[]), CAST(:heartbeats AS timestamptz[])) AS silent (id, heartbeat_at)
WHERE w.id = silent.id AND w.heartbeat_at = silent.heartbeat_at AND w.stopped_at IS NULL
RETURNING w.id
""")
_LEAD = text("""
WITH taken AS (
    INSERT INTO dspex.leaderships AS l (duty, worker_id, expires_at, trouble)
    VALUES (:duty, :worker_id, clock_timestamp() + make_interval(secs => :seconds), CAST(:trouble AS json))
    ON CONFLICT (duty) DO UPDATE SET worker_id = excluded.worker_id, expires_at = excluded.expires_at,
        trouble = excluded.trouble
    WHERE l.worker_id = excluded.worker_id OR (l.worker_id = :silent_id AND l.expires_at = :silent_until)
    RETURNING worker_id, expires_at
)
SELECT worker_id, expires_at, clock_timestamp() FROM taken
UNION ALL SELECT worker_id, expires_at, clock_timestamp() FROM dspex.leaderships
WHERE duty = :duty AND NOT EXISTS (SELECT FROM taken)
""")
_RESIGN = text("DELETE FROM dspex.leaderships WHERE worker_id = :worker_id")


class UnrunnableVersion(NamedTuple):
    """A version of a program that a worker cannot run, and why."""

    program: str
    version: str
    reason: str

    @property
    def key(self) -> str:
        """The version as statements compare it; neither part contains a blank."""
        return f"{self.program} {self.version}"

    @classmethod
    def decode(cls, text: str) -> UnrunnableVersion:
        """The version that :meth:`encode` made the text of."""
        program, version, reason = (*text.split(" ", 2), "", "")[:3]
        return cls(program, version, reason)

    def encode(self) -> str:
        """The version as a worker's row has it: its key, a blank, the reason."""
        return f"{self.key} {self.reason}"


class Vitals(NamedTuple):
    """The state of a live worker: how many executions it runs, and how many it can; ``state`` is running or stopping;
    ``trouble`` describes what keeps it from working; ``cpu`` is the share of a core that it used lately;
    ``unrunnable``: the versions that it cannot run, encoded; ``setups``: the setup functions that have run in it, as
    JSON text."""

    running: int
    concurrency: int
    state: str = "running"
    trouble: str | None = None
    memory_bytes: int | None = None
    cpu: float | None = None
    unrunnable: Sequence[str] = ()
    setups: str = "[]"


class Owned(NamedTuple):
    """An attempt that belongs to a worker: no other worker may run the execution. A ``suspect`` runs alone."""

    id: UUID
    attempt: int
    max_attempts: int
    worker_id: UUID
    program: str
    priority: int
    suspect: bool = False


def register(
    connection: Connection,
    *,
    id: UUID,
    host: str,
    pid: int,
    version: str,
    concurrency: int,
    lease_seconds: float,
    unrunnable: Sequence[str] = (),
    program_packages: Sequence[str] = (),
    dspy: str | None = None,
    code_interpreter: str | None = None,
    setups: str = "[]",
) -> None:
    """Insert the row of a worker; ``program_packages`` are those from which it loads users' code, ``dspy`` is the
    release that is installed there, ``code_interpreter`` runs code that models write, ``setups`` is as in
    :class:`Vitals`."""
    connection.execute(
        _REGISTER,
        {
            "id": id,
            "host": host,
            "pid": pid,
            "version": version,
            "concurrency": concurrency,
            "lease_seconds": lease_seconds,
            "unrunnable": list(unrunnable),
            "program_packages": list(program_packages),
            "dspy": dspy,
            "code_interpreter": code_interpreter,
            "setups": setups,
        },
    )


def beat(connection: Connection, id: UUID, vitals: Vitals) -> bool:
    """Renew the lease. False when the worker was declared dead: it no longer owns its executions."""
    return (
        connection.execute(_BEAT, {"id": id, **vitals._asdict(), "unrunnable": list(vitals.unrunnable)}).rowcount == 1
    )


def owned(connection: Connection, id: UUID) -> list[Owned]:
    """The attempts that belong to this worker."""
    return [Owned(*row) for row in connection.execute(_OWNED, {"id": id})]


def stop(connection: Connection, id: UUID) -> None:
    """End the lease of a worker that stops."""
    connection.execute(_STOP, {"id": id})


class Heartbeat(NamedTuple):
    """The last heartbeat of a worker that is not known to be dead."""

    worker_id: UUID
    at: datetime
    lease_seconds: float


def heartbeats(connection: Connection) -> list[Heartbeat]:
    """The last heartbeat of each worker that has not stopped or been declared dead."""
    return [Heartbeat(*row) for row in connection.execute(_HEARTBEATS)]


def declare_dead(connection: Connection, silent: Sequence[Heartbeat]) -> list[UUID]:
    """Declare these workers dead, except those with a later heartbeat than the one given. Returns which."""
    parameters = {"ids": [beat.worker_id for beat in silent], "heartbeats": [beat.at for beat in silent]}
    return list(connection.scalars(_DECLARE_DEAD, parameters))


class Lead(NamedTuple):
    """Who leads a duty, and until when if it is not renewed; and what Postgres' clock showed then."""

    worker_id: UUID
    expires_at: datetime
    shown: datetime


def lead(
    connection: Connection, duty: str, worker_id: UUID, *, seconds: float, silent: Lead | None = None,
    trouble: str | None = None,
) -> Lead | None:  # fmt: skip
    """Take or keep the lead of a duty, and renew it for ``seconds``. Returns who leads then.

    It is taken from a leader that has not renewed the lead since it was ``silent``. ``trouble`` is JSON text: what the
    leader cannot do. None when the lead was given up just now.
    """
    parameters = {
        "duty": duty,
        "worker_id": worker_id,
        "seconds": seconds,
        "trouble": trouble,
        "silent_id": silent and silent.worker_id,
        "silent_until": silent and silent.expires_at,
    }
    row = connection.execute(_LEAD, parameters).one_or_none()
    return None if row is None else Lead(*row)


def resign(connection: Connection, worker_id: UUID) -> None:
    connection.execute(_RESIGN, {"worker_id": worker_id})


@dataclass(frozen=True, slots=True)
class FleetCapacity:
    """The live workers: how many, how many executions they can run together, and how many the smallest can.

    ``unrunnable`` are the keys of the versions that none of them can run.
    """

    count: int
    concurrency: int
    smallest: int
    unrunnable: frozenset[str] = frozenset()


def fleet(connection: Connection, beating: Collection[UUID] = ()) -> FleetCapacity:
    """The workers whose lease is valid; workers that are stopping take no executions, and are not counted.

    ``beating`` are workers that were seen to renew their lease just now, whatever Postgres' clock shows.
    """
    row = connection.execute(
        text("""SELECT count(*), coalesce(sum(concurrency), 0), coalesce(min(concurrency), 0),
                    json_agg(unrunnable) FILTER (WHERE cardinality(unrunnable) > 0)
                FROM dspex.workers
                WHERE stopped_at IS NULL AND state = 'running' AND (id = ANY(CAST(:beating AS uuid[]))
                    OR heartbeat_at > clock_timestamp() - make_interval(secs => lease_seconds))"""),
        {"beating": list(beating)},
    ).one()
    count, concurrency, smallest, unrunnable = row
    return FleetCapacity(int(count), int(concurrency), int(smallest), _by_none(unrunnable or [], count))


def _by_none(unrunnable: Sequence[Sequence[str]], count: int) -> frozenset[str]:
    """The keys that each of ``count`` workers has among its versions."""
    if not unrunnable or len(unrunnable) < count:
        return frozenset()
    return frozenset.intersection(*(frozenset(UnrunnableVersion.decode(e).key for e in each) for each in unrunnable))


# A worker served until it stopped, or until the lease ended that its last heartbeat renewed.
_SERVED = text(f"""
WITH oldest AS (SELECT min(w.started_at) AS at FROM dspex.workers w WHERE w.state = 'running' AND {LIVE})
SELECT extract(epoch FROM clock_timestamp() - o.at)::float8 FROM oldest o
WHERE NOT EXISTS (SELECT FROM dspex.workers w WHERE w.started_at < o.at
    AND least(w.stopped_at, w.heartbeat_at + make_interval(secs => w.lease_seconds)) >= o.at)
""")  # noqa: S608


def served_seconds(connection: Connection) -> float | None:
    """How long ago the oldest live worker started, if no worker served before it: there was a stop. None otherwise."""
    seconds: float | None = connection.scalar(_SERVED)
    return seconds


def listing(connection: Connection, *, live_only: bool = True) -> list[Mapping[str, Any]]:
    """Workers, the newest first, each with the age of its heartbeat in seconds, and whether it is ``live``."""
    rows = connection.execute(
        text(f"""SELECT w.*, extract(epoch FROM clock_timestamp() - heartbeat_at)::float8 AS heartbeat_age_seconds,
                     {LIVE} AS live
                 FROM dspex.workers w {"WHERE stopped_at IS NULL" if live_only else ""} ORDER BY started_at DESC""")  # noqa: S608
    )
    return [dict(row) for row in rows.mappings()]


def refused_modules(program: Program, worker: Mapping[str, Any]) -> list[str]:
    """The modules of a program that a worker, a row of :func:`listing`, does not allow."""
    return sorted(module for module in program.own_modules if not is_within(module, worker["program_packages"]))
