"""The session of the asynchronous client: connections of its own for each event loop, without threads.

A client may outlive a loop: a notebook, a test or ``asyncio.run`` twice. The session opens connections in the loop that
runs; they are closed with the client, or when the loop ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextvars import Context
from dataclasses import dataclass
from functools import partial
from uuid import UUID

from sqlalchemy.util import await_only

from dspex.client.deployed_programs import Catalogue
from dspex.client.operator import Control
from dspex.client.session import Session
from dspex.client.shared.connections import APPLICATION, ClientConnections
from dspex.client.shared.shared_submits import SharedSubmits, Stored, Submits
from dspex.publish.loop_broker import LoopBroker
from dspex.settings import Backends, Settings
from dspex.store.batching.loop_batcher import LoopBatcher
from dspex.store.lifecycle.executions import Submission
from dspex.store.loop.greenlets import in_greenlet
from dspex.store.loop.loop_database import LoopDatabase
from dspex.submit.rate_limit import SubmitRate
from dspex.wait.driver import Row
from dspex.wait.finals import Questions, final_rows
from dspex.wait.loop_driver import LoopDriver, Threads
from dspex.wait.loop_waiter import LoopWaiter

__all__ = ["LoopSession"]

#: How often to look whether another loop still runs that closes its connections.
LOOP_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class _OfLoop:
    """The connections of one event loop."""

    connections: ClientConnections
    database: LoopDatabase
    broker: LoopBroker
    waiter: LoopWaiter

    async def close(self) -> None:
        await self.waiter.close()
        await self.broker.aclose()
        await self.database.aclose()

    async def until_the_loop_ends(self) -> AsyncGenerator[None, None]:
        """A generator that a loop closes when it ends, and which then closes the connections."""
        try:
            yield
        finally:
            await self.close()


class LoopSession(Session):
    """The session of an asynchronous client. Its methods are called in a greenlet."""

    def __init__(self, settings: Settings) -> None:
        self.threads = Threads()
        self._first_steps: set[asyncio.Task[None]] = set()
        super().__init__(settings)

    @property
    def connections(self) -> ClientConnections:
        """The connections of the running loop."""
        loop = asyncio.get_running_loop()
        if (known := self._loops.get(loop)) is None:
            self._drop(lambda loop: loop.is_closed())
            known = self._loops[loop] = _open(self.settings, self._backends, self.threads)
            self._ends[loop] = end = known.until_the_loop_ends()
            # Its first step makes it known to the loop.
            self._first_steps.add(step := loop.create_task(_step(end), context=Context()))
            step.add_done_callback(self._first_steps.discard)
        return known.connections

    def _connect(self) -> None:
        self._loops: dict[asyncio.AbstractEventLoop, _OfLoop] = {}
        self._ends: dict[asyncio.AbstractEventLoop, AsyncGenerator[None, None]] = {}

    def _inherited(self) -> object:
        return self._loops, self._ends

    async def aclose(self) -> None:
        """Close the connections of all loops and end every wait. The sockets of loops that do not run are closed."""
        self.threads.close()
        here = asyncio.get_running_loop()
        for loop in list(self._loops):
            if loop is here:
                await self._close(loop)
            elif loop.is_running():
                closing = asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._close(loop), loop))
                while loop.is_running() and not closing.done():  # it may stop before it has closed them
                    await asyncio.wait({closing}, timeout=LOOP_SECONDS)
        self._drop(lambda loop: not loop.is_running())

    async def _close(self, loop: asyncio.AbstractEventLoop) -> None:
        await self._loops.pop(loop).close()
        await self._ends.pop(loop).aclose()

    def _drop(self, ended: Callable[[asyncio.AbstractEventLoop], bool]) -> None:
        """Close the connections of loops that cannot do it themselves."""
        for loop in [loop for loop in self._loops if ended(loop)]:
            self._loops.pop(loop).database.abandon()
            self._ends.pop(loop, None)


async def _step(generator: AsyncGenerator[None, None]) -> None:
    await anext(generator)


def _open(settings: Settings, backends: Backends, threads: Threads) -> _OfLoop:
    database = LoopDatabase(backends.database_url, pool_size=settings.client_connections, application_name=APPLICATION)
    broker = LoopBroker(backends.broker_url, pool_size=settings.client_connections)
    shared = SharedSubmits(database, broker)
    submits: LoopBatcher[Submission, Stored] = LoopBatcher(
        lambda submissions, aside: in_greenlet(partial(shared.store, submissions, aside)),
        Submits(),
        then=lambda submissions, rows: in_greenlet(partial(shared.publish, submissions, rows)),
    )
    finals: LoopBatcher[Sequence[UUID], Sequence[Row]] = LoopBatcher(
        lambda questions, _aside: in_greenlet(partial(final_rows, database, questions)), Questions()
    )
    waiter = LoopWaiter(backends.broker_url, finals.add)
    connections = ClientConnections(
        database=database,
        broker=broker,
        waiter=waiter,
        driver=LoopDriver(waiter, finals, broker.url, threads),
        rate=SubmitRate(settings, broker),
        control=Control(database, broker),
        catalogue=Catalogue(database),
        submit=lambda submission: await_only(submits.add(submission)),
        submit_held=submits.add,
        close=lambda: None,
    )
    return _OfLoop(connections, database, broker, waiter)
