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
    groups = chain.from_iterable(_groups(database, keyring, group_rows, kind, done) for kind in _kinds(keyring.primary))
    for looked_at in groups:
        on_progress(looked_at, max(total, looked_at))
    return done


@dataclass(frozen=True)
class _Kind:
    """A table with sealed values: how its rows are read from a key on and stored again, and which key is the first."""

    stale: Callable[[Connection, str, Any, int], Sequence[RowMapping]]
    write: Callable[[Connection, Sequence[Mapping[str, Any]]], None]
    columns: Sequence[str]
    place: Callable[[RowMapping, str], str]
    key: Sequence[str]
    first: Any

    def after(self, row: RowMapping) -> Any:
        """The key of a row."""
        values = tuple(row[name] for name in self.key)
        return values if len(values) > 1 else values[0]


def _kinds(primary: str) -> Sequence[_Kind]:
    call = ("execution_id", "request_hash", "occurrence")
    return [
        _Kind(
            resealing.stale_executions, partial(resealing.write_executions, key=primary),
            resealing.EXECUTION_COLUMNS, _place, ("id",), _FIRST,
        ),
        _Kind(
            resealing.stale_calls, resealing.write_calls,
            resealing.CALL_COLUMNS, _place_of_call, (*call, "attempt"), (_FIRST, b"", 0, 0),
        ),
        _Kind(
            resealing.stale_parked, resealing.write_parked,
            resealing.PARKED_COLUMNS, _place_of_parked, call, (_FIRST, b"", -1),
        ),
        _Kind(
            resealing.stale_feedback, resealing.write_feedback,
            resealing.CONTENT_COLUMNS, _place_of_feedback, ("id",), 0,
        ),
        _Kind(
            resealing.stale_dataset_rows, resealing.write_dataset_rows,
            resealing.CONTENT_COLUMNS, _place_of_dataset_row, ("dataset_id", "index"), (_FIRST, -1),
        ),
    ]  # fmt: skip


def _groups(database: Database, keyring: Keyring, most: int, kind: _Kind, done: Rotated) -> Iterator[int]:
    """Seal the values of a table again, a group of rows at a time. Yields how many rows are done."""
    after = kind.first

    def group(connection: Connection) -> Sequence[RowMapping]:
        rows = kind.stale(connection, keyring.primary, after, most)
        _write(connection, kind.write, list(_resealed(rows, kind.columns, kind.place, keyring, done)), done)
        return rows

    while rows := _in_transaction(database, group):
        after = kind.after(rows[-1])
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
