"""Values sealed with an older key: found and written again, a few rows at a time.

Only the sealed texts change. The audit trail has hashes of what is stored, so an execution gets an audit entry with the
new hashes, in the same statement. The triggers let only the schema's owner do this.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, RowMapping, text

from dspex.store.audit_chain import encode_events

__all__ = [
    "CALL_COLUMNS",
    "CONTENT_COLUMNS",
    "EXECUTION_COLUMNS",
    "PARKED_COLUMNS",
    "count",
    "stale_calls",
    "stale_dataset_rows",
    "stale_executions",
    "stale_feedback",
    "stale_parked",
    "write_calls",
    "write_dataset_rows",
    "write_executions",
    "write_feedback",
    "write_parked",
]

EXECUTION_COLUMNS = ("inputs", "result", "error", "action_results")
CALL_COLUMNS = ("response", "request")
PARKED_COLUMNS = ("request",)
_PARKED_KEY = ("execution_id", "request_hash", "occurrence")
#: Of feedback and of rows of datasets.
CONTENT_COLUMNS = ("content",)
_CALL_KEY = ("execution_id", "request_hash", "occurrence", "attempt")

# Every token that does not name the current key.
_STALE = '"dspex:sealed"\\s*:\\s*"[0-9]+\\.(?!{key}\\.)'
_OF_EXECUTION = "concat_ws(' ', inputs::text, result::text, error::text, action_results::text) ~ :stale"

_OF_CALL = "concat_ws(' ', response::text, request::text) ~ :stale"

_COUNT = text(f"""
SELECT (SELECT count(*) FROM dspex.executions WHERE {_OF_EXECUTION})
     + (SELECT count(*) FROM dspex.lm_calls WHERE {_OF_CALL})
     + (SELECT count(*) FROM dspex.parked_calls WHERE request::text ~ :stale)
     + (SELECT count(*) FROM dspex.feedback WHERE content::text ~ :stale)
     + (SELECT count(*) FROM dspex.dataset_rows WHERE content::text ~ :stale)
""")  # noqa: S608 - from this file only

_EXECUTIONS = text(f"""
SELECT id, inputs::text, result::text, error::text, action_results::text FROM dspex.executions
WHERE id > :after AND {_OF_EXECUTION} ORDER BY id LIMIT :most FOR UPDATE
""")  # noqa: S608 - from this file only

_WRITE_EXECUTIONS = text("""
WITH given AS MATERIALIZED (
    SELECT g.*, dspex.submission_hash(e.program, e.version, g.inputs, e.metadata::text) AS submission_hash,
        dspex.outcome_hash(g.result, g.error, e.metrics::text, e.adapter_used, g.action_results) AS outcome_hash
    FROM unnest(CAST(:id AS uuid[]), CAST(:inputs AS text[]), CAST(:result AS text[]), CAST(:error AS text[]),
        CAST(:action_results AS text[])) AS g (id, inputs, result, error, action_results)
    JOIN dspex.executions e ON e.id = g.id
), resealed AS (
    UPDATE dspex.executions e
    SET inputs = g.inputs::json, result = g.result::json, error = g.error::json,
        action_results = g.action_results::json, audit_seq = e.audit_seq + 1,
        audit_hash = dspex.audit_hash(e.audit_hash, e.id, e.audit_seq + 1, e.attempt, now(), g.submission_hash,
            g.outcome_hash, :events)
    FROM given g WHERE e.id = g.id
    RETURNING e.id, e.audit_seq, e.attempt, g.submission_hash, g.outcome_hash, e.audit_hash
)
INSERT INTO dspex.audit_events (execution_id, seq, attempt, at, submission_hash, outcome_hash, events, hash)
SELECT id, audit_seq, attempt, now(), submission_hash, outcome_hash, CAST(:events AS json), audit_hash FROM resealed
""")

_FEEDBACK = text("""
SELECT id, execution_id, content::text FROM dspex.feedback
WHERE id > :after AND content::text ~ :stale ORDER BY id LIMIT :most FOR UPDATE
""")

_WRITE_FEEDBACK = text("""
UPDATE dspex.feedback f SET content = g.content::json
FROM unnest(CAST(:id AS bigint[]), CAST(:content AS text[])) AS g (id, content) WHERE f.id = g.id
""")

_DATASET_ROWS = text("""
SELECT dataset_id, index, content::text FROM dspex.dataset_rows
WHERE (dataset_id, index) > (:dataset_id, :index) AND content::text ~ :stale
ORDER BY dataset_id, index LIMIT :most FOR UPDATE
""")

_WRITE_DATASET_ROWS = text("""
UPDATE dspex.dataset_rows r SET content = g.content::json
FROM unnest(CAST(:dataset_id AS uuid[]), CAST(:index AS bigint[]), CAST(:content AS text[]))
    AS g (dataset_id, index, content) WHERE r.dataset_id = g.dataset_id AND r.index = g.index
