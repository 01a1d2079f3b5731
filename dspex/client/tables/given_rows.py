"""The rows that a user gives to ``submit_many`` and ``map``: mappings, dspy.Examples, a data frame or a dataset."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable
from typing import Any

from dspex.data.frames import DataFrame, example_inputs, input_rows
from dspex.signatures import Signature

__all__ = ["given_rows", "given_rows_async"]


def given_rows(rows: Iterable[Any], frame: DataFrame | None, signature: Signature) -> Iterable[Any]:
    """The inputs of each row; ``frame`` is what the rows are, if they are one."""
    if frame is not None:
        return input_rows(frame, signature)
    fields = signature.input_fields
    return (row if type(row) is dict else example_inputs(row, fields) for row in rows)


async def given_rows_async(rows: AsyncIterable[Any], signature: Signature) -> AsyncIterator[Any]:
    """:func:`given_rows` for an asynchronous source."""
    async for row in rows:
        yield example_inputs(row, signature.input_fields)
