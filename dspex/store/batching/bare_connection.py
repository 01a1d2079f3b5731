"""Statements over psycopg alone, for those that clients send for every submit and every wait.

SQLAlchemy's part of a small statement takes as much CPU as psycopg's, or more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import psycopg
from psycopg.rows import BaseRowFactory, RowMaker, namedtuple_row
from sqlalchemy import Select
from sqlalchemy.dialects.postgresql import psycopg as dialects

__all__ = ["BareConnection", "BareRows", "rows_of"]


class BareRows(list[Any]):
    """The rows of a result: named tuples."""

    def keys(self) -> Sequence[str]:
        """The names of the columns; none without rows."""
        return self[0]._fields if self else ()


class BareConnection:
    """What such statements use of a SQLAlchemy Connection."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    @property
    def is_closed(self) -> bool:
        return bool(self._connection.closed)

    def exec_driver_sql(self, statement: str, parameters: Mapping[str, Any]) -> BareRows:
        connection: psycopg.Connection[Any] = self._connection
        with connection.cursor(row_factory=rows_of(statement), binary=True) as cursor:
            return BareRows(cursor.execute(statement, parameters).fetchall())

    def execute(self, statement: Select[Any], parameters: Mapping[str, Any]) -> BareRows:
        return self.exec_driver_sql(_text(statement), parameters)


#: What makes the rows of each statement: their class is made once.
_made: dict[str, RowMaker[Any]] = {}


def rows_of(statement: str) -> BaseRowFactory[Any]:
    """The row factory of a statement."""

    def factory(cursor: Any) -> RowMaker[Any]:
        if (made := _made.get(statement)) is None:
            made = _made[statement] = namedtuple_row(cursor)
        return made

    return factory


@cache
def _text(statement: Select[Any]) -> str:
    """A statement that is made once, as psycopg takes it."""
    return str(statement.compile(dialect=dialects.dialect()))  # type: ignore[no-untyped-call]
