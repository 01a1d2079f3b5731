"""Parked executions: the statements that park, answer, resume and expire them.

An attempt that cannot go on without something from outside is parked: in one statement its execution becomes
``waiting`` and each call that it waits for gets a row in ``parked_calls``. The answer to a call is written to the
journal, or into its row, in the transaction that resumes the execution when nothing else is missing. So a crash on
either side leaves either "still waiting" or "answered and queued".

A row of a call names the last attempt that was parked for it. An execution waits for the calls of its own last attempt
only: a program that asks something else in its second run does not wait for what it asked in its first, whose answer is
kept all the same.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple
from uuid import UUID

from sqlalchemy import Connection, Row

from dspex.store.array_text import array, id_array, text_array
from dspex.store.lifecycle.executions import Submission
from dspex.store.lifecycle.lm_calls import CHILD, COUNTED, LMCall

__all__ = [
    "FIRST_CALL",
    "MAY_GO_ON",
    "OF_EXECUTIONS",
    "PARK",
    "RESUME_READY",
    "SUBMIT_CHILDREN",
    "CallKey",
    "KnownCall",
    "Park",
    "ParkedCall",
    "ParkedSince",
    "Wait",
    "WaitingFor",
    "answer",
    "children_parameters",
    "expire",
    "forget",
    "give_up_calls",
    "late_calls",
    "park_parameters",
    "parked_place",
    "ready",
    "release",
    "resume",
    "resume_ready",
    "waiters",
    "waits",
]

#: What a parked execution waits for. An execution that waits for several shows the first of them in this order.
WaitingFor = Literal["approval", "child", "batch"]


@dataclass(frozen=True, slots=True)
class ParkedCall:
    """A call that a parked execution waits for. ``request`` and ``target`` are JSON text; ``expires_seconds`` is how
    long it may take; ``again``: an earlier attempt waited for it, so that it may have been answered meanwhile."""

    request_hash: bytes
    occurrence: int
    kind: WaitingFor
    subject: str
    target: str | None = None
    request: str | None = None
    child_id: UUID | None = None
    expires_seconds: float | None = None
    again: bool = False


def parked_place(request_hash: bytes, occurrence: int) -> str:
    """The place of a call among those that its execution waits for, to which its sealed request is bound."""
    return f"{request_hash.hex()}:{occurrence}:parked"


class Park(NamedTuple):
    """How an attempt is parked. ``metrics`` and ``events`` are JSON text; ``expires``: the deadline of the attempt goes
    on while it waits."""

    id: UUID
    attempt: int
    worker_id: UUID
    waiting_for: WaitingFor
    calls: Sequence[ParkedCall]
    events: str
    metrics: str
    expires: bool = False

    @property
    def status(self) -> str:
        return "waiting"

    @property
    def may_be_over(self) -> bool:
        """Whether what it waits for may have come while the attempt ran."""
        return any(call.again or call.kind == "child" for call in self.calls)


# An execution for which a cancel was requested does not wait. A call that is parked again after its error, or after it
# was given up, is a new one. One that was answered while the attempt ran is not asked again. The attempt came to a
# wait, so what it did before did not kill its worker: attempts that were lost on the way there do not count any more.
PARK = """
WITH given AS (
    SELECT * FROM unnest(%(ids)s::uuid[], %(attempts)s::int[], %(worker_ids)s::uuid[], %(reasons)s::text[],
        %(metrics)s::text[], %(expires)s::bool[], %(events)s::text[])
        AS g (id, attempt, worker_id, waiting_for, metrics, expires, events)
), owned AS MATERIALIZED (
    SELECT e.id, e.cancel_requested_at IS NOT NULL AS cancelling
    FROM dspex.executions e JOIN given g ON e.id = g.id AND e.attempt = g.attempt AND e.worker_id = g.worker_id
    WHERE e.status || '' = 'running'
      AND EXISTS (SELECT FROM dspex.workers w WHERE w.id = e.worker_id AND w.stopped_at IS NULL)
    ORDER BY e.id FOR UPDATE OF e
), outcome AS MATERIALIZED (
    SELECT g.*, o.cancelling, dspex.outcome_hash(NULL, NULL, g.metrics, NULL, NULL) AS outcome_hash,
        CASE WHEN o.cancelling THEN left(g.events, -1) || ',{"kind":"cancelled"}]' ELSE g.events END AS entry
    FROM given g JOIN owned o ON g.id = o.id
), parked AS (
    UPDATE dspex.executions e
    SET status = CASE WHEN g.cancelling THEN 'cancelled' ELSE 'waiting' END,
        result = NULL, error = NULL, metrics = g.metrics::json, adapter_used = NULL, action_results = NULL,
        worker_id = NULL, dispatched_at = NULL, max_attempts = e.max_attempts + 1 + e.lost_attempts, lost_attempts = 0,
        waiting_for = CASE WHEN NOT g.cancelling THEN g.waiting_for END,
        waiting_since = CASE WHEN NOT g.cancelling THEN now() END,
        expires_at = CASE WHEN g.expires AND NOT g.cancelling THEN e.deadline_at END,
        finished_at = CASE WHEN g.cancelling THEN now() END,
        audit_seq = e.audit_seq + 1,
        audit_hash = dspex.audit_hash(
            e.audit_hash, e.id, e.audit_seq + 1, e.attempt, now(), NULL, g.outcome_hash, g.entry)
    FROM outcome g WHERE e.id = g.id
    RETURNING e.id, e.status, e.attempt, g.outcome_hash, g.entry
), logged AS (
    SELECT dspex.append_entries(array_agg(id), array_agg(outcome_hash), array_agg(entry)) FROM parked
), calls AS (
    INSERT INTO dspex.parked_calls AS known (execution_id, request_hash, occurrence, attempt, kind, subject, target,
        request, child_id, parked_at, expires_at)
    SELECT c.execution_id, c.request_hash, c.occurrence, p.attempt, c.kind, c.subject, c.target, c.request::json,
        c.child_id, now(), now() + make_interval(secs => c.expires_seconds)
    FROM unnest(%(call_ids)s::uuid[], %(hashes)s::bytea[], %(occurrences)s::int[], %(kinds)s::text[],
        %(subjects)s::text[], %(targets)s::text[], %(requests)s::text[], %(children)s::uuid[],
        %(call_expires)s::float8[])
        AS c (execution_id, request_hash, occurrence, kind, subject, target, request, child_id, expires_seconds)
    JOIN parked p ON p.id = c.execution_id AND p.status = 'waiting'
    WHERE NOT EXISTS (SELECT FROM dspex.lm_calls l WHERE l.execution_id = c.execution_id
        AND l.request_hash = c.request_hash AND l.occurrence = c.occurrence AND NOT l.rejected)
    ON CONFLICT (execution_id, request_hash, occurrence) DO UPDATE SET attempt = excluded.attempt,
        bundle_id = CASE WHEN known.error IS NULL THEN known.bundle_id END,
        parked_at = CASE WHEN known.error IS NULL THEN known.parked_at ELSE excluded.parked_at END,
        expires_at = CASE WHEN known.error IS NULL THEN known.expires_at ELSE excluded.expires_at END,
        error = NULL, error_attempt = NULL
)
SELECT id, status, false AS is_awaited FROM parked, logged
"""


def park_parameters(parks: Sequence[Park]) -> dict[str, str]:
    """The arguments of PARK."""
    calls = [(park.id, call) for park in parks for call in park.calls]
    return {
        "ids": id_array(park.id for park in parks),
        "attempts": array(park.attempt for park in parks),
        "worker_ids": id_array(park.worker_id for park in parks),
        "reasons": text_array(park.waiting_for for park in parks),
        "metrics": text_array(park.metrics for park in parks),
        "expires": array(park.expires for park in parks),
        "events": text_array(park.events for park in parks),
        "statuses": text_array(park.status for park in parks),
        "call_ids": id_array(id for id, _ in calls),
        "hashes": text_array(rf"\x{call.request_hash.hex()}" for _, call in calls),
        "occurrences": array(call.occurrence for _, call in calls),
        "kinds": text_array(call.kind for _, call in calls),
        "subjects": text_array(call.subject for _, call in calls),
        "targets": text_array(call.target for _, call in calls),
        "requests": text_array(call.request for _, call in calls),
        "children": array(_or_null(call.child_id) for _, call in calls),
        "call_expires": array(_or_null(call.expires_seconds) for _, call in calls),
    }


def _or_null(value: object) -> object:
    return "NULL" if value is None else value


class KnownCall(NamedTuple):
    """A row of a call as the next attempt finds it: a row of :data:`OF_EXECUTIONS`, without its execution."""

    request_hash: bytes
    occurrence: int
    attempt: int
    kind: WaitingFor
    subject: str
    child_id: UUID | None
    error: Mapping[str, Any] | None
    error_attempt: int | None
    decision: Mapping[str, Any] | None


#: For psycopg: the calls that executions waited for, and that are not in their journals, each after its execution.
OF_EXECUTIONS = """
SELECT execution_id, request_hash, occurrence, attempt, kind, subject, child_id, error, error_attempt, decision
FROM dspex.parked_calls WHERE execution_id = ANY(%(ids)s) ORDER BY execution_id, request_hash, occurrence
"""

# ------------------------------------------------------------------------------------------------ answer and resume

# In a transaction the executions are locked first. The statements after it then see every answer to them.
_LOCK = "SELECT id FROM dspex.executions WHERE id = ANY(%(ids)s) AND finished_at IS NULL ORDER BY id FOR UPDATE"

_ANSWER = """
WITH given AS (
    SELECT * FROM unnest(%(execution_id)s::uuid[], %(request_hash)s::bytea[], %(occurrence)s::int[],
        %(attempt)s::int[], %(model)s::text[], %(response)s::text[], %(prompt_tokens)s::int[],
        %(completion_tokens)s::int[], %(cost_usd)s::float8[], %(list_cost_usd)s::float8[], %(duration_ms)s::float8[],
        %(request_id)s::text[], %(request)s::text[])
        AS c (execution_id, request_hash, occurrence, attempt, model, response, prompt_tokens, completion_tokens,
        cost_usd, list_cost_usd, duration_ms, request_id, request)
), taken AS (
    DELETE FROM dspex.parked_calls p USING given c
    WHERE p.execution_id = c.execution_id AND p.request_hash = c.request_hash AND p.occurrence = c.occurrence
    RETURNING c.*
), stored AS (
    INSERT INTO dspex.lm_calls (execution_id, request_hash, occurrence, attempt, model, response, prompt_tokens,
        completion_tokens, cost_usd, list_cost_usd, duration_ms, request_id, request)
    SELECT execution_id, request_hash, occurrence, attempt, model, response::json, prompt_tokens, completion_tokens,
        cost_usd, list_cost_usd, duration_ms, request_id, request::json
    FROM taken
    ON CONFLICT DO NOTHING
)
SELECT execution_id, request_hash, occurrence FROM taken
"""

# The error is raised in the next attempt, and in no later one: that one asks again.
_GIVE_UP = """
UPDATE dspex.parked_calls p SET error = c.error::json, error_attempt = e.attempt + 1
FROM unnest(%(execution_id)s::uuid[], %(request_hash)s::bytea[], %(occurrence)s::int[], %(error)s::text[])
    AS c (execution_id, request_hash, occurrence, error)
