"""Datasets and their rows. Rows are never changed: other rows are another version."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

from dspex.store.copy_text import escaped

__all__ = ["ROW", "DatasetVersion", "add_rows", "find", "find_by_id", "listing", "register", "rows"]


@dataclass(frozen=True, slots=True)
class DatasetVersion:
    """A version of a dataset. ``inputs`` and ``labels`` are the names of its columns."""

    id: UUID
    name: str
    version: str
    inputs: tuple[str, ...]
    labels: tuple[str, ...]
    size: int
    sealed: bool
    created_at: datetime


_COLUMNS = "id, name, version, inputs, labels, size, sealed, created_at"

_REGISTER = text("""
INSERT INTO dspex.datasets (id, name, version, inputs, labels, size, sealed)
VALUES (:id, :name, :version, :inputs, :labels, :size, :sealed) ON CONFLICT (name, version) DO NOTHING RETURNING id
""")

_FIND = text(f"""
SELECT {_COLUMNS} FROM dspex.datasets WHERE name = :name AND (version = :version OR CAST(:version AS text) IS NULL)
ORDER BY created_at DESC LIMIT 1
""")  # noqa: S608

_LISTING = text(f"SELECT {_COLUMNS} FROM dspex.datasets ORDER BY name, created_at DESC")  # noqa: S608

_ROWS = text("""
SELECT index, content::text AS content FROM dspex.dataset_rows
WHERE dataset_id = :id AND index = ANY(:indexes) ORDER BY index
""")

#: For psycopg: a worker reads the row that an execution is scored by.
ROW = "SELECT content::text FROM dspex.dataset_rows WHERE dataset_id = %(id)s AND index = %(index)s"


def add_rows(connection: Connection, id: UUID, groups: Iterable[Sequence[str]]) -> None:
    """Store rows by COPY, each the JSON text of its content, a group at a time; nothing else is held in memory."""
    index = 0
    prefix = f"{id}\t"
    cursor = connection.connection.cursor()
    with cursor.copy("COPY dspex.dataset_rows (dataset_id, index, content) FROM STDIN") as copy:
        for group in groups:
            lines = [f"{prefix}{number}\t{escaped(content)}\n" for number, content in enumerate(group, index)]
            copy.write("".join(lines))
            index += len(group)


def register(
    connection: Connection,
    *,
    id: UUID,
    name: str,
    version: str,
    inputs: Sequence[str],
    labels: Sequence[str],
    size: int,
    sealed: bool,
) -> bool:
    """Make the rows that were added a version of the dataset. False when it has this version already."""
    given = {"id": id, "name": name, "version": version, "inputs": list(inputs), "labels": list(labels),
             "size": size, "sealed": sealed}  # fmt: skip
    return connection.scalar(_REGISTER, given) is not None


def find(connection: Connection, name: str, version: str | None = None) -> DatasetVersion | None:
    """A version of a dataset; the newest if none is named."""
    row = connection.execute(_FIND, {"name": name, "version": version}).mappings().one_or_none()
    return None if row is None else _version(dict(row))


def find_by_id(connection: Connection, id: UUID) -> DatasetVersion | None:
    """The version of a dataset that has this id."""
    query = text(f"SELECT {_COLUMNS} FROM dspex.datasets WHERE id = :id")  # noqa: S608
    row = connection.execute(query, {"id": id}).mappings().one_or_none()
    return None if row is None else _version(dict(row))


def listing(connection: Connection) -> list[DatasetVersion]:
    """All datasets by name, each with its versions, the newest first."""
    return [_version(dict(row)) for row in connection.execute(_LISTING).mappings()]


def rows(connection: Connection, id: UUID, indexes: Sequence[int]) -> list[tuple[int, str]]:
    """These rows: their indexes and the JSON text of their content."""
    found = connection.execute(_ROWS, {"id": id, "indexes": list(indexes)})
    return [(index, content) for index, content in found]


def _version(row: dict[str, Any]) -> DatasetVersion:
    return DatasetVersion(**{**row, "inputs": tuple(row["inputs"]), "labels": tuple(row["labels"])})
