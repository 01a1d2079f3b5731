"""Programs and their versions."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, text

from dspex.errors import ProgramNotFound
from dspex.program import Program

__all__ = ["Deployed", "current", "deploy", "deployed", "load", "names", "paused", "set_pause"]


@dataclass(frozen=True, slots=True)
class Deployed:
    """A program as deployed: which version is current, and whether it is paused."""

    program: Program
    deployed_at: datetime
    paused_at: datetime | None


_DEPLOY = text("""
WITH stored AS (
    INSERT INTO dspex.program_versions (name, version, content) VALUES (:name, :version, CAST(:content AS json))
    ON CONFLICT (name, version) DO NOTHING
)
INSERT INTO dspex.programs (name, version) VALUES (:name, :version)
ON CONFLICT (name) DO UPDATE SET version = excluded.version, deployed_at = CASE
    WHEN programs.version = excluded.version THEN programs.deployed_at ELSE clock_timestamp() END
RETURNING deployed_at, paused_at
""")

_CURRENT = text("""
SELECT p.version, p.deployed_at, p.paused_at, v.content::text AS content
FROM dspex.programs p JOIN dspex.program_versions v USING (name, version) WHERE p.name = :name
""")

#: For psycopg: the worker loads a version by name and version.
LOAD = "SELECT content::text FROM dspex.program_versions WHERE name = %(name)s AND version = %(version)s"


# What waits in Redis goes back to the pump, both ways: paused, it makes room for others; resumed, what was published
# in the meantime and dropped by the workers is dispatched at once.
_SET_PAUSE = text("""
WITH changed AS (
    UPDATE dspex.programs SET paused_at = CASE WHEN :paused THEN coalesce(paused_at, clock_timestamp()) END
    WHERE name = :name RETURNING name
), taken_back AS (
    UPDATE dspex.executions e SET dispatched_at = NULL FROM changed c
    WHERE e.program = c.name AND e.status = 'queued' AND e.dispatched_at IS NOT NULL
)
SELECT name FROM changed
""")


def set_pause(connection: Connection, name: str, *, paused: bool) -> bool:
    """Pause or resume the program. False when there is none of this name."""
    return connection.execute(_SET_PAUSE, {"name": name, "paused": paused}).one_or_none() is not None


def paused(connection: Connection) -> list[str]:
    return list(connection.scalars(text("SELECT name FROM dspex.programs WHERE paused_at IS NOT NULL ORDER BY name")))


def deploy(connection: Connection, program: Program) -> Deployed:
    """Store the version if it is new, and make it the current one."""
    content = json.dumps(program.content, ensure_ascii=False)
    row = connection.execute(_DEPLOY, {"name": program.name, "version": program.version, "content": content}).one()
    return Deployed(program, row.deployed_at, row.paused_at)


def current(connection: Connection, name: str) -> Deployed | None:
    row = connection.execute(_CURRENT, {"name": name}).one_or_none()
    if row is None:
        return None
    return Deployed(Program.from_content(name, json.loads(row.content)), row.deployed_at, row.paused_at)


def load(connection: Connection, name: str, version: str) -> Program | None:
    content = connection.exec_driver_sql(LOAD, {"name": name, "version": version}).scalar_one_or_none()
    return None if content is None else Program.from_content(name, json.loads(content))


def deployed(connection: Connection) -> list[Program]:
    """The current version of every program. One deployed by a newer DSPex is left out: no worker here can run it."""
    rows = connection.execute(
        text(
            """SELECT name, content::text AS content
               FROM dspex.programs JOIN dspex.program_versions USING (name, version)"""
        )
    ).all()
    found = []
    for row in rows:
        with suppress(ProgramNotFound):
            found.append(Program.from_content(row.name, json.loads(row.content)))
    return found


def names(connection: Connection) -> list[str]:
    return list(connection.scalars(text("SELECT name FROM dspex.programs ORDER BY name")))
