"""Writes the outputs of ``dspex batch`` that are written as a whole: the rows of the input with results beside them."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from dspex.cli.batches.batch_files import STANDARD, Destination
from dspex.cli.batches.batch_input import BatchInput
from dspex.cli.batches.line_file import Lines
from dspex.data.replaced_file import naming, replacing
from dspex.data.row_source import RowSource
from dspex.data.table_writers import Line, MadeColumn, TableWriter, error_columns, open_writer, result_columns
from dspex.settings.failpoints import DURING_TABLE, failpoint
from dspex.signatures import Signature

__all__ = ["write_beside", "write_errors", "write_results"]


def write_results(destination: Destination, lines: Lines, given: BatchInput, signature: Signature) -> None:
    """Write the results: the columns of the input, then the outputs; the rows that completed, in their order."""
    made = result_columns(signature.output_fields, given.survey.columns)
    _write(destination, lines, given, made, made_first=False)


def write_errors(destination: Destination, lines: Lines, given: BatchInput) -> None:
    """Write the failures: row, code, message and execution, then the columns of the input."""
    _write(destination, lines, given, error_columns(given.survey.columns), made_first=True)


def _write(
    destination: Destination, lines: Lines, given: BatchInput, made: Sequence[MadeColumn], *, made_first: bool
) -> None:
    lines.sort()
    carried = given.others if destination.format.kind == "jsonl" else given.survey.columns
    with _file(destination) as file:
        writer = open_writer(file, destination.format, carried, made, schema=given.source.schema, made_first=made_first)
        write_beside(given.source, lines.lines(), writer)
        writer.close()


def write_beside(source: RowSource, lines: Iterator[Line], writer: TableWriter) -> None:
    """Write the rows of a source that have a line, each with its line; the lines ascend by their index."""
    line = next(lines, None)
    for chunk in source.chunks():
        if line is None:
            return
        end = chunk.begin + len(chunk)
        picked: list[Line] = []
        while line is not None and line["index"] < end:
            picked.append(line)
            line = next(lines, None)
        writer.write(chunk, [each["index"] - chunk.begin for each in picked], picked)
        failpoint(DURING_TABLE)


@contextmanager
def _file(destination: Destination) -> Iterator[BinaryIO]:
    """The file of an output. One that can be replaced appears when it is complete."""
    if not destination.is_stream:
        with replacing(destination.path) as file:
            yield file
        return
    with tempfile.TemporaryFile() as whole:  # Parquet is not written into a pipe
        yield cast("BinaryIO", whole)
        whole.seek(0)
        with naming(destination.path), _stream(destination.path) as out:
            shutil.copyfileobj(whole, out)


@contextmanager
def _stream(path: Path) -> Iterator[BinaryIO]:
    if path == STANDARD:
        out = sys.stdout.buffer
        yield out
        out.flush()
    else:
        with path.open("wb") as file:
            yield file
