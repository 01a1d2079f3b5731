"""The input of ``dspex batch``: its rows, and what is done with their columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dspex.client.execution import Execution
from dspex.data.cell_text import json_cell
from dspex.data.formats import FileFormat
from dspex.data.input_columns import Empty, InputColumns
from dspex.data.row_source import Cells, RowChunk, RowSource, Survey, cells_of, open_source
from dspex.signatures import Signature
from dspex.submit.bulk import Row

__all__ = ["BatchInput", "InputOptions"]


@dataclass(frozen=True, slots=True)
class InputOptions:
    """How the input is read: the options of the command. A change of them makes it another batch."""

    mapping: Mapping[str, str]
    empty: Empty
    encoding: str | None

    def recorded(self, format: FileFormat) -> dict[str, Any]:
        """What ``OUT.batch`` keeps of them: what differs from the defaults, so that older files stay valid."""
        given = {"map": dict(self.mapping), "empty": self.empty, "encoding": self.encoding, "format": str(format)}
        defaults: dict[str, Any] = {"map": {}, "empty": "missing", "encoding": None, "format": "jsonl"}
        return {name: value for name, value in given.items() if value != defaults[name]}


@dataclass(frozen=True, slots=True)
class BatchInput:
    """The rows of the input file. ``others`` are the columns that no field is read from."""

    source: RowSource
    survey: Survey
    columns: InputColumns
    others: tuple[str, ...]

    @classmethod
    def read(cls, path: Path, format: FileFormat, signature: Signature, options: InputOptions) -> BatchInput:
        """Read the file once: count its rows, hash it, and check its columns.

        Raises DspexError for a file that cannot be read to its end, or has no column for a required field.
        """
        source = open_source(path, format, options.encoding)
        columns = InputColumns(signature.input_fields, source.cells, options.mapping, empty=options.empty)
        survey = source.survey()
        if source.has_header:
            columns.check(survey.columns, str(path), fix="Use --map {}=COLUMN")
        return cls(source, survey, columns, columns.others(survey.columns))

    @property
    def rows(self) -> int:
        return self.survey.rows

    @property
    def _used(self) -> Sequence[str]:
        return self.columns.used(self.survey.columns)

    def inputs(self, begin: int = 0) -> Iterator[Row]:
        """The inputs of each row from this index on; of a row that cannot be read, its error."""
        for chunk in self.source.chunks(begin, self._used):
            yield from self.columns.chunk_inputs(chunk)

    def sample(self, indexes: Sequence[int]) -> Iterator[Row]:
        """The inputs of these rows, which ascend."""
        wanted = iter(indexes)
        index = next(wanted, None)
        for chunk in self.source.chunks(0, self._used):
            if index is None:
                return
            if index >= chunk.begin + len(chunk):
                continue
            rows = chunk.rows()
            while index is not None and index < chunk.begin + len(chunk):
                yield self.columns.inputs(rows[index - chunk.begin])
                index = next(wanted, None)

    def beside(self, executions: Iterable[Execution]) -> Iterator[tuple[Execution, Mapping[str, Any]]]:
        """Each execution, in the order of the rows, with the cells of the other columns of its row."""
        if not self.others:
            yield from ((execution, {}) for execution in executions)
            return
        chunks = self.source.chunks(0, self.others)
        chunk: RowChunk | None = None
        rows: Sequence[Cells] = ()
        for execution in executions:
            index = execution.batch_index
            assert index is not None
            while chunk is None or index >= chunk.begin + len(chunk):
                chunk = next(chunks)
                rows = ()
            rows = rows or chunk.rows()
            cells = cells_of(rows[index - chunk.begin])
            yield execution, {name: json_cell(cells[name]) for name in self.others if name in cells}
