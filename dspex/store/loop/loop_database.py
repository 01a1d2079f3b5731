"""The same pool of connections for an event loop: psycopg's asyncio, without threads.

SQLAlchemy runs blocking code on top of asyncio in a greenlet: where the code would wait, the greenlet is suspended and
the task awaits. So what is written with :class:`Database` serves both clients; in the asynchronous one it is called by
:func:`~dspex.store.loop.greenlets.in_greenlet`. Code that waits by other means would block the loop, and belongs in a
thread.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import psycopg
from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine.interfaces import AdaptedConnection
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.util import await_only

from dspex.store.database import Database
from dspex.store.loop.greenlets import in_greenlet, let_greenlets_go
from dspex.store.loop.loop_bare_connection import LoopBareConnection

__all__ = ["LoopDatabase"]

T = TypeVar("T")


class _Cursor(psycopg.AsyncCursor[Any]):
    """A cursor that describes columns by what SQLAlchemy reads: psycopg's own description of a row of thirty columns
    takes longer than reading the row."""

    @property
    def description(self) -> list[Any] | None:
        result = self.pgresult
        if result is None or not result.nfields:
            return super().description
        return [((result.fname(n) or b"").decode(), result.ftype(n), *[None] * 5) for n in range(result.nfields)]


class LoopDatabase(Database):
    """Belongs to one event loop. Its methods are called in a greenlet."""

    _bare_connection = LoopBareConnection

    def __init__(self, url: str, *, pool_size: int, application_name: str) -> None:
        super().__init__(url, pool_size=pool_size, overflow=0, application_name=application_name)
        #: The statements under way.
        self._running: set[asyncio.Task[Any]] = set()
        self._connections: weakref.WeakSet[psycopg.AsyncConnection[Any]] = weakref.WeakSet()
        event.listen(self._autocommit, "connect", self._note)

    def run(self, work: Callable[[Connection], T], *, saved: str = "nothing was saved") -> T:
        """As :meth:`Database.run`. A caller that is cancelled leaves at once; its statement goes on to its end, so that
        the connection is used again."""
        statement = asyncio.get_running_loop().create_task(in_greenlet(partial(super().run, work, saved=saved)))
        self._running.add(statement)
        statement.add_done_callback(self._running.discard)
        result: T = await_only(asyncio.shield(statement))
        return result

    def run_in_batch(self, work: Callable[[Connection], T]) -> T:
        """As :meth:`run`, in a task that carries a batch, which no caller cancels, so that the statement needs no task
        of its own."""
        carrying = asyncio.current_task()
        assert carrying is not None
        self._running.add(carrying)
        try:
            return super().run_in_batch(work)
        finally:
            self._running.discard(carrying)

    async def aclose(self) -> None:
        """Close the connections, once the statements under way have ended."""
        if self._running:
            await asyncio.wait(self._running)
        await in_greenlet(self.close)
        let_greenlets_go()

    def abandon(self) -> None:
        """Close the sockets without their loop, which is closed."""
        for connection in self._connections:
            connection.pgconn.finish()

    def _engine(self, **options: Any) -> Engine:
        options["connect_args"]["cursor_factory"] = _Cursor
        return create_async_engine("postgresql+psycopg_async://", use_native_hstore=False, **options).sync_engine

    def _sleep(self, seconds: float) -> None:
        await_only(asyncio.sleep(seconds))

    def _note(self, connection: AdaptedConnection, _record: object) -> None:
        self._connections.add(connection.driver_connection)
