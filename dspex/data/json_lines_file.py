"""JSON lines: an object on each line. Blank lines at the end do not count; one between others is an invalid row."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dspex.data.formats import data_refused
from dspex.data.row_source import CHUNK_BYTES, CHUNK_ROWS, CellKind, Cells, Survey, TextChunk
from dspex.data.text_input import LONGEST_LINE, binary_lines, digest, is_utf8, open_text, reading
from dspex.errors import FieldError, ValidationError

if TYPE_CHECKING:
    import pyarrow

__all__ = ["MOST_KEYS", "JsonLinesFile"]

#: The most different keys of all lines together: each is a column.
MOST_KEYS = 10_000


class JsonLinesFile:
    """A file with a JSON object on each line. The index of a row is the number of its line, from 0."""

    has_header = False
    cells: CellKind = "json"

    def __init__(self, path: Path, *, compressed: bool, encoding: str | None) -> None:
        self.path = path
        self._compressed = compressed
        self._encoding = encoding

    def survey(self) -> Survey:
        rows = 0
        columns: dict[str, None] = {}
        for number, line in enumerate(self._lines(), 1):
            if line is None or not line.isspace():
                rows = number
                if isinstance(row := self._parse(number - 1, line), dict) and not row.keys() <= columns.keys():
                    columns.update(dict.fromkeys(row))
                    self._check(columns, number)
        return Survey(rows, tuple(columns), digest(self.path))

    def chunks(self, begin: int = 0, columns: Sequence[str] | None = None) -> Iterator[TextChunk]:
        chunk: list[Cells] = []
        blank: list[Cells] = []  # they count only if a row follows
        index, size = -1, 0
        for index, line in enumerate(self._lines()):
            if index < begin:
                continue
            if line is not None and line.isspace():
                blank.append(self._parse(index, line))
                continue
            chunk += [*blank, self._parse(index, line)]
            blank = []
            size += len(line or "")
            if len(chunk) >= CHUNK_ROWS or size >= CHUNK_BYTES:
                yield TextChunk(index + 1 - len(chunk), chunk)
                chunk, size = [], 0
        if chunk:
            yield TextChunk(index + 1 - len(blank) - len(chunk), chunk)

    def schema(self, columns: Sequence[str]) -> pyarrow.Schema:
        import pyarrow

        return pyarrow.schema([(name, pyarrow.string()) for name in columns])

    def _lines(self) -> Iterator[bytes | str | None]:
        if is_utf8(self._encoding):
            with reading(self.path):
                yield from binary_lines(self.path, compressed=self._compressed)
            return
        number = 0
        with (
            reading(self.path, lambda: number),
            open_text(self.path, compressed=self._compressed, encoding=self._encoding) as file,
        ):
            for number, line in enumerate(file, 1):  # noqa: B007 - for the error
                yield line

    def _parse(self, index: int, line: bytes | str | None) -> Any:
        """The value on a line, or its error. A value that is not an object is rejected by the signature."""
        try:
            if line is None:
                raise ValueError(f"it is longer than {LONGEST_LINE} bytes")
            return _STRICT.decode(line if isinstance(line, str) else line.decode("utf-8", "surrogatepass"))
        except (ValueError, RecursionError) as error:
            fault = FieldError("line", f"a JSON object ({error})")
            return ValidationError.of(f"{self.path}, line {index + 1}", [fault])

    def _check(self, columns: dict[str, None], number: int) -> None:
        if len(columns) > MOST_KEYS:
            raise data_refused(f"{self.path}, line {number}: more than {MOST_KEYS} different keys in all lines")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


#: JSON without NaN and Infinity. It is made once: `json.loads` with options makes one for each line.
_STRICT = json.JSONDecoder(parse_constant=_refuse_constant)