JOIN dspex.executions e ON e.id = c.execution_id
WHERE p.execution_id = c.execution_id AND p.request_hash = c.request_hash AND p.occurrence = c.occurrence
    AND p.error IS NULL
RETURNING p.execution_id
"""

_GIVEN = """
unnest(%(execution_id)s::uuid[], %(request_hash)s::bytea[], %(occurrence)s::int[])
    AS c (execution_id, request_hash, occurrence)
"""
_FORGET_FINAL = f"""
DELETE FROM dspex.parked_calls p USING {_GIVEN}
LEFT JOIN dspex.executions e ON e.id = c.execution_id
WHERE p.execution_id = c.execution_id AND p.request_hash = c.request_hash AND p.occurrence = c.occurrence
    AND (e.id IS NULL OR e.finished_at IS NOT NULL)
"""  # noqa: S608
_UNBUNDLE = f"""
UPDATE dspex.parked_calls p SET bundle_id = NULL FROM {_GIVEN}
WHERE p.execution_id = c.execution_id AND p.request_hash = c.request_hash AND p.occurrence = c.occurrence
"""  # noqa: S608

# It waits for nothing of its last attempt any more; ``at_once``: it goes on although it does.
_RESUME = """
WITH ready AS MATERIALIZED (
    SELECT e.id, json_build_array(json_build_object('kind', 'resumed', 'data', json_build_object(
            'for', e.waiting_for,
            'waited_seconds', round(extract(epoch FROM now() - e.waiting_since)::numeric, 3))))::text AS resumed
    FROM dspex.executions e
    WHERE e.id = ANY(%(ids)s) AND e.status || '' = 'waiting' AND (%(at_once)s OR NOT EXISTS (
        SELECT FROM dspex.parked_calls p WHERE p.execution_id = e.id AND p.attempt = e.attempt
            AND p.error IS NULL AND p.decision IS NULL))
    ORDER BY e.id FOR UPDATE OF e
), entries AS (
    SELECT id, CASE WHEN %(event)s::text IS NULL THEN resumed
        ELSE '[' || %(event)s::text || ',' || substr(resumed, 2) END AS events FROM ready
), resumed AS (
    UPDATE dspex.executions e
    SET status = 'queued', waiting_for = NULL, waiting_since = NULL, run_at = now(), dispatched_at = NULL,
        audit_seq = e.audit_seq + 1,
        audit_hash = dspex.audit_hash(e.audit_hash, e.id, e.audit_seq + 1, e.attempt, now(), NULL, NULL, n.events)
    FROM entries n WHERE e.id = n.id
    RETURNING e.id, e.audit_seq, e.attempt, n.events, e.audit_hash
), logged AS (
    INSERT INTO dspex.audit_events (execution_id, seq, attempt, at, events, hash)
    SELECT id, audit_seq, attempt, now(), events::json, audit_hash FROM resumed
)
SELECT id FROM resumed
"""


def answer(connection: Connection, answers: Sequence[LMCall]) -> tuple[set[tuple[UUID, bytes, int]], list[UUID]]:
    """Write the answers to calls that executions wait for to the journal, and resume those that wait for nothing else.
    Needs a transaction.

    An answer to a call that is not waited for, because it was answered before, changes nothing. Returns the calls that
    were answered, and the executions that were resumed.
    """
    ids = sorted({call.execution_id for call in answers})
    connection.exec_driver_sql(_LOCK, {"ids": ids})
    rows = connection.exec_driver_sql(_ANSWER, _answer_parameters(answers)).all()
    return {(row.execution_id, bytes(row.request_hash), row.occurrence) for row in rows}, resume(connection, ids)


def give_up_calls(connection: Connection, errors: Sequence[tuple[UUID, bytes, int, str]]) -> list[UUID]:
    """Have the next attempts at these executions raise an error (JSON text) where they make the call, and resume those
    that wait for nothing else. Needs a transaction. Returns the executions that were resumed."""
    ids = sorted({execution_id for execution_id, *_ in errors})
    connection.exec_driver_sql(_LOCK, {"ids": ids})
    parameters = {**_call_keys([each[:3] for each in errors]), "error": text_array(each[3] for each in errors)}
    connection.exec_driver_sql(_GIVE_UP, parameters)
    return resume(connection, ids)


def release(connection: Connection, errors: Sequence[tuple[UUID, bytes, int, str]]) -> list[UUID]:
    """As :func:`give_up_calls` for requests of a bundle that is over. Requests of final executions are forgotten."""
    resumed = give_up_calls(connection, errors)
    parameters = _call_keys([error[:3] for error in errors])
    connection.exec_driver_sql(_FORGET_FINAL, parameters)
    connection.exec_driver_sql(_UNBUNDLE, parameters)
    return resumed


def resume(
    connection: Connection, ids: Collection[UUID], *, at_once: bool = False, event: str | None = None
) -> list[UUID]:
    """Queue these executions again, if they wait for nothing any more, or ``at_once``. Their rows must be locked.

    ``event`` is the JSON text of an audit event that comes before ``resumed``. Returns those that were resumed.
    """
    parameters = {"ids": list(ids), "at_once": at_once, "event": event}
    return list(connection.exec_driver_sql(_RESUME, parameters).scalars())


def _call_keys(calls: Sequence[tuple[UUID, bytes, int]]) -> dict[str, str]:
    return {
        "execution_id": id_array(id for id, _, _ in calls),
        "request_hash": text_array(rf"\x{hashed.hex()}" for _, hashed, _ in calls),
        "occurrence": array(occurrence for _, _, occurrence in calls),
    }


def _answer_parameters(answers: Sequence[LMCall]) -> dict[str, str]:
    plain = ("occurrence", "attempt", "prompt_tokens", "completion_tokens", "duration_ms")
    texts = ("model", "response", "request_id", "request")
    return {
        "execution_id": id_array(call.execution_id for call in answers),
        **{name: array(getattr(call, name) for call in answers) for name in plain},
        **{name: text_array(getattr(call, name) for call in answers) for name in texts},
        **{name: array(_or_null(getattr(call, name)) for call in answers) for name in ("cost_usd", "list_cost_usd")},
        "request_hash": text_array(rf"\x{call.request_hash.hex()}" for call in answers),
    }


# ---------------------------------------------------------------------------------------------------------- children

# A child is there already when an earlier attempt made it: its id depends on its parent and the call alone. A parent
# that is over, or to be cancelled, gets none: the lock keeps a cancel waiting, which then finds all of its children.
SUBMIT_CHILDREN = """
WITH parent AS MATERIALIZED (
    SELECT priority, depth, traceparent, tenant FROM dspex.executions
    WHERE id = %(parent_id)s AND status || '' = 'running' AND cancel_requested_at IS NULL FOR SHARE
), given AS (
    SELECT n.*, e.priority, (e.depth + 1)::smallint AS depth, e.traceparent, e.tenant
    FROM unnest(%(ids)s::uuid[], %(programs)s::text[], %(versions)s::text[], %(inputs)s::text[], %(events)s::text[],
        %(max_attempts)s::int[], %(timeouts)s::float8[], %(hashes)s::bytea[])
        AS n (id, program, version, inputs, events, max_attempts, timeout_seconds, submission_hash)
    CROSS JOIN parent e
    JOIN dspex.program_versions v ON v.name = n.program AND v.version = n.version
), inserted AS (
    INSERT INTO dspex.executions (id, program, version, status, priority, attempt, max_attempts, timeout_seconds,
        created_at, run_at, inputs, traceparent, tenant, parent_id, depth, audit_seq, audit_hash)
    SELECT id, program, version, 'queued', priority, 0, max_attempts, timeout_seconds, now(), now(), inputs::json,
        traceparent, tenant, %(parent_id)s, depth, 1,
        dspex.audit_hash('', id, 1, 0, now(), submission_hash, NULL, events)
    FROM given ORDER BY id
    ON CONFLICT (id) DO NOTHING
    RETURNING id, created_at, audit_hash
), logged AS (
    INSERT INTO dspex.audit_events (execution_id, seq, attempt, at, submission_hash, events, hash)
    SELECT i.id, 1, 0, i.created_at, g.submission_hash, g.events::json, i.audit_hash
    FROM inserted i JOIN given g ON g.id = i.id
)
SELECT id FROM inserted
"""


def children_parameters(parent_id: UUID, children: Sequence[tuple[Submission, bytes]]) -> dict[str, Any]:
    """The arguments of SUBMIT_CHILDREN: each child with the hash of what is submitted."""
    submissions = [submission for submission, _ in children]
    return {
        "parent_id": parent_id,
        "ids": id_array(each.id for each in submissions),
        "programs": text_array(each.program for each in submissions),
        "versions": text_array(each.version for each in submissions),
        "inputs": text_array(each.inputs for each in submissions),
        "events": text_array(each.events for each in submissions),
        "max_attempts": array(each.max_attempts for each in submissions),
        "timeouts": array(each.timeout_seconds for each in submissions),
        "hashes": text_array(rf"\x{hashed.hex()}" for _, hashed in children),
    }


# A child that the last attempt waits for is under way. It is found by one look-up however many are over, so that it can
# be asked again and again; subqueries in a list of columns keep the planner from joining all that is under way.
_WAITS_FOR_A_CHILD = """
(SELECT c.id FROM dspex.executions c WHERE c.parent_id = e.id AND c.finished_at IS NULL AND e.attempt = (
    SELECT p.attempt FROM dspex.parked_calls p WHERE p.execution_id = e.id AND p.kind = 'child' AND p.child_id = c.id)
 LIMIT 1) IS NOT NULL
