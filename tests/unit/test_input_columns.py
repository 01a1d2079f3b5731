"""Inputs that are made by column are those that are made by row; cells of Arrow as Python values."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, get_args

import pyarrow
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import dspex
from dspex.data.input_columns import Empty, InputColumns
from dspex.data.parquet_file import ArrowChunk, python_rows
from dspex.data.row_source import CellKind

SIGNATURE = dspex.signature(
    ":string text, :integer n, :float x, :boolean yes, :any any, :date day, :list(:integer) many -> :string answer"
)
CELLS = ("", "a", "0", "-1", "007", "1.50", "1e5", "1,2", ",", "[1", "2]", "[3]", " 4", "NaN", "true", "-", "9" * 5000)


@given(empty=st.sampled_from(get_args(Empty)), cells=st.lists(st.sampled_from(CELLS), min_size=1))
@example(empty="missing", cells=["0", "10", "-2.5", "1E2"])
@example(empty="missing", cells=["1,2", "3"])
@example(empty="null", cells=["1", "", "2"])
def test_inputs_by_column_are_those_by_row(empty: Empty, cells: list[str]) -> None:
    names = [field.name for field in SIGNATURE.input_fields]
    chunk = ArrowChunk(0, pyarrow.record_batch([cells] * len(names), names=names))
    columns = InputColumns(SIGNATURE.input_fields, "text", {}, empty=empty)
    assert list(map(repr, columns.chunk_inputs(chunk))) == [repr(columns.inputs(row)) for row in chunk.rows()]


TEXT_FORMS = dspex.signature(
    ":optional(:binary) data, :optional(:list(:decimal)) amounts, :optional(:datetime) at, :optional(:time) clock, "
    ":optional(:list(:uuid)) ids -> :string answer"
)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("data", "abcd!!!"), ("data", "YWJj"), ("amounts", "12"), ("amounts", {"12": 1}), ("amounts", ["1.10", 2]),
        ("at", "20250101"), ("at", "2025-01-01"), ("at", "2025-01-01T00:00:00+00:53:28"), ("clock", "1200"),
        ("clock", "12:00"), ("ids", "12"), ("ids", ["{12}"]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("cells", ["json", "text", "python"])
def test_a_value_in_a_file_is_read_as_one_that_is_submitted(cells: CellKind, name: str, value: Any) -> None:
    cell = json.dumps(value) if cells == "text" and not isinstance(value, str) else value
    made = InputColumns(TEXT_FORMS.input_fields, cells, {}).inputs({name: cell})
    if cells == "json":
        assert made == {name: value}
    assert outcome(made) == outcome({name: value})


def outcome(inputs: Any) -> Any:
    """The valid inputs, or where they are wrong."""
    try:
        return TEXT_FORMS.validate_inputs(inputs)
    except dspex.ValidationError as refused:
        return [error.path for error in refused.errors]


COUNTS = pyarrow.map_(pyarrow.string(), pyarrow.int64())
PAIRS = [("a", 1), ("b", 2)]


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        (COUNTS, PAIRS, dict(PAIRS)),
        (pyarrow.list_(COUNTS), [PAIRS, None, []], [dict(PAIRS), None, {}]),
        (pyarrow.list_(COUNTS, 1), [PAIRS], [dict(PAIRS)]),
        (pyarrow.large_list(pyarrow.large_list(COUNTS)), [[PAIRS]], [[dict(PAIRS)]]),
        (
            pyarrow.struct([("counts", COUNTS), ("other", pyarrow.list_(pyarrow.int64()))]),
            {"counts": PAIRS, "other": [1]},
            {"counts": dict(PAIRS), "other": [1]},
        ),
        (pyarrow.map_(pyarrow.string(), COUNTS), [("x", PAIRS)], {"x": dict(PAIRS)}),
    ],
    ids=str,
)
def test_a_map_of_arrow_is_a_dict_at_any_depth(kind: pyarrow.DataType, value: Any, expected: Any) -> None:
    batch = pyarrow.record_batch([pyarrow.array([value, None], type=kind)], names=["cell"])
    assert python_rows(batch) == [{"cell": expected}, {"cell": None}]


def test_nanoseconds_are_microseconds_at_any_depth() -> None:
    day, second = datetime(2026, 1, 31), timedelta(seconds=1)
    kinds = [pyarrow.timestamp("ns"), pyarrow.duration("ns")]
    nested = [pyarrow.list_(kind) for kind in kinds]
    nested += [pyarrow.struct([("at", kinds[0])]), pyarrow.map_(pyarrow.string(), kinds[0])]
    values: list[Any] = [[day], [second], {"at": day}, [("at", day)]]
    arrays = [pyarrow.array([value], type=kind) for value, kind in zip(values, nested, strict=True)]
    (row,) = python_rows(pyarrow.record_batch(arrays, names=["0", "1", "2", "3"]))
    assert list(row.values()) == [[day], [second], {"at": day}, {"at": day}]
    assert type(row["0"][0]) is datetime


def test_a_decimal_for_a_float_is_the_nearest_float_and_an_integer_is_not_rounded() -> None:
    digits = "0.12345678901234567890123"
    typed = {"x": Decimal(digits), "n": Decimal(2**62 + 1), "many": [], "text": Decimal(digits)}
    read = InputColumns(SIGNATURE.input_fields, "python", {}).inputs(typed)
    assert read == {"x": float(digits), "n": 2**62 + 1, "many": [], "text": digits}
    assert InputColumns(SIGNATURE.input_fields, "text", {}).inputs({"x": digits}) == {"x": float(digits)}
    assert InputColumns(SIGNATURE.input_fields, "python", {}).inputs({"n": Decimal("2.5")}) == {"n": Decimal("2.5")}
