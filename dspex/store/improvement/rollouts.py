"""Rollouts: a share of a program's new submits goes to a version that is not the current one, until it ends.

A submit states the rollout that its client knew (executions.py). If it is another one by then, nothing is stored, and
the client reads the program again: so a rollout that has ended gets no more submits.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

from dspex.program.improvement.rollout_guard import Guard, RolloutFigures
from dspex.program.program import Program

__all__ = [
    "Rollout",
    "RolloutShare",
    "Watched",
    "begin",
    "end",
    "end_overtaken",
    "listing",
    "recent",
    "tripped",
    "watched",
]


#: The latest executions of a program that a page counts.
RECENT = 2000


@dataclass(frozen=True, slots=True)
class RolloutShare:
    """The rollout under way, for a submit. ``program`` is None when this installation cannot read the version."""

    id: UUID
    percent: float
    program: Program | None

    def chosen(self, key: str | None) -> Program | None:
        """The rollout's version, for its share of submits; None for the others. One key is always on one side."""
        return self.program if _place(self.id, key) * 100 < self.percent else None


def _place(id: UUID, key: str | None) -> float:
    """From 0 to 1, without 1; evenly spread over the keys."""
    if key is None:
        return random.random()  # noqa: S311
    digest = hashlib.sha256(id.bytes + key.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:6]) / 2**48


@dataclass(frozen=True, slots=True)
class Rollout:
    """A rollout: ``ended_at`` and ``reason`` are None while it is under way; ``tripped`` is the part of its guard that
    ended it, such as ``max_error_rate``."""

    id: UUID
    program: str
    version: str
    percent: float
    guard: Guard
    begun_at: datetime
    ended_at: datetime | None = None
    reason: str | None = None
    tripped: str | None = None

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Rollout:
        """The rollout of a row."""
        return cls(**{**row, "guard": Guard(**row["guard"])})


@dataclass(frozen=True, slots=True)
class Watched:
    """A rollout under way, and what its executions came to."""

    rollout: Rollout
    figures: RolloutFigures


_COLUMNS = "id, program, version, percent, guard, begun_at, ended_at, reason, tripped"
_OF_ROLLOUT = ", ".join(f"o.{name}" for name in _COLUMNS.split(", "))

_BEGIN = text(f"""
WITH ended AS (
    UPDATE dspex.rollouts r SET ended_at = clock_timestamp(), reason = 'another rollout began'
    FROM dspex.programs p WHERE p.name = :program AND p.version <> :version AND r.id = p.rollout_id
        AND r.ended_at IS NULL
    RETURNING r.program, r.version, r.reason
), routed AS (
    UPDATE dspex.programs SET rollout_id = :id, rollout_version = :version
    WHERE name = :program AND version <> :version RETURNING name
), noted AS (
    INSERT INTO dspex.program_changes (program, kind, version, about, by)
    SELECT program, 'rollout_ended', version, reason, :by FROM ended
    UNION ALL SELECT name, 'rollout_begun', :version, CAST(:percent AS text) || ' % of submits', :by FROM routed
)
INSERT INTO dspex.rollouts (id, program, version, percent, guard)
SELECT :id, name, :version, :percent, CAST(:guard AS json) FROM routed RETURNING {_COLUMNS}
""")  # noqa: S608

_END = text(f"""
WITH routed AS (
    SELECT name, rollout_id FROM dspex.programs WHERE name = :program AND rollout_id = coalesce(:id, rollout_id)
    FOR UPDATE
), cleared AS (
    UPDATE dspex.programs p SET rollout_id = NULL, rollout_version = NULL FROM routed r WHERE p.name = r.name
), noted AS (
    INSERT INTO dspex.program_changes (program, kind, version, about, by)
    SELECT r.name, 'rollout_ended', o.version, :reason, :by FROM routed r JOIN dspex.rollouts o ON o.id = r.rollout_id
)
UPDATE dspex.rollouts o SET ended_at = clock_timestamp(), reason = :reason, tripped = :tripped
FROM routed r WHERE o.id = r.rollout_id RETURNING {_OF_ROLLOUT}
""")  # noqa: S608

# One that began while another statement waited for the row of its program: that statement did not see it, and took its
# share of submits away.
_END_OVERTAKEN = text(f"""
WITH ended AS (
    UPDATE dspex.rollouts o SET ended_at = clock_timestamp(), reason = :reason
    FROM dspex.programs p WHERE p.name = :program AND o.program = p.name AND o.ended_at IS NULL
        AND o.id IS DISTINCT FROM p.rollout_id
    RETURNING {_OF_ROLLOUT}
), noted AS (
    INSERT INTO dspex.program_changes (program, kind, version, about, by)
    SELECT program, 'rollout_ended', version, reason, :by FROM ended
)
SELECT {_COLUMNS} FROM ended
""")  # noqa: S608

_LISTING = text(f"""
SELECT {_COLUMNS} FROM dspex.rollouts WHERE program = :program ORDER BY id DESC LIMIT :most
""")  # noqa: S608

