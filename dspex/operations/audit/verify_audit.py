"""Verification of all audit trails in the database, page by page."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from functools import partial
from uuid import UUID

from dspex.store.audit_chain import Digest, Verdict, verify_chain
from dspex.store.database import Database
from dspex.store.operations import audit_pages, retention
from dspex.store.operations.retention import Period

__all__ = ["verify_trails"]

#: Executions in one page, which is held in memory.
PAGE_ROWS = 500


def verify_trails(
    database: Database,
    *,
    program: str | None = None,
    since: datetime | None = None,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Iterator[tuple[UUID, Verdict]]:
    """The executions with a broken trail, ordered by id, each with its faults.

    Entries without an execution are reported too, unless ``program`` is given. ``on_progress`` is called with the
    number of verified executions and the total.
    """
    begin = audit_pages.before(since)
    if program is None:
        yield from _verify_retired(database, begin)
    done, total = 0, database.run(partial(audit_pages.count, after=begin, program=program))
    after: UUID | None = begin
    while after is not None:
        page = database.run(partial(audit_pages.page, after=after, program=program, most=PAGE_ROWS))
        for chain in page.chains:
            verdict = verify_chain(chain)
            if not verdict:
                yield chain.execution_id, verdict
        if program is None:
            for id in database.run(partial(audit_pages.orphans, after=after, last=page.last)):
                yield id, Verdict(("the trail exists, but its execution does not",))
        done += len(page.chains)
        on_progress(done, max(total, done))
        after = page.last


def _verify_retired(database: Database, begin: UUID) -> Iterator[tuple[UUID, Verdict]]:
    """Verify trails kept longer than their executions: each trail, and their heads against the period's digest."""
    for period in database.run(retention.periods):
        if period.retired_at is None or period.audit_retired_at is not None or period.high <= begin:
            continue
        digest = Digest()
        after: UUID | None = UUID(int=period.low.int - 1)
        while after is not None:
            page = database.run(partial(audit_pages.retired_page, after=after, until=period.high, most=PAGE_ROWS))
            for chain in page.chains:
                digest.add(chain.execution_id, chain.head_seq, chain.head_hash)
                verdict = verify_chain(chain)
                if not verdict:
                    yield chain.execution_id, verdict
            after = page.last
        if period.digest is not None and period.digest != digest.value:
            yield period.low, Verdict((_period_fault(period, digest.count),))


def _period_fault(period: Period, count: int) -> str:
    if count == period.executions:
        what = "one of them was truncated or changed"
    else:
        what = f"{count} exist, {period.executions} executions were retired"
    return f"the trails of the period {period.name} do not match its digest: {what}"
