"""Statements over psycopg alone in an event loop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import psycopg
from sqlalchemy.util import await_only

from dspex.store.batching.bare_connection import BareConnection, BareRows, rows_of

__all__ = ["LoopBareConnection"]


class LoopBareConnection(BareConnection):
    """Over psycopg's asyncio. Its methods are called in a greenlet."""

    def exec_driver_sql(self, statement: str, parameters: Mapping[str, Any]) -> BareRows:
        return await_only(self._execute(statement, parameters))

    async def _execute(self, statement: str, parameters: Mapping[str, Any]) -> BareRows:
        connection: psycopg.AsyncConnection[Any] = self._connection
        async with connection.cursor(row_factory=rows_of(statement), binary=True) as cursor:
            await cursor.execute(statement, parameters)
            return BareRows(await cursor.fetchall())
