"""What came over the queue and was refused: counted, and the counts kept in Postgres.

Anybody who can write to Redis can put anything on the queue, any number of times. So nothing is kept of what it held,
and what is kept are numbers by reason and day, written at most once in PAUSE_SECONDS:

``body`` ``shape`` ``version`` ``size`` ``checksum`` ``ids``  no envelope of ours, or a damaged one
(dspex/publish/envelope.py) ``content_type``  not JSON: it is not looked into
``malformed``     not a task's message, or one that asks for what ours never do
``task``          a task that there is not
``not_a_message`` what kombu itself cannot read, or a message that is too large
``unknown_id``    an id that no execution has
``wrong_program`` an execution of another program than the message says; it is run all the same, as its row says

An id that cannot be claimed is no refusal by itself: messages come twice, and executions are cancelled.
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
#: Ids that could not be claimed, of which it is asked whether there are such executions; beyond them it is not.
IDS_MOST = 1000


class RefusalCounts:
    """All methods belong to the loop's thread, but for ``counts``."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._total: Counter[str] = Counter()
        self._new: Counter[str] = Counter()
        self._unclaimed: set[UUID] = set()
        self._has_news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def counts(self) -> Mapping[str, int]:
        """How many this process refused, by reason."""
        return dict(self._total)

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="dspex-refusals")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def note(self, reason: str) -> None:
        """A message was refused."""
        self._total[reason] += 1
        self._new[reason] += 1
        self._has_news.set()

    def unclaimed(self, id: UUID) -> None:
        """There was nothing to claim by this id."""
        if len(self._unclaimed) < IDS_MOST:
            self._unclaimed.add(id)
            self._has_news.set()

    async def _run(self) -> None:
        while True:
            await self._has_news.wait()
            await asyncio.sleep(PAUSE_SECONDS)  # what comes meanwhile goes with it
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
