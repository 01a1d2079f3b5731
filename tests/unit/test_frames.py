"""Frames, datasets and examples as rows, and outputs beside them."""

from __future__ import annotations

import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import dspy
import pyarrow
import pytest

import dspex
from dspex.client.result import Result
from dspex.client.tables.given_rows import given_rows
from dspex.data.frames import as_frame, beside, example_inputs, input_rows

SIGNATURE = dspex.signature(
    ":string ticket, :integer n = 5 -> :string queue, :list(:string) tags, :dict(:string, :integer) counts"
)
RESULTS = [
    Result(queue="bug", tags=["a"], counts={"x": 1}),
    dspex.ExecutionFailed("it failed", code="rate_limited", execution_id="1", attempts=1, cause={}),
]
COLUMNS: dict[str, Any] = {"ticket": ["one", "two"], "n": [1.0, None], "queue": ["expected", "expected"]}


def frames() -> dict[str, Any]:
    made = {"pyarrow": lambda: pyarrow.table(COLUMNS)}
    for name in ("pandas", "polars"):
        made[name] = lambda name=name: getattr(pytest.importorskip(name), "DataFrame")(COLUMNS)  # type: ignore[misc]  # noqa: B009
    return made


@pytest.fixture(scope="session")
def used_polars() -> None:
    """Polars opens descriptors for the whole process with its first frame."""
    polars = pytest.importorskip("polars")
    pytest.importorskip("narwhals")
    frame = as_frame(polars.DataFrame(COLUMNS))
    assert frame is not None
    beside(frame, SIGNATURE, RESULTS).to_dicts()


@pytest.mark.parametrize("library", ["pyarrow", "pandas", "polars"])
def test_a_frame_gets_the_outputs_beside_its_columns(library: str, request: pytest.FixtureRequest) -> None:
    if library == "polars":
        request.getfixturevalue("used_polars")
    pytest.importorskip("narwhals")
    native = frames()[library]()
    frame = as_frame(native)
    assert frame is not None
    assert list(input_rows(frame, SIGNATURE)) == [{"ticket": "one", "n": 1}, {"ticket": "two"}]
    made = beside(frame, SIGNATURE, RESULTS)
    assert type(made) is type(native)
    rows = (
        made.to_pylist()
        if library == "pyarrow"
        else made.to_dict("records")
        if library == "pandas"
        else made.to_dicts()
    )
    assert [row["queue"] for row in rows] == ["expected", "expected"]
    assert (rows[0]["queue_output"], list(rows[0]["tags"]), rows[0]["counts"]) == ("bug", ["a"], '{"x": 1}')
    assert rows[1]["error_code"] == "rate_limited"


def test_pandas_keeps_its_index() -> None:
    pytest.importorskip("narwhals")
    pandas = pytest.importorskip("pandas")
    native = pandas.DataFrame({"ticket": ["one", "two"]}, index=[7, 3])
    frame = as_frame(native)
    assert frame is not None
    made = beside(frame, SIGNATURE, [RESULTS[0], RESULTS[0]])
    assert list(made.index) == [7, 3]
    assert list(made["queue"]) == ["bug", "bug"]


TYPED = dspex.signature(
    ":string ticket -> :integer number, :float score, :boolean sure, :date day, :list(:integer) parts, "
    ":object(name=:string, age=:optional(:integer)) person, :any rest, :dict(:string, :integer) counts"
)
LARGE = 9007199254740993  # no float has this value


def typed_result() -> Result:
    return Result(
        number=LARGE, score=0.5, sure=True, day=date(2026, 1, 31), parts=[LARGE], person={"name": "a", "age": None},
        rest={"x": 1}, counts={"x": 1},
    )  # fmt: skip