"""

#: For psycopg: of these executions, and of others that wait for executions that are ``over``, the ones that may go on:
#: they wait for no child of theirs that is under way. Nothing is locked, so that it can be asked whenever a child ends.
MAY_GO_ON = f"""
SELECT e.id FROM dspex.executions e
WHERE e.id = ANY(%(ids)s::uuid[] || ARRAY(
        SELECT p.execution_id FROM dspex.parked_calls p WHERE p.kind = 'child' AND p.child_id = ANY(%(over)s::uuid[])))
    AND e.status || '' = 'waiting' AND NOT {_WAITS_FOR_A_CHILD}
"""  # noqa: S608

# Parents among these whose last attempt waits for no child that is under way. The outcomes of the children are written
# to the parents' journals as they are stored; sealed values stay sealed for the child.
_FINISHED_PARENTS = f"""
    SELECT e.id FROM dspex.executions e
    WHERE e.id = ANY(%(ids)s) AND e.status || '' = 'waiting' AND CASE WHEN {_WAITS_FOR_A_CHILD} THEN false
        ELSE (SELECT p.execution_id FROM dspex.parked_calls p JOIN dspex.executions c ON c.id = p.child_id
            WHERE p.execution_id = e.id AND p.attempt = e.attempt AND p.kind = 'child' AND c.finished_at IS NULL
            LIMIT 1) IS NULL END
