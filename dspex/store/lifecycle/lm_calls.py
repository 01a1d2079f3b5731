"""The journal's table: model calls by execution, request, occurrence and attempt; and what else a later attempt must
not do again (:data:`OTHERS`), whose "model" begins with its kind.

An attempt that is over, because its worker was frozen or cut off, may still bring an answer. It is kept under its own
attempt: it was paid for, so it is counted, and it takes no later attempt's place.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection

from dspex.program.models import OTHER_ENTRIES
from dspex.store.array_text import array, id_array, text_array
from dspex.store.lifecycle.status import Status

__all__ = [
    "BATCH",
    "CHILD",
    "CLASS",
    "COUNTED",
    "DECISION",
    "INSERT",
    "INTENT",
    "KEPT",
    "OF_EXECUTIONS",
    "OTHERS_PATTERN",
    "REJECT",
    "TOOL",
    "USE",
    "VALUE",
    "LMCall",
    "insert_parameters",
    "of_execution",
]

#: The member of a stored response that came from a batch API.
BATCH = "dspex:batch"
#: The member of a waiting request that is kept with its answer.
KEPT = "dspex:kept"
#: What the model of other entries begins with.
TOOL, INTENT, DECISION, CHILD = OTHERS = OTHER_ENTRIES
#: The same as a pattern of Postgres.
OTHERS_PATTERN = "^(tool|intent|decision|child):"
#: The members of a value of a tool that JSON does not have: its class, and what it is made from.
CLASS, VALUE = "dspex:class", "value"


@dataclass(frozen=True, slots=True)
class LMCall:
    """A finished model call, or another entry of the journal. ``response`` and ``request`` are JSON text, ``request``
    None unless it is kept; ``occurrence`` counts equal requests from 0; a ``rejected`` answer was invalid, and is never
    replayed."""

    execution_id: UUID
    request_hash: bytes
    occurrence: int
    attempt: int
    model: str
    response: str
    prompt_tokens: int
    completion_tokens: int
    cost_usd: float | None
    duration_ms: float
    request_id: str | None
    rejected: bool = False
    #: What an ordinary call would have cost, where this one went through a batch API at its price.
    list_cost_usd: float | None = None
    request: str | None = None

    @property
    def is_tool(self) -> bool:
        """Whether it is the result of a tool."""
        return self.model.startswith(TOOL)

    @property
    def is_of_model(self) -> bool:
        """Whether a model was asked; else it is a tool's result, an intention, a decision or a child's outcome."""
        return not self.model.startswith(OTHERS)

    @property
    def is_child(self) -> bool:
        """Whether it is the outcome of a child."""
        return self.model.startswith(CHILD)

    @property
    def is_failed_child(self) -> bool:
        """Whether it is the outcome of a child that did not complete."""
        return self.is_child and json.loads(self.response)["status"] != Status.COMPLETED

    @property
    def place(self) -> str:
        """The call's place among the execution's calls, to which its sealed answer is bound."""
        return f"{self.request_hash.hex()}:{self.occurrence}:{self.attempt}"


# A call that is already stored, because the reply to an earlier attempt of this statement was lost, is not changed.
# It returns the attempts that are over, which must make no other call.
INSERT = """
WITH given AS (
    SELECT * FROM unnest(%(execution_id)s::uuid[], %(request_hash)s::bytea[], %(occurrence)s::int[], %(attempt)s::int[],
        %(model)s::text[], %(response)s::text[], %(prompt_tokens)s::int[], %(completion_tokens)s::int[],
        %(cost_usd)s::float8[], %(duration_ms)s::float8[], %(request_id)s::text[], %(request)s::text[])
        AS c (execution_id, request_hash, occurrence, attempt, model, response, prompt_tokens, completion_tokens,
        cost_usd, duration_ms, request_id, request)
), stored AS (
    INSERT INTO dspex.lm_calls (execution_id, request_hash, occurrence, attempt, model, response, prompt_tokens,
        completion_tokens, cost_usd, duration_ms, request_id, request)
    SELECT c.execution_id, c.request_hash, c.occurrence, c.attempt, c.model, c.response::json, c.prompt_tokens,
        c.completion_tokens, c.cost_usd, c.duration_ms, c.request_id, c.request::json
    FROM given c
    ON CONFLICT DO NOTHING
)
SELECT c.execution_id, c.attempt FROM given c JOIN dspex.executions e ON e.id = c.execution_id
WHERE e.attempt <> c.attempt OR e.status <> 'running'
"""

# In the order in which they are replayed: first the answer that the latest attempt had to each request, then those that
# came late, to requests that a later attempt made itself.
OF_EXECUTIONS = """
SELECT execution_id, request_hash, occurrence, attempt, model, response::text, prompt_tokens, completion_tokens,
    cost_usd::float8, duration_ms, request_id, rejected, list_cost_usd::float8
