"""The rows that a user gives to ``submit_many`` and ``map``: mappings, dspy.Examples, a data frame or a dataset."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping
from pathlib import PurePath
from typing import Any

from dspex.data.formats import data_refused
from dspex.data.frames import DataFrame, example_inputs, input_rows
from dspex.signatures import Signature

__all__ = ["given_rows", "given_rows_async"]


def given_rows(rows: Iterable[Any], frame: DataFrame | None, signature: Signature) -> Iterable[Any]:
    """The inputs of each row; ``frame`` is what the rows are, if they are one. Raises DspexError for what has none."""
    if frame is not None:
        return input_rows(frame, signature)
    _check_rows(rows)
    fields = signature.input_fields
    return (row if type(row) is dict else example_inputs(row, fields) for row in rows)


def _check_rows(rows: object) -> None:
    kind = type(rows).__name__
    if isinstance(rows, str | bytes | bytearray | PurePath):
        raise data_refused(f"{kind} has no rows: read the file first, for example into a data frame; or `dspex batch`")
    if isinstance(rows, Mapping) or hasattr(rows, "toDict"):  # dspy.Example
        raise data_refused(f"{kind} is one row: give a list of rows")
    if not isinstance(rows, Iterable):
        raise data_refused(f"{kind} has no rows: give mappings, dspy.Examples, a data frame or a dataset")


async def given_rows_async(rows: AsyncIterable[Any], signature: Signature) -> AsyncIterator[Any]:
    """:func:`given_rows` for an asynchronous source."""
    async for row in rows:
        yield example_inputs(row, signature.input_fields)
