"""Work under way: nothing is stuck, kills its workers, or waits for ever."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from dspex.errors import ExecutionNotFound
from dspex.operations.doctor.check import Finding, Need, check, met, not_met, warning
from dspex.operations.doctor.deployment import Deployment
from dspex.publish.broker import queue_depth

#: Work that waits for so long while workers are alive is a sign, in seconds.
LONG_WAIT = 300
#: So long past its deadline nobody ends an attempt any more, in seconds.
OVERDUE = 60
#: Failures that are looked at, and trails that are verified.
FAILURES, TRAILS = 1000, 50


@check("Work does not wait", Need.SCHEMA, mend="start more workers; see `dspex bench` and `dspex list --status queued`")
def waiting(deployment: Deployment) -> Finding:
    """What is due, and not of a paused program, begins within minutes."""
    row = deployment.row("""
        SELECT count(*) AS due, coalesce(extract(epoch FROM now() - min(run_at)), 0)::float8 AS oldest FROM (
            SELECT e.run_at FROM dspex.executions e JOIN dspex.programs p ON p.name = e.program
            WHERE e.status = 'queued' AND e.run_at <= now() AND p.paused_at IS NULL LIMIT 100000) q""")
    said = f"{row.due:,} due, the oldest for {row.oldest:,.0f} s"
    return (not_met if row.oldest > LONG_WAIT else met)(said, due=row.due, oldest_seconds=row.oldest)


@check(
    "No paused program has a backlog",
    Need.SCHEMA,
    mend="dspex resume NAME; with a spent budget deploy a higher limits.max_cost_usd first",
)
def paused(deployment: Deployment) -> Finding:
    """A paused program begins nothing until somebody resumes it."""
    rows = deployment.rows("""
        SELECT p.name, p.paused_reason AS why, (SELECT count(*) FROM (SELECT FROM dspex.executions e
            WHERE e.program = p.name AND e.status = 'queued' LIMIT 100000) q) AS waiting
        FROM dspex.programs p WHERE p.paused_at IS NOT NULL ORDER BY p.name""")
    told = [f"{row.name} ({row.why or 'by an operator'}): {row.waiting:,} wait" for row in rows if row.waiting]
    return warning("; ".join(told)) if told else met(f"{len(rows)} paused, nothing waits for them")


@check(
    "No execution is held by a dead worker", Need.SCHEMA, mend="start a worker: its pump takes them back within seconds"
)
def orphaned(deployment: Deployment) -> Finding:
    """Executions that run under a lease which has run out are taken back within seconds, if there is a worker."""
    row = deployment.row("""
        SELECT count(*) AS held, min(e.id::text) AS id
        FROM dspex.executions e JOIN dspex.workers w ON w.id = e.worker_id
        WHERE e.status = 'running' AND (w.stopped_at IS NOT NULL
            OR w.heartbeat_at < now() - make_interval(secs => w.lease_seconds + 5))""")
    return not_met(f"{row.held}, such as {row.id}", held=row.held) if row.held else met("none")


@check("No execution is long past its deadline", Need.SCHEMA, mend="see `dspex show ID` and the log of its worker")
def overdue(deployment: Deployment) -> Finding:
    """An attempt that does not end at its deadline is taken from its worker some seconds later."""
    row = deployment.row("""
        SELECT count(*) AS late, min(id::text) AS id FROM dspex.executions
        WHERE status = 'running' AND deadline_at < now() - make_interval(secs => :most)""", most=OVERDUE)  # fmt: skip
    return not_met(f"{row.late}, such as {row.id}", late=row.late) if row.late else met("none")


@check(
    "Nothing dispatched is left lying",
    Need.SCHEMA,
    Need.REDIS,
    mend="see whether workers consume: `dspex workers`, and the pump's leader: `dspex doctor --only workers`",
)
def unclaimed(deployment: Deployment) -> Finding:
    """What was put on the queue in Redis is claimed soon; what lies there for minutes has no message or no worker."""
    row = deployment.row("""
        SELECT count(*) AS lying, min(id::text) AS id FROM (SELECT id FROM dspex.executions
            WHERE status = 'queued' AND dispatched_at < now() - make_interval(secs => :most) LIMIT 100000) q""",
                         most=LONG_WAIT)  # fmt: skip
    with deployment.redis() as client:
        messages = queue_depth(client)
    if row.lying:
        return not_met(f"{row.lying:,}, such as {row.id}; Redis holds {messages:,} messages", lying=row.lying)
    return met(f"none; Redis holds {messages:,} messages")


@check(
    "No execution killed its workers",
    Need.SCHEMA,
    mend="dspex show ID names the workers; mend the program before `dspex retry ID`",
)
def poisoned(deployment: Deployment) -> Finding:
    """An execution whose worker died in every attempt is failed as poisoned: its program or its input is dangerous."""
    return _failures(deployment, "error->>'code' = 'poisoned'", not_met)


@check(
    "Dead letters are looked after",
    Need.SCHEMA,
    mend="`dspex list --status failed`; mend the cause, then `dspex retry --failed`",
)
def dead_letters(deployment: Deployment) -> Finding:
    """Executions that failed within a week, and that nobody has retried."""
    return _failures(deployment, "error->>'code' <> 'poisoned'", warning)


@check("Audit trails are whole", Need.SCHEMA, mend="dspex audit; then find out who can write to the database")
def trails(deployment: Deployment) -> Finding:
    """The hash chains of the latest executions are computed again; `dspex audit` does it for all."""
    rows = deployment.rows("SELECT id FROM dspex.executions ORDER BY id DESC LIMIT :most", most=TRAILS)
    broken = []
    for row in rows:
        with suppress(ExecutionNotFound):  # retention was faster
            verified = deployment.client.audit_trail(row.id).verify()
            broken += [f"{row.id}: {fault}" for fault in verified.faults]
    return not_met("; ".join(broken[:3])) if broken else met(f"{len(rows)} verified")


def _failures(deployment: Deployment, which: str, verdict: Callable[..., Finding]) -> Finding:
    row = deployment.row(f"""
        SELECT count(*) AS failed, max(id::text) AS id FROM (SELECT id, error, finished_at FROM dspex.executions
            WHERE status = 'failed' ORDER BY id DESC LIMIT :most) f
        WHERE {which} AND finished_at > now() - interval '7 days'""", most=FAILURES)  # noqa: S608 # fmt: skip
    if not row.failed:
        return met("none within a week")
    return verdict(f"{row.failed:,} within a week, the latest {row.id}", failed=row.failed)