""")

_CALLS = text(f"""
SELECT execution_id, request_hash, occurrence, attempt, response::text, request::text FROM dspex.lm_calls
WHERE (execution_id, request_hash, occurrence, attempt) > (:execution_id, :request_hash, :occurrence, :attempt)
  AND {_OF_CALL} ORDER BY execution_id, request_hash, occurrence, attempt LIMIT :most FOR UPDATE
""")  # noqa: S608 - from this file only

_WRITE_CALLS = text("""
UPDATE dspex.lm_calls c SET response = g.response::json, request = g.request::json
FROM unnest(CAST(:execution_id AS uuid[]), CAST(:request_hash AS bytea[]), CAST(:occurrence AS int[]),
    CAST(:attempt AS int[]), CAST(:response AS text[]), CAST(:request AS text[]))
    AS g (execution_id, request_hash, occurrence, attempt, response, request)
WHERE c.execution_id = g.execution_id AND c.request_hash = g.request_hash AND c.occurrence = g.occurrence
    AND c.attempt = g.attempt
""")

_PARKED = text("""
SELECT execution_id, request_hash, occurrence, request::text FROM dspex.parked_calls
WHERE (execution_id, request_hash, occurrence) > (:execution_id, :request_hash, :occurrence)
  AND request::text ~ :stale ORDER BY execution_id, request_hash, occurrence LIMIT :most FOR UPDATE
""")

_WRITE_PARKED = text("""
UPDATE dspex.parked_calls p SET request = g.request::json
FROM unnest(CAST(:execution_id AS uuid[]), CAST(:request_hash AS bytea[]), CAST(:occurrence AS int[]),
    CAST(:request AS text[])) AS g (execution_id, request_hash, occurrence, request)
WHERE p.execution_id = g.execution_id AND p.request_hash = g.request_hash AND p.occurrence = g.occurrence
""")


def count(connection: Connection, key: str) -> int:
    """How many executions, calls, judgements and rows of datasets have a value sealed with another key."""
    return int(connection.execute(_COUNT, {"stale": _STALE.format(key=key)}).scalar_one())


def stale_executions(connection: Connection, key: str, after: UUID, most: int) -> Sequence[RowMapping]:
    """The next of these executions, locked: their ids and sealed texts, in the order of their ids."""
    parameters = {"stale": _STALE.format(key=key), "after": after, "most": most}
    return connection.execute(_EXECUTIONS, parameters).mappings().all()


def write_executions(connection: Connection, rows: Sequence[Mapping[str, Any]], key: str) -> None:
    """Store the texts of these rows again, sealed with this key."""
    events = encode_events([{"kind": "resealed", "data": {"key": key}}])
    columns = {name: [row[name] for row in rows] for name in ("id", *EXECUTION_COLUMNS)}
    connection.execute(_WRITE_EXECUTIONS, {**columns, "events": events})


def stale_calls(
    connection: Connection, key: str, after: tuple[UUID, bytes, int, int], most: int
) -> Sequence[RowMapping]:
    """The next of these calls, locked, in the order of their keys."""
    where = dict(zip(_CALL_KEY, after, strict=True))
    parameters = {"stale": _STALE.format(key=key), "most": most, **where}
    return connection.execute(_CALLS, parameters).mappings().all()


def stale_feedback(connection: Connection, key: str, after: int, most: int) -> Sequence[RowMapping]:
    """The next of this feedback, locked, in the order of its ids."""
    parameters = {"stale": _STALE.format(key=key), "after": after, "most": most}
    return connection.execute(_FEEDBACK, parameters).mappings().all()


def write_feedback(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Store this feedback again. The hash in the audit trail is of what was stored first."""
    connection.execute(_WRITE_FEEDBACK, {name: [row[name] for row in rows] for name in ("id", *CONTENT_COLUMNS)})


def stale_dataset_rows(connection: Connection, key: str, after: tuple[UUID, int], most: int) -> Sequence[RowMapping]:
    """The next of these rows of datasets, locked, in the order of their keys."""
    parameters = {"stale": _STALE.format(key=key), "most": most, "dataset_id": after[0], "index": after[1]}
    return connection.execute(_DATASET_ROWS, parameters).mappings().all()


def write_dataset_rows(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Store these rows of datasets again."""
    names = ("dataset_id", "index", *CONTENT_COLUMNS)
    connection.execute(_WRITE_DATASET_ROWS, {name: [row[name] for row in rows] for name in names})


def write_calls(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Store the answers and requests of these rows again."""
    names = (*_CALL_KEY, *CALL_COLUMNS)
    connection.execute(_WRITE_CALLS, {name: [row[name] for row in rows] for name in names})


def stale_parked(connection: Connection, key: str, after: tuple[UUID, bytes, int], most: int) -> Sequence[RowMapping]:
    """The next of the calls that executions wait for, locked, in the order of their keys."""
    where = dict(zip(_PARKED_KEY, after, strict=True))
    parameters = {"stale": _STALE.format(key=key), "most": most, **where}
    return connection.execute(_PARKED, parameters).mappings().all()


def write_parked(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Store the requests of these rows again."""
    names = (*_PARKED_KEY, *PARKED_COLUMNS)
    connection.execute(_WRITE_PARKED, {name: [row[name] for row in rows] for name in names})
