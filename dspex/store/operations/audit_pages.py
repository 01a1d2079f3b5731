"""The audit trails of many executions, a page at a time in the order of their ids."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, text

from dspex.store.audit_chain import Chain, Entry, Recorded, hash_of_hashes
from dspex.store.partitions import first_id

__all__ = ["Page", "before", "count", "of", "orphans", "page", "retired_page"]


@dataclass(frozen=True, slots=True)
class Page:
    """Some chains; ``last`` is the id to continue after, or None when there are no more."""

    chains: Sequence[Chain]
    last: UUID | None


_SUBMITTED = ("program", "version", "inputs", "metadata")
_OUTCOME = ("result", "error", "metrics", "adapter_used", "action_results")
# Values are hashed by Postgres' own function, and stay where they are.
_HASHES = ", ".join(f"sha256(convert_to({name}::text, 'UTF8')) AS {name}" for name in (*_SUBMITTED, *_OUTCOME))
# A time that Python does not have, such as infinity, is forged. It is read as another one, so that the entry's hash
# does not match: it must not stop the verification of all trails.
_ENTRY = (
    "a.seq, a.attempt AS entry_attempt, least(greatest(a.at, '0001-01-02 00:00+00'), '9999-12-30 00:00+00') AS at, "
    "a.events::text AS events, a.hash, a.submission_hash, a.outcome_hash"
)

# One statement, so that an execution and its entries are read from the same snapshot.
_CHAINS = f"""
WITH chosen AS MATERIALIZED (
    SELECT id, audit_seq, audit_hash, status, attempt, {_HASHES} FROM dspex.executions {{where}}
)
SELECT c.*, {_ENTRY} FROM chosen c LEFT JOIN dspex.audit_events a ON a.execution_id = c.id ORDER BY c.id, a.seq
"""  # noqa: S608
_PAGE = text(
    _CHAINS.format(
        where="""
    WHERE id > :after AND (CAST(:until AS uuid) IS NULL OR id < :until)
        AND (CAST(:program AS text) IS NULL OR program = :program) ORDER BY id LIMIT :most
"""
    )
)
_OF = text(_CHAINS.format(where="WHERE id = ANY(CAST(:ids AS uuid[]))"))

# The trail of an execution that retention removed begins with its first entry.
_RETIRED_PAGE = text(f"""
WITH chosen AS MATERIALIZED (
    SELECT execution_id AS id FROM dspex.audit_events a
    WHERE execution_id > :after AND execution_id < :until AND seq = 1
        AND NOT EXISTS (SELECT FROM dspex.executions e WHERE e.id = a.execution_id)
    ORDER BY execution_id LIMIT :most
)
SELECT c.id, {_ENTRY} FROM chosen c JOIN dspex.audit_events a ON a.execution_id = c.id ORDER BY c.id, a.seq
""")  # noqa: S608

# Trails of retired periods have no executions; they are verified separately.
_ORPHANS = text("""
SELECT DISTINCT execution_id FROM dspex.audit_events a
WHERE execution_id > :after AND (CAST(:last AS uuid) IS NULL OR execution_id <= :last)
    AND NOT EXISTS (SELECT FROM dspex.executions e WHERE e.id = a.execution_id)
    AND NOT EXISTS (SELECT FROM dspex.periods p WHERE p.retired_at IS NOT NULL AND p.audit_retired_at IS NULL
        AND a.execution_id >= p.low AND a.execution_id < p.high)
ORDER BY execution_id LIMIT 1000
""")

_COUNT = text("""
SELECT count(*) FROM dspex.executions WHERE id > :after AND (CAST(:program AS text) IS NULL OR program = :program)
""")


def before(since: datetime | None) -> UUID:
    """The id after which executions were submitted since this time; the smallest id for None."""
    return UUID(int=0) if since is None else UUID(int=first_id(since).int - 1)


def count(connection: Connection, *, after: UUID, program: str | None) -> int:
    """How many executions there are after an id."""
    return int(connection.scalar(_COUNT, {"after": after, "program": program}) or 0)


def page(
    connection: Connection, *, after: UUID, most: int, until: UUID | None = None, program: str | None = None
) -> Page:
    """The next ``most`` chains after an id and before another."""
    parameters = {"after": after, "until": until, "program": program, "most": most}
    chains = _chains(connection.execute(_PAGE, parameters))
    return Page(chains, chains[-1].execution_id if len(chains) == most else None)


def of(connection: Connection, ids: Sequence[UUID]) -> list[Chain]:
    """The chains of these executions, in the order of their ids."""
    return _chains(connection.execute(_OF, {"ids": list(ids)}))


def _chains(rows: Iterable[Row[Any]]) -> list[Chain]:
    chains: list[Chain] = []
    for row in rows:
        if not chains or chains[-1].execution_id != row.id:
            chains.append(Chain(row.id, row.audit_seq, row.audit_hash, recorded=_recorded(row)))
        if row.seq is not None:
            chains[-1].entries.append(_entry(row))
    return chains


def _recorded(row: Row[Any]) -> Recorded:
    submission, outcome = (hash_of_hashes(*(row._mapping[name] for name in names)) for names in (_SUBMITTED, _OUTCOME))
    return Recorded(row.status, row.attempt, submission, outcome)


def _entry(row: Row[Any]) -> Entry:
    return Entry(row.seq, row.entry_attempt, row.at, row.events, row.hash, row.submission_hash, row.outcome_hash)


def retired_page(connection: Connection, *, after: UUID, most: int, until: UUID) -> Page:
    """Like :func:`page` for executions that were removed: the last entry replaces the head in the execution's row."""
    chains: list[Chain] = []
    for row in connection.execute(_RETIRED_PAGE, {"after": after, "until": until, "most": most}):
        if not chains or chains[-1].execution_id != row.id:
            chains.append(Chain(row.id, row.seq, row.hash))
        chains[-1].entries.append(_entry(row))
        chains[-1].head_seq, chains[-1].head_hash = row.seq, row.hash
    return Page(chains, chains[-1].execution_id if len(chains) == most else None)


def orphans(connection: Connection, *, after: UUID, last: UUID | None) -> list[UUID]:
    """Executions that have entries but no row, among those after one id and up to another; at most 1,000."""
    return list(connection.scalars(_ORPHANS, {"after": after, "last": last}))
