"""Parts of `dspex batch` on a file, each measured in a process of its own: ``make bench ONLY=data`` runs them.

``python -m tests.performance.bench_batch_files PART FILE`` prints rows, seconds and the most memory of the process as
JSON. ``alone`` reads the file with pyarrow; ``inputs`` is what a submit gets of it, with the pass before that counts,
hashes and checks it; ``table`` writes the rows with outputs beside them.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pyarrow
from pyarrow import csv, parquet

import dspex
from dspex.cli.batches.batch_input import BatchInput, InputOptions
from dspex.cli.batches.batch_tables import write_beside
from dspex.data.arrow_types import spare_memory
from dspex.data.formats import format_of
from dspex.data.table_writers import open_writer, result_columns

SIGNATURE = dspex.signature(':string ticket, :integer words -> :enum("bug", "other") queue, :float score')
RESULT = {"queue": "bug", "score": 0.5}
TEXT = 'The lamp does not turn on, and "nothing" helps. '
#: Bytes that are generated at a time.
PIECE_BYTES = 16 * 1024 * 1024


def generate(path: Path, size: int, *, carried: int = 0) -> int:
    """Write the same rows again and again until the file has the size; returns how many it has.

    A row has a ticket of a kilobyte, or one line and a text of ``carried`` bytes that no input is read from.
    """
    piece = _piece(max(PIECE_BYTES // (carried or 1000), 1), carried)
    rows = 0
    with path.open("wb") as file, ExitStack() as ending:
        if path.suffix == ".parquet":
            writer = parquet.ParquetWriter(file, piece.schema, compression="none", use_dictionary=False)
            ending.enter_context(writer)
            write = partial(writer.write_table, piece)
        else:
            text = io.BytesIO()
            csv.write_csv(piece, text, csv.WriteOptions(include_header=False))
            csv.write_csv(piece.slice(0, 0), file)
            write = partial(file.write, text.getvalue())
        while file.tell() < size:
            write()
            rows += len(piece)
    return rows


def _piece(count: int, carried: int) -> pyarrow.Table:
    numbers = range(count)
    columns: dict[str, list[object]] = {
        "id": list(numbers),
        "ticket": [f"{number}: {TEXT if carried else TEXT * 20}" for number in numbers],
        "words": [number % 50 for number in numbers],
    }
    if carried:
        long = TEXT * (carried // len(TEXT) + 1)
        columns["letter"] = [f"{number}: {long}" for number in numbers]
    return pyarrow.table(columns)


def alone(path: Path) -> int:
    """Read all columns with pyarrow, a batch at a time."""
    if path.suffix == ".parquet":
        return sum(batch.num_rows for batch in parquet.ParquetFile(path).iter_batches())
    return sum(batch.num_rows for batch in csv.open_csv(path, parse_options=csv.ParseOptions(newlines_in_values=True)))


def given(path: Path) -> BatchInput:
    return BatchInput.read(path, format_of(path), SIGNATURE, InputOptions({}, "missing", None))


def inputs(path: Path) -> int:
    """What `dspex batch` does with the file before rows are stored."""
    return sum(1 for _ in given(path).inputs())


def table(path: Path) -> int:
    """The table with outputs beside the rows, into a file that is thrown away."""
    spare_memory()
    source = given(path)
    lines: Iterator[Mapping[str, object]] = ({"index": n, "id": "", "result": RESULT} for n in range(source.rows))
    with tempfile.TemporaryFile(dir=path.parent) as file:
        columns = result_columns(SIGNATURE.output_fields, source.survey.columns)
        writer = open_writer(file, format_of(path), source.survey.columns, columns, schema=source.source.schema)
        write_beside(source.source, lines, writer)
        writer.close()
    return source.rows


PARTS: Mapping[str, Callable[[Path], int]] = {"alone": alone, "inputs": inputs, "table": table}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("file", type=Path)
    options = parser.parse_args()
    began = time.perf_counter()
    rows = PARTS[options.part](options.file)
    seconds = time.perf_counter() - began
    print(json.dumps({"rows": rows, "seconds": seconds, "mib": most_mib()}))


def most_mib(pid: int | str = "self") -> float:
    """The most memory of a process so far. Of ru_maxrss a process inherits what its parent had."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")), 0.0)


if __name__ == "__main__":
    main()