"""  # noqa: S608
_ANSWER_PARENTS = f"""
WITH parents AS MATERIALIZED ({_FINISHED_PARENTS}), taken AS (
    DELETE FROM dspex.parked_calls p USING dspex.executions c
    WHERE p.execution_id IN (SELECT id FROM parents) AND p.kind = 'child' AND c.id = p.child_id
        AND c.finished_at IS NOT NULL
    RETURNING p.execution_id, p.request_hash, p.occurrence, p.attempt, p.subject, c.id AS child_id, c.version,
        c.status, c.result, c.error, c.started_at, c.finished_at
), stored AS (
    INSERT INTO dspex.lm_calls (execution_id, request_hash, occurrence, attempt, model, response, prompt_tokens,
        completion_tokens, duration_ms)
    SELECT execution_id, request_hash, occurrence, attempt, '{CHILD}' || subject,
        json_build_object('child', child_id, 'version', version, 'status', status, 'result', result, 'error', error),
        0, 0, coalesce(extract(epoch FROM finished_at - started_at) * 1000, 0)
    FROM taken
    ON CONFLICT DO NOTHING
)
SELECT DISTINCT execution_id FROM taken
"""  # noqa: S608

#: For psycopg, in this order and in one transaction: lock parents, give them the outcomes of their children, and resume
#: those that wait for nothing else. The last returns those.
RESUME_READY = (_LOCK, _ANSWER_PARENTS, _RESUME)


class ParkedSince(NamedTuple):
    """A parked execution among those that wait for the same: the next ones come after it."""

    since: datetime
    id: UUID


_WAITERS = """
SELECT waiting_since, id FROM dspex.executions
WHERE status = 'waiting' AND waiting_for = %(waiting_for)s AND (waiting_since, id) > (%(since)s, %(id)s)
ORDER BY waiting_since, id LIMIT %(most)s
"""
_GO_ON = f"""
SELECT e.id FROM dspex.executions e
WHERE e.id = ANY(%(ids)s) AND e.status || '' = 'waiting' AND CASE WHEN {_WAITS_FOR_A_CHILD} THEN false
    ELSE (SELECT p.execution_id FROM dspex.parked_calls p
        WHERE p.execution_id = e.id AND p.attempt = e.attempt AND p.error IS NULL AND p.decision IS NULL
            AND (SELECT c.finished_at FROM dspex.executions c WHERE c.id = p.child_id) IS NULL
        LIMIT 1) IS NULL END
