"""The scores of an evaluation, counted from its executions: an evaluation has no row of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Connection, text

from dspex.store.lifecycle.selection import CAUSE

__all__ = [
    "LISTING",
    "UNPAID",
    "BarCount",
    "EvaluationSummary",
    "RankedRow",
    "RowScore",
    "ScoreFigures",
    "distribution",
    "figures",
    "find",
    "listing",
    "lowest",
    "of_row",
    "places",
    "scores_by_row",
]

#: The cause of executions that were not run because the budget of their evaluation was spent.
UNPAID = "evaluation_budget_spent"


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
    """An evaluation in a list: the id of its batch, the purpose of its first execution, and the dataset if it is
    stored."""

    id: UUID
    program: str
    version: str
    purpose: Mapping[str, Any]
    size: int
    dataset: str | None = None
    dataset_version: str | None = None


@dataclass(frozen=True, slots=True)
class RankedRow:
    """An execution of an evaluation at its place in the order of :func:`lowest`."""

    id: UUID
    rank: float
    batch_index: int


class RowScore(NamedTuple):
    """A row of the dataset: the mean score of its executions, None without any, and the index of the first of them."""

    score: float | None
    first: int


@dataclass(frozen=True, slots=True)
class BarCount:
    """How many scores are in a part of the range from ``low`` to ``high``; parts are counted from 0."""

    bar: int
    low: float
    high: float
    count: int


_SCORED = f"""
SELECT id, batch_index, status, purpose, status = 'failed' AND coalesce({CAUSE}, '') = :unpaid AS unpaid,
    CASE WHEN status = 'completed' THEN (metrics ->> 'score')::float8
        WHEN status = 'failed' AND coalesce({CAUSE}, '') <> :unpaid THEN 0.0 END AS score
FROM dspex.executions WHERE batch_id = :batch_id
"""  # noqa: S608

# Each execution is read once, and its score, which is in its metrics.
_FIGURES = f"""
WITH scored AS MATERIALIZED (SELECT status, unpaid, score FROM ({_SCORED}) each)
SELECT avg(score) AS score, count(*) FILTER (WHERE status = 'completed' AND score IS NOT NULL)::int AS scored,
    count(*) FILTER (WHERE status = 'failed' AND NOT unpaid)::int AS failed,
    count(*) FILTER (WHERE status = 'completed' AND score IS NULL)::int AS unscored,
    count(*) FILTER (WHERE unpaid)::int AS unpaid, count(*)::int AS total"""  # noqa: S608

# A range from 0 to 1 shows most metrics as they are meant; scores outside of it widen it.
_WITH_BARS = text(f"""{_FIGURES}, (
    SELECT array_agg(ARRAY[bar, low, high, count] ORDER BY bar) FROM (
        SELECT least(floor((score - low) / (high - low) * :bars), :bars - 1) AS bar, low, high, count(*) AS count
        FROM scored CROSS JOIN (
            SELECT least(min(score), 0) AS low, greatest(max(score), 1) AS high FROM scored) ends
        WHERE score IS NOT NULL GROUP BY bar, low, high) counted) AS bars
FROM scored
""")  # noqa: S608
_WITHOUT_BARS = text(f"{_FIGURES} FROM scored")

# Metrics that gave no score come first, then the lowest scores; executions that have not ended, or were not run, last.
_RANKED = f"""
SELECT id, batch_index, status, unpaid, score, CASE WHEN status = 'completed' THEN coalesce(score, '-infinity')
    ELSE coalesce(score, 'infinity') END AS rank FROM ({_SCORED}) each
"""  # noqa: S608

_LOWEST = text(f"""
SELECT id, rank, batch_index FROM ({_RANKED}) ranked
WHERE (CAST(:rank AS float8) IS NULL OR (rank, batch_index) > (:rank, :batch_index))
  AND CASE :only WHEN 'program_errors' THEN status = 'failed' AND NOT unpaid
      WHEN 'metric_errors' THEN status = 'completed' AND score IS NULL ELSE true END
ORDER BY rank, batch_index LIMIT :most
""")  # noqa: S608

# Arrays, as rows of thousands of rows would take longer to read than to find.
_BY_ROW = text(f"""
SELECT array_agg(row), array_agg(score), array_agg(first) FROM (
    SELECT coalesce((purpose ->> 'row')::bigint, 0) AS row, avg(score) AS score, min(batch_index) AS first
    FROM ({_SCORED}) each GROUP BY 1 ORDER BY 1) of_rows
""")  # noqa: S608

_OF_ROW = text("""
SELECT id FROM dspex.executions
WHERE batch_id = :batch_id AND coalesce((purpose ->> 'row')::bigint, 0) = :row ORDER BY batch_index
""")

# The first execution of an evaluation has the purpose of all; the index on these has nothing else. The size is found in
# the index on the rows of batches.
LISTING = text("""
SELECT e.batch_id AS id, e.program, e.version, e.purpose, last.batch_index + 1 AS size, d.name AS dataset,
    d.version AS dataset_version
