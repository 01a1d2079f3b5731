"""Parquet, read by pyarrow a few megabytes at a time, whatever the size of the file's row groups."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dspex.data.column_names import refuse_twice
from dspex.data.formats import data_refused
from dspex.data.row_source import CHUNK_BYTES, CHUNK_ROWS, CellKind, Cells, Survey
from dspex.data.text_input import digest
from dspex.errors import ConfigurationError

if TYPE_CHECKING:
    import pyarrow

__all__ = ["ArrowChunk", "ParquetFile", "chunks_from", "need_pyarrow", "python_rows"]

#: Bytes that are read at once from each column of a row group.
BUFFER_BYTES = 1024 * 1024


def need_pyarrow() -> None:
    """Raise ConfigurationError, with what to install, where pyarrow is missing."""
    if find_spec("pyarrow") is None:
        raise ConfigurationError('Parquet and Arrow need pyarrow: pip install "dspex[parquet]"')


class ArrowChunk:
    """A record batch as a chunk of rows."""

    def __init__(self, begin: int, batch: pyarrow.RecordBatch) -> None:
        self.begin = begin
        self._batch = batch

    def __len__(self) -> int:
        return int(self._batch.num_rows)

    def columns(self) -> Mapping[str, Sequence[Any]]:
        return {name: _python_values(self._batch.column(name)) for name in self._batch.schema.names}

    def rows(self) -> Sequence[Cells]:
        return python_rows(self._batch)

    def arrow(self, schema: pyarrow.Schema, positions: Sequence[int]) -> pyarrow.RecordBatch:
        picked = self._batch.select(schema.names)
        return picked if len(positions) == len(self) else picked.take(_indexes(positions))


class ParquetFile:
    """A Parquet file, which errors name ``name`` in place of its path."""

    has_header = True
    cells: CellKind = "python"

    def __init__(self, path: Path, name: str | None = None) -> None:
        need_pyarrow()
        self.path = path
        self._name = name or str(path)

    def survey(self) -> Survey:
        with self._opened() as file:
            rows = int(file.metadata.num_rows)
        return Survey(rows, self.columns(), digest(self.path))

    def columns(self) -> tuple[str, ...]:
        """The names of its columns. Raises DspexError for one that is there twice."""
        with self._opened() as file:
            names = tuple(file.schema_arrow.names)
        refuse_twice(names, self._name)
        return names

    def chunks(self, begin: int = 0, columns: Sequence[str] | None = None) -> Iterator[ArrowChunk]:
        with self._opened() as file:
            groups, index = _groups_from(file, begin)
            yield from chunks_from(self._each(file, groups, index, columns), index, begin)

    def schema(self, columns: Sequence[str]) -> pyarrow.Schema:
        import pyarrow

        with self._opened() as file:
            known = file.schema_arrow
        return pyarrow.schema([known.field(name) for name in columns])

    def _each(
        self, file: Any, groups: list[int], index: int, columns: Sequence[str] | None
    ) -> Iterator[pyarrow.RecordBatch]:
        if not groups:
            return
        names = None if columns is None else list(columns)
        rows = _chunk_rows(file.metadata.row_group(groups[0]), names)
        batches = file.iter_batches(batch_size=rows, row_groups=groups, columns=names, use_threads=False)
        while True:
            with self._named(f"after row {index}"):
                batch = next(batches, None)
            if batch is None:
                return
            index += batch.num_rows
            yield batch

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        from pyarrow import OSFile, parquet

        with OSFile(str(self.path), "rb") as opened:
            with self._named("its footer"):
                file = parquet.ParquetFile(opened, buffer_size=BUFFER_BYTES, pre_buffer=False)
            yield file

    @contextmanager
    def _named(self, where: str) -> Iterator[None]:
        """Name the file, and the place in it, in what pyarrow raises for damaged data."""
        from pyarrow import ArrowException

        try:
            yield
        except (ArrowException, OSError) as error:
            if isinstance(error, OSError) and error.filename:
                raise
            raise data_refused(
                f"{self._name}, {where}: this cannot be read as Parquet ({_first_line(error)})"
            ) from None


def chunks_from(batches: Iterable[pyarrow.RecordBatch], index: int, begin: int) -> Iterator[ArrowChunk]:
    """Batches as chunks from the row ``begin`` on; ``index`` is the one of their first row."""
    for batch in batches:
        for at in range(max(begin - index, 0), batch.num_rows, CHUNK_ROWS):
            yield ArrowChunk(index + at, batch.slice(at, CHUNK_ROWS))
        index += batch.num_rows


def python_rows(batch: pyarrow.RecordBatch) -> list[dict[str, Any]]:
    """The rows of a record batch as Python values; moments to the microsecond."""
    if not batch.num_columns:
        return [{} for _ in range(batch.num_rows)]
    columns = [_python_values(column) for column in batch.columns]
    return list(map(dict, map(zip, repeat(batch.schema.names), zip(*columns, strict=True))))


def _python_values(column: pyarrow.Array) -> Sequence[Any]:
    from pyarrow import types

    if types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if (kind := _readable(column.type)) != column.type:
        column = column.cast(kind, safe=False)
    values: Sequence[Any] = column.to_pylist()
    shape = _shape_of(kind)
    return values if shape is None else list(map(shape, values))


def _readable(kind: pyarrow.DataType) -> pyarrow.DataType:
    """The type with moments to the microsecond, as Python has them, also within lists, structs and maps."""
    import pyarrow
    from pyarrow import types

    if types.is_struct(kind):
        return pyarrow.struct([field.with_type(_readable(field.type)) for field in kind])
    if types.is_map(kind):
        return pyarrow.map_(_readable(kind.key_type), _readable(kind.item_type), kind.keys_sorted)
    if types.is_list(kind) or types.is_large_list(kind):
        make = pyarrow.list_ if types.is_list(kind) else pyarrow.large_list
        return make(kind.value_field.with_type(_readable(kind.value_type)))
    if getattr(kind, "unit", "") != "ns":
        return kind
    if types.is_timestamp(kind):
        return pyarrow.timestamp("us", kind.tz)
    return pyarrow.duration("us") if types.is_duration(kind) else pyarrow.time64("us")


def _shape_of(kind: pyarrow.DataType) -> Callable[[Any], Any] | None:
    """The function that makes a dict of each map in a value of ``to_pylist``, which has pairs; None without maps."""
    from pyarrow import types

    if types.is_map(kind):
        read_key, read = _shape_of(kind.key_type) or _same, _shape_of(kind.item_type) or _same
        return lambda value: None if value is None else {read_key(key): read(item) for key, item in value}
    if types.is_struct(kind):
        shapes = {field.name: shape for field in kind if (shape := _shape_of(field.type)) is not None}
        if not shapes:
            return None
        return lambda value: (
            None if value is None else {name: shapes.get(name, _same)(item) for name, item in value.items()}
        )
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        shape = _shape_of(kind.value_type)
        return shape and (lambda value: None if value is None else list(map(shape, value)))
    return None


def _same(value: Any) -> Any:
    return value


def _chunk_rows(group: Any, names: Sequence[str] | None) -> int:
    """How many rows of these columns are a chunk, by the sizes of a row group."""
    columns = map(group.column, range(group.num_columns))
    size = sum(
        column.total_uncompressed_size
        for column in columns
        if names is None or column.path_in_schema.partition(".")[0] in names
    )
    return max(min(CHUNK_BYTES * int(group.num_rows) // max(int(size), 1), CHUNK_ROWS), 1)


def _groups_from(file: Any, begin: int) -> tuple[list[int], int]:
    """The row groups from the one that has the row ``begin`` on, and the index of the first row in them."""
    index = 0
    for group in range(file.num_row_groups):
        rows = int(file.metadata.row_group(group).num_rows)
        if index + rows > begin:
            return list(range(group, file.num_row_groups)), index
        index += rows
    return [], index


def _indexes(positions: Sequence[int]) -> Any:
    import pyarrow

    return pyarrow.array(positions, type=pyarrow.int64())


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
