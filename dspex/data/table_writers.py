"""Rows of a source with outputs, or with errors, beside them, written in any format.

The outputs come from lines of ``dspex batch``: ``{"index", "id", "result"}`` or ``{"index", "id", "error"}``.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any, BinaryIO, Protocol, cast

from dspex.data.arrow_types import arrow_type, arrow_value
from dspex.data.cell_text import cell_text, json_cell, json_text
from dspex.data.column_names import free_names
from dspex.data.formats import FileFormat, data_refused
from dspex.data.row_source import RowChunk, cells_of
from dspex.signatures.fields import PLAIN_TEXT, Field, Type

__all__ = ["Line", "MadeColumn", "TableWriter", "error_columns", "open_writer", "refuse_unwritable", "result_columns"]

#: A line of ``dspex batch``.
Line = Mapping[str, Any]
#: The most rows of a row group of a Parquet file, and about the most bytes.
GROUP_ROWS, GROUP_BYTES = 20_000, 4 * 1024 * 1024
#: After so many values pyarrow looks whether a page is full. By default after 1024, which may be the whole group.
PAGE_VALUES = 16
_INTEGER = Type("integer")
#: A row of a single cell that is empty: a blank line would be no row.
_EMPTY = '""'


@dataclass(frozen=True, slots=True)
class MadeColumn:
    """A column that is made from lines: an output, or a part of an error."""

    name: str
    type: Type
    of: Callable[[Line], Any]


class TableWriter(Protocol):
    """Writes a table in one format."""

    def write(self, chunk: RowChunk, positions: Sequence[int], lines: Sequence[Line]) -> None:
        """Write the rows at these positions of a chunk, each with what its line has."""

    def close(self) -> None:
        """Write the end of the file; the file itself stays open."""


def result_columns(fields: Sequence[Field], taken: Sequence[str]) -> Sequence[MadeColumn]:
    """A column for each output. One whose name is taken by a column of the input is called ``NAME_output``."""
    names = free_names([field.name for field in fields], taken, "output")
    return [MadeColumn(name, field.type, _result(field.name)) for name, field in zip(names, fields, strict=True)]


def error_columns(taken: Sequence[str]) -> Sequence[MadeColumn]:
    """The columns of a failure: the number of its row, from 1; the code; the message; the id of its execution."""
    made = (
        ("row", _INTEGER, lambda line: line["index"] + 1),
        ("code", PLAIN_TEXT, lambda line: line["error"]["code"]),
        ("message", PLAIN_TEXT, lambda line: line["error"]["message"]),
        ("execution_id", PLAIN_TEXT, lambda line: line["id"]),
    )
    names = free_names([name for name, _, _ in made], taken, "error")
    return [MadeColumn(name, kind, of) for name, (_, kind, of) in zip(names, made, strict=True)]


def refuse_unwritable(format: FileFormat, carried: Sequence[str]) -> None:
    """Raise DspexError for a column of the input whose name a table in this format cannot have."""
    for name in carried if format.kind == "parquet" else ():
        try:
            name.encode()
        except UnicodeEncodeError:
            raise data_refused(
                f"the name of the column {name!r} has half of a surrogate pair, which Parquet cannot have: rename it, "
                "or write another format"
            ) from None


def open_writer(
    file: BinaryIO, format: FileFormat, carried: Sequence[str], made: Sequence[MadeColumn], *,
    schema: Callable[[Sequence[str]], Any], made_first: bool = False,
) -> TableWriter:  # fmt: skip
    """The writer of a table with the columns ``carried`` from the source and those that are ``made``.

    ``schema`` gives the Arrow types of carried columns.
    """
    match format.kind:
        case "parquet":
            return _ParquetTable(file, schema(carried), made, made_first=made_first)
        case "jsonl":
            return _JsonLines(file, carried, compressed=format.compressed)
    return _Delimited(file, format, carried, made, made_first=made_first)


class _Delimited:
    """CSV and TSV as RFC 4180 has them, with line breaks of one character. Nothing is changed in a cell.

    It writes column by column, several times as fast as the csv module, which looks at every character; and which
    leaves a CR without quotes in Python 3.11.
    """

    def __init__(
        self, file: BinaryIO, format: FileFormat, carried: Sequence[str], made: Sequence[MadeColumn], *,
        made_first: bool,
    ) -> None:  # fmt: skip
        self._closing = _compressor(file) if format.compressed else None
        self._file = cast("IO[bytes]", self._closing or file)
        self._delimiter = format.delimiter
        self._carried = carried
        self._made = made
        self._made_first = made_first
        names = [column.name for column in made]
        self._write([[name] for name in ([*names, *carried] if made_first else [*carried, *names])])

    def write(self, chunk: RowChunk, positions: Sequence[int], lines: Sequence[Line]) -> None:
        own = _picked_columns(chunk, positions, self._carried)
        made = [[column.of(line) for line in lines] for column in self._made]
        self._write([*made, *own] if self._made_first else [*own, *made])

    def close(self) -> None:
        if self._closing is not None:
            self._closing.close()

    def _write(self, columns: Sequence[Sequence[Any]]) -> None:
        rows = map(self._delimiter.join, zip(*(map(self._cell, cells) for cells in columns), strict=True))
        text = "".join([f"{row or _EMPTY}\n" for row in rows])
        self._file.write(text.encode(errors="backslashreplace"))

    def _cell(self, value: Any) -> str:
        text = cell_text(value)
        if '"' in text:
            text = text.replace('"', '""')
            return f'"{text}"'
        return f'"{text}"' if self._delimiter in text or "\n" in text or "\r" in text else text


class _JsonLines:
    """The lines as they are, each with the carried columns as ``row``, if there are any."""

    def __init__(self, file: BinaryIO, carried: Sequence[str], *, compressed: bool) -> None:
        self._closing = _compressor(file) if compressed else None
        self._file = cast("IO[bytes]", self._closing or file)
        self._carried = carried

    def write(self, chunk: RowChunk, positions: Sequence[int], lines: Sequence[Line]) -> None:
        rows = chunk.rows() if self._carried else ()
        for at, line in zip(positions, lines, strict=True):
            whole = {**line, "row": _picked(cells_of(rows[at]), self._carried)} if self._carried else line
            text = json_text(whole, compact=True)
            self._file.write(text.encode(errors="backslashreplace") + b"\n")

    def close(self) -> None:
        if self._closing is not None:
            self._closing.close()


class _ParquetTable:
    """Carried columns keep their types; outputs have the types of the signature."""

    def __init__(self, file: BinaryIO, carried: Any, made: Sequence[MadeColumn], *, made_first: bool) -> None:
        import pyarrow
        from pyarrow import parquet

        own = pyarrow.schema([(column.name, arrow_type(column.type)) for column in made])
        first, second = (own, carried) if made_first else (carried, own)
        self._schema = pyarrow.schema([*first, *second])
        self._carried = carried
        self._own = own
        self._made = [(column.of, arrow_value(column.type)) for column in made]
        self._writer = parquet.ParquetWriter(file, self._schema, compression="zstd", write_batch_size=PAGE_VALUES)
        self._batches: list[pyarrow.RecordBatch] = []
        self._rows = self._bytes = 0

    def write(self, chunk: RowChunk, positions: Sequence[int], lines: Sequence[Line]) -> None:
        import pyarrow

        if not positions:
            return
        made = {
            field.name: pyarrow.array([shape(of(line)) for line in lines], type=field.type)
            for field, (of, shape) in zip(self._own, self._made, strict=True)
        }
        own: Any = chunk.arrow(self._carried, positions) if len(self._carried) else None
        arrays = [made[name] if name in made else own.column(name) for name in self._schema.names]
        batch = pyarrow.record_batch(arrays, schema=self._schema)
        self._batches.append(batch)
        self._rows += len(positions)
        self._bytes += batch.nbytes
        if self._rows >= GROUP_ROWS or self._bytes >= GROUP_BYTES:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        import pyarrow

        if self._batches:
            self._writer.write_table(pyarrow.Table.from_batches(self._batches, self._schema), row_group_size=self._rows)
            pyarrow.default_memory_pool().release_unused()
        self._batches, self._rows, self._bytes = [], 0, 0


def _result(name: str) -> Callable[[Line], Any]:
    return lambda line: line["result"].get(name)


def _picked_columns(chunk: RowChunk, positions: Sequence[int], names: Sequence[str]) -> Sequence[Sequence[Any]]:
    """The cells of some rows of a chunk, by column; None where a row has no cell."""
    columns = chunk.columns()
    if columns is not None:
        return [[columns[name][at] for at in positions] for name in names]
    rows = chunk.rows()
    picked = [cells_of(rows[at]) for at in positions]
    return [[cells.get(name) for cells in picked] for name in names]


def _picked(cells: Mapping[str, Any], names: Sequence[str]) -> Mapping[str, Any]:
    return {name: json_cell(cells[name]) for name in names if name in cells}


def _compressor(file: BinaryIO) -> gzip.GzipFile:
    return gzip.GzipFile(fileobj=file, mode="wb", compresslevel=6, mtime=0, filename="")
