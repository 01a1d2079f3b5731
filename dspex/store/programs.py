"""Programs and their versions."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

from dspex.errors import ProgramUnreadable
from dspex.program.program import Program
from dspex.program.stored_program import StoredProgram
from dspex.store.improvement.rollouts import RolloutShare, end_overtaken
from dspex.store.lifecycle.dispatch import held
from dspex.store.lifecycle.selection import EXTERNAL

__all__ = [
    "BY_OPERATOR",
    "READABLE_CONTENT",
    "Deployed",
    "ProgramSummary",
    "current",
    "deploy",
    "deployed",
    "exists",
    "load",
    "names",
    "paused",
    "readable",
    "set_pause",
    "summaries",
    "waiting",
]

#: Lists of programs keep so many versions as they were read.
SUMMARIES_READ = 500


@dataclass(frozen=True, slots=True)
class Deployed:
    """A deployed program: its current version, whether and why it is paused, and the rollout under way."""

    program: Program
    deployed_at: datetime
    paused_at: datetime | None
    paused_reason: str | None = None
    rollout: RolloutShare | None = None

    @property
    def rollout_id(self) -> UUID | None:
        """The rollout that new submits have to know of."""
        return None if self.rollout is None else self.rollout.id

    def chosen(self, key: str | None) -> Program:
        """The version for a new submit: the rollout's for its share of them, always the same for one ``key``."""
        chosen = None if self.rollout is None else self.rollout.chosen(key)
        return self.program if chosen is None else chosen


@dataclass(frozen=True, slots=True)
class ProgramSummary:
    """A deployed program in a list. ``program`` is None when this installation cannot read its current version.

    ``queued`` and ``running`` count its executions of all versions. ``spent_usd`` is None without a budget
    (``limits.max_cost_usd``).
    """

    name: str
    version: str
    program: Program | None
    deployed_at: datetime
    paused_at: datetime | None
    paused_reason: str | None
    queued: int
    running: int
    spent_usd: float | None


# The pump enforces limits: with limits, executions that submits put on the queue go back to the pump to be counted.
_DEPLOY = text("""
WITH stored AS (
    INSERT INTO dspex.program_versions (name, version, content, note)
    VALUES (:name, :version, CAST(:content AS json), :note)
    ON CONFLICT (name, version) DO UPDATE
        SET note = coalesce(excluded.note, program_versions.note), candidate = false
        WHERE excluded.note IS NOT NULL OR program_versions.candidate
), ended AS (
    UPDATE dspex.rollouts r SET ended_at = clock_timestamp(), reason = CASE WHEN r.version = :version
        THEN 'its version was made the current one' ELSE 'another version was made the current one' END
    FROM dspex.programs p WHERE p.name = :name AND p.version <> :version AND r.id = p.rollout_id
        AND r.ended_at IS NULL
    RETURNING r.version, r.reason
), deployed AS (
    INSERT INTO dspex.programs (name, version, concurrency, per_minute, max_cost_usd)
    VALUES (:name, :version, :concurrency, :per_minute, :max_cost_usd)
    ON CONFLICT (name) DO UPDATE SET version = excluded.version, concurrency = excluded.concurrency,
        per_minute = excluded.per_minute, max_cost_usd = excluded.max_cost_usd,
        deployed_at = CASE WHEN programs.version = excluded.version THEN programs.deployed_at
            ELSE clock_timestamp() END,
        rollout_id = CASE WHEN programs.version = excluded.version THEN programs.rollout_id END,
        rollout_version = CASE WHEN programs.version = excluded.version THEN programs.rollout_version END
    RETURNING name, concurrency, per_minute, deployed_at, paused_at, paused_reason
), budgeted AS (
    INSERT INTO dspex.budgets (program) SELECT :name WHERE CAST(:max_cost_usd AS float8) IS NOT NULL
    ON CONFLICT (program) DO NOTHING
), taken_back AS (
    UPDATE dspex.executions e SET dispatched_at = NULL FROM deployed d
    WHERE e.program = d.name AND e.status = 'queued' AND e.dispatched_at IS NOT NULL
      AND (d.concurrency IS NOT NULL OR d.per_minute IS NOT NULL)
), noted AS (
    INSERT INTO dspex.program_changes (program, kind, version, about, by)
    SELECT :name, 'rollout_ended', version, reason, :by FROM ended
    UNION ALL SELECT :name, 'promoted', :version, NULL, :by
    WHERE (SELECT version FROM dspex.programs WHERE name = :name) IS DISTINCT FROM :version
)
SELECT deployed_at, paused_at, paused_reason FROM deployed
""")

