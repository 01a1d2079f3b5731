"""Dispatch: which queued executions are put on the queue in Redis, and which are taken back.

Only dispatched executions can be claimed, so dispatch divides the workers between programs and enforces a program's
limits on executions: exactly, because dispatched executions that are not yet claimed count as running, and because two
leaders never count the same program at a time.

Executions whose version no live worker can run are held back (``held_at``): they leave the index of due executions, so
that they cost nothing and keep no other execution from its turn. They are released when a worker comes that can run
them.

A suspect is an execution that lost two attempts with their workers. It may have killed them, so it runs alone in its
worker, and only so many suspects are dispatched at a time.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Connection, Row, text

from dspex.store.lifecycle.executions import TENANT_RESERVE
from dspex.store.lifecycle.set_statements import RowFault, for_each_row

__all__ = [
    "EACH_TENANT",
    "RESERVE",
    "TENANTS_MOST",
    "DispatchBacklog",
    "HeldVersion",
    "Share",
    "count_dispatched",
    "dispatch",
    "find_held",
    "find_refused",
    "find_unclaimed",
    "forget_starts",
    "has_backlog",
    "held",
    "release",
    "shares",
    "take_back",
]

#: A program with fewer executions in Redis is served although others fill the window, so that it does not wait for
#: them. So is a program with fewer than its equal share of the window: limits may keep the others from running.
RESERVE = 10
#: The executions of a version that are held back are counted up to so many.
HELD_COUNTED = 5_000
#: Executions of each program's backlog that one round reads at least.
LEAST_SHARE = 20
#: Beside the oldest executions of a program, a round reads the oldest ones of each of so many tenants.
TENANTS_MOST, EACH_TENANT = 100, 5


@dataclass(frozen=True, slots=True)
class DispatchBacklog:
    """A program with executions to dispatch: how many are in Redis, and how many count towards its limits.

    ``begun`` are the executions that began within the last minute.
    """

    program: str
    dispatched: int
    concurrency: int | None = None
    per_minute: int | None = None
    running: int = 0
    begun: int = 0

    @property
    def allowed(self) -> int | None:
        """How many more its limits allow; None without limits."""
        under = [limit - self.dispatched - used for limit, used in
                 ((self.concurrency, self.running), (self.per_minute, self.begun)) if limit is not None]  # fmt: skip
        return max(min(under), 0) if under else None


@dataclass(frozen=True, slots=True)
class Share:
    """Dispatch at most ``most`` of the program's executions; ``dispatched`` are in Redis already.

    Up to ``reserve`` in all are dispatched although the window is full.
    """

    program: str
    most: int
    dispatched: int
    reserve: int


def shares(backlogs: Sequence[DispatchBacklog], *, window: int, waiting: int, programs: int = 0) -> list[Share]:
    """How much of each program's backlog to read, so that a round costs little however long the backlogs are.

    ``waiting`` is what waits in Redis, of so many ``programs``. When some have little to do, the next round, some
    milliseconds later, takes more of the others.
    """
    room = max(window - waiting, 0)
    equal = max(window // max(len(backlogs), programs, 1), RESERVE)
    each = max(2 * room // max(len(backlogs), 1), LEAST_SHARE)
    found = []
    for backlog in backlogs:
        reserve = equal if waiting > backlog.dispatched else 0
        most = each if room else reserve - backlog.dispatched
        if backlog.allowed is not None:
            most = min(most, backlog.allowed)
        if most > 0:
            found.append(Share(backlog.program, most, backlog.dispatched, reserve))
    return found


# With the ORDER BY Postgres uses the index; without it, it would scan the table for any such row.
_BACKLOG = """CROSS JOIN LATERAL (
    SELECT 1 FROM dspex.executions e
    WHERE e.program = p.name AND e.status = 'queued' AND e.dispatched_at IS NULL AND e.held_at IS NULL
    ORDER BY e.priority, e.run_at LIMIT 1) backlog"""
HAS_BACKLOG = text(f"SELECT EXISTS (SELECT FROM dspex.programs p {_BACKLOG} WHERE p.paused_at IS NULL)")  # noqa: S608

# Planning a round takes as long as carrying it out, and the plan is the same every time. It may have been made for an
# empty table, for which Postgres would choose a sequential scan. And Postgres expects a tenant to have few executions:
# it would read and sort all that are queued.
KEEP_PLANS = text("""
SELECT set_config('plan_cache_mode', 'force_generic_plan', true), set_config('enable_seqscan', 'off', true),
    set_config('enable_sort', 'off', true)
