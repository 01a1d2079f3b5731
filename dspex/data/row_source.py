"""What the readers of all formats have in common: a file as chunks of rows, which can begin at any row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from dspex.data.cell_text import cell_text
from dspex.data.formats import FileFormat
from dspex.errors import ValidationError

if TYPE_CHECKING:
    import pyarrow

__all__ = ["CHUNK_BYTES", "CHUNK_ROWS", "CellKind", "Cells", "RowChunk", "RowSource", "Survey", "TextChunk",
           "cells_of", "open_source"]  # fmt: skip

#: The most rows of a chunk, and about the most bytes: rows may be wide.
CHUNK_ROWS, CHUNK_BYTES = 500, 2 * 1024 * 1024

#: The cells of a row by column; what is not a JSON object; or the error of a row that cannot be read.
Cells = Mapping[str, Any] | ValidationError
#: How the cells of a source become values: see input_columns.
CellKind = Literal["text", "json", "python"]


@dataclass(frozen=True, slots=True)
class Survey:
    """What one pass over a file found: how many rows it has, its columns in order, and its SHA-256."""

    rows: int
    columns: tuple[str, ...]
    sha256: str


class RowChunk(Protocol):
    """Consecutive rows of a source; ``begin`` is the index of the first."""

    begin: int

    def __len__(self) -> int: ...

    def rows(self) -> Sequence[Cells]:
        """The cells of each row, as Python values."""

    def columns(self) -> Mapping[str, Sequence[Any]] | None:
        """The cells of each column, as Python values; None where a row may have columns of its own."""

    def arrow(self, schema: pyarrow.Schema, positions: Sequence[int]) -> pyarrow.RecordBatch:
        """The rows at these positions in the chunk, with the columns of ``schema``."""


class RowSource(Protocol):
    """A file of rows. It can be read any number of times."""

    path: Path
    #: Whether every row has the same columns: JSON lines have their own keys.
    has_header: bool
    #: ``text``, ``json`` or ``python``: what the cells are.
    cells: CellKind

    def survey(self) -> Survey:
        """Count the rows and find the columns. Raises DspexError for a file that cannot be read to its end."""

    def chunks(self, begin: int = 0, columns: Sequence[str] | None = None) -> Iterator[RowChunk]:
        """The rows from this index on; only these columns, if the format can leave out others."""

    def schema(self, columns: Sequence[str]) -> pyarrow.Schema:
        """The Arrow types of these columns."""


class TextChunk:
    """Rows of a text file: their cells are text, or values of JSON."""

    def __init__(self, begin: int, rows: Sequence[Cells]) -> None:
        self.begin = begin
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def rows(self) -> Sequence[Cells]:
        return self._rows

    def columns(self) -> None:
        return None

    def arrow(self, schema: pyarrow.Schema, positions: Sequence[int]) -> pyarrow.RecordBatch:
        from pyarrow import array, record_batch

        picked = [cells_of(self._rows[at]) for at in positions]
        columns = [
            array([None if (cell := row.get(name)) is None else _arrow_text(cell) for row in picked], type=field.type)
            for name, field in zip(schema.names, schema, strict=True)
        ]
        return record_batch(columns, schema=schema)


def _arrow_text(cell: Any) -> str:
    """The text of a cell as UTF-8 can have it: a lone surrogate as JSON escapes it."""
    return cell_text(cell).encode(errors="backslashreplace").decode()


def cells_of(row: Cells) -> Mapping[str, Any]:
    """The cells of a row by column, as far as it could be read."""
    if isinstance(row, ValidationError):
        found: Mapping[str, Any] = row.details.get("cells", {})
        return found
    return row if isinstance(row, Mapping) else {}


def open_source(path: Path, format: FileFormat, encoding: str | None = None) -> RowSource:
    """The reader of a file in this format.

    Raises ConfigurationError for a Parquet file where pyarrow is not installed.
    """
    if format.kind == "parquet":
        from dspex.data.parquet_file import ParquetFile

        return ParquetFile(path)
    if format.kind == "jsonl":
        from dspex.data.json_lines_file import JsonLinesFile

        return JsonLinesFile(path, compressed=format.compressed, encoding=encoding)
    from dspex.data.delimited.delimited_file import DelimitedFile

    return DelimitedFile(path, delimiter=format.delimiter, compressed=format.compressed, encoding=encoding)