"""  # noqa: S608


def waiters(
    connection: Connection, waiting_for: WaitingFor, *, after: ParkedSince | None, most: int
) -> list[ParkedSince]:
    """Executions that wait for this, those that have waited longest first, from ``after`` on."""
    since, id = after or ParkedSince(datetime.min.replace(tzinfo=UTC), UUID(int=0))
    given = {"waiting_for": waiting_for, "since": since, "id": id, "most": most}
    return [ParkedSince(*row) for row in connection.exec_driver_sql(_WAITERS, given)]


def ready(connection: Connection, ids: Collection[UUID]) -> list[UUID]:
    """The ones of these executions that wait for nothing any more: what they waited for came while they were parked, a
    worker died, or a child ended without a worker."""
    return list(connection.exec_driver_sql(_GO_ON, {"ids": list(ids)}).scalars())


def resume_ready(connection: Connection, ids: Collection[UUID]) -> list[UUID]:
    """Resume these executions, except those that still wait for something, with the outcomes of their children. Needs a
    transaction. Returns them."""
    parameters = {"ids": list(ids), "at_once": False, "event": None}
    for statement in RESUME_READY[:-1]:
        connection.exec_driver_sql(statement, parameters)
    return resume(connection, ids)


# ------------------------------------------------------------------------------------------------------ expiry, upkeep

# The index serves times that stay the same during a statement. Answers that came to some of its calls are counted here.
_EXPIRE = f"""
WITH expired AS MATERIALIZED (
    SELECT e.id, e.waiting_for, e.expires_at, e.metrics::text AS metrics FROM dspex.executions e
    WHERE e.status = 'waiting' AND e.expires_at < statement_timestamp() ORDER BY e.expires_at LIMIT %(most)s
    FOR UPDATE SKIP LOCKED
), counted AS (
    SELECT l.*, ({COUNTED}) AS known_metrics FROM expired l
), entries AS (
    SELECT x.id, x.known_metrics, json_build_object(
            'type', 'DspexError', 'code', 'deadline_exceeded', 'retryable', true,
            'message', format('it still waited (%%s) when its time was over', x.waiting_for),
            'details', json_build_object('waiting_for', x.waiting_for, 'deadline_at', x.expires_at)) AS error,
        json_build_array(json_build_object('kind', 'failed', 'data', json_build_object(
            'code', 'deadline_exceeded', 'waiting_for', x.waiting_for)))::text AS events
    FROM counted x
), failed AS (
    UPDATE dspex.executions e
    SET status = 'failed', error = n.error, metrics = n.known_metrics::json, waiting_for = NULL, waiting_since = NULL,
        finished_at = now(),
        audit_seq = e.audit_seq + 1,
        audit_hash = dspex.audit_hash(e.audit_hash, e.id, e.audit_seq + 1, e.attempt, now(), NULL, dspex.outcome_hash(
            e.result::text, n.error::text, n.known_metrics, e.adapter_used, e.action_results::text), n.events)
    FROM entries n WHERE e.id = n.id
    RETURNING e.id, e.audit_seq, e.attempt, n.events, e.audit_hash, dspex.outcome_hash(
        e.result::text, e.error::text, e.metrics::text, e.adapter_used, e.action_results::text) AS outcome_hash
), logged AS (
    INSERT INTO dspex.audit_events (execution_id, seq, attempt, at, outcome_hash, events, hash)
    SELECT id, audit_seq, attempt, now(), outcome_hash, events::json, audit_hash FROM failed
), withdrawn AS (
    DELETE FROM dspex.parked_calls p USING failed f WHERE p.execution_id = f.id AND p.bundle_id IS NULL
)
SELECT id FROM failed
"""  # noqa: S608


def expire(connection: Connection, *, most: int = 1000) -> list[UUID]:
    """Fail executions whose time was over while they waited. Returns them."""
    return list(connection.exec_driver_sql(_EXPIRE, {"most": most}).scalars())


_LATE = """
SELECT p.execution_id, p.request_hash, p.occurrence, p.kind, p.subject, p.target, p.bundle_id
FROM dspex.parked_calls p
WHERE p.expires_at < statement_timestamp() AND p.error IS NULL AND p.decision IS NULL AND p.kind = %(kind)s
    AND p.bundle_id IS NULL AND (SELECT e.status FROM dspex.executions e WHERE e.id = p.execution_id) = 'waiting'
