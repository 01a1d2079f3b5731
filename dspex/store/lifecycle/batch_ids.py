"""Ids of batches and of their executions.

The executions of a batch are numbered by their rows: the id of row n is the id of the batch plus n + 1. So a batch of
millions needs no list of ids, an id gives its batch and row, and the primary key refuses a row that is stored twice.
Such an id is a UUIDv7 of the moment the batch was begun; the last 32 bits of the batch's id are zero.
"""

from __future__ import annotations

from uuid import UUID

from uuid_utils.compat import uuid7

__all__ = ["ROWS_MOST", "batch_number", "execution_id", "new_batch_id", "row_index"]

#: A batch has fewer rows.
ROWS_MOST = 2**32 - 2
_ROW_BITS = 0xFFFFFFFF


def new_batch_id() -> UUID:
    """A batch id of this moment."""
    return UUID(int=batch_number(uuid7().int))


def execution_id(batch_id: UUID, index: int) -> UUID:
    """The id of the execution of a batch's row."""
    return UUID(int=batch_id.int + 1 + index)


def row_index(batch_id: UUID, id: UUID) -> int:
    """The index of the row whose execution has this id."""
    return id.int - batch_id.int - 1


def batch_number(id: int) -> int:
    """The id, as a number, of the batch that an execution with this id would be of."""
    return id & ~_ROW_BITS
