"""Ids of batches and of their executions.

The executions of a batch are numbered by their rows: the id of row n is the id of the batch plus n + 1. So a batch of
millions needs no list of ids, an id gives its batch and row, and the primary key refuses a row that is stored twice.
Such an id is a UUIDv7 of the moment the batch was begun; the last 32 bits of the batch's id are zero.
"""

from __future__ import annotations

from uuid import UUID

from uuid_utils.compat import uuid7

__all__ = ["ROWS_MOST", "batch_prefix", "execution_id", "new_batch_id", "row_index"]

#: A batch has fewer rows.
ROWS_MOST = 2**32 - 2
#: The characters of an id before its last 32 bits.
_PREFIX_LENGTH = 28


def new_batch_id() -> UUID:
    """A batch id of this moment."""
    return UUID(int=uuid7().int & ~0xFFFFFFFF)


def execution_id(batch_id: UUID, index: int) -> UUID:
    """The id of the execution of a batch's row."""
    return UUID(int=batch_id.int + 1 + index)


def row_index(batch_id: UUID, id: UUID) -> int:
    """The index of the row whose execution has this id."""
    return id.int - batch_id.int - 1


def batch_prefix(id: UUID | str) -> str:
    """The text with which the id of a batch and the ids of all its executions begin."""
    return str(id)[:_PREFIX_LENGTH]
