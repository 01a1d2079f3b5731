"""Statements over psycopg alone, for those that an event loop sends for every submit and every wait.

SQLAlchemy's part of a small statement takes twice as much CPU as psycopg's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import psycopg
from psycopg.rows import namedtuple_row
from sqlalchemy import Select
from sqlalchemy.dialects.postgresql import psycopg as dialects
from sqlalchemy.util import await_only

__all__ = ["BareConnection"]


class _Rows(list[Any]):
    """The rows of a result: named tuples."""

    def keys(self) -> Sequence[str]:
        """The names of the columns; none without rows."""
        return self[0]._fields if self else ()


class BareConnection:
    """What such statements use of a SQLAlchemy Connection. Its methods are called in a greenlet."""

    def __init__(self, connection: psycopg.AsyncConnection[Any]) -> None:
        self._connection = connection

    def exec_driver_sql(self, statement: str, parameters: Mapping[str, Any]) -> _Rows:
        return await_only(self._execute(statement, parameters))

    def execute(self, statement: Select[Any], parameters: Mapping[str, Any]) -> _Rows:
        return await_only(self._execute(_text(statement), parameters))

    async def _execute(self, statement: str, parameters: Mapping[str, Any]) -> _Rows:
        async with self._connection.cursor(row_factory=namedtuple_row) as cursor:
            await cursor.execute(statement, parameters)
            return _Rows(await cursor.fetchall())


@cache
def _text(statement: Select[Any]) -> str:
    """A statement that is made once, as psycopg takes it."""
    return str(statement.compile(dialect=dialects.dialect()))  # type: ignore[no-untyped-call]
