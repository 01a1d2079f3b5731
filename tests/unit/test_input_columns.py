"""Inputs that are made by column are those that are made by row; cells of Arrow as Python values."""

from __future__ import annotations

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