def test_pandas_keeps_integers_beside_a_failed_row() -> None:
    pytest.importorskip("narwhals")
    pandas = pytest.importorskip("pandas")
    frame = as_frame(pandas.DataFrame({"ticket": ["one", "two"]}, index=[7, 3]))
    assert frame is not None
    made = beside(frame, TYPED, [typed_result(), RESULTS[1]])
    assert made["number"].tolist() == [LARGE, pandas.NA]
    assert (made["sure"].tolist(), made["parts"].tolist()) == ([True, None], [[LARGE], None])
    assert list(made.index) == [7, 3]


def test_an_arrow_column_has_the_type_of_its_output_where_every_row_failed() -> None:
    pytest.importorskip("narwhals")
    frame = as_frame(pyarrow.table({"ticket": ["one"]}))
    assert frame is not None
    failed = beside(frame, TYPED, [RESULTS[1]]).schema
    assert [str(failed.field(field.name).type) for field in TYPED.output_fields] == [
        "int64", "double", "bool", "date32[day]", "list<item: int64>", "struct<name: string, age: int64>", "string",
        "string",
    ]  # fmt: skip
    completed = beside(frame, TYPED, [typed_result()])
    assert completed.schema.types == failed.types[: len(completed.schema)]
    assert completed.column("number").to_pylist() == [LARGE]


def test_a_polars_column_has_the_type_of_its_output_where_every_row_failed(used_polars: None) -> None:
    polars = pytest.importorskip("polars")
    frame = as_frame(polars.DataFrame({"ticket": ["one"]}))
    assert frame is not None
    completed, failed = (beside(frame, TYPED, [result]).schema for result in (typed_result(), RESULTS[1]))
    assert list(completed.items()) == list(failed.items())[: len(completed)]
    assert failed["number"] == polars.Int64


def test_a_dataset_column_has_the_type_of_its_output_where_every_row_failed() -> None:
    datasets = pytest.importorskip("datasets")
    frame = as_frame(datasets.Dataset.from_dict({"ticket": ["one"]}))
    assert frame is not None
    completed, failed = (beside(frame, TYPED, [result]).features for result in (typed_result(), RESULTS[1]))
    assert list(completed.items()) == list(failed.items())[: len(completed)]


def test_each_output_and_error_has_a_column_of_its_own() -> None:
    pytest.importorskip("narwhals")
    signature = dspex.signature("ticket -> queue, queue_output, error_code")
    frame = as_frame(pyarrow.table({"ticket": ["one", "two"], "queue": ["expected"] * 2}))
    assert frame is not None
    result = Result(queue="a", queue_output="b", error_code="c")
    assert beside(frame, signature, [result, RESULTS[1]]).to_pylist() == [
        {
            "ticket": "one", "queue": "expected", "queue_output_2": "a", "queue_output": "b", "error_code": "c",
            "error_code_error": None, "error_message": None,
        },
        {
            "ticket": "two", "queue": "expected", "queue_output_2": None, "queue_output": None, "error_code": None,
            "error_code_error": "rate_limited", "error_message": "it failed",
        },
    ]  # fmt: skip


@pytest.mark.parametrize("library", ["pyarrow", "pandas"])
def test_a_map_is_an_input(library: str) -> None:
    pytest.importorskip("narwhals")
    counts = pyarrow.array([[("a", 1)], []], type=pyarrow.map_(pyarrow.string(), pyarrow.int64()))
    table = pyarrow.table({"counts": counts})
    if library == "pandas":
        pytest.importorskip("pandas")
    frame = as_frame(table if library == "pyarrow" else table.to_pandas())
    assert frame is not None
    signature = dspex.signature(":dict(:string, :integer) counts -> :string answer")
    assert list(input_rows(frame, signature)) == [{"counts": {"a": 1}}, {"counts": {}}]


def test_a_frame_without_a_required_column_is_refused() -> None:
    pytest.importorskip("narwhals")
    frame = as_frame(pyarrow.table({"body": ["one"]}))
    assert frame is not None
    with pytest.raises(dspex.DspexError, match="no column for 'ticket': its columns are body"):
        input_rows(frame, SIGNATURE)


