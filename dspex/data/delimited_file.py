"""CSV and TSV: RFC 4180, read by the csv module.

Blank lines are no rows. A row with more or fewer cells than the header is rejected by itself; a quote that is left open
makes the rest of the file unreadable, so the whole file is refused. Every cell is text: ``007`` stays as it is.
"""

from __future__ import annotations

import csv
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dspex.data.formats import data_refused
from dspex.data.row_source import CHUNK_BYTES, CHUNK_ROWS, CellKind, Cells, Survey, TextChunk
from dspex.data.text_input import LONGEST_LINE, digest, open_text, reading
from dspex.errors import FieldError, ValidationError

if TYPE_CHECKING:
    import pyarrow

__all__ = ["DelimitedFile"]

_limit_lock = threading.Lock()


class DelimitedFile:
    """A file of lines with cells between ``delimiter``, whose first line names the columns."""

    has_header = True
    cells: CellKind = "text"

    def __init__(self, path: Path, *, delimiter: str, compressed: bool, encoding: str | None) -> None:
        self.path = path
        self._delimiter = delimiter
        self._compressed = compressed
        self._encoding = encoding

    def survey(self) -> Survey:
        with self._records() as (columns, records):
            rows = sum(1 for _ in records)
        return Survey(rows, tuple(columns), digest(self.path))

    def chunks(self, begin: int = 0, columns: Sequence[str] | None = None) -> Iterator[TextChunk]:
        with self._records() as (header, records):
            chunk: list[Cells] = []
            index = size = 0
            for line, record in records:
                index += 1
                if index <= begin:
                    continue
                chunk.append(
                    dict(zip(header, record, strict=True))
                    if len(record) == len(header)
                    else _ragged(self.path, line, header, record)
                )
                size += sum(map(len, record))
                if len(chunk) == CHUNK_ROWS or size >= CHUNK_BYTES:
                    yield TextChunk(index - len(chunk), chunk)
                    chunk, size = [], 0
            if chunk:
                yield TextChunk(index - len(chunk), chunk)

    def schema(self, columns: Sequence[str]) -> pyarrow.Schema:
        import pyarrow

        return pyarrow.schema([(name, pyarrow.string()) for name in columns])

    @contextmanager
    def _records(self) -> Iterator[tuple[Sequence[str], Iterator[tuple[int, list[str]]]]]:
        """The columns, and each record with the number of its last line."""
        _allow_long_cells()
        with reading(self.path), open_text(self.path, compressed=self._compressed, encoding=self._encoding) as file:
            reader = csv.reader(file, delimiter=self._delimiter, strict=True)
            records = self._each(reader)
            header = next(records, None)
            if header is None:
                raise data_refused(f"{self.path} is empty: its first line must name the columns")
            yield self._checked(header[1]), records

    def _each(self, reader: Any) -> Iterator[tuple[int, list[str]]]:
        """The records of the csv module's reader without blank lines."""
        with reading(self.path, lambda: reader.line_num):
            try:
                for record in reader:
                    if record:
                        yield reader.line_num, record
            except csv.Error as error:
                raise data_refused(f"{self.path}, line {reader.line_num}: {_explained(error)}") from None

    def _checked(self, header: list[str]) -> Sequence[str]:
        if twice := [name for name, count in Counter(header).items() if count > 1]:
            raise data_refused(f"{self.path}, line 1: the column {twice[0]!r} is there twice; rename one of them")
        if len(header) == 1 and self._delimiter == "," and ";" in header[0]:
            raise data_refused(
                f"{self.path}, line 1: one column, {header[0][:60]!r}: its cells seem to be separated by ';', and "
                "CSV has commas"
            )
        return header


def _ragged(path: Path, line: int, columns: Sequence[str], record: Sequence[str]) -> ValidationError:
    expected = f"{len(columns)} cells, as in the header"
    error = ValidationError.of(f"{path}, line {line}", [FieldError("the row", expected, f"{len(record)}")])
    error.details["cells"] = dict(zip(columns, record, strict=False))
    return error


def _explained(error: csv.Error) -> str:
    text = str(error)
    if "unexpected end of data" in text or "field larger than field limit" in text:
        return "a quote is opened and not closed"
    if "expected after" in text:
        return f'a quote inside of a quoted cell must be doubled, as in "say ""hello""" ({text})'
    return text


def _allow_long_cells() -> None:
    """The csv module's limit of 131,072 characters a cell is for the whole process; it is raised, never lowered."""
    with _limit_lock:
        csv.field_size_limit(max(csv.field_size_limit(), LONGEST_LINE))