""")

# A leader that hangs in its transaction does not keep the others waiting for ever.
_LOCK = text("""
SELECT name, set_config('idle_in_transaction_session_timeout', '2000', true) FROM dspex.programs
WHERE paused_at IS NULL AND (concurrency IS NOT NULL OR per_minute IS NOT NULL)
FOR NO KEY UPDATE SKIP LOCKED
""")

BACKLOGS = text(f"""
WITH waiting AS MATERIALIZED (
    SELECT program, count(*) AS count FROM dspex.executions
    WHERE status = 'queued' AND dispatched_at IS NOT NULL GROUP BY program
), running AS MATERIALIZED (
    SELECT program, count(*) AS count FROM dspex.executions
    WHERE status = 'running' AND program = ANY(:limited) GROUP BY program
), begun AS MATERIALIZED (
    SELECT program, sum(count) AS count FROM dspex.program_starts
    WHERE program = ANY(:limited) AND at > clock_timestamp() - interval '60 s'
        AND at <= clock_timestamp() -- not before the clock was set back
    GROUP BY program
)
SELECT p.name, p.concurrency, p.per_minute, coalesce(w.count, 0) AS dispatched, coalesce(r.count, 0) AS running,
    coalesce(b.count, 0) AS begun, (SELECT coalesce(sum(count), 0) FROM waiting) AS all_dispatched,
    (SELECT count(*) FROM waiting) AS all_programs,
    (SELECT count(*) FROM dspex.executions WHERE lost_attempts >= 2 AND finished_at IS NULL
        AND dispatched_at IS NOT NULL) AS suspects
