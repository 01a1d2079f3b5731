"""Rotation of the encryption key: values sealed with older keys are sealed again with the first, during operation.

Each group of rows has its own transaction, which holds their locks for some milliseconds. A rotation that was killed
and runs again looks for the remaining rows, so no progress is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, RowMapping

from dspex.errors import EncryptionError
from dspex.program.improvement.purpose import row_context
from dspex.sealing.keyring import Keyring
from dspex.sealing.values import reseal
from dspex.store.database import Database
from dspex.store.lifecycle.parked import parked_place
from dspex.store.lifecycle.set_statements import for_each_row_within
from dspex.store.operations import resealing

__all__ = ["GROUP_ROWS", "Rotated", "rotate"]

#: Rows of one transaction.
GROUP_ROWS = 100
_FIRST = UUID(int=0)
_MOST_REASONS = 20
#: What a column of a call is sealed as.
_SEALED_AS = {"response": "call", "request": "request"}


@dataclass
class Rotated:
    """The result: rows sealed again, and rows that no key opens or that Postgres refuses to change, with the reasons
    for the first of them."""

    rows: int = 0
    unreadable: int = 0
    why: list[str] = field(default_factory=list)

    def refuse(self, why: str) -> None:
        self.unreadable += 1
        if len(self.why) < _MOST_REASONS:
            self.why.append(why)


def rotate(
    database: Database,
    keyring: Keyring,
    *,
    group_rows: int = GROUP_ROWS,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Rotated:
    """Seal with the first key all values that others sealed. ``on_progress`` gets the rows done, and all rows.

    Raises BackendUnavailable; groups done until then stay done.
    """
    done = Rotated()
    total = database.run(partial(resealing.count, key=keyring.primary))
    groups = chain(
        _executions(database, keyring, group_rows, done),
        _calls(database, keyring, group_rows, done),
        _parked(database, keyring, group_rows, done),
        _feedback(database, keyring, group_rows, done),
        _dataset_rows(database, keyring, group_rows, done),
    )
    for looked_at in groups:
        on_progress(looked_at, max(total, looked_at))
    return done


def _executions(database: Database, keyring: Keyring, most: int, done: Rotated) -> Iterator[int]:
    after = _FIRST

    def group(connection: Connection) -> Sequence[RowMapping]:
        rows = resealing.stale_executions(connection, keyring.primary, after, most)
        resealed = list(_resealed(rows, resealing.EXECUTION_COLUMNS, _place, keyring, done))
        _write(connection, partial(resealing.write_executions, key=keyring.primary), resealed, done)
        return rows

    while rows := _in_transaction(database, group):
        after = rows[-1]["id"]
        yield done.rows + done.unreadable


def _calls(database: Database, keyring: Keyring, most: int, done: Rotated) -> Iterator[int]:
    after: tuple[UUID, bytes, int, int] = (_FIRST, b"", 0, 0)

    def group(connection: Connection) -> Sequence[RowMapping]:
        rows = resealing.stale_calls(connection, keyring.primary, after, most)
        resealed = list(_resealed(rows, resealing.CALL_COLUMNS, _place_of_call, keyring, done))
        _write(connection, resealing.write_calls, resealed, done)
        return rows

    while rows := _in_transaction(database, group):
        last = rows[-1]
        after = (last["execution_id"], bytes(last["request_hash"]), last["occurrence"], last["attempt"])
        yield done.rows + done.unreadable


def _parked(database: Database, keyring: Keyring, most: int, done: Rotated) -> Iterator[int]:
    after: tuple[UUID, bytes, int] = (_FIRST, b"", -1)

    def group(connection: Connection) -> Sequence[RowMapping]:
        rows = resealing.stale_parked(connection, keyring.primary, after, most)
        resealed = list(_resealed(rows, resealing.PARKED_COLUMNS, _place_of_parked, keyring, done))
        _write(connection, resealing.write_parked, resealed, done)
        return rows

    while rows := _in_transaction(database, group):
        last = rows[-1]
        after = (last["execution_id"], bytes(last["request_hash"]), last["occurrence"])
        yield done.rows + done.unreadable


def _feedback(database: Database, keyring: Keyring, most: int, done: Rotated) -> Iterator[int]:
    after = 0

    def group(connection: Connection) -> Sequence[RowMapping]:
        rows = resealing.stale_feedback(connection, keyring.primary, after, most)
        resealed = list(_resealed(rows, resealing.CONTENT_COLUMNS, _place_of_feedback, keyring, done))
        _write(connection, resealing.write_feedback, resealed, done)
        return rows

    while rows := _in_transaction(database, group):
        after = rows[-1]["id"]
        yield done.rows + done.unreadable


def _dataset_rows(database: Database, keyring: Keyring, most: int, done: Rotated) -> Iterator[int]:
    after = (_FIRST, -1)

    def group(connection: Connection) -> Sequence[RowMapping]:
        rows = resealing.stale_dataset_rows(connection, keyring.primary, after, most)
        resealed = list(_resealed(rows, resealing.CONTENT_COLUMNS, _place_of_dataset_row, keyring, done))
        _write(connection, resealing.write_dataset_rows, resealed, done)
        return rows

    while rows := _in_transaction(database, group):
        after = (rows[-1]["dataset_id"], rows[-1]["index"])
        yield done.rows + done.unreadable


def _in_transaction(database: Database, group: Callable[[Connection], Sequence[RowMapping]]) -> Sequence[RowMapping]:
    with database.transaction(saved="this group of rows is unchanged") as connection:
        return group(connection)


def _resealed(
    rows: Sequence[RowMapping],
    columns: Sequence[str],
    place: Callable[[RowMapping, str], str],
    keyring: Keyring,
    done: Rotated,
) -> Iterator[Mapping[str, Any]]:
    """The rows that can be opened, sealed again."""
    for row in rows:
        try:
            texts = {name: row[name] and reseal(keyring, row[name], place(row, name)) for name in columns}
        except EncryptionError as error:
            done.refuse(str(error))
        else:
            yield {**row, **texts}


def _write(
    connection: Connection,
    write: Callable[[Connection, Sequence[Mapping[str, Any]]], None],
    rows: Sequence[Mapping[str, Any]],
    done: Rotated,
) -> None:
    """Store these rows, except those that Postgres refuses to change."""

    def write_some(some: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
        write(connection, some)
        return some

    written, faults = for_each_row_within(connection, write_some, rows)
    done.rows += len(written)
    for fault in faults:
        id = fault.row.get("execution_id") or fault.row.get("dataset_id") or fault.row["id"]
        what = "dataset" if "dataset_id" in fault.row else "execution"
        done.refuse(f"{what} {str(id)!r}: Postgres refuses the change: {fault.reason}")


def _place(row: RowMapping, column: str) -> str:
    return f"{row['id']}:{column}"


def _place_of_feedback(row: RowMapping, _column: str) -> str:
    return f"{row['execution_id']}:feedback"


def _place_of_dataset_row(row: RowMapping, _column: str) -> str:
    return row_context(row["dataset_id"], row["index"])


def _place_of_call(row: RowMapping, column: str) -> str:
    call = f"{bytes(row['request_hash']).hex()}:{row['occurrence']}:{row['attempt']}"
    return f"{row['execution_id']}:{_SEALED_AS[column]}:{call}"


def _place_of_parked(row: RowMapping, _column: str) -> str:
    return f"{row['execution_id']}:call:{parked_place(bytes(row['request_hash']), row['occurrence'])}"
