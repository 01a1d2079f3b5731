"""The scores of an evaluation, counted from its executions: an evaluation has no row of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

from dspex.store.lifecycle.selection import CAUSE

__all__ = ["EvaluationSummary", "ScoreFigures", "figures", "find", "listing", "places"]


@dataclass(frozen=True, slots=True)
class ScoreFigures:
    """The score of an evaluation so far.

    ``score`` is the mean over ``scored`` and ``failed`` executions, where a failure counts as 0. ``unscored``
    completed, and the metric gave no score. ``unpaid`` were not run because the budget was spent.
    """

    score: float | None
    scored: int
    failed: int
    unscored: int
    unpaid: int
    total: int

    @property
    def is_complete(self) -> bool:
        """Whether every execution counts in the score."""
        return self.scored + self.failed == self.total


@dataclass(frozen=True, slots=True)
class EvaluationSummary:
    """An evaluation in a list: the id of its batch, and the purpose of its first execution."""

    id: UUID
    program: str
    version: str
    purpose: Mapping[str, Any]
    size: int


_FIGURES = text(f"""
SELECT avg(score) AS score, count(*) FILTER (WHERE status = 'completed' AND score IS NOT NULL)::int AS scored,
    count(*) FILTER (WHERE status = 'failed' AND NOT unpaid)::int AS failed,
    count(*) FILTER (WHERE status = 'completed' AND score IS NULL)::int AS unscored,
    count(*) FILTER (WHERE unpaid)::int AS unpaid, count(*)::int AS total
FROM (
    SELECT status, status = 'failed' AND coalesce({CAUSE}, '') = :unpaid AS unpaid,
        CASE WHEN status = 'completed' THEN (metrics ->> 'score')::float8
            WHEN status = 'failed' AND coalesce({CAUSE}, '') <> :unpaid THEN 0.0 END AS score
    FROM dspex.executions WHERE batch_id = :batch_id) each
""")  # noqa: S608

# From one batch to the one before it, as in batches.py; the first execution has the purpose of all.
_LISTING = text("""
WITH RECURSIVE found AS (
    (SELECT batch_id FROM dspex.executions WHERE batch_id IS NOT NULL ORDER BY batch_id DESC LIMIT 1)
    UNION ALL
    SELECT earlier.batch_id FROM found f CROSS JOIN LATERAL (
        SELECT e.batch_id FROM dspex.executions e WHERE e.batch_id < f.batch_id ORDER BY e.batch_id DESC LIMIT 1
    ) earlier
)
SELECT f.batch_id AS id, e.program, e.version, e.purpose, last.batch_index + 1 AS size
FROM found f CROSS JOIN LATERAL (
    SELECT program, version, purpose FROM dspex.executions
    WHERE batch_id = f.batch_id ORDER BY batch_index LIMIT 1) e
CROSS JOIN LATERAL (
    SELECT batch_index FROM dspex.executions WHERE batch_id = f.batch_id ORDER BY batch_index DESC LIMIT 1) last
WHERE e.purpose ->> 'metric' IS NOT NULL
  AND (CAST(:program AS text) IS NULL OR e.program = :program) LIMIT :most
""")

_PLACES = text("""
SELECT coalesce((purpose ->> 'row')::bigint, 0) FROM dspex.executions
WHERE batch_id = :batch_id AND purpose ->> 'repeat' IS NULL ORDER BY batch_index
""")

_ONE = text("""
SELECT e.batch_id AS id, e.program, e.version, e.purpose,
    (SELECT max(batch_index) + 1 FROM dspex.executions WHERE batch_id = :id) AS size
FROM dspex.executions e WHERE e.batch_id = :id AND e.purpose IS NOT NULL ORDER BY e.batch_index LIMIT 1
""")


def figures(connection: Connection, batch_id: UUID, *, unpaid: str = "evaluation_budget_spent") -> ScoreFigures:
    """The score of an evaluation so far."""
    row = connection.execute(_FIGURES, {"batch_id": batch_id, "unpaid": unpaid}).one()
    return ScoreFigures(*row)


def find(connection: Connection, id: UUID) -> EvaluationSummary | None:
    """An evaluation or a replay; None for any other batch."""
    row = connection.execute(_ONE, {"id": id}).mappings().one_or_none()
    return None if row is None else EvaluationSummary(**row)


def places(connection: Connection, batch_id: UUID) -> list[int]:
    """The rows of the dataset that an evaluation is of, in the order of its executions."""
    return list(connection.scalars(_PLACES, {"batch_id": batch_id}))


def listing(connection: Connection, *, program: str | None, most: int) -> Sequence[EvaluationSummary]:
    """Evaluations, the newest first."""
    rows = connection.execute(_LISTING, {"program": program, "most": most}).mappings()
    return [EvaluationSummary(**row) for row in rows]
