"""Which column each input field is read from, and how its cells become values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from operator import not_
from typing import Any, Literal

from dspex.data.cell_text import (
    ReadAll,
    is_missing,
    python_value_reader,
    text_column_reader,
    text_value_reader,
)
from dspex.data.formats import data_refused
from dspex.data.row_source import CellKind, Cells, RowChunk
from dspex.errors import ValidationError
from dspex.signatures.fields import Field
from dspex.signatures.types.type_registry import nearest

__all__ = ["Empty", "InputColumns"]

#: What an empty cell is: null, a value that is missing (so that the field's default is used), or the empty text.
Empty = Literal["missing", "null", "text"]

#: The value of an empty cell that is left out.
_ABSENT = object()
_EMPTY_VALUES = {"missing": _ABSENT, "null": None, "text": ""}


class InputColumns:
    """Makes the inputs of a program from the cells of rows.

    A field is read from the column of its name, or from the one that ``mapping`` names. In a cell of text, numbers,
    lists and objects are JSON. ``empty`` is for cells without text, null and NaN; null in JSON lines stays null.
    """

    def __init__(
        self, fields: Sequence[Field], cells: CellKind, mapping: Mapping[str, str], *, empty: Empty = "missing"
    ) -> None:
        known = {field.name for field in fields}
        if unknown := [name for name in mapping if name not in known]:
            near = nearest(unknown[0], known)
            hint = f"; did you mean {near!r}?" if near else f": its inputs are {', '.join(sorted(known))}"
            raise data_refused(f"the program has no input {unknown[0]!r} to map a column to{hint}")
        self._fields = fields
        self._cells = cells
        self._is_empty: Callable[[Any], bool] = not_ if cells == "text" else is_missing
        self._empty = _EMPTY_VALUES[empty]
        self._columns = {field.name: mapping.get(field.name, field.name) for field in fields}
        self._mapped = mapping
        read = text_value_reader if cells == "text" else python_value_reader
        self._readers: list[tuple[str, str, Callable[[Any], Any]]] = [
            (field.name, self._columns[field.name], read(field.type)) for field in fields
        ]
        self._column_readers: list[tuple[str, str, ReadAll]] = [
            (name, column, text_column_reader(field.type) if cells == "text" else partial(map, read))
            for field, (name, column, read) in zip(fields, self._readers, strict=True)
        ]

    def check(self, columns: Sequence[str], where: str, *, fix: str) -> None:
        """Raise DspexError when a mapped column, or the column of a required field, is not among ``columns``.

        ``fix`` says how to name another column, in which ``{}`` is the field.
        """
        for name, column in self._columns.items():
            if column in columns:
                continue
            if name in self._mapped:
                near = nearest(column, columns)
                hint = f"; did you mean {near!r}?" if near else _listed(columns)
                raise data_refused(f"{where} has no column {column!r}, from which {name!r} is mapped{hint}")
        missing = [
            field.name for field in self._fields if field.required and not field.optional
            and self._columns[field.name] not in columns
        ]  # fmt: skip
        if missing:
            raise data_refused(
                f"{where} has no column for {', '.join(map(repr, missing))}{_listed(columns)}. {fix.format(missing[0])}"
            )

    def used(self, columns: Iterable[str]) -> tuple[str, ...]:
        """The columns that fields are read from."""
        used = set(self._columns.values())
        return tuple(column for column in columns if column in used)

    def others(self, columns: Iterable[str]) -> tuple[str, ...]:
        """The columns that no field is read from."""
        used = set(self._columns.values())
        return tuple(column for column in columns if column not in used)

    def inputs(self, row: Cells) -> Mapping[str, Any] | ValidationError:
        """The inputs in a row. What is not a row is returned as it is, for its error."""
        if type(row) is not dict and not isinstance(row, Mapping):
            return row
        if self._cells == "json":
            return {name: row[column] for name, column in self._columns.items() if column in row}
        values: dict[str, Any] = {}
        for name, column, read in self._readers:
            if column in row:
                cell = row[column]
                value = self._empty if self._is_empty(cell) else read(cell)
                if value is not _ABSENT:
                    values[name] = value
        return values

    def chunk_inputs(self, chunk: RowChunk) -> Iterable[Mapping[str, Any] | ValidationError]:
        """The inputs in each row of a chunk: column by column, where it has columns, which takes half the time."""
        columns = chunk.columns()
        if columns is None:
            return map(self.inputs, chunk.rows())
        inputs: list[dict[str, Any]] = [{} for _ in range(len(chunk))]
        for name, column, read_all in self._column_readers:
            if column in columns:
                for values, value in zip(inputs, self._values(columns[column], read_all), strict=True):
                    if value is not _ABSENT:
                        values[name] = value
        return inputs

    def _values(self, cells: Sequence[Any], read_all: ReadAll) -> Iterable[Any]:
        if not any(map(self._is_empty, cells)):
            return read_all(cells)
        found = iter(read_all([cell for cell in cells if not self._is_empty(cell)]))
        return (self._empty if self._is_empty(cell) else next(found) for cell in cells)


def _listed(columns: Sequence[str]) -> str:
    shown = ", ".join(columns[:20]) + (", …" if len(columns) > 20 else "")
    return f": its columns are {shown}"