@pytest.mark.parametrize("library", ["pyarrow", "pandas"])
def test_a_frame_with_a_column_twice_is_refused(library: str) -> None:
    pytest.importorskip("narwhals")
    table = pyarrow.Table.from_arrays([pyarrow.array(["a"]), pyarrow.array(["b"])], names=["ticket", "ticket"])
    if library == "pandas":
        pandas = pytest.importorskip("pandas")
        frames = [pandas.DataFrame([["a", "b"]], columns=["ticket", "ticket"])]
    else:
        frames = [table, table.to_batches()[0], table.to_reader()]
    for native in frames:
        with pytest.raises(dspex.DspexError, match="the frame: the column 'ticket' is there twice"):
            as_frame(native)


def test_a_series_is_refused() -> None:
    pytest.importorskip("narwhals")
    pandas = pytest.importorskip("pandas")
    for series, name in (
        (pandas.Series(["a"]), "pandas.Series"),
        (pyarrow.chunked_array([["a"]]), "pyarrow.ChunkedArray"),
    ):
        with pytest.raises(dspex.DspexError, match=rf"a {name} has no named columns .* to_frame\(\)"):
            as_frame(series)


def test_a_reader_of_arrow_becomes_a_table() -> None:
    pytest.importorskip("narwhals")
    frame = as_frame(pyarrow.table({"ticket": ["one", "two"]}).to_reader())
    assert frame is not None
    assert list(input_rows(frame, SIGNATURE)) == [{"ticket": "one"}, {"ticket": "two"}]
    made = beside(frame, SIGNATURE, [RESULTS[0], RESULTS[0]])
    assert (type(made), made.column_names) == (pyarrow.Table, ["ticket", "queue", "tags", "counts"])


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ("rows.csv", "str has no rows: read the file first"),
        (b"rows.csv", "bytes has no rows: read the file first"),
        (Path("rows.csv"), "Path has no rows: read the file first"),
        ({"ticket": "one"}, "dict is one row: give a list of rows"),
        (dspy.Example(ticket="one"), "Example is one row: give a list of rows"),
        (5, "int has no rows: give mappings"),
    ],
    ids=str,
)
def test_what_has_no_rows_is_refused(rows: Any, says: str) -> None:
    with pytest.raises(dspex.DspexError, match=says) as refused:
        given_rows(rows, as_frame(rows), SIGNATURE)
    assert refused.value.code == "data_refused"


def test_other_rows_are_no_frame() -> None:
    for rows in ([{"ticket": "one"}], ({"ticket": "one"} for _ in range(2)), {"ticket": ["one"]}, "text"):
        assert as_frame(rows) is None


def test_an_example_gives_its_inputs() -> None:
    fields = SIGNATURE.input_fields
    labelled = dspy.Example(ticket="one", queue="bug")
    assert example_inputs(labelled, fields) == {"ticket": "one"}
    assert example_inputs(labelled.with_inputs("ticket", "queue"), fields) == {"ticket": "one", "queue": "bug"}
    assert example_inputs({"ticket": "one"}, fields) == {"ticket": "one"}
    assert example_inputs("no mapping", fields) == "no mapping"


def test_a_command_that_reads_tables_imports_neither_pandas_nor_numpy() -> None:
    code = """if True:
        from dspex.data.arrow_types import spare_memory
        spare_memory()
        import sys, pyarrow.csv, pyarrow.parquet
        table = pyarrow.csv.read_csv(pyarrow.BufferReader(b"a,b\\n1,2.5\\n"))
        with pyarrow.parquet.ParquetWriter(file := pyarrow.BufferOutputStream(), table.schema) as writer:
            writer.write_table(table)
        for batch in pyarrow.parquet.ParquetFile(pyarrow.BufferReader(file.getvalue())).iter_batches():
            assert batch.to_pylist() == [{"a": 1, "b": 2.5}]
        print(*{"numpy", "pandas"} & set(sys.modules))
        import numpy
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
