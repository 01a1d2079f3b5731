"""CSV and TSV: RFC 4180, read by the csv module, or by pyarrow where that reads the same.

Blank lines are no rows. A row with more or fewer cells than the header is rejected by itself; a quote that is left open
makes the rest of the file unreadable, so the whole file is refused. Every cell is text: ``007`` stays as it is.
"""

from __future__ import annotations

import csv
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.util import find_spec
from io import StringIO
from itertools import chain
from pathlib import Path
from typing import IO, TYPE_CHECKING

from dspex.data.formats import data_refused
from dspex.data.plain_csv import PlainText
from dspex.data.record_count import blocks, record_count
from dspex.data.row_source import CHUNK_BYTES, CHUNK_ROWS, CellKind, Cells, RowChunk, Survey, TextChunk
from dspex.data.text_input import LONGEST_LINE, digest, is_utf8, open_text, reading
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
        self._plain: PlainText | None = None  # the survey finds out whether it is

    def survey(self) -> Survey:
        with ThreadPoolExecutor(max_workers=1) as pool:  # hashing needs nothing of the interpreter
            sha256 = pool.submit(digest, self.path)
            with self._opened() as (columns, file, line):
                rows = self._count(file, line)
            return Survey(rows, tuple(columns), sha256.result())

    def chunks(self, begin: int = 0, columns: Sequence[str] | None = None) -> Iterator[RowChunk]:
        if self._plain is not None:
            for chunk in self._plain.chunks(self.path, self._delimiter, begin, columns):
                begin = chunk.begin + len(chunk)
                yield chunk
        if self._plain is None or begin < self._plain.rows:
            yield from self._by_csv_module(begin)

    def _by_csv_module(self, begin: int) -> Iterator[TextChunk]:
        with self._opened() as (header, file, begun):
            chunk: list[Cells] = []
            index = size = 0
            for line, record in self._numbered(file, begun):
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
    def _opened(self) -> Iterator[tuple[Sequence[str], IO[str], int]]:
        """The columns, the file after its header, and the number of the header's last line."""
        _allow_long_cells()
        with reading(self.path), open_text(self.path, compressed=self._compressed, encoding=self._encoding) as file:
            line, header = next(self._numbered(file, 0), (0, None))
            if header is None:
                raise data_refused(f"{self.path} is empty: its first line must name the columns")
            yield self._checked(header), file, line

    def _count(self, file: IO[str], line: int) -> int:
        """How many records are after a line. From a block on that cannot be counted, the csv module reads them."""
        rows = longest = 0
        with reading(self.path, lambda: line):
            for block in blocks(file):
                count = record_count(block, self._delimiter)
                if count is None:
                    return rows + sum(1 for _ in self._numbered(chain(StringIO(block, newline=""), file), line))
                rows += count
                line += _line_count(block)
                longest = max(longest, len(block))
        if not self._compressed and is_utf8(self._encoding) and find_spec("pyarrow") is not None:
            self._plain = PlainText(rows, longest)
        return rows

    def _numbered(self, lines: Iterable[str], line: int) -> Iterator[tuple[int, list[str]]]:
        """The records of lines that come after ``line``, each with the number of its last line; no blank lines."""
        reader = csv.reader(lines, delimiter=self._delimiter, strict=True)
        with reading(self.path, lambda: line + reader.line_num):
            try:
                for record in reader:
                    if record:
                        yield line + reader.line_num, record
            except csv.Error as error:
                raise data_refused(f"{self.path}, line {line + reader.line_num}: {_explained(error)}") from None

    def _checked(self, header: list[str]) -> Sequence[str]:
        if twice := [name for name, count in Counter(header).items() if count > 1]:
            raise data_refused(f"{self.path}, line 1: the column {twice[0]!r} is there twice; rename one of them")
        if len(header) == 1 and self._delimiter == "," and ";" in header[0]:
            raise data_refused(
                f"{self.path}, line 1: one column, {header[0][:60]!r}: its cells seem to be separated by ';', and "
                "CSV has commas"
            )
        return header


def _line_count(text: str) -> int:
    """How many line breaks are in a text: CR, LF or both."""
    return text.count("\n") + (text.count("\r") - text.count("\r\n") if "\r" in text else 0)


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