# A version beside the current one; the first of a program is the current one in any case.
_ADD = text("""
WITH stored AS (
    INSERT INTO dspex.program_versions (name, version, content, note, candidate)
    VALUES (:name, :version, CAST(:content AS json), :note, :candidate)
    ON CONFLICT (name, version) DO UPDATE
        SET note = coalesce(excluded.note, program_versions.note), candidate = false
        WHERE NOT excluded.candidate AND (excluded.note IS NOT NULL OR program_versions.candidate)
), deployed AS (
    INSERT INTO dspex.programs (name, version, concurrency, per_minute, max_cost_usd)
    VALUES (:name, :version, :concurrency, :per_minute, :max_cost_usd) ON CONFLICT (name) DO NOTHING
    RETURNING name, deployed_at, paused_at, paused_reason, max_cost_usd
), budgeted AS (
    INSERT INTO dspex.budgets (program) SELECT name FROM deployed WHERE max_cost_usd IS NOT NULL
    ON CONFLICT (program) DO NOTHING
)
SELECT deployed_at, paused_at, paused_reason FROM deployed
UNION ALL SELECT deployed_at, paused_at, paused_reason FROM dspex.programs WHERE name = :name
""")

_CURRENT = text("""
SELECT p.version, p.deployed_at, p.paused_at, p.paused_reason, v.content::text AS content,
    r.id AS rollout_id, r.percent, r.version AS rollout_version, o.content::text AS rollout_content
FROM dspex.programs p JOIN dspex.program_versions v USING (name, version)
LEFT JOIN dspex.rollouts r ON r.id = p.rollout_id
LEFT JOIN dspex.program_versions o ON o.name = p.name AND o.version = r.version WHERE p.name = :name
""")

_NAMES = text(f"""
SELECT program FROM (SELECT name AS program FROM dspex.programs) p WHERE :internal OR {EXTERNAL} ORDER BY program
""")  # noqa: S608
# The queued executions are counted in the three indexes that have them.
_SUMMARIES = f"""
WITH queued AS (
    SELECT program, count(*)::int AS count FROM (
        SELECT program FROM dspex.executions
            WHERE status = 'queued' AND dispatched_at IS NULL AND held_at IS NULL
        UNION ALL SELECT program FROM dspex.executions WHERE status = 'queued' AND held_at IS NOT NULL
        UNION ALL SELECT program FROM dspex.executions
            WHERE status = 'queued' AND dispatched_at IS NOT NULL AND held_at IS NULL) each
    GROUP BY program
), running AS (
    SELECT program, count(*)::int AS count FROM dspex.executions WHERE status = 'running' GROUP BY program
)
SELECT p.name, p.version, v.content::text AS content, p.deployed_at, p.paused_at, p.paused_reason,
    coalesce(q.count, 0) AS queued, coalesce(r.count, 0) AS running,
    CASE WHEN p.max_cost_usd IS NOT NULL THEN b.spent_usd::float8 END AS spent_usd
FROM (SELECT *, name AS program FROM dspex.programs) p JOIN dspex.program_versions v USING (name, version)
LEFT JOIN queued q ON q.program = p.name LEFT JOIN running r ON r.program = p.name
LEFT JOIN dspex.budgets b ON b.program = p.name
WHERE :internal OR p.{EXTERNAL} ORDER BY p.name
"""  # noqa: S608

#: For statements that read a member of a version's ``content``: Postgres refuses to read any member of JSON that
#: contains U+0000 or a lone surrogate.
READABLE_CONTENT = r"regexp_replace(content::text, '\\u(0000|d[89a-f][0-9a-f]{2})', '\\ufffd', 'gi')::json"

#: The reason of a pause for which none was given.
BY_OPERATOR = "by an operator"

#: For psycopg: the worker loads a version by name and version.
LOAD = "SELECT content::text FROM dspex.program_versions WHERE name = %(name)s AND version = %(version)s"
LOAD_CURRENT = """
SELECT p.version, v.content::text FROM dspex.programs p JOIN dspex.program_versions v USING (name, version)
WHERE p.name = %(name)s
"""


# Queued executions go back to the pump both ways: a pause makes room for other programs, and after a resume the
# executions that were published meanwhile and dropped by the workers are dispatched at once.
_SET_PAUSE = text("""
WITH changed AS (
    UPDATE dspex.programs SET paused_at = CASE WHEN :paused THEN coalesce(paused_at, clock_timestamp()) END,
        paused_reason = CASE WHEN :paused THEN CASE WHEN paused_at IS NULL THEN :reason ELSE paused_reason END END
    WHERE name = :name RETURNING name
), taken_back AS (
    UPDATE dspex.executions e SET dispatched_at = NULL FROM changed c
    WHERE e.program = c.name AND e.status = 'queued' AND e.dispatched_at IS NOT NULL
), noted AS (
    INSERT INTO dspex.program_changes (program, kind, about, by)
    SELECT name, CASE WHEN :paused THEN 'paused' ELSE 'resumed' END, CASE WHEN :paused THEN :reason END, :by
    FROM dspex.programs WHERE name = :name AND (paused_at IS NOT NULL) <> :paused
)
SELECT name FROM changed
""")