FROM dspex.programs p
{_BACKLOG}
LEFT JOIN waiting w ON w.program = p.name
LEFT JOIN running r ON r.program = p.name
LEFT JOIN begun b ON b.program = p.name
WHERE p.paused_at IS NULL AND ((p.concurrency IS NULL AND p.per_minute IS NULL) OR p.name = ANY(:limited))
""")  # noqa: S608

# Within a priority the program with the fewest executions in Redis is next; tenants of a program take turns, and
# executions without a tenant are in the order of time with the executions of all tenants. Each priority is looked up
# separately, so that neither executions scheduled for later nor a backlog of less urgent ones are read. The array keeps
# Postgres, which cannot know how few are chosen, from scanning the whole table for the join.
DISPATCH = text("""
WITH share AS (
    SELECT * FROM unnest(CAST(:programs AS text[]), CAST(:most AS int[]), CAST(:dispatched AS int[]),
        CAST(:reserves AS int[])) AS s (program, most, dispatched, reserve)
), due AS MATERIALIZED (
    SELECT s.program, s.most, s.dispatched, s.reserve, d.id, d.priority, d.run_at, d.tenant, d.held
    FROM share s CROSS JOIN generate_series(0, 9) AS p (priority) CROSS JOIN LATERAL (
        SELECT e.id, e.priority, e.run_at, e.tenant,
            e.program || ' ' || e.version = ANY(CAST(:unrunnable AS text[])) AS held
        FROM dspex.executions e
        WHERE e.program = s.program AND e.priority = p.priority AND e.status = 'queued' AND e.dispatched_at IS NULL
            AND e.held_at IS NULL AND e.run_at <= now() AND e.lost_attempts < 2
            AND e.id <> ALL(CAST(:aside AS uuid[]))
        ORDER BY e.run_at LIMIT s.most FOR UPDATE SKIP LOCKED) d
), tenants AS MATERIALIZED (
    SELECT s.program, s.most, s.dispatched, s.reserve, p.priority, t.tenant
    FROM share s CROSS JOIN generate_series(0, 9) AS p (priority) CROSS JOIN LATERAL (
        WITH RECURSIVE found AS (
            (SELECT e.tenant FROM dspex.executions e
             WHERE e.program = s.program AND e.priority = p.priority AND e.status = 'queued'
                AND e.dispatched_at IS NULL AND e.held_at IS NULL AND e.tenant IS NOT NULL
             ORDER BY e.tenant LIMIT 1)
            UNION ALL
            SELECT next.tenant FROM found f CROSS JOIN LATERAL (
                SELECT e.tenant FROM dspex.executions e
                WHERE e.program = s.program AND e.priority = p.priority AND e.status = 'queued'
                    AND e.dispatched_at IS NULL AND e.held_at IS NULL AND e.tenant IS NOT NULL AND e.tenant > f.tenant
                ORDER BY e.tenant LIMIT 1) next
        ) SELECT tenant FROM found LIMIT :tenants_most) t
), of_tenants AS MATERIALIZED (
    SELECT t.program, t.most, t.dispatched, t.reserve, d.id, d.priority, d.run_at, d.tenant, d.held
    FROM tenants t CROSS JOIN LATERAL (
        SELECT e.id, e.priority, e.run_at, e.tenant,
            e.program || ' ' || e.version = ANY(CAST(:unrunnable AS text[])) AS held
        FROM dspex.executions e
        WHERE e.program = t.program AND e.priority = t.priority AND e.tenant = t.tenant AND e.tenant IS NOT NULL
            AND e.status = 'queued' AND e.dispatched_at IS NULL AND e.held_at IS NULL AND e.run_at <= now()
            AND e.lost_attempts < 2 AND e.id <> ALL(CAST(:aside AS uuid[]))
        ORDER BY e.run_at LIMIT :each_tenant FOR UPDATE SKIP LOCKED) d
), suspects AS MATERIALIZED (
    SELECT s.program, s.most, s.dispatched, s.reserve, e.id, e.priority, e.run_at, e.tenant,
        e.program || ' ' || e.version = ANY(CAST(:unrunnable AS text[])) AS held
    FROM share s JOIN dspex.executions e ON e.program = s.program
    WHERE e.lost_attempts >= 2 AND e.finished_at IS NULL AND e.status = 'queued' AND e.dispatched_at IS NULL
        AND e.held_at IS NULL AND e.run_at <= now() AND e.id <> ALL(CAST(:aside AS uuid[]))
    ORDER BY e.priority, e.run_at LIMIT :suspects FOR UPDATE OF e SKIP LOCKED
), in_redis AS MATERIALIZED (
    SELECT e.program, e.tenant, count(*) AS count FROM share s JOIN dspex.executions e ON e.program = s.program
    WHERE e.status = 'queued' AND e.dispatched_at IS NOT NULL AND e.tenant IS NOT NULL
        AND EXISTS (SELECT FROM of_tenants)
    GROUP BY e.program, e.tenant
), ranked AS (
    SELECT *, row_number() OVER (PARTITION BY program, held, priority, tenant ORDER BY run_at, id) AS tenant_turn
    FROM (SELECT * FROM due UNION SELECT * FROM of_tenants UNION SELECT * FROM suspects) AS found
), turns AS (
    SELECT id, priority, run_at, most, reserve, held,
        row_number() OVER (PARTITION BY program, held ORDER BY priority, tenant_turn, run_at) AS number,
        dispatched + row_number() OVER (PARTITION BY program, held, priority ORDER BY tenant_turn, run_at) AS turn,
        CASE WHEN tenant IS NOT NULL THEN tenant_turn + coalesce(i.count, 0) END AS own_turn
    FROM ranked LEFT JOIN in_redis i USING (program, tenant)
), chosen AS (
    SELECT id, turn, own_turn, reserve, held,
        row_number() OVER (PARTITION BY held ORDER BY priority, turn, run_at) AS place
    FROM turns WHERE number <= most
), marked AS (
    UPDATE dspex.executions SET
        dispatched_at = CASE WHEN program || ' ' || version = ANY(CAST(:unrunnable AS text[])) THEN NULL ELSE now() END,
        held_at = CASE WHEN program || ' ' || version = ANY(CAST(:unrunnable AS text[])) THEN now() END
    WHERE id = ANY(ARRAY(SELECT id FROM chosen WHERE held OR place <= :room OR turn <= reserve))
    RETURNING id, priority, program, run_at, held_at IS NOT NULL AS held, lost_attempts >= 2 AS suspect
)
SELECT m.*, CASE WHEN c.own_turn <= :tenant_reserve THEN least(c.turn, c.own_turn) ELSE c.turn END AS turn
FROM marked m JOIN chosen c ON c.id = m.id
""")


def has_backlog(connection: Connection) -> bool:
    """Whether there is anything to dispatch, now or later: else :func:`dispatch` would find nothing."""
    return bool(connection.scalar(HAS_BACKLOG))


def dispatch(
    connection: Connection,
    window: int,
    unrunnable: Collection[str] = (),
    *,
    aside: Collection[UUID] = (),
    suspects_most: int = 1,
) -> list[Row[Any]]:
    """Mark due executions as dispatched, the most urgent first and programs in turn, without those ``aside``. Needs a
    transaction.

    Executions of ``unrunnable`` versions (their keys) are held back instead.

    About ``window`` wait in Redis then; at most twice as many, when programs come to a window that others filled. At
    most ``suspects_most`` suspects are in Redis or run then.

    The rows have ``id``, ``priority``, ``program``, ``suspect``, ``turn`` (how many of the program, with this one,
    are in Redis then; of its tenant, where those are few) and ``held`` (it is not dispatched, but held back), the most
    urgent first.
    """
    connection.execute(KEEP_PLANS)
    limited = [row.name for row in connection.execute(_LOCK)]
    found = connection.execute(BACKLOGS, {"limited": limited}).all()
    if not found:
        return []
    waiting = int(found[0].all_dispatched)
    given = shares([_backlog(row) for row in found], window=window, waiting=waiting, programs=found[0].all_programs)
    if not given:
        return []
    parameters = {
        "programs": [share.program for share in given],
        "most": [share.most for share in given],
        "dispatched": [share.dispatched for share in given],
        "reserves": [share.reserve for share in given],
        "room": window - waiting,
        "aside": list(aside),
        "unrunnable": list(unrunnable),
        "suspects": max(suspects_most - found[0].suspects, 0),
        "tenants_most": TENANTS_MOST,
        "each_tenant": EACH_TENANT,
        "tenant_reserve": TENANT_RESERVE,
    }
    rows = connection.execute(DISPATCH, parameters).all()
    return sorted(rows, key=lambda row: (row.priority, row.run_at, row.id))


def _backlog(row: Row[Any]) -> DispatchBacklog:
    return DispatchBacklog(row.name, row.dispatched, row.concurrency, row.per_minute, row.running, int(row.begun))


_DUE = text("""
SELECT d.id FROM dspex.programs p CROSS JOIN LATERAL (
    SELECT e.id FROM dspex.executions e
    WHERE e.program = p.name AND e.status = 'queued' AND e.dispatched_at IS NULL AND e.held_at IS NULL
        AND e.run_at <= now() AND e.id <> ALL(CAST(:aside AS uuid[]))
    ORDER BY e.priority, e.run_at LIMIT :most) d
