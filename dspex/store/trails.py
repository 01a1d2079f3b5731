"""The audit trails of many executions, a page at a time in the order of their ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection, text

from dspex.audit import Entry
from dspex.store.partitions import first_id

__all__ = ["Chain", "Page", "before", "count", "orphans", "page"]


@dataclass(slots=True)
class Chain:
    """The entries of an execution, and the number and hash of the last as its own row has them."""

    execution_id: UUID
    head_seq: int
    head_hash: bytes
    entries: list[Entry] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Page:
    """Some chains; ``last`` is the id to go on after, or None when there are no more."""

    chains: Sequence[Chain]
    last: UUID | None


# One statement, so that an execution and its entries are of one moment, whatever goes on meanwhile.
_PAGE = text("""
WITH chosen AS MATERIALIZED (
    SELECT id, audit_seq, audit_hash FROM dspex.executions
    WHERE id > :after AND (CAST(:program AS text) IS NULL OR program = :program) ORDER BY id LIMIT :most
)
SELECT c.id, c.audit_seq, c.audit_hash, a.seq, a.attempt, a.at, a.events::text AS events, a.hash
FROM chosen c LEFT JOIN dspex.audit_events a ON a.execution_id = c.id ORDER BY c.id, a.seq
""")

_ORPHANS = text("""
SELECT DISTINCT execution_id FROM dspex.audit_events a
WHERE execution_id > :after AND (CAST(:last AS uuid) IS NULL OR execution_id <= :last)
    AND NOT EXISTS (SELECT FROM dspex.executions e WHERE e.id = a.execution_id)
ORDER BY execution_id LIMIT 1000
""")

_COUNT = text("""
SELECT count(*) FROM dspex.executions WHERE id > :after AND (CAST(:program AS text) IS NULL OR program = :program)
""")


def before(since: datetime | None) -> UUID:
    """The id after which executions were submitted since this moment; the smallest of all for None."""
    return UUID(int=0) if since is None else UUID(int=first_id(since).int - 1)


def count(connection: Connection, *, after: UUID, program: str | None) -> int:
    """How many executions there are after an id."""
    return int(connection.scalar(_COUNT, {"after": after, "program": program}) or 0)


def page(connection: Connection, *, after: UUID, program: str | None, most: int) -> Page:
    """The next ``most`` chains after an id."""
    chains: list[Chain] = []
    for row in connection.execute(_PAGE, {"after": after, "program": program, "most": most}):
        if not chains or chains[-1].execution_id != row.id:
            chains.append(Chain(row.id, row.audit_seq, row.audit_hash))
        if row.seq is not None:
            chains[-1].entries.append(Entry(row.seq, row.attempt, row.at, row.events, row.hash))
    return Page(chains, chains[-1].execution_id if len(chains) == most else None)


def orphans(connection: Connection, *, after: UUID, last: UUID | None) -> list[UUID]:
    """Executions that have entries but no row, among those after one id and up to another; at most 1,000."""
    return list(connection.scalars(_ORPHANS, {"after": after, "last": last}))
