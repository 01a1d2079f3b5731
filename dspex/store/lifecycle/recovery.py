"""Recovery: how the reaper ends attempts that their workers will not settle.

An attempt is lost when the lease of its worker expired, and overdue when it is past its deadline although its worker
is alive: the program ignores its cancellation, or blocks the worker's loop. Either is fenced off (its worker's
settlement finds no row), and the execution is queued again or ends: cancelled if a cancel was requested, failed if its
attempts are used up.

A job of ``client.optimize`` only waits for its rollouts, which may be what killed the worker: an attempt of it that was
lost together with one of its rollouts does not count. It is never a suspect, as running it alone would show nothing.

Postgres' clock may be set. So a worker is dead by what the reaper saw of its heartbeats (workers.declare_dead), and a
deadline has passed by Postgres' clock only for as long as the reaper saw that clock go on undisturbed.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row

from dspex.store.lifecycle.lm_calls import COUNTED

__all__ = ["Overdue", "find_lost", "recover"]

# The audit entry of a lost attempt begins with its evidence, so that the workers an execution killed can be found
# without parsing text of programs and models, which may contain U+0000, which ->> refuses.
_EVIDENCE = """
    SELECT json_agg(a.events->0->'data' ORDER BY a.seq) FROM dspex.audit_events a
    WHERE a.execution_id = l.id AND a.events::text LIKE '[{"kind" : "lease_expired"%%'
"""

# An attempt that began before the clock was last set, or before it was watched, is overdue once it has been watched for
# as long as the attempt may take.
_LOST = """
    FROM dspex.executions e LEFT JOIN dspex.workers w ON w.id = e.worker_id
    WHERE e.status = 'running' AND (w.id IS NULL OR w.stopped_at IS NOT NULL OR
        e.deadline_at < clock_timestamp() - make_interval(secs => %(overdue_seconds)s)
        AND (e.started_at >= %(watched_since)s
            OR e.timeout_seconds + %(overdue_seconds)s <= %(watched_seconds)s))
