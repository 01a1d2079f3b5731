"""What a dataset can be made of: rows, examples, files and frames, each read a row at a time.

Nothing of another library is imported for them: an object is recognised by its methods.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

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
    """The rows of a source, in order. Raises ValidationError for one that cannot be read, with the row's number."""
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
    for values in frame.itertuples(index=False, name=None):
        yield {name: _plain(value) for name, value in zip(names, values, strict=True)}


def _plain(value: Any) -> Any:
    """A value of a frame as Python has it: pandas marks missing values with NaN, and numpy has numbers of its own."""
    if hasattr(value, "item") and not isinstance(value, str | bytes | list | dict):
        value = value.item()
    return None if isinstance(value, float) and math.isnan(value) else value


def _arrow_rows(table: Any) -> Iterator[Mapping[str, Any]]:
    for batch in table.to_batches(max_chunksize=_READ_ROWS):
        yield from batch.to_pylist()


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
    opened = gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb")  # noqa: SIM115 - below
    with io.TextIOWrapper(opened, encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines):
            if line.isspace():
                continue
            try:
                row = json.loads(line)
            except ValueError:
                raise _bad_row(number, "a JSON object on each line", line.strip()[:40]) from None
            if not isinstance(row, dict):
                raise _bad_row(number, "a JSON object on each line", type(row).__name__)
            yield row


def _csv_rows(path: Path, delimiter: str) -> Iterator[Mapping[str, Any]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        for number, row in enumerate(csv.DictReader(file, delimiter=delimiter)):
            if None in row or None in row.values():
                raise _bad_row(number, "as many values as the first line has names", f"{len(row)} columns")
            yield row


def _parquet_rows(path: Path) -> Iterator[Mapping[str, Any]]:
    try:
        parquet = import_module("pyarrow.parquet")
    except ImportError:
        fault = FieldError("source", "pyarrow, to read Parquet: pip install pyarrow", str(path)[:80])
        raise ValidationError.of("dataset", [fault]) from None
    with parquet.ParquetFile(path, pre_buffer=False) as file:  # nothing is read beside, so close() is the end
        for batch in file.iter_batches(batch_size=_READ_ROWS):
            yield from batch.to_pylist()


def _bad_row(number: int, expected: str, got: str) -> ValidationError:
    return ValidationError.of("dataset", [FieldError(f"rows[{number}]", expected, got)])
