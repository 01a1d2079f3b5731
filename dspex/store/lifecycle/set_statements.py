"""Set statements: statements about many rows, in which one bad row fails no other.

A statement that Postgres refuses because of a row is carried out for each half of the rows, and so on, until the rows
at fault are alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import psycopg
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from dspex.errors import BackendUnavailable
from dspex.store.sqlstates import CLASSES, Refusal, refusal

__all__ = ["RowFault", "for_each_row", "for_each_row_within", "row_fault"]

T = TypeVar("T")
R = TypeVar("R")

#: States that a row may cause although its data is not at fault: a function or a trigger that fails or refuses it, a
#: damaged page. A right that is missing altogether is a ConfigurationError.
ROW_STATES = ("2F", "38", "39", "42501", "XX")


@dataclass(frozen=True, slots=True)
class RowFault(Generic[T]):
    """A row that Postgres refused, and why, without the row's content."""

    row: T
    reason: str


def for_each_row(
    statement: Callable[[Sequence[T]], Sequence[R]], rows: Sequence[T]
) -> tuple[list[R], list[RowFault[T]]]:
    """Carry out the statement for these rows, all at once if that works. Returns its results, and the rows at fault.

    The statement must change nothing when it raises an error. Raises errors that no row causes.
    """
    if not rows:
        return [], []
    try:
        return list(statement(rows)), []
    except (DBAPIError, BackendUnavailable) as error:
        if (reason := row_fault(error)) is None:
            raise
        if len(rows) == 1:
            return [], [RowFault(rows[0], reason)]
    results: list[R] = []
    faults: list[RowFault[T]] = []
    middle = len(rows) // 2
    for half in (rows[:middle], rows[middle:]):
        done, refused = for_each_row(statement, half)
        results += done
        faults += refused
    return results, faults


def for_each_row_within(
    connection: Connection, statement: Callable[[Sequence[T]], Sequence[R]], rows: Sequence[T]
) -> tuple[list[R], list[RowFault[T]]]:
    """The same in a transaction: what is refused is rolled back to a savepoint."""

    def in_savepoint(some: Sequence[T]) -> Sequence[R]:
        with connection.begin_nested():
            return statement(some)

    return for_each_row(in_savepoint, rows)


def row_fault(error: DBAPIError | BackendUnavailable) -> str | None:
    """Why Postgres refused a row, or None when the error is not about rows. A damaged page is unavailable."""
    raised = error if isinstance(error, DBAPIError) else error.__cause__
    cause = raised.orig if isinstance(raised, DBAPIError) else None
    if not isinstance(cause, psycopg.Error) or cause.sqlstate is None:
        return None
    own = cause.sqlstate.startswith(ROW_STATES) or cause.sqlstate[:2] not in CLASSES
    if not own and refusal(cause) is not Refusal.DATA:
        return None
    name = type(cause).__name__
    if cause.sqlstate.startswith("22") or not cause.diag.message_primary:  # the message may quote a value
        return name
    return f"{name}: {cause.diag.message_primary}"
