"""Resuming executions whose last awaited child has ended: looked for whenever one ends, beside the settlements.

A parent of a thousand children is looked at as often as children end, and its journal is written once. Looking is
cheap and locks nothing; looks at the same execution that wait for their turn are one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple
from uuid import UUID

from psycopg.rows import tuple_row

from dspex.store.lifecycle import parked
from dspex.store.sqlstates import reason
from workers.attempt.batcher import Batcher, Connection

__all__ = ["Resuming"]

log = logging.getLogger("dspex.workers")

#: So many executions are resumed in a transaction.
MOST_RESUMED = 500
#: How long a stopping worker waits for looks under way. What is missed is found by the leader.
CLOSE_SECONDS = 2.0


class _Look(NamedTuple):
    """A look at an execution that may go on, or, once it ``is_over``, at those that wait for it."""

    id: UUID
    is_over: bool


class Resuming:
    """Belongs to the loop of a worker. Its connection is opened for the first look."""

    def __init__(self, database_url: str) -> None:
        self._looks: Batcher[_Look, None] = Batcher("resume", database_url, self._look)
        #: Called when executions were queued again.
        self.on_resumed: Callable[[], None] | None = None
        self._waiting: dict[_Look, asyncio.Future[None]] = {}
        self._under_way: set[asyncio.Future[None]] = set()

    async def close(self) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.gather(*self._under_way, return_exceptions=True), CLOSE_SECONDS)
        await self._looks.close()

    def look(self, waiting: Collection[UUID], over: Collection[UUID] = ()) -> None:
        """Resume those ``waiting`` that may go on, and those that wait for executions that are ``over``."""
        for wanted in (*(_Look(id, False) for id in waiting), *(_Look(id, True) for id in over)):
            if wanted not in self._waiting:
                look = self._waiting[wanted] = self._looks.add(wanted)
                self._under_way.add(look)
                look.add_done_callback(self._looked)

    def _looked(self, look: asyncio.Future[None]) -> None:
        self._under_way.discard(look)
        if not look.cancelled() and (error := look.exception()) is not None:  # the leader finds what is missed
            log.warning("executions that may go on are not resumed yet: %s", reason(error))

    async def _look(self, connection: Connection, wanted: Sequence[_Look]) -> list[None]:
        for each in wanted:  # what ends from now on is looked at once more
            self._waiting.pop(each, None)
        given = {"ids": [each.id for each in wanted if not each.is_over],
                 "over": [each.id for each in wanted if each.is_over]}  # fmt: skip
        async with connection.cursor(row_factory=tuple_row) as cursor:
            ids = [id for (id,) in await (await cursor.execute(parked.MAY_GO_ON, given)).fetchall()]
        for begin in range(0, len(ids), MOST_RESUMED):
            await self._resume(connection, sorted(ids)[begin : begin + MOST_RESUMED])
        return [None] * len(wanted)

    async def _resume(self, connection: Connection, ids: Sequence[UUID]) -> None:
        parameters = {"ids": ids, "at_once": False, "event": None}
        async with connection.transaction(), connection.cursor(row_factory=tuple_row) as cursor:
            for statement in parked.RESUME_READY:
                await cursor.execute(statement, parameters)
            resumed = await cursor.fetchall()
        if resumed and self.on_resumed is not None:
            self.on_resumed()
