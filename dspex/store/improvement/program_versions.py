"""The versions of a program, and their aliases."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, text

__all__ = ["LISTING", "Version", "aliased", "aliases", "listing", "set_alias"]


@dataclass(frozen=True, slots=True)
class Version:
    """A deployed version of a program.

    ``current`` is the version that submits go to; ``rollout_percent`` is the share of them that a rollout sends to this
    version instead, None without one. ``candidate`` is a version that an optimiser tried, and that was not deployed
    otherwise.
    """

    version: str
    deployed_at: datetime
    current: bool
    aliases: tuple[str, ...] = ()
    note: str | None = None
    rollout_percent: float | None = None
    candidate: bool = False


LISTING = text("""
SELECT v.version, v.created_at AS deployed_at, v.version = p.version AS current,
    ARRAY(SELECT alias FROM dspex.program_aliases a WHERE a.program = v.name AND a.version = v.version ORDER BY alias)
        AS aliases,
    v.note, r.percent AS rollout_percent, v.candidate
FROM dspex.program_versions v JOIN dspex.programs p ON p.name = v.name
LEFT JOIN dspex.rollouts r ON r.id = p.rollout_id AND r.version = v.version
WHERE v.name = :name AND (CAST(:after AS text) IS NULL OR (v.created_at, v.version) < (
    SELECT created_at, version FROM dspex.program_versions WHERE name = :name AND version = :after))
    AND (:candidates OR NOT v.candidate OR r.id IS NOT NULL
    OR EXISTS (SELECT FROM dspex.program_aliases a WHERE a.program = v.name AND a.version = v.version))
ORDER BY v.created_at DESC, v.version DESC LIMIT :most
""")

_SET_ALIAS = text("""
WITH noted AS (
    INSERT INTO dspex.program_changes (program, kind, version, about, by)
    SELECT name, 'alias_set', version, :alias, :by FROM dspex.program_versions
    WHERE name = :name AND version = :version
)
INSERT INTO dspex.program_aliases (program, alias, version)
SELECT name, :alias, version FROM dspex.program_versions WHERE name = :name AND version = :version
ON CONFLICT (program, alias) DO UPDATE SET version = excluded.version, set_at = clock_timestamp()
RETURNING version
""")


def listing(
    connection: Connection, name: str, *, candidates: bool = False, after: str | None = None, most: int | None = None
) -> list[Version]:
    """The versions of a program, the newest first; none when there is no such program. ``candidates``: also those that
    optimisers tried, and that neither were deployed otherwise nor have an alias or a rollout. ``after`` is the last
    version of the page before."""
    given = {"name": name, "candidates": candidates, "after": after, "most": most}
    rows = connection.execute(LISTING, given).mappings()
    return [Version(**{**row, "aliases": tuple(row["aliases"])}) for row in rows]


def aliased(connection: Connection, name: str, alias: str) -> str | None:
    """The version that an alias stands for."""
    found: str | None = connection.scalar(
        text("SELECT version FROM dspex.program_aliases WHERE program = :name AND alias = :alias"),
        {"name": name, "alias": alias},
    )
    return found


def aliases(connection: Connection, name: str) -> list[str]:
    """The aliases of a program."""
    query = text("SELECT alias FROM dspex.program_aliases WHERE program = :name ORDER BY alias")
    return list(connection.scalars(query, {"name": name}))


def set_alias(connection: Connection, name: str, alias: str, version: str, *, by: str | None = None) -> bool:
    """Let an alias stand for a version. False when there is no such version."""
    given = {"name": name, "alias": alias, "version": version, "by": by}
    return connection.scalar(_SET_ALIAS, given) is not None
