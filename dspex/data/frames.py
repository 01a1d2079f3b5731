"""Data frames and datasets as rows of inputs, and outputs as columns beside them.

A frame of any library is read through narwhals (pandas, Polars, PyArrow, Modin, cuDF) or, where narwhals does not know
it, through Arrow's PyCapsule interface. It is recognised by its type's module, so none of them is imported before its
user has imported it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol

from dspex.data.arrow_types import arrow_type, arrow_value
from dspex.data.column_names import free_names, refuse_twice
from dspex.data.formats import data_refused
from dspex.data.input_columns import InputColumns
from dspex.data.parquet_file import need_pyarrow, python_rows
from dspex.data.row_source import CHUNK_ROWS
from dspex.errors import ConfigurationError, DspexError, ValidationError
from dspex.signatures import Signature
from dspex.signatures.fields import PLAIN_TEXT, Field, Type
from dspex.signatures.types.type_registry import expand

__all__ = ["DataFrame", "as_frame", "beside", "example_inputs", "input_rows"]

Inputs = Mapping[str, Any] | ValidationError
#: The types in narwhals of single values; every other is text.
_SCALARS = {"integer": "Int64", "float": "Float64", "boolean": "Boolean", "date": "Date", "binary": "Binary"}


@dataclass(frozen=True, slots=True)
class FrameColumn:
    """A column to add to a frame. ``type`` is the type of its values, also if all of them are missing."""

    name: str
    type: Type
    values: Sequence[Any]


class DataFrame(Protocol):
    """A table in memory, of any library."""

    columns: Sequence[str]

    def __len__(self) -> int: ...

    def rows(self) -> Iterator[Mapping[str, Any]]:
        """Each row, its cells by column."""

    def with_columns(self, made: Sequence[FrameColumn]) -> Any:
        """A frame of the same library with these columns added."""


def as_frame(rows: object) -> DataFrame | None:
    """The frame or dataset, or None for anything else that has rows. Raises DspexError for one that has none yet."""
    kind = type(rows)
    library, name = kind.__module__.partition(".")[0], kind.__name__
    if library == "datasets":
        return _dataset(rows, name)
    if library == "polars" and name == "LazyFrame":
        raise data_refused("a polars.LazyFrame has no rows yet: collect() it first")
    if hasattr(kind, "__arrow_c_stream__") or (library in ("pandas", "modin", "cudf") and name == "DataFrame"):
        return _NarwhalsFrame(rows)
    return None


def input_rows(frame: DataFrame, signature: Signature) -> Iterator[Inputs]:
    """The inputs in each row of a frame: the columns with the names of the fields; others are left out.

    Raises DspexError when the column of a required field is missing.
    """
    columns = InputColumns(signature.input_fields, "python", {})
    columns.check(frame.columns, "the frame", fix="Rename the column of {}")
    return map(columns.inputs, frame.rows())


def example_inputs(row: Any, fields: Sequence[Field]) -> Any:
    """The inputs of a ``dspy.Example``: those it names with ``with_inputs``, or else the program's own.

    It is recognised by its shape; anything else is returned as it is.
    """
    if isinstance(row, Mapping) or not (hasattr(row, "toDict") and hasattr(row, "with_inputs")):
        return row
    if getattr(row, "_input_keys", None) is not None:
        return dict(row.inputs().items())
    names = {field.name for field in fields}
    return {name: value for name, value in row.items() if name in names}


def beside(frame: DataFrame, signature: Signature, results: Iterable[Any]) -> Any:
    """The frame with a column for each output. With a result that is an error, also ``error_code`` and
    ``error_message``."""
    fields = signature.output_fields
    made: dict[str, list[Any]] = {field.name: [] for field in fields}
    errors: list[DspexError | None] = []
    shapes = [(field.name, _frame_value(field.type)) for field in fields]
    for result in results:
        failed = isinstance(result, DspexError)
        errors.append(result if failed else None)
        values = {} if failed else json.loads(signature.encode("outputs", dict(result)))
        for name, shape in shapes:
            made[name].append(shape(values.get(name)))
    names = free_names(list(made), frame.columns, "output")
    columns = [
        FrameColumn(name, _frame_type(field.type), made[field.name]) for name, field in zip(names, fields, strict=True)
    ]
    if any(error is not None for error in errors):
        code, message = free_names(("error_code", "error_message"), [*frame.columns, *names], "error")
        columns.append(FrameColumn(code, PLAIN_TEXT, [error and error.code for error in errors]))
        columns.append(FrameColumn(message, PLAIN_TEXT, [error and str(error) for error in errors]))
    return frame.with_columns(columns)


class _NarwhalsFrame:
    def __init__(self, native: Any) -> None:
        self._narwhals = _need_narwhals()
        _refuse_twice(native)
        try:
            self._frame = self._narwhals.from_native(native, eager_only=True)
        except TypeError:
            self._frame = self._narwhals.from_native(_arrow_table(native), eager_only=True)
        self.columns: Sequence[str] = list(self._frame.columns)

    def __len__(self) -> int:
        return len(self._frame)

    def rows(self) -> Iterator[Mapping[str, Any]]:
        if self._frame.implementation.is_pyarrow():
            batches = self._frame.to_native().to_batches(max_chunksize=CHUNK_ROWS)
            return chain.from_iterable(map(python_rows, batches))
        rows: Iterator[Mapping[str, Any]] = self._frame.iter_rows(named=True, buffer_size=CHUNK_ROWS)
        return rows

    def with_columns(self, made: Sequence[FrameColumn]) -> Any:
        return self._frame.with_columns(*map(self._series, made)).to_native()

    def _series(self, column: FrameColumn) -> Any:
        """The column as a series of the frame's library.

        pandas chooses the type by the values: few of its types have missing values. Integers beside missing values
        would become floats, which are rounded.
        """
        backend = self._frame.implementation
        if not backend.is_pandas_like():
            dtype = self._dtype(column.type)
            return self._narwhals.new_series(column.name, column.values, dtype, backend=backend)
        if expand(column.type).name == "integer" and None in column.values:
            library = backend.to_native_namespace()
            native = library.Series(column.values, name=column.name, dtype="Int64")
            return self._narwhals.from_native(native, series_only=True)
        return self._narwhals.new_series(column.name, column.values, backend=backend)

    def _dtype(self, kind: Type) -> Any:
        """The type in narwhals that has the values of :func:`dspex.data.arrow_types.arrow_type`."""
        primitive = expand(kind)
        match primitive.name:
            case "optional":
                return self._dtype(primitive.args[0])
            case "list":
                return self._narwhals.List(self._dtype(primitive.args[0]))
            case "object" if primitive.labels:
                members = zip(primitive.labels, map(self._dtype, primitive.args), strict=True)
                return self._narwhals.Struct(dict(members))
        return getattr(self._narwhals, _SCALARS.get(primitive.name, "String"))()


def _refuse_twice(native: Any) -> None:
    """Raise DspexError for a frame with a column twice, as far as it has names."""
    names = getattr(native, "column_names", None)  # of Arrow, whose `columns` are the values
    refuse_twice(list(getattr(native, "columns", ()) if names is None else names), "the frame")


def _arrow_table(native: Any) -> Any:
    """The table that another library has through Arrow's interface. Raises DspexError for a series."""
    need_pyarrow()
    import pyarrow

    try:
        table = pyarrow.table(native)
    except (pyarrow.ArrowException, TypeError):
        kind = type(native)
        name = f"{kind.__module__.partition('.')[0]}.{kind.__name__}"
        raise data_refused(
            f"a {name} has no named columns to read as rows: give a frame, for example with to_frame()"
        ) from None
    _refuse_twice(table)
    return table