FROM (
    SELECT batch_id, program, version, purpose FROM dspex.executions
    WHERE batch_index = 0 AND purpose ->> 'metric' IS NOT NULL AND batch_id IS NOT NULL
      AND (CAST(:before AS uuid) IS NULL OR batch_id < :before)
      AND (CAST(:program AS text) IS NULL OR program = :program)
      AND (CAST(:programs AS text[]) IS NULL OR program = ANY(CAST(:programs AS text[])))
      AND (CAST(:dataset AS text) IS NULL OR purpose ->> 'dataset' = :dataset)
    ORDER BY batch_id DESC LIMIT :most) e
CROSS JOIN LATERAL (
    SELECT batch_index FROM dspex.executions
    WHERE batch_id = e.batch_id ORDER BY batch_index DESC LIMIT 1) last
LEFT JOIN dspex.datasets d ON d.id = CAST(e.purpose ->> 'dataset' AS uuid)
ORDER BY e.batch_id DESC
""")

_PLACES = text("""
SELECT coalesce((purpose ->> 'row')::bigint, 0) FROM dspex.executions
WHERE batch_id = :batch_id AND purpose ->> 'repeat' IS NULL ORDER BY batch_index
""")

_ONE = text("""
SELECT e.batch_id AS id, e.program, e.version, e.purpose,
    (SELECT max(batch_index) + 1 FROM dspex.executions WHERE batch_id = :id) AS size, d.name AS dataset,
    d.version AS dataset_version
FROM dspex.executions e LEFT JOIN dspex.datasets d ON d.id = CAST(e.purpose ->> 'dataset' AS uuid)
WHERE e.batch_id = :id AND e.purpose IS NOT NULL ORDER BY e.batch_index LIMIT 1
""")


def figures(connection: Connection, batch_id: UUID) -> ScoreFigures:
    """The score of an evaluation so far."""
    row = connection.execute(_WITHOUT_BARS, {"batch_id": batch_id, "unpaid": UNPAID}).one()
    return ScoreFigures(*row)


def distribution(connection: Connection, batch_id: UUID, *, bars: int) -> tuple[ScoreFigures, list[BarCount]]:
    """The score of an evaluation so far, and how many scores are in each part of their range; parts without a score are
    left out."""
    given = {"batch_id": batch_id, "unpaid": UNPAID, "bars": bars}
    *found, counted = connection.execute(_WITH_BARS, given).one()
    return ScoreFigures(*found), [BarCount(int(bar), low, high, int(n)) for bar, low, high, n in counted or ()]


def lowest(
    connection: Connection, batch_id: UUID, *, after: tuple[float, int] | None, only: str | None, most: int
) -> list[RankedRow]:
    """Executions of an evaluation, the lowest score first. ``after`` is the place of the last one of the page before;
    ``only`` is ``"program_errors"`` or ``"metric_errors"``."""
    rank, batch_index = after or (None, None)
    given = {"batch_id": batch_id, "unpaid": UNPAID, "rank": rank, "batch_index": batch_index, "only": only,
             "most": most}  # fmt: skip
    return [RankedRow(*row) for row in connection.execute(_LOWEST, given)]


def scores_by_row(connection: Connection, batch_id: UUID) -> dict[int, RowScore]:
    """The mean score of each row of the dataset."""
    rows, scores, firsts = connection.execute(_BY_ROW, {"batch_id": batch_id, "unpaid": UNPAID}).one()
    return {
        row: RowScore(score, first) for row, score, first in zip(rows or (), scores or (), firsts or (), strict=True)
    }


def of_row(connection: Connection, batch_id: UUID, row: int) -> list[UUID]:
    """The executions of a row of the dataset, the first repeat first."""
    return list(connection.scalars(_OF_ROW, {"batch_id": batch_id, "row": row}))


def find(connection: Connection, id: UUID) -> EvaluationSummary | None:
    """An evaluation or a replay; None for any other batch."""
    row = connection.execute(_ONE, {"id": id}).mappings().one_or_none()
    return None if row is None else EvaluationSummary(**row)


def places(connection: Connection, batch_id: UUID) -> list[int]:
    """The rows of the dataset that an evaluation is of, in the order of its executions."""
    return list(connection.scalars(_PLACES, {"batch_id": batch_id}))


def listing(
    connection: Connection,
    *,
    program: str | None = None,
    programs: Sequence[str] | None = None,
    dataset: UUID | None = None,
    before: UUID | None = None,
    most: int,
) -> Sequence[EvaluationSummary]:
    """Evaluations, the newest first: of a program, of any of ``programs``, on a dataset, begun ``before`` another."""
    given = {
        "program": program, "programs": None if programs is None else list(programs), "before": before, "most": most,
        "dataset": None if dataset is None else str(dataset),
    }  # fmt: skip
    return [EvaluationSummary(**row) for row in connection.execute(LISTING, given).mappings()]
