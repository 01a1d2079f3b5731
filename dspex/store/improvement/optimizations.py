"""The executions of an optimisation, found by the job in their purpose."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection, text

__all__ = [
    "CANDIDATES",
    "LISTING",
    "CandidateUse",
    "candidates",
    "count_others",
    "listing",
    "show_candidates",
    "unfinished",
]

#: Executions that are cancelled by one statement.
CANCEL_ROWS = 1000


@dataclass(frozen=True, slots=True)
class CandidateUse:
    """What the executions of one candidate took; ``unpriced`` of them at a cost that is not, or not all, known."""

    version: str
    executions: int
    finished: int
    failed: int
    cost_usd: float | None
    unpriced: int


# The index on the job and the id finds them.
CANDIDATES = text("""
SELECT version, count(*)::int AS executions, count(finished_at)::int AS finished,
    count(*) FILTER (WHERE status = 'failed')::int AS failed, sum(cost_usd)::float8 AS cost_usd,
    count(*) FILTER (WHERE unpriced)::int AS unpriced
FROM dspex.executions WHERE program = :program AND id > :since AND purpose ->> 'job' = :job
GROUP BY version ORDER BY min(id::text)
""")

# The jobs of a program are executions of a program of their own, so that its latest ones are the latest jobs.
LISTING = text("""
SELECT j.id FROM dspex.programs p CROSS JOIN LATERAL (
    SELECT id FROM dspex.executions
    WHERE program = p.name AND (CAST(:before AS uuid) IS NULL OR id < :before) ORDER BY id DESC LIMIT :most) j
WHERE p.name LIKE '%.optimizer' AND (CAST(:program AS text) IS NULL OR p.name = :program || '.optimizer')
  AND (CAST(:programs AS text[]) IS NULL OR left(p.name, -10) = ANY(CAST(:programs AS text[])))
ORDER BY j.id DESC LIMIT :most
""")

_UNFINISHED = text("""
SELECT id FROM dspex.executions
WHERE program = :program AND id > :since AND purpose ->> 'job' = :job AND status IN ('queued', 'running', 'waiting')
    AND cancel_requested_at IS NULL ORDER BY id LIMIT :most
""")

# Its settlement replaces them.
_SHOW = text("""
UPDATE dspex.executions SET action_results = CAST(:shown AS json)
WHERE id = :id AND attempt = :attempt AND status = 'running'
""")

_OTHERS = text("""
SELECT count(*)::int FROM dspex.executions
WHERE program = :program AND id > :since AND id < :before AND purpose ->> 'job' = :job
    AND id <> ALL(:ids)
""")


def candidates(connection: Connection, *, program: str, job: str, since: UUID) -> list[CandidateUse]:
    """The versions that a job has tried, in the order of their first execution."""
    rows = connection.execute(CANDIDATES, {"program": program, "job": job, "since": since})
    return [CandidateUse(*row) for row in rows]


def listing(
    connection: Connection,
    *,
    program: str | None = None,
    programs: Sequence[str] | None = None,
    before: UUID | None = None,
    most: int,
) -> list[UUID]:
    """The ids of jobs, the newest first: of a program, of any of ``programs``, begun ``before`` another."""
    given = {
        "program": program, "programs": None if programs is None else list(programs), "before": before, "most": most,
    }  # fmt: skip
    return list(connection.scalars(LISTING, given))


def unfinished(connection: Connection, *, program: str, job: str, since: UUID) -> list[UUID]:
    """The next executions of a job that are neither final nor being cancelled."""
    given = {"program": program, "job": job, "since": since, "most": CANCEL_ROWS}
    return list(connection.scalars(_UNFINISHED, given))


def count_others(
    connection: Connection, *, program: str, job: str, since: UUID, before: UUID, ids: Collection[UUID]
) -> int:
    """How many executions of a job there are besides these, with ids below ``before``."""
    given = {"program": program, "job": job, "since": since, "before": before, "ids": list(ids)}
    return int(connection.execute(_OTHERS, given).scalar_one())


def show_candidates(connection: Connection, *, id: UUID, attempt: int, shown: str) -> None:
    """Store the candidates of a job as a result of its attempt so far; nothing once that is over."""
    connection.execute(_SHOW, {"id": id, "attempt": attempt, "shown": shown})
