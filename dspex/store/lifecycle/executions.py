"""Executions: the statements that store, claim, settle and read them.

Each transition is one statement that changes the row and appends its audit entry, so neither can happen without
the other. Operators' transitions are in control.py, transitions of parked executions in parked.py, the reaper's in
recovery.py, and the pump's dispatch is in dispatch.py. ``now`` is the database's clock. The worker runs the statements
written with ``%(name)s`` through psycopg, many executions at a time; the producer uses them, too.

A settling statement names the attempt and the worker: one that lost its lease finds no row (invariant 2).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from operator import itemgetter
from typing import Any, NamedTuple
from uuid import UUID

import psycopg
from sqlalchemy import ColumnElement, Connection, FromClause, Row, Text, bindparam, cast, column, func, select, text
from sqlalchemy.dialects import postgresql

from dspex.store.array_text import array, bytes_array, id_array, text_array
from dspex.store.audit_chain import entry_hash, hash_of_submission
from dspex.store.batching.bare_connection import BareConnection
from dspex.store.copy_text import escaped, field
from dspex.store.lifecycle.lm_calls import COUNTED
from dspex.store.lifecycle.selection import Selection
from dspex.store.lifecycle.status import Status
from dspex.store.tables import executions

__all__ = [
    "ADOPT",
    "CLAIM",
    "EQUAL",
    "EXTRA",
    "HOLD_SUSPECT",
    "SETTLE",
    "SETTLED",
    "SETTLE_COUNTED",
    "TENANT_RESERVE",
    "AlreadyStored",
    "Claimed",
    "Equal",
    "Settlement",
    "Submission",
    "claim_parameters",
    "copy",
    "find",
    "find_many",
    "insert",
    "insert_all",
    "known_key",
    "listing",
    "release_key",
    "settle_parameters",
    "settle_statement",
]


class Submission(NamedTuple):
    """An execution to be stored. ``inputs``, ``metadata`` and ``events`` are JSON text.

    ``run_at`` is None for now. ``publish``: the producer will put the id on the queue itself; otherwise the pump
    does. ``key`` is its idempotency key, and ``inputs_hash`` what another submit with this key is compared with.
    ``pinned``: its version was named; otherwise it is the current one, or of the rollout ``rollout_id``. ``purpose`` is
    JSON text, too. From ``program`` to ``webhook``, what is submitted together has the same
    values.
    """

    id: UUID
    inputs: str
    events: str
    program: str
    version: str
    priority: int
    max_attempts: int
    timeout_seconds: float
    run_at: datetime | None = None
    publish: bool = True
    metadata: str | None = None
    stream: bool = False
    traceparent: str | None = None
    key: str | None = None
    inputs_hash: bytes = b""
    tenant: str | None = None
    route: str | None = None
    pinned: bool = False
    rollout_id: UUID | None = None
    purpose: str | None = None
    batch_id: UUID | None = None
    webhook: str | None = None
    batch_index: int | None = None
    same_as: UUID | None = None


#: The values of a submission that the rows of a batch share, and the submits that are stored alike.
_SHARED = itemgetter(slice(Submission._fields.index("program"), Submission._fields.index("batch_index")))
#: Rows that are written to a COPY at a time; Postgres reads them while the next ones are encoded.
WRITE_ROWS = 50
#: A program's submits are left to the pump, which is fair to other programs and serves the oldest first, once as many
#: of its executions are in Redis as the workers run at once, up to DIRECT_MOST: half of the pump's window, so that what
#: is left to the pump has room in the other half. Without a worker, it is UNSERVED_MOST. Submits of programs with a
#: limited concurrency or rate are always left to the pump, which counts them.
DIRECT_MOST, UNSERVED_MOST = 1000, 100
#: A tenant with fewer of a program's executions in Redis does not wait for the executions of other tenants: its submits
#: are published, up to three times the number above in all (the window is twice that), and come first there.
TENANT_RESERVE = 5

# Whether the version is still one that new submits go to. One that was named has to exist.
_IS_ROUTED = """CASE WHEN g.pinned THEN EXISTS (
            SELECT FROM dspex.program_versions v WHERE v.name = g.program AND v.version = g.version)
        ELSE p.rollout_id IS NOT DISTINCT FROM g.rollout_id AND g.version IN (p.version, p.rollout_version) END"""
# ``direct_most`` of each program may be dispatched and not claimed, including what this statement dispatches.
_FLEET = f"""
WITH patience AS MATERIALIZED (
    SELECT set_config('lock_timeout', coalesce(%(lock_timeout)s, current_setting('lock_timeout')), true)
), fleet AS MATERIALIZED (
    SELECT count(*)::int AS workers, coalesce(min(concurrency), 0) AS smallest,
        CASE count(*) WHEN 0 THEN {UNSERVED_MOST} ELSE least(sum(concurrency), {DIRECT_MOST}) END AS direct_most
    FROM dspex.workers WHERE stopped_at IS NULL AND state = 'running'
)"""  # noqa: S608
_COLUMNS_STORED = """id, program, version, status, priority, attempt, max_attempts, timeout_seconds, created_at,
        run_at, dispatched_at, inputs, metadata, stream, traceparent, route, tenant, purpose, audit_seq, audit_hash"""
# Keys are inserted in order, so that two statements with the same keys wait for each other without a deadlock.
_STORE = f"""{_FLEET}, given AS MATERIALIZED (
    SELECT g.*, g.publish AND coalesce(g.run_at, now()) <= now() AND p.paused_at IS NULL AND p.concurrency IS NULL
            AND p.per_minute IS NULL AS direct,
        row_number() OVER (PARTITION BY g.program ORDER BY g.priority, g.id) AS place
    FROM patience, unnest(%(ids)s::uuid[], %(programs)s::text[], %(versions)s::text[], %(inputs)s::text[],
        %(events)s::text[], %(priorities)s::int[], %(max_attempts)s::int[], %(timeouts)s::float8[],
        %(run_ats)s::timestamptz[], %(metadata)s::text[], %(publish)s::bool[], %(stream)s::bool[],
        %(traceparents)s::text[], %(keys)s::text[], %(routes)s::text[], %(inputs_hashes)s::bytea[],
        %(submission_hashes)s::bytea[], %(tenants)s::text[], %(pinned)s::bool[], %(rollout_ids)s::uuid[],
        %(purposes)s::text[])
        AS g (id, program, version, inputs, events, priority, max_attempts, timeout_seconds, run_at, metadata, publish,
            stream, traceparent, key, route, inputs_hash, submission_hash, tenant, pinned, rollout_id, purpose)
    JOIN dspex.programs p ON p.name = g.program AND {_IS_ROUTED}
), keyed AS (
    INSERT INTO dspex.idempotency_keys (program, key, execution_id, inputs_hash)
    SELECT program, key, id, inputs_hash FROM given WHERE key IS NOT NULL ORDER BY program, key
    ON CONFLICT (program, key) DO NOTHING RETURNING execution_id
), waiting AS (
    SELECT d.program, (SELECT count(*) FROM (SELECT FROM dspex.executions e WHERE e.program = d.program
        AND e.status = 'queued' AND e.dispatched_at IS NOT NULL LIMIT (SELECT {{most}} FROM fleet)) w) AS count
    FROM (SELECT DISTINCT program FROM given WHERE direct) d
){{few}}, inserted AS (
    INSERT INTO dspex.executions ({_COLUMNS_STORED})
    SELECT g.id, g.program, g.version, 'queued', g.priority, 0, g.max_attempts, g.timeout_seconds,
        now(), coalesce(g.run_at, now()), CASE WHEN g.direct AND ({{is_turn}}) THEN now() END,
        g.inputs::json, g.metadata::json, g.stream, g.traceparent, g.route, g.tenant, g.purpose::json,
        1, dspex.audit_hash('', g.id, 1, 0, now(), g.submission_hash, NULL, g.events)
    FROM given g CROSS JOIN fleet f LEFT JOIN waiting w ON w.program = g.program{{tenants}}
    WHERE g.key IS NULL OR g.id IN (SELECT execution_id FROM keyed)
    ON CONFLICT (id) DO NOTHING
    RETURNING id, created_at, dispatched_at, audit_hash
), logged AS (
    INSERT INTO dspex.audit_events (execution_id, seq, attempt, at, submission_hash, events, hash)
    SELECT i.id, 1, 0, i.created_at, g.submission_hash, g.events::json, i.audit_hash
    FROM inserted i JOIN given g ON g.id = i.id
)"""  # noqa: S608
_HOOK = """, hooked AS (
    INSERT INTO dspex.webhook_deliveries (execution_id, url)
    SELECT i.id, w.url FROM inserted i JOIN unnest(%(ids)s::uuid[], %(webhooks)s::text[]) AS w (id, url) ON w.id = i.id
    WHERE w.url IS NOT NULL
)"""
_FOUND = " SELECT id, created_at, dispatched_at, workers, smallest FROM inserted, fleet"
_IS_TURN = "w.count + g.place <= f.direct_most"
_PLAIN = {"most": "direct_most", "few": "", "tenants": "", "is_turn": _IS_TURN}
# The executions of tenants are counted only where their program has many in Redis.
_WITH_TENANTS = {
    "most": "3 * direct_most",
    "few": f""", few AS (
    SELECT g.id, row_number() OVER (PARTITION BY g.program, g.tenant ORDER BY g.priority, g.id) + (
        SELECT count(*) FROM (SELECT FROM dspex.executions e WHERE e.program = g.program AND e.tenant = g.tenant
            AND e.status = 'queued' AND e.dispatched_at IS NOT NULL LIMIT {TENANT_RESERVE}) t) AS turn
    FROM given g CROSS JOIN fleet f JOIN waiting w ON w.program = g.program
    WHERE g.direct AND g.tenant IS NOT NULL AND w.count + g.place > f.direct_most
)""",  # noqa: S608
    "tenants": " LEFT JOIN few ON few.id = g.id",
    "is_turn": f"{_IS_TURN} OR (few.turn <= {TENANT_RESERVE} AND w.count + g.place <= 3 * f.direct_most)",
}
#: By whether there are webhooks, and tenants.
_INSERTS = {
    (hooks, tenants): _STORE.format_map(_WITH_TENANTS if tenants else _PLAIN) + (_HOOK if hooks else "") + _FOUND
    for hooks in (False, True)
    for tenants in (False, True)
}

# Submissions of the usual kind that differ in their inputs alone (see _are_alike), at their first try: the same for two
# thirds of the CPU of Postgres. It raises an error for an id that is stored already.
_ALIKE = f"""{_FLEET}{{given}}, inserted AS (
    INSERT INTO dspex.executions ({_COLUMNS_STORED})
    SELECT {{id}}, p.name, %(version)s, 'queued', %(priority)s, 0, %(max_attempts)s, %(timeout_seconds)s, now(),
        coalesce(%(run_at)s::timestamptz, now()),
        CASE WHEN %(publish)s AND coalesce(%(run_at)s::timestamptz, now()) <= now() AND p.paused_at IS NULL
            AND p.concurrency IS NULL AND p.per_minute IS NULL AND (
                SELECT count(*) FROM (SELECT FROM dspex.executions e WHERE e.program = %(program)s
                    AND e.status = 'queued' AND e.dispatched_at IS NOT NULL LIMIT (SELECT direct_most FROM fleet)) w
            ) + {{place}} <= (SELECT direct_most FROM fleet) THEN now() END,
        {{inputs}}::json, %(metadata)s::json, %(stream)s, %(traceparent)s, %(route)s, NULL, %(purpose)s::json,
        1, dspex.audit_hash('', {{id}}, 1, 0, now(), {{submission_hash}}, NULL, {{events}})
    FROM patience, dspex.programs p{{join}}
    WHERE p.name = %(program)s AND p.rollout_id IS NOT DISTINCT FROM %(rollout_id)s::uuid
        AND %(version)s IN (p.version, p.rollout_version)
    RETURNING id, created_at, dispatched_at, audit_hash
), logged AS (
    INSERT INTO dspex.audit_events (execution_id, seq, attempt, at, submission_hash, events, hash)
    SELECT i.id, 1, 0, i.created_at, {{submission_hash}}, {{events}}::json, i.audit_hash
    FROM inserted i{{join_again}}
){_FOUND}"""  # noqa: S608
_STORE_ONE = _ALIKE.format(
    given="", id="%(id)s", place="1", inputs="%(inputs)s", submission_hash="%(submission_hash)s", events="%(events)s",
    join="", join_again="",
)  # fmt: skip
_STORE_ALIKE = _ALIKE.format(
    given=""", given AS MATERIALIZED (
    SELECT * FROM unnest(%(ids)s::uuid[], %(all_inputs)s::text[], %(submission_hashes)s::bytea[],
        %(all_events)s::text[]) WITH ORDINALITY AS g (id, inputs, submission_hash, events, place)
)""",
    id="g.id", place="g.place", inputs="g.inputs", submission_hash="g.submission_hash", events="g.events",
    join=", given g", join_again=" JOIN given g ON g.id = i.id",
)  # fmt: skip


def insert_all(
    connection: Connection, submissions: Sequence[Submission], *, lock_timeout: str | None = None
) -> dict[UUID, Row[Any]]:
    """Store them, in one statement. The rows have ``created_at`` and ``dispatched_at`` (None: left to the pump), and
    for whom to publish them: how many ``workers`` there are, and how many executions the ``smallest`` runs at once.

    There is none for a submission whose version new submits do not go to any more, whose key the program already has,
    or whose id is stored already. The statement is refused if one of them is at fault, or waits for a lock, as for a
    key that an open transaction has, longer than ``lock_timeout``. Over a BareConnection an id that is stored already
    may be an error, too.
    """
    if isinstance(connection, BareConnection) and _are_alike(submissions):
        return {row.id: row for row in _insert_alike(connection, submissions, lock_timeout)}
    hooks = any(submission.webhook is not None for submission in submissions)
    tenants = any(submission.tenant is not None for submission in submissions)
    statement = _INSERTS[hooks, tenants]
    rows = connection.exec_driver_sql(statement, {**_insert_parameters(submissions), "lock_timeout": lock_timeout})
    return {row.id: row for row in rows}


def _are_alike(submissions: Sequence[Submission]) -> bool:
    """Whether they share all but their inputs, and their statement needs no key, tenant, webhook or named version."""
    first = submissions[0]
    if first.key is not None or first.tenant is not None or first.webhook is not None or first.pinned:
        return False
    shared = _SHARED(first)
    return all(_SHARED(each) == shared for each in submissions[1:])


def _insert_alike(
    connection: BareConnection, submissions: Sequence[Submission], lock_timeout: str | None
) -> Sequence[Row[Any]]:
    first = submissions[0]
    parameters = {**first._asdict(), "lock_timeout": lock_timeout}
    hashes = [hash_of_submission(s.program, s.version, s.inputs, s.metadata) for s in submissions]
    if len(submissions) == 1:
        return connection.exec_driver_sql(_STORE_ONE, {**parameters, "submission_hash": hashes[0]})
    parameters |= {
        "ids": id_array(s.id for s in submissions),
        "all_inputs": text_array(s.inputs for s in submissions),
        "all_events": text_array(s.events for s in submissions),
        "submission_hashes": bytes_array(hashes),
    }
    return connection.exec_driver_sql(_STORE_ALIKE, parameters)


def release_key(connection: Connection, program: str, key: str, execution_id: UUID) -> None:
    """Take a key from this execution, if it still has it: another one may be stored with it."""
    connection.execute(
        text("DELETE FROM dspex.idempotency_keys WHERE program = :program AND key = :key AND execution_id = :id"),
        {"program": program, "key": key, "id": execution_id},
    )


def insert(connection: Connection, submission: Submission) -> Row[Any] | None:
    """Store one, as :func:`insert_all` does."""
    return insert_all(connection, [submission]).get(submission.id)


def _insert_parameters(submissions: Sequence[Submission]) -> dict[str, str]:
    """The arguments of the statement: an array for each column."""
    columns = dict(zip(Submission._fields, zip(*submissions, strict=True), strict=True))
    hashes = [hash_of_submission(s.program, s.version, s.inputs, s.metadata) for s in submissions]
    plain = {"priorities": "priority", "max_attempts": "max_attempts", "timeouts": "timeout_seconds",
             "publish": "publish", "stream": "stream", "pinned": "pinned"}  # fmt: skip
    texts = {"programs": "program", "versions": "version", "inputs": "inputs", "events": "events",
             "metadata": "metadata", "traceparents": "traceparent", "keys": "key", "routes": "route",
             "tenants": "tenant", "webhooks": "webhook", "purposes": "purpose"}  # fmt: skip
    return {
        "ids": id_array(columns["id"]),
        **{name: array(columns[column]) for name, column in plain.items()},
        **{name: text_array(columns[column]) for name, column in texts.items()},
        "run_ats": text_array(None if at is None else at.isoformat() for at in columns["run_at"]),
        "rollout_ids": text_array(None if id is None else str(id) for id in columns["rollout_id"]),
        "inputs_hashes": bytes_array(columns["inputs_hash"]),
        "submission_hashes": bytes_array(hashes),
    }


def known_key(connection: Connection, program: str, key: str) -> Row[Any] | None:
    """The execution that an idempotency key stands for: ``execution_id``, ``inputs_hash``."""
    return connection.execute(
        text("SELECT execution_id, inputs_hash FROM dspex.idempotency_keys WHERE program = :program AND key = :key"),
        {"program": program, "key": key},
    ).one_or_none()


class AlreadyStored(Exception):
    """Some of these executions are stored already."""


def copy(connection: Connection, submissions: Sequence[Submission], *, missing_only: bool = False) -> None:
    """Store many by COPY, all left to the pump; with ``missing_only``, those that are not stored yet.

    Raises AlreadyStored, having stored none.
    """
    if missing_only:
        stored = {row["id"] for row in find_many(connection, [s.id for s in submissions])}
        submissions = [s for s in submissions if s.id not in stored]
    now = connection.scalar(text("SELECT now()"))
    cursor = connection.connection.cursor()
    events: list[str] = []
    try:
        with cursor.copy(
            "COPY dspex.executions (id, batch_index, inputs, audit_hash, same_as, program, version, priority,"
            " max_attempts, timeout_seconds, run_at, metadata, traceparent, route, tenant, batch_id, created_at,"
            " status, attempt, audit_seq, purpose) FROM STDIN"
        ) as rows:
            for begin in range(0, len(submissions), WRITE_ROWS):
                rows.write("".join(_lines(submissions[begin : begin + WRITE_ROWS], now, events)))
        with cursor.copy(
            "COPY dspex.audit_events (execution_id, events, submission_hash, hash, seq, attempt, at) FROM STDIN"
        ) as rows:
            rows.write("".join(events))
    except psycopg.errors.UniqueViolation as error:
        raise AlreadyStored(str(error)) from error


_NULL = "\\N"


def _lines(submissions: Iterable[Submission], now: datetime, events: list[str]) -> Iterator[str]:
    """The lines of these executions for COPY; the lines of their first audit entries are added to ``events``.

    Columns that the rows of a batch share are encoded once.
    """
    shared: tuple[object, ...] = ()
    rest = ""
    for s in submissions:
        id = str(s.id)
        submitted = hash_of_submission(s.program, s.version, s.inputs, s.metadata)
        digest = "\\\\x" + entry_hash(b"", id, 1, 0, now, s.events, submission_hash=submitted).hex()
        events.append(f"{id}\t{escaped(s.events)}\t\\\\x{submitted.hex()}\t{digest}\t1\t0\t{now}\n")
        if (own := _SHARED(s)) != shared:
            shared = own
            columns = (s.program, s.version, s.priority, s.max_attempts, s.timeout_seconds, s.run_at or now, s.metadata,
                       s.traceparent, s.route, s.tenant, s.batch_id, now, "queued", 0, 1, s.purpose)  # fmt: skip
            rest = "\t".join(map(field, columns))
        index = _NULL if s.batch_index is None else s.batch_index
        same_as = _NULL if s.same_as is None else s.same_as
        yield f"{id}\t{index}\t{escaped(s.inputs)}\t{digest}\t{same_as}\t{rest}\n"


# ---------------------------------------------------------------------------------------------- claim and settle

# A suspect is claimed only by a worker that runs it ``alone``.
# Below, ``status || ''`` keeps the planner from the partial indexes on queued and running executions: it takes them for
# tiny, and would read all dispatched executions, or all of a worker's, to find a few by their ids.
CLAIM = """
WITH wanted AS MATERIALIZED (
    SELECT id FROM dspex.executions
    WHERE id = ANY(%(ids)s::uuid[]) AND status || '' = 'queued' AND dispatched_at IS NOT NULL
      AND NOT EXISTS (SELECT FROM dspex.programs WHERE name = program AND paused_at IS NOT NULL)
      AND EXISTS (SELECT FROM dspex.workers WHERE id = %(worker_id)s AND stopped_at IS NULL)
      AND program || ' ' || version <> ALL(%(unrunnable)s::text[])
      AND (lost_attempts < 2 OR id = ANY(%(alone)s::uuid[]))
    ORDER BY id FOR UPDATE
), claimed AS (
    UPDATE dspex.executions e
    SET status = 'running', attempt = e.attempt + 1, worker_id = %(worker_id)s, started_at = now(),
        deadline_at = least(now() + make_interval(secs => e.timeout_seconds), e.expires_at),
        audit_seq = e.audit_seq + 1,
        audit_hash = dspex.audit_hash(e.audit_hash, e.id, e.audit_seq + 1, e.attempt + 1, now(), NULL, NULL, %(events)s)
    FROM wanted w WHERE e.id = w.id
    RETURNING e.*
), logged AS (
    SELECT dspex.append_entries(array_agg(id), NULL, array_fill(%(events)s::text, ARRAY[count(*)::int])) FROM claimed
), begun AS (
    INSERT INTO dspex.program_starts (program, at, count)
    SELECT c.program, now(), count(*) FROM claimed c JOIN dspex.programs p ON p.name = c.program
    WHERE p.per_minute IS NOT NULL GROUP BY c.program
)
SELECT id, program, version, attempt, max_attempts, timeout_seconds, inputs::text, created_at, run_at, started_at,
    worker_id, stream, traceparent, batch_id IS NOT NULL AS in_batch, deadline_at, parent_id, depth, route,
    same_as, purpose
