"""Inputs that are made by column are those that are made by row."""

from __future__ import annotations

from typing import get_args

import pyarrow
from hypothesis import example, given
from hypothesis import strategies as st

import dspex
from dspex.data.input_columns import Empty, InputColumns
from dspex.data.parquet_file import ArrowChunk

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
