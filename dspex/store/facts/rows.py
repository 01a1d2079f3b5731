"""Rows of a statement as dataclasses, column by column in order."""

from __future__ import annotations

from typing import Any, TypeVar

from sqlalchemy import Connection, TextClause

__all__ = ["all_rows", "one_row"]

T = TypeVar("T")


def all_rows(connection: Connection, kind: type[T], statement: TextClause, **parameters: Any) -> list[T]:
    """Every row that the statement returns."""
    return [kind(*row) for row in connection.execute(statement, parameters)]


def one_row(connection: Connection, kind: type[T], statement: TextClause, **parameters: Any) -> T:
    """The single row that the statement returns."""
    return kind(*connection.execute(statement, parameters).one())