FROM claimed, logged
"""


def claim_parameters(
    ids: Sequence[UUID], *, worker_id: UUID, events: str, unrunnable: Iterable[str] = (), alone: Iterable[UUID] = ()
) -> dict[str, Any]:
    """The arguments of CLAIM and ADOPT. ``unrunnable`` are the versions, each with its program's name, that the worker
    cannot run; ``alone`` are the executions during which it runs nothing else."""
    return {
        "ids": id_array(ids),
        "alone": id_array(alone),
        "worker_id": worker_id,
        "events": events,
        "unrunnable": text_array(unrunnable),
    }


#: For psycopg: have the pump leave to this worker a suspect that it will claim, or that it owns already, once it runs
#: nothing else.
HOLD_SUSPECT = """
UPDATE dspex.executions SET dispatched_at = clock_timestamp()
WHERE id = %(id)s AND lost_attempts >= 2 AND dispatched_at IS NOT NULL
  AND (status || '' = 'queued' OR status || '' = 'running' AND worker_id = %(worker_id)s) RETURNING id
"""

# The executions of a claim whose reply was lost with the connection: they belong to this worker already.
ADOPT = """
SELECT id, program, version, attempt, max_attempts, timeout_seconds, inputs::text, created_at, run_at, started_at,
    worker_id, stream, traceparent, batch_id IS NOT NULL AS in_batch, deadline_at, parent_id, depth, route,
    same_as, purpose, true AS is_adopted