class _DatasetFrame:
    """A ``datasets.Dataset`` of Hugging Face."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset
        self.columns: Sequence[str] = list(dataset.column_names)

    def __len__(self) -> int:
        return len(self._dataset)

    def rows(self) -> Iterator[Mapping[str, Any]]:
        return iter(self._dataset)

    def with_columns(self, made: Sequence[FrameColumn]) -> Any:
        from datasets import Features
        from pyarrow import schema

        dataset = self._dataset
        types = Features.from_arrow_schema(schema([(column.name, arrow_type(column.type)) for column in made]))
        for column in made:
            dataset = dataset.add_column(column.name, list(column.values)).cast_column(column.name, types[column.name])
        return dataset


def _dataset(rows: Any, name: str) -> DataFrame | None:
    if name in ("DatasetDict", "IterableDatasetDict"):
        raise data_refused(f"a {name} has several splits: choose one, for example dataset['train']")
    return _DatasetFrame(rows) if hasattr(rows, "add_column") and hasattr(rows, "__len__") else None


def _need_narwhals() -> Any:
    try:
        import narwhals
    except ImportError:
        raise ConfigurationError('data frames need narwhals: pip install "dspex[frames]"') from None
    return narwhals


def _frame_type(kind: Type) -> Type:
    """The type of the values of :func:`_frame_value`."""
    return PLAIN_TEXT if _has_map(kind) else kind


def _frame_value(kind: Type) -> Callable[[Any], Any]:
    """The values of a column: as in Parquet, but maps are text with JSON, which every library has."""
    return _json_or_none if _has_map(kind) else arrow_value(kind)


def _json_or_none(value: Any) -> str | None:
    return None if value is None else json.dumps(value, ensure_ascii=False)


def _has_map(kind: Type) -> bool:
    primitive = expand(kind)
    return primitive.name == "dict" or any(map(_has_map, primitive.args))
