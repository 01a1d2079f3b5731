"""Counts of refused messages, by reason, stored in Postgres.

A client of Redis can put anything on the queue, any number of times. So the content of a refused message is not kept,
only counts by reason and day, written at most once in PAUSE_SECONDS. The reasons:

``body`` ``shape`` ``version`` ``size`` ``checksum`` ``ids``
                  not an envelope of DSPex, or a damaged one (dspex/publish/envelope.py)
``content_type``  not JSON; the content is not read
``malformed``     not the message of a task, or one with headers that DSPex never sends
``task``          a task that does not exist
``not_a_message`` data that kombu cannot read, or a message that is too large
``unknown_id``    an id that no execution has
``cancel_channel`` a message on ``dspex:cancel`` that is not ids
``wrong_key_type`` a key of DSPex that holds a value of another type; it was set aside (dspex/publish/key_types.py)
``flood``         far more messages than executions were dispatched; the queue was emptied (leader/queue_guard.py)
``wrong_program`` the message names another program than the execution's row; the execution runs as its row defines

An id that cannot be claimed is not a refusal by itself: messages may come twice, and executions are cancelled.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping
from uuid import UUID

import psycopg

from workers.attempt.ledger import Ledger

__all__ = ["RefusalCounts"]

log = logging.getLogger("dspex.workers")

PAUSE_SECONDS = 1.0
#: How many ids that could not be claimed are looked up in Postgres at once; further ones are not looked up.
IDS_MOST = 1000


class RefusalCounts:
    """All methods except ``counts`` belong to the loop's thread."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._total: Counter[str] = Counter()
        self._new: Counter[str] = Counter()
        self._unclaimed: set[UUID] = set()
        self._has_news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def counts(self) -> Mapping[str, int]:
        """How many messages this process refused, by reason."""
        return dict(self._total)

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="dspex-refusals")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def note(self, reason: str) -> None:
        """Count a refused message."""
        self._total[reason] += 1
        self._new[reason] += 1
        self._has_news.set()

    def unclaimed(self, id: UUID) -> None:
        """Note an id that could not be claimed."""
        if len(self._unclaimed) < IDS_MOST:
            self._unclaimed.add(id)
            self._has_news.set()

    async def _run(self) -> None:
        while True:
            await self._has_news.wait()
            await asyncio.sleep(PAUSE_SECONDS)  # what arrives meanwhile is recorded together
            try:
                await self._record()
            except psycopg.Error as error:
                log.error("refused messages cannot be counted: %s", type(error).__name__)  # noqa: TRY400

    async def _record(self) -> None:
        self._has_news.clear()
        ids, self._unclaimed = self._unclaimed, set()
        if ids and (unknown := await self._ledger.unknown(ids)):
            self._total["unknown_id"] += unknown
            self._new["unknown_id"] += unknown
        counts, self._new = self._new, Counter()
        if counts:
            await self._ledger.record_refusals(counts)