"""
_FIND = f"SELECT e.id {_LOST} AND e.id <> ALL(%(aside)s::uuid[]) ORDER BY e.id LIMIT %(most)s"

_RECOVER = f"""
WITH lost AS MATERIALIZED (
    SELECT e.id, e.attempt, e.max_attempts, e.worker_id, w.host, w.pid, w.heartbeat_at, e.deadline_at,
        e.cancel_requested_at, e.metrics::text AS metrics, w.id IS NULL OR w.stopped_at IS NOT NULL AS expired,
        e.purpose ->> 'job_of' AS job
    {_LOST} AND e.id = ANY(%(ids)s::uuid[])
    ORDER BY e.id FOR UPDATE OF e SKIP LOCKED
), counted AS (
    SELECT l.*, NOT (l.expired AND l.job IS NOT NULL AND EXISTS (
        SELECT FROM dspex.executions r
        WHERE r.worker_id = l.worker_id AND r.status = 'running' AND r.purpose ->> 'job' = l.job)) AS counts
    FROM lost l
), found AS (
    SELECT l.*,
        CASE WHEN l.cancel_requested_at IS NOT NULL THEN 'cancelled'
             WHEN l.counts AND l.attempt >= l.max_attempts THEN 'failed' ELSE 'queued' END AS next,
        CASE WHEN l.expired THEN 'lease_expired' ELSE 'deadline_exceeded' END AS kind,
        json_build_object('worker', l.worker_id, 'host', l.host, 'pid', l.pid, 'attempt', l.attempt,
            'last_heartbeat_at', l.heartbeat_at, 'deadline_at', l.deadline_at, 'found_at', now()) AS evidence
    FROM counted l
), judged AS (
    SELECT l.*, ({COUNTED}) AS known_metrics, CASE WHEN l.expired AND l.next = 'failed' THEN (
            SELECT json_agg(death) FROM (
                SELECT json_array_elements(earlier.deaths) AS death FROM ({_EVIDENCE}) AS earlier (deaths)
                UNION ALL SELECT l.evidence) d
        ) END AS deaths,
        json_build_object('type', 'DspexError', 'code', 'deadline_exceeded', 'retryable', true,
            'message', format('attempt %%s did not end at its deadline and could not be interrupted: worker %%s '
                '(%%s, pid %%s) was fenced off', l.attempt, l.worker_id, l.host, l.pid),
            'details', l.evidence) AS overdue
    FROM found l
), entries AS (
    SELECT j.*,
        CASE WHEN j.next = 'failed' AND j.expired THEN json_build_object(
                'type', 'ExecutionFailed', 'code', 'poisoned', 'retryable', false,
                'message', format('%%s of its %%s attempts ended with the death of its worker, '
                    'the last on %%s (pid %%s)',
                    json_array_length(j.deaths), j.attempt, j.host, j.pid),
                'details', json_build_object('attempts', j.attempt, 'workers', j.deaths))
             WHEN j.next = 'failed' THEN json_build_object(
                'type', 'ExecutionFailed', 'code', 'attempts_exhausted', 'retryable', false,
                'message', format('no attempt is left: attempt %%s failed with deadline_exceeded: %%s',
                    j.attempt, j.overdue->>'message'),
                'details', json_build_object('attempts', j.attempt, 'cause', j.overdue))
             WHEN NOT j.expired THEN j.overdue END AS error,
        json_build_array(
            json_build_object('kind', j.kind, 'data', j.evidence),
            json_build_object('kind', CASE j.next WHEN 'queued' THEN 'recovered' ELSE j.next END,
                'data', json_strip_nulls(json_build_object(
                    'code', CASE WHEN j.next = 'failed' THEN
                        CASE WHEN j.expired THEN 'poisoned' ELSE 'attempts_exhausted' END END,
                    'requested_at', j.cancel_requested_at, 'by', %(worker_id)s::uuid))))::text AS events
    FROM judged j
), recovered AS (
    UPDATE dspex.executions e
    SET status = n.next, worker_id = NULL, dispatched_at = NULL, expires_at = NULL, error = n.error,
        metrics = n.known_metrics::json,
        max_attempts = e.max_attempts + (NOT n.counts)::int,
        lost_attempts = e.lost_attempts + (n.expired AND n.job IS NULL)::int,
        run_at = CASE WHEN n.next = 'queued' THEN now() ELSE e.run_at END,
        finished_at = CASE WHEN n.next <> 'queued' THEN now() END,
        audit_seq = e.audit_seq + 1,
        audit_hash = dspex.audit_hash(e.audit_hash, e.id, e.audit_seq + 1, e.attempt, now(), NULL, dspex.outcome_hash(
            e.result::text, n.error::text, n.known_metrics, e.adapter_used, e.action_results::text), n.events)
    FROM entries n WHERE e.id = n.id
    RETURNING e.id, e.status, n.expired, n.worker_id, e.audit_seq, e.attempt, n.events, e.audit_hash,
        dspex.outcome_hash(e.result::text, e.error::text, e.metrics::text, e.adapter_used, e.action_results::text)
            AS outcome_hash
), logged AS (
    INSERT INTO dspex.audit_events (execution_id, seq, attempt, at, outcome_hash, events, hash)
    SELECT id, audit_seq, attempt, now(), outcome_hash, events::json, audit_hash FROM recovered
)
SELECT id, status, expired, worker_id, attempt FROM recovered
"""  # noqa: S608 - built from constants of this module


@dataclass(frozen=True, slots=True)
class Overdue:
    """When an attempt is overdue: ``overdue_seconds`` past its deadline by Postgres' clock, which was seen to go on
    undisturbed for ``watched_seconds``, since it showed ``watched_since``."""

    overdue_seconds: float
    watched_since: datetime
    watched_seconds: float

    @property
    def parameters(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


def find_lost(
    connection: Connection, overdue: Overdue, *, aside: Collection[UUID] = (), most: int = 1000
) -> list[UUID]:
    """Executions whose worker is dead or stopped, or whose attempt is overdue, without those ``aside``."""
    parameters = {**overdue.parameters, "aside": list(aside), "most": most}
    return list(connection.exec_driver_sql(_FIND, parameters).scalars())


def recover(connection: Connection, worker_id: UUID, ids: Sequence[UUID], overdue: Overdue) -> list[Row[Any]]:
    """Take the attempts at these executions from their workers, if they are lost or overdue.

    ``worker_id`` is the worker that recovers them. Returns ``id, status, expired`` (False: overdue), ``worker_id,
    attempt`` of each.
    """
    parameters = {**overdue.parameters, "worker_id": worker_id, "ids": list(ids)}
    return list(connection.exec_driver_sql(_RECOVER, parameters).all())