FROM dspex.executions WHERE id = ANY(%(ids)s::uuid[]) AND status || '' = 'running' AND worker_id = %(worker_id)s
"""


class Claimed(NamedTuple):
    """An execution that a worker claimed: a row that CLAIM returns. ``depth`` counts the executions above a child;
    ``same_as`` is the execution whose outputs it takes over, if that one completes. ``is_adopted``: it was the worker's
    already (ADOPT), so that its attempt may have begun."""

    id: UUID
    program: str
    version: str
    attempt: int
    max_attempts: int
    timeout_seconds: float
    inputs: str
    created_at: datetime
    run_at: datetime
    started_at: datetime
    worker_id: UUID
    stream: bool = False
    traceparent: str | None = None
    in_batch: bool = False
    deadline_at: datetime | None = None
    parent_id: UUID | None = None
    depth: int = 0
    route: str | None = None
    same_as: UUID | None = None
    purpose: Mapping[str, Any] | None = None
    is_adopted: bool = False

    @property
    def allowed_seconds(self) -> float:
        """How long the attempt may take: less than its timeout if its time went on while it was parked."""
        if self.deadline_at is None:
            return self.timeout_seconds
        return max((self.deadline_at - self.started_at).total_seconds(), 0.0)


class Equal(NamedTuple):
    """An execution that others take their outputs from: a row of EQUAL. ``result`` is JSON text."""

    status: Status
    result: str | None
    adapter_used: str | None
    is_cancelling: bool


#: For psycopg.
EQUAL = """
SELECT status, result::text, adapter_used, cancel_requested_at IS NOT NULL FROM dspex.executions WHERE id = %(id)s
"""


# An execution for which a cancel was requested does not go back to the queue. ``is_awaited``: others than
# its parent wait for it.
SETTLE = """
WITH given AS (
    SELECT * FROM unnest(%(ids)s::uuid[], %(attempts)s::int[], %(worker_ids)s::uuid[], %(statuses)s::text[],
        %(results)s::text[], %(errors)s::text[], %(metrics)s::text[], %(adapters)s::text[],
        %(actions)s::text[], %(delays)s::float8[], %(counts)s::bool[], %(events)s::text[])
        AS g (id, attempt, worker_id, status, result, error, metrics, adapter_used, action_results, delay_seconds,
            counts, events)
), owned AS MATERIALIZED (
    SELECT e.id, g.status = 'queued' AND e.cancel_requested_at IS NOT NULL AS cancelling
    FROM dspex.executions e JOIN given g
        ON e.id = g.id AND e.attempt = g.attempt AND e.worker_id = g.worker_id
    WHERE e.status || '' = 'running'
      AND EXISTS (SELECT FROM dspex.workers w WHERE w.id = e.worker_id AND w.stopped_at IS NULL)
    ORDER BY e.id FOR UPDATE OF e
), outcome AS MATERIALIZED (
    SELECT g.*, dspex.outcome_hash(g.result, g.error, g.metrics, g.adapter_used, g.action_results) AS outcome_hash,
        CASE WHEN o.cancelling THEN 'cancelled' ELSE g.status END AS next,
        CASE WHEN o.cancelling THEN left(g.events, -1) || ',{"kind":"cancelled"}]' ELSE g.events END AS entry
    FROM given g JOIN owned o ON g.id = o.id
), settled AS (
    UPDATE dspex.executions e
    SET status = g.next, result = g.result::json, error = g.error::json, metrics = g.metrics::json,
        adapter_used = g.adapter_used, action_results = g.action_results::json,
        worker_id = NULL, expires_at = NULL,
        max_attempts = e.max_attempts + CASE WHEN g.counts THEN 0 ELSE 1 END,
        dispatched_at = CASE WHEN g.next = 'queued' THEN NULL ELSE e.dispatched_at END,
        run_at = CASE WHEN g.next = 'queued' THEN now() + make_interval(secs => g.delay_seconds) ELSE e.run_at END,
        finished_at = CASE WHEN g.next = 'queued' THEN NULL ELSE now() END,
        audit_seq = e.audit_seq + 1,
        audit_hash = dspex.audit_hash(
            e.audit_hash, e.id, e.audit_seq + 1, e.attempt, now(), NULL, g.outcome_hash, g.entry)
    FROM outcome g WHERE e.id = g.id
    RETURNING e.id, e.status, e.parent_id, g.outcome_hash, g.entry
), logged AS (
    SELECT dspex.append_entries(array_agg(id), array_agg(outcome_hash), array_agg(entry)) FROM settled
)
SELECT id, status, EXISTS (
    SELECT FROM dspex.parked_calls p
    WHERE p.kind = 'child' AND p.child_id = id AND p.execution_id IS DISTINCT FROM parent_id) AS is_awaited
