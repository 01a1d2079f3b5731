"""The records of CSV and TSV, read by the csv module: of a file, or of text that arrives in parts."""

from __future__ import annotations

import codecs
import csv
import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from io import IncrementalNewlineDecoder, StringIO

from dspex.data.column_names import refuse_twice
from dspex.data.formats import data_refused
from dspex.data.text_input import LONGEST_LINE
from dspex.errors import FieldError, ValidationError

__all__ = ["CsvParts", "RecordTooLong", "allow_long_cells", "checked_header", "numbered_records", "ragged"]

_limit_lock = threading.Lock()
_QUOTED = r'"[^"]*+(?:""[^"]*+)*+"'
_CELL = rf'(?:{_QUOTED}[^,]*+|[^",][^,]*+)?+'
#: Cells up to the end of a line, or up to a quoted cell that goes on in the next line.
_CELLS = re.compile(rf"{_CELL}(?:,{_CELL})*+")


class RecordTooLong(Exception):
    """A record has more characters than it may have."""


class CsvParts:
    """The records of CSV that arrives in parts, the same as of a file in UTF-8. Memory holds one record and one part.

    ``name`` is what the text is called in errors; ``most`` are the most characters of a record.
    """

    def __init__(self, name: str, most: int) -> None:
        self._name = name
        self._most = most
        self._decoder = IncrementalNewlineDecoder(codecs.getincrementaldecoder("utf-8-sig")(), translate=False)
        self._pieces: list[str] = []  # of a line that is not complete
        self._open: list[str] = []  # lines of a record that is not complete
        self._is_in_quotes = False  # at the end of these lines
        self._size = 0  # of the record that is not complete
        self._line = 0
        allow_long_cells(most)

    def records(self, part: bytes, *, is_last: bool = False) -> Iterator[tuple[int, list[str]]]:
        """The records that are complete with this part, each with the number of its last line; no blank lines.

        Raises DspexError for what is no CSV, RecordTooLong.
        """
        lines = list(self._complete(part, is_last=is_last))
        yield from numbered_records(lines, self._line, ",", self._name)
        self._line += len(lines)

    def _complete(self, part: bytes, *, is_last: bool) -> Iterator[str]:
        """The lines of records that are complete with this part."""
        for piece in StringIO(self._text(part, is_last=is_last), newline=""):
            self._size += len(piece)
            if self._size > self._most:
                raise RecordTooLong
            self._pieces.append(piece)
            if piece.endswith(("\n", "\r")):
                self._end_line()
                if not self._is_in_quotes:
                    yield from self._take()
        if is_last:
            self._end_line()
            yield from self._take()

    def _end_line(self) -> None:
        if self._pieces:
            line = "".join(self._pieces)
            self._pieces.clear()
            self._open.append(line)
            self._is_in_quotes = _ends_in_quotes(line, self._is_in_quotes)

    def _take(self) -> Sequence[str]:
        """The lines of a record; the next one begins."""
        lines = self._open
        self._open, self._is_in_quotes, self._size = [], False, 0
        return lines

    def _text(self, part: bytes, *, is_last: bool) -> str:
        try:
            return self._decoder.decode(part, is_last)
        except UnicodeDecodeError as error:
            after = self._line + len(self._open)
            raise data_refused(f"{self._name}, after line {after}: the text is not UTF-8 ({error.reason})") from None


def numbered_records(lines: Iterable[str], line: int, delimiter: str, name: str) -> Iterator[tuple[int, list[str]]]:
    """The records of lines that come after ``line``, each with the number of its last line; no blank lines.

    Raises DspexError, which calls the text ``name``, for what is no CSV.
    """
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        for record in reader:
            if record:
                yield line + reader.line_num, record
    except csv.Error as error:
        raise data_refused(f"{name}, line {line + reader.line_num}: {_explained(error)}") from None


def checked_header(header: Sequence[str], delimiter: str, name: str) -> Sequence[str]:
    """The names of columns. Raises DspexError for one that is there twice, and for another delimiter."""
    refuse_twice(header, f"{name}, line 1")
    if len(header) == 1 and delimiter == "," and ";" in header[0]:
        raise data_refused(
            f"{name}, line 1: one column, {header[0][:60]!r}: its cells seem to be separated by ';', and CSV has commas"
        )
    return header


def ragged(name: str, line: int, columns: Sequence[str], record: Sequence[str]) -> ValidationError:
    """The error for a record with more or fewer cells than the header."""
    expected = f"{len(columns)} cells, as in the header"
    error = ValidationError.of(f"{name}, line {line}", [FieldError("the row", expected, f"{len(record)}")])
    error.details["cells"] = dict(zip(columns, record, strict=False))
    return error


def allow_long_cells(most: int = LONGEST_LINE) -> None:
    """The csv module's limit of 131,072 characters a cell is for the whole process; it is raised, never lowered."""
    with _limit_lock:
        csv.field_size_limit(max(csv.field_size_limit(), most))


def _ends_in_quotes(line: str, in_quotes: bool) -> bool:
    """Whether a quoted cell goes on after a line; ``in_quotes``: one went on before it."""
    if '"' not in line:
        return in_quotes
    text = f'"{line}' if in_quotes else line
    found = _CELLS.match(text)
    return found is not None and found.end() < len(text)


def _explained(error: csv.Error) -> str:
    text = str(error)
    if "unexpected end of data" in text or "field larger than field limit" in text:
        return "a quote is opened and not closed"
    if "expected after" in text:
        return f'a quote inside of a quoted cell must be doubled, as in "say ""hello""" ({text})'
    return text