ORDER BY p.expires_at LIMIT %(most)s
"""


def late_calls(connection: Connection, kind: WaitingFor, *, most: int) -> list[Row[Any]]:
    """Calls whose time is over, and that are in no bundle: ``execution_id request_hash occurrence kind subject
    target``."""
    return list(connection.exec_driver_sql(_LATE, {"kind": kind, "most": most}).all())


CallKey = tuple[UUID, bytes, int]
#: The key before all others.
FIRST_CALL: CallKey = (UUID(int=0), b"", -1)

# What a final execution waited for is not asked for any more. A request that is in a bundle is kept until the bundle
# has ended: it may be paid for.
_FORGET = """
WITH looked_at AS MATERIALIZED (
    SELECT ctid, execution_id, request_hash, occurrence, bundle_id FROM dspex.parked_calls
    WHERE (execution_id, request_hash, occurrence) > (%(execution_id)s::uuid, %(request_hash)s::bytea, %(occurrence)s)
    ORDER BY execution_id, request_hash, occurrence LIMIT %(most)s
), forgotten AS (
    DELETE FROM dspex.parked_calls WHERE ctid = ANY(ARRAY(
        SELECT l.ctid FROM looked_at l
        WHERE (SELECT e.finished_at IS NULL FROM dspex.executions e WHERE e.id = l.execution_id) IS NOT TRUE
            AND (SELECT b.state <> 'ended' FROM dspex.bundles b WHERE b.id = l.bundle_id) IS NOT TRUE))
)
SELECT execution_id, request_hash, occurrence FROM looked_at
ORDER BY execution_id DESC, request_hash DESC, occurrence DESC LIMIT 1
"""


def forget(connection: Connection, *, after: CallKey = FIRST_CALL, most: int = 1000) -> CallKey | None:
    """Among the next ``most`` calls, delete the ones whose executions are final or removed. Returns the last one
    that it looked at, None when there was none."""
    execution_id, request_hash, occurrence = after
    given = {"execution_id": execution_id, "request_hash": request_hash, "occurrence": occurrence, "most": most}
    row = connection.exec_driver_sql(_FORGET, given).one_or_none()
    return None if row is None else (row[0], bytes(row[1]), row[2])


# ------------------------------------------------------------------------------------------------------------- figures


class Wait(NamedTuple):
    """How many executions wait for something, up to MOST_COUNTED, and since when the first of them does."""

    waiting_for: str
    executions: int
    since: datetime
    oldest_seconds: float


#: Executions that wait for the same are counted up to so many.
MOST_COUNTED = 100_000
_WAITS = f"""
SELECT r.reason, w.count, w.since, greatest(extract(epoch FROM clock_timestamp() - w.since), 0)::float8
FROM unnest(ARRAY['approval', 'batch', 'child']) AS r (reason) CROSS JOIN LATERAL (
    SELECT count(*)::int AS count, min(waiting_since) AS since FROM (
        SELECT waiting_since FROM dspex.executions WHERE status = 'waiting' AND waiting_for = r.reason
        ORDER BY waiting_since LIMIT {MOST_COUNTED}) counted) w
WHERE w.count > 0 ORDER BY r.reason
"""  # noqa: S608


def waits(connection: Connection) -> list[Wait]:
    """What parked executions wait for."""
    return [Wait(*row) for row in connection.exec_driver_sql(_WAITS)]