WHERE p.paused_at IS NULL
""")
_MARK = text("UPDATE dspex.executions SET dispatched_at = now() WHERE id = ANY(CAST(:ids AS uuid[])) RETURNING id")


def find_refused(connection: Connection, *, most: int, aside: Collection[UUID] = ()) -> list[RowFault[UUID]]:
    """The due executions, ``most`` of each program, that Postgres refuses to mark as dispatched. Needs a transaction.

    Nothing is changed.
    """
    due = list(connection.scalars(_DUE, {"most": most, "aside": list(aside)}))

    def mark(ids: Sequence[UUID]) -> Sequence[UUID]:
        with connection.begin_nested() as savepoint:
            connection.execute(_MARK, {"ids": list(ids)})
            savepoint.rollback()
        return ()

    return for_each_row(mark, due)[1]


# What was dispatched in the future was dispatched before Postgres' clock was set back.
_UNCLAIMED = text("""
SELECT id FROM dspex.executions
WHERE status = 'queued' AND (dispatched_at < clock_timestamp() - make_interval(secs => :older_than)
        OR dispatched_at > clock_timestamp() + interval '1 s')
    AND id <> ALL(CAST(:aside AS uuid[]))
ORDER BY dispatched_at LIMIT :most
""")
_COUNT_DISPATCHED = text("""
SELECT count(*) FROM (
    SELECT FROM dspex.executions WHERE status = 'queued' AND dispatched_at IS NOT NULL LIMIT :most
) AS dispatched
""")
_TAKE_BACK = text("""
UPDATE dspex.executions SET dispatched_at = NULL WHERE id = ANY(ARRAY(
    SELECT id FROM dspex.executions WHERE id = ANY(CAST(:ids AS uuid[])) AND status = 'queued'
        AND dispatched_at IS NOT NULL
    FOR UPDATE SKIP LOCKED))