FROM settled, logged
"""
#: The same where some have no metrics: then their journals are counted.
SETTLE_COUNTED = SETTLE.replace(
    "FROM given g JOIN owned o",
    f"""FROM (
        SELECT n.id, n.attempt, n.worker_id, n.status, n.result, n.error, n.adapter_used, n.action_results,
            n.delay_seconds, n.counts, n.events, CASE WHEN n.metrics IS NOT NULL THEN n.metrics ELSE (
                SELECT ({COUNTED}) FROM (SELECT id, metrics::text AS metrics FROM dspex.executions WHERE id = n.id) l
            ) END AS metrics
        FROM given n
    ) g JOIN owned o""",  # noqa: S608
)


#: The member of stored ``action_results`` with what the program gave besides its outputs. No action has such a name.
EXTRA = "dspex:extra"


class Settlement(NamedTuple):
    """How an attempt ends. ``status`` is the execution's next: a terminal one, or ``queued`` for another attempt
    after ``delay_seconds``. ``result``, ``error``, ``metrics``, ``action_results`` and ``events`` are JSON text;
    without ``metrics`` the journal is counted (SETTLE_COUNTED). ``counts``: the attempt is one of ``max_attempts``; one
    that was handed back is not. ``parent_id`` is the execution that may wait for this one."""

    id: UUID
    attempt: int
    worker_id: UUID
    status: str
    events: str
    metrics: str | None
    result: str | None = None
    error: str | None = None
    adapter_used: str | None = None
    action_results: str | None = None
    delay_seconds: float = 0.0
    counts: bool = True
    parent_id: UUID | None = None


#: After a SETTLE whose answer was lost: the given settlements that are stored, the status that each led to, and that
#: others may wait for it.
SETTLED = """
SELECT a.execution_id, CASE WHEN a.events::text = g.events THEN g.status ELSE 'cancelled' END, true
FROM unnest(%(ids)s::uuid[], %(attempts)s::int[], %(statuses)s::text[], %(events)s::text[])
    AS g (id, attempt, status, events)