def set_pause(
    connection: Connection, name: str, *, paused: bool, reason: str = BY_OPERATOR, by: str | None = None
) -> bool:
    """Pause or resume a program; a pause keeps its first reason. False when there is no program of this name."""
    parameters = {"name": name, "paused": paused, "reason": reason, "by": by}
    return connection.execute(_SET_PAUSE, parameters).one_or_none() is not None


def paused(connection: Connection) -> dict[str, str]:
    """The paused programs by name, each with the reason."""
    rows = connection.execute(
        text("SELECT name, paused_reason FROM dspex.programs WHERE paused_at IS NOT NULL ORDER BY name")
    )
    return {row.name: row.paused_reason or BY_OPERATOR for row in rows}


def deploy(
    connection: Connection,
    program: Program,
    *,
    current: bool = True,
    note: str | None = None,
    by: str | None = None,
    candidate: bool = False,
) -> Deployed:
    """Store the version if it is new, and make it the current one, unless ``current`` is false. A ``candidate`` is one
    that an optimiser tries; it stays one until it is deployed otherwise."""
    content = json.dumps(program.content, ensure_ascii=False)
    limits = program.limits
    row = connection.execute(
        _DEPLOY if current else _ADD,
        {
            "name": program.name, "version": program.version, "content": content, "concurrency": limits.concurrency,
            "per_minute": limits.per_minute, "max_cost_usd": limits.max_cost_usd,
            "note": note, **({"by": by} if current else {"candidate": candidate}),
        },
    ).one()  # fmt: skip
    if current:
        end_overtaken(connection, program.name, reason="another version was made the current one", by=by)
    return Deployed(program, row.deployed_at, row.paused_at, row.paused_reason)


def current(connection: Connection, name: str) -> Deployed | None:
    """The deployed version. Raises ProgramUnreadable."""
    row = connection.execute(_CURRENT, {"name": name}).one_or_none()
    if row is None:
        return None
    program = StoredProgram(name, row.version, row.content).read()
    return Deployed(program, row.deployed_at, row.paused_at, row.paused_reason, _share(name, row))


def _share(name: str, row: Any) -> RolloutShare | None:
    """The rollout under way. One to a version that cannot be read here sends nothing from here."""
    if row.rollout_id is None:
        return None
    found = readable([StoredProgram(name, row.rollout_version, row.rollout_content)])
    return RolloutShare(row.rollout_id, row.percent, found[0] if found else None)


def load(connection: Connection, name: str, version: str) -> Program | None:
    """A version of a program. Raises ProgramUnreadable."""
    stored = _stored(connection, name, version)
    return None if stored is None else stored.read()


def _stored(connection: Connection, name: str, version: str) -> StoredProgram | None:
    content = connection.exec_driver_sql(LOAD, {"name": name, "version": version}).scalar_one_or_none()
    return None if content is None else StoredProgram(name, version, content)


def deployed(connection: Connection) -> list[StoredProgram]:
    """The current version of every program."""
    rows = connection.execute(
        text(
            """SELECT name, version, content::text AS content
               FROM dspex.programs JOIN dspex.program_versions USING (name, version)"""
        )
    )
    return [StoredProgram(*row) for row in rows]


def summaries(connection: Connection, *, internal: bool) -> list[ProgramSummary]:
    """The deployed programs by name; ``internal``: DSPex's own, too."""
    rows = connection.execute(text(_SUMMARIES), {"internal": internal}).mappings()
    return [_summary(**row) for row in rows]


def _summary(content: str, **columns: Any) -> ProgramSummary:
    program = None
    with suppress(ProgramUnreadable):
        program = _read_once(StoredProgram(columns["name"], columns["version"], content))
    return ProgramSummary(program=program, **columns)


@lru_cache(maxsize=SUMMARIES_READ)
def _read_once(stored: StoredProgram) -> Program:
    """Reading compiles the signature, which takes longer than all else that a list of programs needs."""
    return stored.read()


def waiting(connection: Connection) -> list[StoredProgram]:
    """The current version of every program, and the versions whose executions wait for a worker that can run them."""
    found = {(stored.name, stored.version): stored for stored in deployed(connection)}
    for name, version, _ in held(connection):
        if (name, version) not in found and (stored := _stored(connection, name, version)) is not None:
            found[name, version] = stored
    return list(found.values())


def readable(stored: Iterable[StoredProgram]) -> list[Program]:
    """These programs, without those that cannot be read here."""
    found = []
    for each in stored:
        with suppress(ProgramUnreadable):
            found.append(each.read())
    return found


def exists(connection: Connection, name: str) -> bool:
    """Whether a program of this name is deployed."""
    statement = text("SELECT EXISTS (SELECT FROM dspex.programs WHERE name = :name)")
    return bool(connection.scalar(statement, {"name": name}))


def names(connection: Connection, *, internal: bool = True) -> list[str]:
    """The names of the deployed programs; ``internal``: of DSPex's own, too."""
    return list(connection.scalars(_NAMES, {"internal": internal}))
