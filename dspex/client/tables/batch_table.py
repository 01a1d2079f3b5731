"""The executions of a batch as an Arrow table: inputs, outputs and errors, with their types."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dspex.data.arrow_types import arrow_type, arrow_value
from dspex.data.cell_text import cell_text
from dspex.data.column_names import free_names
from dspex.data.parquet_file import need_pyarrow
from dspex.data.replaced_file import replacing
from dspex.errors import ConfigurationError
from dspex.sealing.values import PLACEHOLDER, Sealing
from dspex.signatures import Signature
from dspex.signatures.compiled import Side
from dspex.signatures.fields import Field
from dspex.store.lifecycle.status import Status
from dspex.wait.driver import Row

if TYPE_CHECKING:
    import pandas
    import pyarrow

__all__ = ["BatchTable", "ParquetParts", "concatenated", "parquet_file", "to_pandas"]

#: Rows that are converted together: so many, or fewer long ones.
GROUP_ROWS = 5_000
GROUP_CHARACTERS = 16 * 1024 * 1024
#: The columns that hold no field.
_OWN = ("index", "execution_id", "status", "error_code", "error_message")


class BatchTable:
    """Gathers the final rows of a batch.

    The columns are ``index``, ``execution_id`` and ``status``, the inputs, the outputs (null where an execution has not
    completed), ``error_code`` and ``error_message``. A field with one of these names becomes ``NAME_input`` or
    ``NAME_output``. Secret fields are text, ``"<secret>"`` without a key, or if they are ``hidden``.
    """

    def __init__(self, sealing: Sealing, signature: Signature, *, hidden: bool = False) -> None:
        need_pyarrow()
        self._sealing = sealing
        self._signature = signature
        self._hidden = hidden
        self._rows: list[Row] = []
        self._characters = 0

    @property
    def schema(self) -> pyarrow.Schema:
        """The columns and their types."""
        import pyarrow

        text = pyarrow.string()
        signature = self._signature
        inputs = free_names([field.name for field in signature.input_fields], _OWN, "input")
        outputs = free_names([field.name for field in signature.output_fields], [*_OWN, *inputs], "output")
        fields = zip([*inputs, *outputs], [*signature.input_fields, *signature.output_fields], strict=True)
        values = [(name, text if field.secret else arrow_type(field.type)) for name, field in fields]
        first = [("index", pyarrow.int64()), ("execution_id", text), ("status", text)]
        return pyarrow.schema([*first, *values, ("error_code", text), ("error_message", text)])

    def add(self, row: Row) -> bool:
        """Add the final row of an execution. Returns whether a group of rows is complete."""
        self._rows.append(row)
        self._characters += len(row["inputs"] or "") + len(row["result"] or "")
        return len(self._rows) >= GROUP_ROWS or self._characters >= GROUP_CHARACTERS

    def take(self) -> pyarrow.Table:
        """The rows that were added since the last call."""
        import pyarrow

        rows, self._rows, self._characters = self._rows, [], 0
        signature = self._signature
        inputs = [self._values("inputs", row, row["inputs"]) for row in rows]
        outputs = [
            self._values("outputs", row, row["result"]) if row["status"] == Status.COMPLETED else {} for row in rows
        ]
        errors = [row["error"] or {} for row in rows]
        columns = [
            [row["batch_index"] for row in rows],
            [str(row["id"]) for row in rows],
            [str(row["status"]) for row in rows],
            *(list(map(_of(field), inputs)) for field in signature.input_fields),
            *(list(map(_of(field), outputs)) for field in signature.output_fields),
            [error.get("code") for error in errors],
            [error.get("message") for error in errors],
        ]
        schema = self.schema
        arrays = [pyarrow.array(values, type=field.type) for values, field in zip(columns, schema, strict=True)]
        return pyarrow.Table.from_arrays(arrays, schema=schema)

    def _values(self, side: Side, row: Row, stored: Any) -> dict[str, Any]:
        """The values of one side as JSON has them; a sealed one only where its column is text."""
        read = self._sealing.shown if self._hidden else self._sealing.json_values
        values = read(self._signature, side, stored, row["id"])
        secret = self._signature.secret_fields
        return {name: value for name, value in values.items() if value != PLACEHOLDER or name in secret}


@contextmanager
def parquet_file(path: Path | str) -> Iterator[Callable[[BatchTable], None]]:
    """A Parquet file that appears when the block ends. The function it yields writes the rows that a table gathered."""
    need_pyarrow()

    with replacing(Path(path)) as file:
        writer: Any = None

        def write(table: BatchTable) -> None:
            nonlocal writer
            group = table.take()
            writer = writer or _writer(file, group.schema)
            writer.write_table(group)

        try:
            yield write
        finally:
            if writer is not None:
                writer.close()


class ParquetParts:
    """A Parquet file of the rows of a table, as bytes, a group at a time: no more than a group is in memory."""

    def __init__(self, table: BatchTable) -> None:
        self.table = table
        self._sink = _Sink()
        self._writer = _writer(self._sink, table.schema)

    def take(self) -> bytes:
        """The part with the rows that were added to the table since the last call."""
        self._writer.write_table(self.table.take())
        return self._sink.take()

    def end(self) -> bytes:
        """The last part, with the rows that were added since and the footer."""
        self._writer.write_table(self.table.take())
        self._writer.close()
        return self._sink.take()


class _Sink(io.RawIOBase):
    """What was written to it, to be taken away; it counts on as a file does."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._size

    def write(self, part: Any) -> int:
        self._parts.append(bytes(part))
        self._size += len(part)
        return len(part)

    def take(self) -> bytes:
        """What was written since the last call."""
        parts, self._parts = self._parts, []
        return b"".join(parts)


def _writer(file: Any, schema: pyarrow.Schema) -> Any:
    from pyarrow import parquet

    return parquet.ParquetWriter(file, schema, compression="zstd")


def to_pandas(table: pyarrow.Table) -> pandas.DataFrame:
    """The table as a pandas frame. Raises ConfigurationError where pandas is not installed."""
    try:
        return table.to_pandas()
    except ImportError:
        raise ConfigurationError("to_pandas needs pandas: pip install pandas") from None


def _of(field: Field) -> Callable[[dict[str, Any]], Any]:
    if field.secret:
        return lambda values: None if values.get(field.name) is None else cell_text(values[field.name])
    shape = arrow_value(field.type)
    return lambda values: shape(values.get(field.name))


def concatenated(tables: Sequence[pyarrow.Table]) -> pyarrow.Table:
    """The tables as one."""
    import pyarrow

    return pyarrow.concat_tables(tables)