FROM dspex.lm_calls WHERE execution_id = ANY(%(ids)s)
ORDER BY row_number() OVER (PARTITION BY execution_id, request_hash, occurrence ORDER BY attempt DESC), occurrence
"""

# The calls of an execution in the order in which they began, each with its request and that time.
_OF_EXECUTION = """
SELECT execution_id, request_hash, occurrence, attempt, model, response::text, prompt_tokens, completion_tokens,
    cost_usd::float8, duration_ms, request_id, rejected, list_cost_usd::float8, request::text,
    created_at - make_interval(secs => duration_ms / 1000) AS at
FROM dspex.lm_calls WHERE execution_id = %(execution_id)s ORDER BY attempt, at, occurrence
"""

#: The metrics of the execution ``l`` (``id`` and ``metrics``, as text) with the use that its journal has, for one that
#: ends without an attempt which counts it. Without a call in the journal they stay as they are.
COUNTED = f"""
    SELECT CASE WHEN count(*) = 0 THEN l.metrics ELSE (
        coalesce(l.metrics::jsonb, '{{}}') || jsonb_build_object(
            'lm_calls', count(*), 'prompt_tokens', sum(c.prompt_tokens),
            'completion_tokens', sum(c.completion_tokens), 'cost_usd', sum(c.cost_usd)::float8,
            'unpriced_lm_calls', count(*) - count(c.cost_usd))
        || CASE WHEN count(c.list_cost_usd - c.cost_usd) = 0 THEN '{{}}' ELSE jsonb_build_object(
            'saved_usd', sum(c.list_cost_usd - c.cost_usd)::float8) END)::text END
    FROM dspex.lm_calls c WHERE c.execution_id = l.id AND c.model !~ '{OTHERS_PATTERN}'
"""  # noqa: S608 - built from constants

# The same without what was answered.
USE = """
SELECT execution_id, request_hash, occurrence, attempt, model, '', prompt_tokens, completion_tokens,
    cost_usd::float8, duration_ms, request_id, rejected, list_cost_usd::float8
FROM dspex.lm_calls WHERE execution_id = ANY(%(ids)s)
"""

# Only the attempt that runs rejects answers, and none of a later attempt: that attempt decides about them.
REJECT = """
UPDATE dspex.lm_calls SET rejected = true
WHERE execution_id = %(execution_id)s AND request_hash = ANY(%(request_hashes)s) AND attempt <= %(attempt)s
    AND NOT EXISTS (SELECT FROM dspex.executions e
        WHERE e.id = %(execution_id)s AND (e.attempt <> %(attempt)s OR e.status <> 'running'))
RETURNING occurrence
"""


def of_execution(connection: Connection, execution_id: UUID) -> list[tuple[LMCall, datetime]]:
    """The calls of an execution in the order in which they began, each with that time."""
    rows = connection.exec_driver_sql(_OF_EXECUTION, {"execution_id": execution_id})
    return [(LMCall(*call), at) for *call, at in rows]


def insert_parameters(calls: Sequence[LMCall]) -> dict[str, str]:
    """The arguments of INSERT."""
    plain = ("occurrence", "attempt", "prompt_tokens", "completion_tokens", "duration_ms")
    texts = ("model", "response", "request_id", "request")
    return {
        "execution_id": id_array(call.execution_id for call in calls),
        **{name: array(getattr(call, name) for call in calls) for name in plain},
        **{name: text_array(getattr(call, name) for call in calls) for name in texts},
        "request_hash": text_array(rf"\x{call.request_hash.hex()}" for call in calls),
        "cost_usd": array("NULL" if call.cost_usd is None else call.cost_usd for call in calls),
    }
