"""CSV and TSV: RFC 4180, read by the csv module, or by pyarrow where that reads the same.

Blank lines are no rows. A row with more or fewer cells than the header is rejected by itself; a quote that is left open
makes the rest of the file unreadable, so the whole file is refused. Every cell is text: ``007`` stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import IO, TYPE_CHECKING

from dspex.data.delimited.delimited_records import allow_long_cells, checked_header, numbered_records, ragged
from dspex.data.delimited.plain_csv import Parse, RecordPlace, parsed, places, plain_blocks
from dspex.data.formats import data_refused
from dspex.data.parquet_file import chunks_from
from dspex.data.row_source import CHUNK_BYTES, CHUNK_ROWS, CellKind, Cells, RowChunk, Survey, TextChunk
from dspex.data.text_input import LONGEST_LINE, digest, is_utf8, open_bytes, open_text, reading

if TYPE_CHECKING:
    import pyarrow

__all__ = ["DelimitedFile"]


class DelimitedFile:
    """A file of lines with cells between ``delimiter``, whose first line names the columns."""

    has_header = True
    cells: CellKind = "text"

    def __init__(self, path: Path, *, delimiter: str, compressed: bool, encoding: str | None) -> None:
        self.path = path
        self._delimiter = delimiter
        self._compressed = compressed
        self._encoding = encoding
        self._header: Sequence[str] = ()
        self._places: list[RecordPlace] = []  # where blocks begin and end; the survey finds them
        self._are_all = False  # nothing is after the last place

    def survey(self) -> Survey:
        with ThreadPoolExecutor(max_workers=1) as pool:  # hashing needs nothing of the interpreter
            sha256 = pool.submit(digest, self.path)
            with self._opened() as (self._header, _, line):
                self._find_places(line)
            return Survey(self._count(), tuple(self._header), sha256.result())

    def chunks(self, begin: int = 0, columns: Sequence[str] | None = None) -> Iterator[RowChunk]:
        if self._places:
            yield from self._of_blocks(begin, columns)
        if not self._are_all:
            with self._after_blocks() as (header, file, end):
                yield from self._text_chunks(header, self._numbered(file, end.line), end.row, begin)

    def _of_blocks(self, begin: int, columns: Sequence[str] | None) -> Iterator[RowChunk]:
        """The rows of the blocks that the survey found; of one that pyarrow cannot read by the csv module."""
        parse: Parse = _no_rows
        if find_spec("pyarrow") is not None:
            parse = partial(parsed, delimiter=self._delimiter, names=self._header, columns=columns)
        with (
            open_bytes(self.path, compressed=self._compressed) as file,
            closing(plain_blocks(file, self._places, begin, parse)) as found,
        ):
            for block in found:
                if block.rows is not None:
                    yield from chunks_from(block.rows.to_batches(), block.begin.row, begin)
                else:
                    lines = StringIO(block.text.decode(), newline="")
                    records = self._numbered(lines, block.begin.line)
                    yield from self._text_chunks(self._header, records, block.begin.row, begin)

    def _text_chunks(
        self, header: Sequence[str], records: Iterable[tuple[int, list[str]]], index: int, begin: int
    ) -> Iterator[TextChunk]:
        """Records, each with its line, as chunks from the row ``begin`` on; ``index`` is the one of the first."""
        chunk: list[Cells] = []
        size = 0
        for line, record in records:
            index += 1
            if index <= begin:
                continue
            chunk.append(
                dict(zip(header, record, strict=True))
                if len(record) == len(header)
                else ragged(str(self.path), line, header, record)
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
        allow_long_cells()
        with reading(self.path), open_text(self.path, compressed=self._compressed, encoding=self._encoding) as file:
            line, header = next(self._numbered(file, 0), (0, None))
            if header is None:
                raise data_refused(f"{self.path} is empty: its first line must name the columns")
            yield checked_header(header, self._delimiter, str(self.path)), file, line

    @contextmanager
    def _after_blocks(self) -> Iterator[tuple[Sequence[str], IO[str], RecordPlace]]:
        """The columns, and the text that the csv module reads: what is after the last block, and where it begins."""
        with self._opened() as (header, file, line):
            if not self._places:
                yield header, file, RecordPlace(0, 0, line)
                return
        end = self._places[-1]
        with (
            reading(self.path, lambda: end.line),
            open_text(self.path, compressed=self._compressed, encoding=self._encoding, offset=end.offset) as file,
        ):
            yield header, file, end

    def _find_places(self, line: int) -> None:
        """Find the blocks after the header, which ends with this line. There are none in text that is not UTF-8."""
        self._places, self._are_all = [], False
        if not is_utf8(self._encoding):
            return
        last = lambda: self._places[-1].line if self._places else line  # noqa: E731 - for the error
        with open_bytes(self.path, compressed=self._compressed) as file, reading(self.path, last):
            if not all(map(_is_one_line, [file.readline(LONGEST_LINE) for _ in range(line)])):
                return
            for place in places(file, self._delimiter, RecordPlace(file.tell(), 0, line)):
                self._places.append(place)
            self._are_all = file.tell() == self._places[-1].offset

    def _count(self) -> int:
        """How many rows there are. Those after the blocks are read by the csv module."""
        if self._are_all:
            return self._places[-1].row
        with self._after_blocks() as (_, file, end):
            return end.row + sum(1 for _ in self._numbered(file, end.line))

    def _numbered(self, lines: Iterable[str], line: int) -> Iterator[tuple[int, list[str]]]:
        """The records of lines that come after ``line``, each with the number of its last line; no blank lines."""
        last = line
        with reading(self.path, lambda: last):
            for last, record in numbered_records(lines, line, self._delimiter, str(self.path)):
                yield last, record


def _is_one_line(text: bytes) -> bool:
    """Whether a line that ends with LF is one also where CR ends a line."""
    return len(text) < LONGEST_LINE and b"\r" not in text.removesuffix(b"\n").removesuffix(b"\r")


def _no_rows(text: bytes) -> None:
    """What is read of a block without pyarrow."""
