"""Budgets: what a program's model calls may cost in total, reserved before each call and settled after it.

A reservation locks the row of the program's budget, so reservations are exact however many workers make them. A
reservation ends once: its worker settles it with the cost of the call, or it is charged in full when the worker is
dead, because the provider's bill is then unknown.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

from dspex.store.array_text import array

__all__ = [
    "FIRST_RESERVATION",
    "RESERVE",
    "SETTLE",
    "Budget",
    "Reservation",
    "charge_the_dead",
    "charge_waits",
    "find",
    "open_budget",
    "release_waits",
    "reserve_parameters",
    "settle_parameters",
    "spent",
    "wait_reservation",
]


#: In the place of a worker: the owner of reservations for calls that executions wait for.
WAITS = UUID(int=0)


@dataclass(frozen=True, slots=True)
class Budget:
    """A program's budget in US dollars; ``limit_usd`` is None when its current version has none."""

    program: str
    limit_usd: float | None
    spent_usd: float
    reserved_usd: float


@dataclass(frozen=True, slots=True)
class Reservation:
    """The most that a call may cost. ``waiting_id`` is the execution that waits for the answer, if no worker makes the
    call."""

    id: UUID
    program: str
    usd: float
    waiting_id: UUID | None = None


#: For psycopg: reserve for several calls, in their order. Each is ``granted`` or not; it is ``exhausted`` if it would
#: exceed the budget even if all current calls cost nothing: then the program is paused, with the reason.
RESERVE = """
WITH asked AS (
    SELECT * FROM unnest(%(ids)s::uuid[], %(programs)s::text[], %(usds)s::numeric[], %(owners)s::uuid[],
        %(waiting_ids)s::uuid[]) WITH ORDINALITY AS a (id, program, usd, owner, execution_id, place)
), budget AS MATERIALIZED (
    SELECT b.program, b.spent_usd, b.reserved_usd, coalesce(b.limit_usd, p.max_cost_usd::numeric) AS limit_usd
    FROM dspex.budgets b LEFT JOIN dspex.programs p ON p.name = b.program
    WHERE b.program IN (SELECT program FROM asked) ORDER BY b.program FOR UPDATE OF b
), judged AS MATERIALIZED (
    SELECT a.id, a.program, a.usd, a.owner, a.execution_id, b.spent_usd, b.limit_usd,
        EXISTS (SELECT FROM dspex.budget_reservations r WHERE r.id = a.id) -- by an earlier attempt of this statement
            OR b.limit_usd IS NULL OR b.spent_usd + b.reserved_usd
            + sum(a.usd) OVER (PARTITION BY a.program ORDER BY a.place) <= b.limit_usd AS granted,
        b.spent_usd + a.usd > b.limit_usd AS exhausted
    FROM asked a JOIN budget b USING (program)
), reserved AS (
    INSERT INTO dspex.budget_reservations (id, program, worker_id, usd, execution_id)
    SELECT id, program, owner, usd, execution_id FROM judged WHERE granted ON CONFLICT (id) DO NOTHING
    RETURNING program, usd
), held AS (
    UPDATE dspex.budgets b SET reserved_usd = b.reserved_usd + r.usd
    FROM (SELECT program, sum(usd) AS usd FROM reserved GROUP BY program) r WHERE b.program = r.program
), paused AS (
    UPDATE dspex.programs p SET paused_at = clock_timestamp(), paused_reason = j.reason
    FROM (
        SELECT DISTINCT ON (program) program, format('its budget of $%%s is spent: $%%s so far, and the next call may '
            'cost up to $%%s', trim_scale(limit_usd), trim_scale(round(spent_usd, 6)), trim_scale(round(usd, 6)))
            AS reason
        FROM judged WHERE exhausted ORDER BY program, usd
    ) j WHERE p.name = j.program AND p.paused_at IS NULL
    RETURNING p.name, p.paused_reason
), noted AS (
    INSERT INTO dspex.program_changes (program, kind, about) SELECT name, 'paused', paused_reason FROM paused
)
SELECT j.id, j.granted, coalesce(j.exhausted, false), p.paused_reason
FROM judged j LEFT JOIN paused p ON p.name = j.program
"""

#: For psycopg: end reservations with the cost of the calls; NULL means the reserved amount.
SETTLE = """
WITH given AS (
    SELECT * FROM unnest(%(ids)s::uuid[], %(usds)s::numeric[]) AS g (id, usd)
), ended AS (
    DELETE FROM dspex.budget_reservations r USING given g WHERE r.id = g.id
    RETURNING r.program, r.usd AS reserved, coalesce(g.usd, r.usd) AS spent
)
UPDATE dspex.budgets b SET spent_usd = b.spent_usd + e.spent, reserved_usd = b.reserved_usd - e.reserved
FROM (SELECT program, sum(reserved) AS reserved, sum(spent) AS spent FROM ended GROUP BY program) e
WHERE b.program = e.program
"""


def reserve_parameters(reservations: Sequence[Reservation], worker_id: UUID) -> dict[str, Any]:
    """The arguments of RESERVE."""
    return {
        "ids": [r.id for r in reservations],
        "programs": [r.program for r in reservations],
        "usds": array(r.usd for r in reservations),
        "owners": [worker_id if r.waiting_id is None else WAITS for r in reservations],
        "waiting_ids": [r.waiting_id for r in reservations],
    }


def settle_parameters(ended: Sequence[tuple[UUID, float | None]]) -> dict[str, Any]:
    """The arguments of SETTLE: each reservation and the cost of its call."""
    usds = array("NULL" if usd is None else usd for _, usd in ended)
    return {"ids": [id for id, _ in ended], "usds": usds}


