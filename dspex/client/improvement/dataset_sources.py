"""What a dataset can be made of: rows, examples, files and frames, each read a row at a time.

Nothing of another library is imported for them: an object is recognised by its methods.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from dspex.data.cell_text import is_missing, plain_value
from dspex.data.column_names import refuse_twice
from dspex.data.delimited.delimited_records import allow_long_cells, checked_header, numbered_records
from dspex.data.formats import data_refused
from dspex.data.parquet_file import ParquetFile, python_rows
from dspex.data.text_input import DamagedFile, open_bytes
from dspex.errors import FieldError, ValidationError

__all__ = ["SourceRow", "read_source"]

_SUFFIXES = (".jsonl", ".jsonl.gz", ".csv", ".tsv", ".parquet")
#: Rows of a Parquet file that are read at a time.
_READ_ROWS = 1000


class SourceRow(NamedTuple):
    """A row as given: ``inputs`` are the names of its inputs, if it has them itself, as an example of DSPy does."""

    values: Mapping[str, Any]
    inputs: frozenset[str] | None = None


def read_source(source: Any) -> Iterator[SourceRow]:
    """The rows of a source, in order.

    Raises ValidationError for one that cannot be read, with the row's number, and DspexError ``data_refused`` for a
    damaged file, or a column that is there twice.
    """
    if isinstance(source, str | Path):
        return map(SourceRow, _file_rows(Path(source)))
    if hasattr(source, "iter_rows"):  # polars
        return map(SourceRow, source.iter_rows(named=True))
    if hasattr(source, "to_batches"):  # arrow
        return map(SourceRow, _arrow_rows(source))
    if hasattr(source, "itertuples"):  # pandas
        return map(SourceRow, _pandas_rows(source))
    if not isinstance(source, Iterable) or isinstance(source, Mapping | bytes):
        expected = "rows, examples, a frame, or a file: " + " ".join(_SUFFIXES)
        raise ValidationError.of("dataset", [FieldError("source", expected, type(source).__name__)])
    return _given_rows(source)


def _given_rows(source: Iterable[Any]) -> Iterator[SourceRow]:
    for number, row in enumerate(source):
        if isinstance(row, SourceRow):
            yield row
        elif isinstance(row, Mapping):
            yield SourceRow(row)
        elif hasattr(row, "toDict"):  # dspy.Example
            inputs = getattr(row, "_input_keys", None)
            yield SourceRow(row.toDict(), None if inputs is None else frozenset(inputs))
        else:
            raise _bad_row(number, "a mapping or a dspy.Example", type(row).__name__)


def _pandas_rows(frame: Any) -> Iterator[Mapping[str, Any]]:
    names = [str(name) for name in frame.columns]
    refuse_twice(names, "the frame")
    for values in frame.itertuples(index=False, name=None):
        yield {name: _cell(value) for name, value in zip(names, values, strict=True)}


def _cell(value: Any) -> Any:
    """A value of a frame as Python has it: pandas has marks for missing values, and numpy numbers and lists."""
    return None if is_missing(value) else plain_value(value)


def _arrow_rows(table: Any) -> Iterator[Mapping[str, Any]]:
    refuse_twice(table.schema.names, "the table")
    for batch in table.to_batches(max_chunksize=_READ_ROWS):
        yield from python_rows(batch)


def _file_rows(path: Path) -> Iterator[Mapping[str, Any]]:
    name = path.name.lower()
    if name.endswith((".jsonl", ".jsonl.gz")):
        return _json_rows(path)
    if name.endswith((".csv", ".tsv")):
        return _csv_rows(path, "\t" if name.endswith(".tsv") else ",")
    if name.endswith(".parquet"):
        return _parquet_rows(path)
    raise ValidationError.of("dataset", [FieldError("source", f"a file: {' '.join(_SUFFIXES)}", str(path)[:80])])


def _json_rows(path: Path) -> Iterator[Mapping[str, Any]]:
    try:
        with open_bytes(path, compressed=path.name.lower().endswith(".gz")) as lines:
            for number, line in enumerate(lines):
                if not line.isspace():
                    yield _json_row(number, line)
    except DamagedFile as error:
        raise data_refused(f"{path}: the gzip data is damaged or cut off ({error})") from None


def _json_row(number: int, line: bytes) -> Mapping[str, Any]:
    """The object on a line; the first one may have a byte-order mark."""
    try:
        row = json.loads(line.decode("utf-8" if number else "utf-8-sig"))
    except UnicodeDecodeError as error:
        raise _bad_row(number, "text in UTF-8", error.reason) from None
    except (ValueError, RecursionError):
        raise _bad_row(number, "a JSON object on each line", line.decode().strip()[:40]) from None
    if not isinstance(row, dict):
        raise _bad_row(number, "a JSON object on each line", type(row).__name__)
    return row


def _csv_rows(path: Path, delimiter: str) -> Iterator[Mapping[str, Any]]:
    allow_long_cells()
    line = 0
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            records = numbered_records(file, 0, delimiter, str(path))
            line, names = next(records, (0, []))
            checked_header(names, delimiter, str(path))
            for number, (line, record) in enumerate(records):  # noqa: B007 - for the error
                if len(record) != len(names):
                    raise _bad_row(number, "as many values as the first line has names", f"{len(record)}")
                yield dict(zip(names, record, strict=True))
    except UnicodeDecodeError as error:
        raise data_refused(f"{path}, after line {line}: the text is not UTF-8 ({error.reason})") from None


def _parquet_rows(path: Path) -> Iterator[Any]:
    file = ParquetFile(path)
    file.columns()
    for chunk in file.chunks():
        yield from chunk.rows()


def _bad_row(number: int, expected: str, got: str) -> ValidationError:
    return ValidationError.of("dataset", [FieldError(f"rows[{number}]", expected, got)])