# Evaluations and replays do not count, and neither do executions that were cancelled.
_WATCHED = text("""
SELECT r.id, r.program, r.version, r.percent, r.guard, r.begun_at, s.*, f.*
FROM dspex.programs p JOIN dspex.rollouts r ON r.id = p.rollout_id
CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE e.version = r.version)::int AS ended,
        count(*) FILTER (WHERE e.version = r.version AND e.status = 'failed')::int AS failed,
        avg(e.cost_usd) FILTER (WHERE e.version = r.version)::float8 AS cost_usd,
        count(*) FILTER (WHERE e.version = p.version)::int AS current_ended,
        avg(e.cost_usd) FILTER (WHERE e.version = p.version)::float8 AS current_cost_usd
    FROM dspex.executions e
    WHERE e.program = p.name AND e.id >= dspex.first_id(r.begun_at) AND e.version IN (r.version, p.version)
      AND e.finished_at IS NOT NULL AND e.status <> 'cancelled' AND e.purpose IS NULL) s
CROSS JOIN LATERAL (
    SELECT count(*)::int AS scored, avg(b.score)::float8 AS score
    FROM dspex.feedback b JOIN dspex.executions e ON e.id = b.execution_id
    WHERE b.execution_id >= dspex.first_id(r.begun_at) AND e.program = p.name AND e.version = r.version
      AND b.score IS NOT NULL AND e.purpose IS NULL) f
ORDER BY r.program
""")

# For a page, which counts the latest executions and judgements only: a rollout may have had millions.
_RECENT = text("""
SELECT s.*, f.* FROM (
    SELECT count(*) FILTER (WHERE e.version = :version)::int AS ended,
        count(*) FILTER (WHERE e.version = :version AND e.status = 'failed')::int AS failed,
        avg(e.cost_usd) FILTER (WHERE e.version = :version)::float8 AS cost_usd,
        count(*) FILTER (WHERE e.version = :current)::int AS current_ended,
        avg(e.cost_usd) FILTER (WHERE e.version = :current)::float8 AS current_cost_usd
    FROM (
        SELECT version, status, cost_usd, finished_at, purpose FROM dspex.executions
        WHERE program = :program AND id >= dspex.first_id(:begun_at) ORDER BY id DESC LIMIT :most) e
    WHERE e.finished_at IS NOT NULL AND e.status <> 'cancelled' AND e.purpose IS NULL) s
CROSS JOIN (
    SELECT count(*)::int AS scored, avg(b.score)::float8 AS score
    FROM (
        SELECT execution_id, score FROM dspex.feedback
        WHERE execution_id >= dspex.first_id(:begun_at) AND score IS NOT NULL
        ORDER BY execution_id DESC LIMIT :most) b
    JOIN dspex.executions e ON e.id = b.execution_id
    WHERE e.program = :program AND e.version = :version AND e.purpose IS NULL) f
""")

_TRIPPED = text(f"""
SELECT {_COLUMNS} FROM dspex.rollouts
WHERE tripped IS NOT NULL AND ended_at > clock_timestamp() - make_interval(secs => :seconds) ORDER BY program, id
""")  # noqa: S608


def begin(
    connection: Connection, *, id: UUID, program: str, version: str, percent: float, guard: Guard, by: str | None = None
) -> Rollout | None:
    """Begin a rollout; one under way ends. None when there is no such program, or this is its current version."""
    given = {"id": id, "program": program, "version": version, "percent": percent, "guard": json.dumps(guard.content),
             "by": by}  # fmt: skip
    row = connection.execute(_BEGIN, given).mappings().one_or_none()
    end_overtaken(connection, program, reason="another rollout began", by=by)
    return None if row is None else Rollout.of(dict(row))


def end(
    connection: Connection, program: str, *, reason: str, id: UUID | None = None, tripped: str | None = None,
    by: str | None = None,
) -> Rollout | None:  # fmt: skip
    """End the rollout of a program, if it is ``id`` in case that is given. None when there is none."""
    given = {"program": program, "id": id, "reason": reason, "tripped": tripped, "by": by}
    row = connection.execute(_END, given).mappings().one_or_none()
    overtaken = end_overtaken(connection, program, reason=reason, by=by) if id is None else None
    return overtaken if row is None else Rollout.of(dict(row))


def end_overtaken(connection: Connection, program: str, *, reason: str, by: str | None) -> Rollout | None:
    """End a rollout of a program that gets no submits any more, because it began while another change of the program
    was under way."""
    given = {"program": program, "reason": reason, "by": by}
    row = connection.execute(_END_OVERTAKEN, given).mappings().first()
    return None if row is None else Rollout.of(dict(row))


def listing(connection: Connection, program: str, *, most: int = 50) -> list[Rollout]:
    """The rollouts of a program, the newest first."""
    return [
        Rollout.of(dict(row)) for row in connection.execute(_LISTING, {"program": program, "most": most}).mappings()
    ]


def watched(connection: Connection) -> list[Watched]:
    """The rollouts under way with their figures."""
    return [_watched(dict(row)) for row in connection.execute(_WATCHED).mappings()]


def recent(connection: Connection, rollout: Rollout, *, current: str, most: int = RECENT) -> RolloutFigures:
    """What the latest executions of a rollout came to, beside the executions of the ``current`` version."""
    given = {
        "program": rollout.program, "version": rollout.version, "current": current, "begun_at": rollout.begun_at,
        "most": most,
    }  # fmt: skip
    return RolloutFigures(**connection.execute(_RECENT, given).mappings().one())


def tripped(connection: Connection, *, within_seconds: float) -> Sequence[Rollout]:
    """The rollouts that their guard ended within this time."""
    return [Rollout.of(dict(row)) for row in connection.execute(_TRIPPED, {"seconds": within_seconds}).mappings()]


def _watched(row: dict[str, Any]) -> Watched:
    own = {name: row.pop(name) for name in ("id", "program", "version", "percent", "guard", "begun_at")}
    return Watched(Rollout.of(own), RolloutFigures(**row))