_CHARGE_THE_DEAD = text("""
WITH ended AS (
    DELETE FROM dspex.budget_reservations r
    WHERE r.execution_id IS NULL
        AND NOT EXISTS (SELECT FROM dspex.workers w WHERE w.id = r.worker_id AND w.stopped_at IS NULL)
    RETURNING r.program, r.usd
)
UPDATE dspex.budgets b SET spent_usd = b.spent_usd + e.usd, reserved_usd = b.reserved_usd - e.usd
FROM (SELECT program, sum(usd) AS usd FROM ended GROUP BY program) e WHERE b.program = e.program
""")


def charge_the_dead(connection: Connection) -> None:
    """Charge the reservations of dead workers."""
    connection.execute(_CHARGE_THE_DEAD)


# The answer may come after its reservation was released: the cost is charged in any case.
_CHARGE_WAITS = """
WITH given AS (
    SELECT e.program, g.id, g.usd FROM unnest(%(ids)s::uuid[], %(execution_ids)s::uuid[], %(usds)s::numeric[])
        AS g (id, execution_id, usd)
    JOIN dspex.executions e ON e.id = g.execution_id
), ended AS (
    DELETE FROM dspex.budget_reservations r USING given g WHERE r.id = g.id RETURNING r.program, r.usd
), changes AS (
    SELECT program, sum(spent) AS spent, sum(released) AS released FROM (
        SELECT program, usd AS spent, 0 AS released FROM given
        UNION ALL SELECT program, 0, usd FROM ended) each GROUP BY program
)
UPDATE dspex.budgets b SET spent_usd = b.spent_usd + c.spent, reserved_usd = b.reserved_usd - c.released
FROM changes c WHERE b.program = c.program
"""


def wait_reservation(execution_id: UUID, request_hash: bytes, occurrence: int) -> UUID:
    """The id of the reservation of a call that its execution waits for."""
    text = f"{execution_id}{request_hash.hex()}{occurrence}"
    return UUID(hashlib.md5(text.encode(), usedforsecurity=False).hexdigest())


def charge_waits(connection: Connection, costs: Sequence[tuple[UUID, bytes, int, float]]) -> None:
    """Charge what calls cost that executions waited for, 0 for those that were not answered, and release their
    reservations."""
    given = {
        "ids": [wait_reservation(id, hashed, occurrence) for id, hashed, occurrence, _ in costs],
        "execution_ids": [id for id, _, _, _ in costs],
        "usds": array(usd for *_, usd in costs),
    }
    connection.exec_driver_sql(_CHARGE_WAITS, given)


#: The id before the ids of all reservations.
FIRST_RESERVATION = UUID(int=0)

# An attempt that runs reserves before it is parked. A reservation without an execution is one of a worker.
_RELEASE_WAITS = """
WITH looked_at AS MATERIALIZED (
    SELECT id, execution_id FROM dspex.budget_reservations WHERE id > %(after)s ORDER BY id LIMIT %(most)s
), ended AS (
    DELETE FROM dspex.budget_reservations r USING looked_at l
    WHERE r.id = l.id AND l.execution_id IS NOT NULL AND (
        SELECT p.execution_id FROM dspex.parked_calls p WHERE p.execution_id = l.execution_id
            AND md5(p.execution_id || encode(p.request_hash, 'hex') || p.occurrence)::uuid = l.id LIMIT 1) IS NULL
        AND (SELECT e.status FROM dspex.executions e WHERE e.id = l.execution_id) IS DISTINCT FROM 'running'
    RETURNING r.program, r.usd
), released AS (
    UPDATE dspex.budgets b SET reserved_usd = b.reserved_usd - e.usd
    FROM (SELECT program, sum(usd) AS usd FROM ended GROUP BY program) e WHERE b.program = e.program
)
SELECT id FROM looked_at ORDER BY id DESC LIMIT 1
"""


def release_waits(connection: Connection, *, after: UUID = FIRST_RESERVATION, most: int = 1000) -> UUID | None:
    """Among the next ``most`` reservations, release the ones whose calls nothing waits for any more: they were
    cancelled before they were made. Returns the last one that it looked at, None when there was none."""
    found: UUID | None = connection.exec_driver_sql(_RELEASE_WAITS, {"after": after, "most": most}).scalar()
    return found


_FIND = text("""
SELECT p.name, p.max_cost_usd, b.spent_usd, b.reserved_usd
FROM dspex.programs p JOIN dspex.budgets b ON b.program = p.name WHERE p.name = :program
""")


_OPEN = text("INSERT INTO dspex.budgets (program, limit_usd) VALUES (:name, :limit_usd)")
_SPENT = text("SELECT spent_usd FROM dspex.budgets WHERE program = :name")


def open_budget(connection: Connection, name: str, limit_usd: float) -> None:
    """A budget of its own, beside the budgets of programs: ``name`` is one that no program can have."""
    connection.execute(_OPEN, {"name": name, "limit_usd": limit_usd})


def spent(connection: Connection, name: str) -> float | None:
    """What was spent of a budget; None when there is none of this name."""
    found = connection.scalar(_SPENT, {"name": name})
    return None if found is None else float(found)


def find(connection: Connection, program: str) -> Budget | None:
    """The budget of a program; None when it never had one."""
    row = connection.execute(_FIND, {"program": program}).one_or_none()
    if row is None:
        return None
    return Budget(row.name, row.max_cost_usd, float(row.spent_usd), float(row.reserved_usd))