RETURNING id
""")


def find_unclaimed(connection: Connection, *, older_than: float, most: int, aside: Collection[UUID] = ()) -> list[UUID]:
    """Executions dispatched more than ``older_than`` seconds ago and never claimed, without those ``aside``."""
    parameters = {"older_than": older_than, "most": most, "aside": list(aside)}
    return list(connection.scalars(_UNCLAIMED, parameters))


def count_dispatched(connection: Connection, *, most: int) -> int:
    """How many executions are dispatched and not claimed, counted up to ``most``."""
    return int(connection.scalar(_COUNT_DISPATCHED, {"most": most}) or 0)


def take_back(connection: Connection, ids: Sequence[UUID]) -> list[UUID]:
    """Take back each of these executions that is dispatched and not claimed. Returns them."""
    return list(connection.scalars(_TAKE_BACK, {"ids": list(ids)}))


def forget_starts(connection: Connection) -> None:
    """Delete the starts that are too old for any limit per minute, or from before Postgres' clock was set back."""
    connection.execute(
        text("DELETE FROM dspex.program_starts WHERE at NOT BETWEEN clock_timestamp() - interval '2 minutes' "
             "AND clock_timestamp() + interval '1 minute'")
    )  # fmt: skip


# One look-up in the index executions_held for each version, however many executions of it are held.
_HELD = """
RECURSIVE held AS (
    (SELECT program, version FROM dspex.executions WHERE status = 'queued' AND held_at IS NOT NULL
     ORDER BY program, version LIMIT 1)
    UNION ALL
    SELECT next.program, next.version FROM held h CROSS JOIN LATERAL (
        SELECT e.program, e.version FROM dspex.executions e
        WHERE e.status = 'queued' AND e.held_at IS NOT NULL AND (e.program, e.version) > (h.program, h.version)
        ORDER BY e.program, e.version LIMIT 1) next
)
"""
HELD = text(f"""
WITH {_HELD}
SELECT h.program, h.version, counted.count FROM held h CROSS JOIN LATERAL (
    SELECT count(*) AS count FROM (
        SELECT FROM dspex.executions
        WHERE program = h.program AND version = h.version AND status = 'queued' AND held_at IS NOT NULL
        LIMIT {HELD_COUNTED}) e) counted
""")  # noqa: S608
FIND_HELD = text(f"""
WITH {_HELD}
SELECT e.id FROM held h CROSS JOIN LATERAL (
    SELECT id FROM dspex.executions
    WHERE program = h.program AND version = h.version AND status = 'queued' AND held_at IS NOT NULL
        AND id <> ALL(CAST(:aside AS uuid[]))
    LIMIT :most) e
WHERE h.program || ' ' || h.version <> ALL(CAST(:unrunnable AS text[]))
""")  # noqa: S608
_RELEASE = text("""
UPDATE dspex.executions SET held_at = NULL WHERE id = ANY(ARRAY(
    SELECT id FROM dspex.executions WHERE id = ANY(CAST(:ids AS uuid[])) AND status = 'queued' AND held_at IS NOT NULL
    FOR UPDATE SKIP LOCKED))
RETURNING id
""")


class HeldVersion(NamedTuple):
    """A version whose executions are held back, and how many, up to HELD_COUNTED."""

    program: str
    version: str
    executions: int


def held(connection: Connection) -> list[HeldVersion]:
    """The versions whose executions are held back."""
    return [HeldVersion(*row) for row in connection.execute(HELD)]


def find_held(
    connection: Connection, unrunnable: Collection[str], *, most: int, aside: Collection[UUID] = ()
) -> list[UUID]:
    """Executions that are held back, up to ``most`` of each version, except ``unrunnable`` versions and executions set
    ``aside``."""
    parameters = {"unrunnable": list(unrunnable), "most": most, "aside": list(aside)}
    return list(connection.scalars(FIND_HELD, parameters))


def release(connection: Connection, ids: Sequence[UUID]) -> list[UUID]:
    """Release each of these executions that is held back. Returns them."""
    return list(connection.scalars(_RELEASE, {"ids": list(ids)}))
