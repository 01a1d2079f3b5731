"""The files of ``dspex batch``: which there are for an output, and ``OUT.batch``, with which a run is continued.

``OUT.batch`` holds the id of the batch. The ids of its executions are derived from it, so no row is stored twice. JSON
lines are appended to the output itself, which thereby records which rows are written. An output in any other format
cannot be continued in the middle (Parquet has its index at the end): its lines are appended to ``OUT.batch.results``,
and the output is written from them as a whole once every row is final. So every format resumes in the same way.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from dspex.cli.batches.line_file import refuse
from dspex.data.formats import FileFormat, format_of
from dspex.data.parquet_file import need_pyarrow
from dspex.data.replaced_file import naming, replacing

__all__ = [
    "STANDARD",
    "STANDARD_ERROR",
    "BatchFiles",
    "BatchState",
    "Destination",
    "read_state",
    "readable",
    "write_state",
]

#: The version of the file ``OUT.batch``.
FORMAT = 1
#: The name of standard input and standard output on the command line.
STANDARD = Path("-")
#: Where failures are written when the output is no file.
STANDARD_ERROR = Path("/dev/stderr")
_STANDARD_PATHS = (STANDARD, STANDARD_ERROR, Path("/dev/stdin"), Path("/dev/stdout"))


@dataclass(frozen=True, slots=True)
class Destination:
    """An output: its path, its format, and where its lines are recorded; None if they go nowhere else.

    ``is_stream``: a pipe, a device or standard output, which cannot be read again.
    """

    path: Path
    format: FileFormat
    lines: Path | None
    is_stream: bool

    @property
    def is_table(self) -> bool:
        """Whether it is written as a whole from its recorded lines."""
        return self.lines is not None and self.lines != self.path


@dataclass(frozen=True, slots=True)
class BatchFiles:
    """The files of one run. ``directory`` is for what is not beside the output; it is removed at the end."""

    source: Path
    source_format: FileFormat
    output: Destination
    errors: Destination
    state: Path

    @classmethod
    def of(
        cls, source: Path, output: Path, errors: Path | None, directory: Path, *,
        source_format: str | None, output_format: str | None,
    ) -> BatchFiles:  # fmt: skip
        """Raises DspexError when two of them are the same file, or one is Parquet and pyarrow is not installed: before
        rows are executed whose results could not be written."""
        base = directory / "output" if _is_stream(output) else output
        state = base.with_name(base.name + ".batch")
        format = format_of(output, output_format)
        results = _destination(output, format, state.with_name(state.name + ".results"))
        failures = _failures_path(output, format, results.is_stream) if errors is None else errors
        failed = _destination(failures, format_of(failures), state.with_name(state.name + ".errors"))
        _refuse_same({"the input": source, "the output": output, "the file of errors": failures})
        files = cls(source, format_of(source, source_format), results, failed, state)
        if "parquet" in (files.source_format.kind, results.format.kind, failed.format.kind):
            need_pyarrow()
        return files

    @property
    def has_tables(self) -> bool:
        """Whether an output is written as a whole, in the order of the rows."""
        return self.output.is_table or self.errors.is_table


@dataclass(frozen=True, slots=True)
class BatchState:
    """The batch that the output belongs to.

    ``submitted``: every row of the input is stored. ``options`` are the options of the command that change what is read
    or written. ``row_usd`` is the expected cost of a row, with ``--max-cost``.
    """

    batch_id: str
    program: str
    version: str
    input_sha256: str
    ordered: bool
    submitted: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    row_usd: float | None = None


def read_state(path: Path) -> BatchState | None:
    if not path.exists():
        return None
    try:
        return BatchState(**{name: value for name, value in json.loads(path.read_bytes()).items() if name != "format"})
    except (ValueError, TypeError, AttributeError) as error:
        raise refuse(f"{path} is not the state of a batch ({error}); use --restart to begin again") from None


def write_state(path: Path, state: BatchState) -> None:
    """Replace the file atomically, and sync it to disk."""
    with replacing(path) as file:
        file.write(json.dumps({"format": FORMAT, **asdict(state)}, indent=2).encode())


@contextmanager
def readable(source: Path) -> Iterator[Path]:
    """The input as a file that can be read again: standard input and pipes are copied to a temporary file first."""
    if not _is_stream(source):
        yield source
        return
    with tempfile.TemporaryDirectory(prefix="dspex-batch-") as directory:
        copy = Path(directory) / ("standard-input" if source == STANDARD else source.name)
        with _opened(source) as given, naming(copy), copy.open("wb") as file:
            while piece := given.read(1024 * 1024):
                file.write(piece)
        yield copy


@contextmanager
def _opened(source: Path) -> Iterator[BinaryIO]:
    if source == STANDARD:
        yield sys.stdin.buffer
    else:
        with source.open("rb") as file:
            yield file


def _destination(path: Path, format: FileFormat, lines: Path) -> Destination:
    stream = _is_stream(path)
    if str(format) == "jsonl":
        return Destination(path, format, None if stream else path, stream)
    return Destination(path, format, lines, stream)


def _failures_path(output: Path, format: FileFormat, is_stream: bool) -> Path:
    """By default failures are beside the output, in its format; without a file for the output on standard error."""
    if is_stream:
        return STANDARD_ERROR
    stem = Path(output.name.removesuffix(".gz")).stem
    return output.with_name(f"{stem}.errors.{format.kind}")


def _is_stream(path: Path) -> bool:
    return path in _STANDARD_PATHS or (path.exists() and not path.is_file())


def _refuse_same(paths: Mapping[str, Path]) -> None:
    seen: dict[tuple[int, int] | str, str] = {}
    for what, path in paths.items():
        if _is_stream(path):
            continue
        found = path.stat() if path.exists() else None
        key = (found.st_dev, found.st_ino) if found else str(path.absolute())
        if key in seen:
            raise refuse(f"{path} is {seen[key]} and {what}: choose another file for {what}")
        seen[key] = what