JOIN dspex.audit_events a ON a.execution_id = g.id AND a.attempt = g.attempt
WHERE a.events::text IN (g.events, left(g.events, -1) || ',{"kind":"cancelled"}]')
"""


def settle_statement(settlements: Sequence[Settlement]) -> str:
    """SETTLE, or SETTLE_COUNTED where some have no metrics."""
    return SETTLE if all(each.metrics is not None for each in settlements) else SETTLE_COUNTED


def settle_parameters(settlements: Sequence[Settlement]) -> dict[str, str]:
    """The arguments of SETTLE and SETTLE_COUNTED."""
    ids = {"ids": "id", "worker_ids": "worker_id"}
    plain = {"attempts": "attempt", "statuses": "status", "delays": "delay_seconds", "counts": "counts"}
    texts = {"results": "result", "errors": "error", "metrics": "metrics", "adapters": "adapter_used",
             "actions": "action_results", "events": "events"}  # fmt: skip
    columns = dict(zip(Settlement._fields, zip(*settlements, strict=True), strict=True))
    return {
        **{name: id_array(columns[column]) for name, column in ids.items()},
        **{name: array(columns[column]) for name, column in plain.items()},
        **{name: text_array(columns[column]) for name, column in texts.items()},
    }


# ------------------------------------------------------------------------------------------------------- reading

UUIDS = postgresql.ARRAY(postgresql.UUID(as_uuid=True))
# Inputs and result as stored text: only the signature can decode them.
_AS_TEXT = ("inputs", "result")
_HIDDEN = ("audit_seq", "audit_hash", "dispatched_at", "held_at", "cost_usd", "unpriced", "lost_attempts")


def _columns(source: FromClause) -> list[ColumnElement[Any]]:
    """The columns of executions that are read from a table, or from a function that returns its rows."""
    return [
        cast(column, Text).label(column.name) if column.name in _AS_TEXT else column
        for column in source.c
        if column.name not in _HIDDEN
    ]


_COLUMNS = _columns(executions)
_BY_ID = func.dspex.executions_by_id(cast(bindparam("ids", type_=Text), UUIDS)).table_valued(
    *(column(each.name, each.type) for each in executions.c), name="executions"
)
# Made once: SQLAlchemy would take longer to make them than Postgres to carry them out.
_MANY = select(*_columns(_BY_ID))
_FINAL = _MANY.where(_BY_ID.c.finished_at.is_not(None))


def find(connection: Connection, id: UUID) -> Mapping[str, Any] | None:
    return next(iter(find_many(connection, [id])), None)


def listing(connection: Connection, selection: Selection, *, limit: int) -> list[Mapping[str, Any]]:
    """The newest first."""
    query = select(*_COLUMNS).where(*selection.conditions()).order_by(executions.c.id.desc()).limit(limit)
    return [dict(row) for row in connection.execute(query).mappings()]


#: How many executions a search looks at. Fewer where a program, a tenant or a failure is asked for: these do not lie
#: beside each other, and Postgres reads a page of the table for each.
SEARCHED_MOST, SEARCHED_APART_MOST = 20_000, 3_000


def listing_within(
    connection: Connection, selection: Selection, *, limit: int, most: int | None = None
) -> tuple[list[Mapping[str, Any]], UUID | None]:
    """The newest first; with conditions that no index finds, among the latest ``most`` that fit the others: all others
    would be read in vain. Also the id of the last one that was looked at; None when that was all."""
    indexed = selection.indexed()
    if indexed == selection:
        return listing(connection, selection, limit=limit), None
    given = replace(indexed, internal=True)
    if most is None:
        most = SEARCHED_MOST if replace(given, before=None) == Selection(internal=True) else SEARCHED_APART_MOST
    latest = select(executions.c.id).where(*given.conditions())
    last = connection.scalar(latest.order_by(executions.c.id.desc()).offset(most - 1).limit(1))
    conditions = [*selection.conditions(), *([] if last is None else [executions.c.id >= last])]
    query = select(*_COLUMNS).where(*conditions).order_by(executions.c.id.desc()).limit(limit)
    return [dict(row) for row in connection.execute(query).mappings()], last


def find_many(connection: Connection, ids: Collection[UUID], *, final: bool = False) -> list[Mapping[str, Any]]:
    """The rows of these executions, or only of the final ones, in any order; unknown ids have none."""
    rows = connection.execute(_FINAL if final else _MANY, {"ids": id_array(ids)})
    names = tuple(rows.keys())
    return [dict(zip(names, row, strict=True)) for row in rows]
