"""Rows with outputs beside them, in every format, from every format."""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
from contextlib import closing
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pyarrow import parquet

import dspex
from dspex.cli.batches.batch_tables import write_beside
from dspex.cli.batches.line_file import LineFile
from dspex.data import json_lines_file, parquet_file, table_writers
from dspex.data.delimited import delimited_file
from dspex.data.formats import FileFormat, format_of
from dspex.data.row_source import RowSource, TextChunk, open_source
from dspex.data.table_writers import error_columns, open_writer, result_columns

SIGNATURE = dspex.signature(
    ":string ticket -> :enum('bug', 'other') queue, :float score, :list(:string) tags, :reasoning_chain why, "
    ":dict(:string, :integer) counts, :any rest, :date day, :boolean sure".replace("'", '"')
)
RESULT = {
    "queue": "bug", "score": 0.5, "tags": ["a", "b,c"], "why": [{"step": "1", "reasoning": "so"}],
    "counts": {"x": 1}, "rest": {"y": [1]}, "day": "2026-01-31", "sure": True,
}  # fmt: skip
LINES = [{"index": 0, "id": "id-0", "result": RESULT}, {"index": 2, "id": "id-2", "result": RESULT}]


def source_of(path: Path) -> RowSource:
    if path.suffix == ".parquet":
        columns = {
            "ticket": ["one", "two", "three"],
            "at": [datetime(2026, 1, 1, tzinfo=UTC)] * 3,
            "price": [Decimal("1.50")] * 3,
        }  # fmt: skip
        parquet.write_table(pyarrow.table(columns), path)
    elif path.suffix == ".csv":
        path.write_text('ticket,at,price\none,x,1.50\n"two, or more",x,1.50\nthree,"x\ny",1.50\n')
    else:
        path.write_text("".join(json.dumps({"ticket": each, "price": 1.5, "at": "x"}) + "\n" for each in "abc"))
    return open_source(path, format_of(path))


def written(source: RowSource, format: FileFormat, lines: list[Any] = LINES, *, errors: bool = False) -> bytes:
    columns = source.survey().columns
    made = error_columns(columns) if errors else result_columns(SIGNATURE.output_fields, columns)
    file = io.BytesIO()
    writer = open_writer(file, format, columns, made, schema=source.schema, made_first=errors)
    write_beside(source, iter(lines), writer)
    writer.close()
    return file.getvalue()


@pytest.mark.parametrize("given", ["in.csv", "in.jsonl", "in.parquet"])
def test_csv_has_the_columns_of_the_input_and_the_outputs(tmp_path: Path, given: str) -> None:
    text = written(source_of(tmp_path / given), FileFormat("csv")).decode()
    first, second = csv.DictReader(io.StringIO(text))
    assert list(first) == [*source_of(tmp_path / given).survey().columns, *(f.name for f in SIGNATURE.output_fields)]
    assert (first["queue"], first["score"], first["sure"], first["day"]) == ("bug", "0.5", "true", "2026-01-31")
    for name in ("tags", "why", "counts", "rest"):
        assert json.loads(second[name]) == RESULT[name]


def test_csv_keeps_each_cell_as_it_is(tmp_path: Path) -> None:
    source = source_of(tmp_path / "in.csv")
    rows = list(csv.reader(io.StringIO(written(source, FileFormat("csv")).decode())))
    assert [row[:3] for row in rows[1:]] == [["one", "x", "1.50"], ["three", "x\ny", "1.50"]]


@given(cells=st.lists(st.lists(st.text('a,"\n\r\t é', max_size=5), min_size=1, max_size=3), min_size=1, max_size=4))
@example(cells=[["a\rb"], [""]])
def test_csv_that_is_written_is_read_as_it_was(cells: list[list[str]]) -> None:
    width = min(map(len, cells))
    names = [str(n) for n in range(width)]
    rows = [dict(zip(names, row, strict=False)) for row in cells]
    for format in (FileFormat("csv"), FileFormat("tsv")):
        file = io.BytesIO()
        writer = open_writer(file, format, names, [], schema=lambda _: None)
        writer.write(TextChunk(0, rows), range(len(rows)), [{}] * len(rows))
        writer.close()
        lines = io.StringIO(file.getvalue().decode(), newline="")
        found = list(csv.reader(lines, delimiter=format.delimiter, strict=True))
        assert found == [names, *(list(row.values()) for row in rows)]


@pytest.mark.parametrize("given", ["in.csv", "in.jsonl", "in.parquet"])
def test_parquet_has_types(tmp_path: Path, given: str) -> None:
    table = parquet.read_table(io.BytesIO(written(source_of(tmp_path / given), FileFormat("parquet"))))
    first = table.to_pylist()[0]
    assert (first["queue"], first["score"], first["sure"], first["day"]) == ("bug", 0.5, True, date(2026, 1, 31))
    assert (first["tags"], dict(first["counts"])) == (RESULT["tags"], RESULT["counts"])
    assert first["why"] == [{"step": '"1"', "reasoning": "so"}]  # a step is a number or text
    assert json.loads(first["rest"]) == RESULT["rest"]
    if given == "in.parquet":
        assert table.schema.field("price").type == source_of(tmp_path / given).schema(["price"]).field("price").type
        assert first["price"] == Decimal("1.50")
        assert [row["ticket"] for row in table.to_pylist()] == ["one", "three"]


def test_a_value_without_a_fixed_shape_is_json_in_parquet(tmp_path: Path) -> None:
    source = source_of(tmp_path / "in.csv")
    fields = dspex.signature(":string ticket -> :any rest, :list(:any) parts, :union(:integer, :string) either")
    results = [
        {"rest": "5", "parts": ["1", 1, None, {"a": "b"}], "either": "1"},
        {"rest": 5, "parts": [], "either": 1},
        {"rest": None, "parts": ["é"], "either": "a"},
    ]
    file = io.BytesIO()
    writer = open_writer(
        file, FileFormat("parquet"), [], result_columns(fields.output_fields, []), schema=source.schema
    )
    write_beside(source, iter([{"index": index, "result": result} for index, result in enumerate(results)]), writer)
    writer.close()
    assert parquet.read_table(io.BytesIO(file.getvalue())).to_pylist() == [
        {"rest": '"5"', "parts": ['"1"', "1", None, '{"a": "b"}'], "either": '"1"'},
        {"rest": "5", "parts": [], "either": "1"},
        {"rest": None, "parts": ['"é"'], "either": '"a"'},
    ]


def test_compressed_json_lines_are_the_lines_with_the_other_columns(tmp_path: Path) -> None:
    source = source_of(tmp_path / "in.jsonl")
    lines = gzip.decompress(written(source, FileFormat("jsonl", compressed=True))).splitlines()
    assert [json.loads(line) for line in lines] == [
        {**line, "row": {"ticket": ticket, "price": 1.5, "at": "x"}} for line, ticket in zip(LINES, "ac", strict=True)
    ]


CARRIED = {
    "half": ['"\\ud800"', pyarrow.string(), None],
    "number": ["1e400", pyarrow.float64(), math.inf],
    "nested": ['{"a": [1e400, -1e400, 0.5]}', pyarrow.struct([("a", pyarrow.list_(pyarrow.float64()))]),
               {"a": [math.inf, -math.inf, math.nan]}],
    "days": ["null", pyarrow.map_(pyarrow.date32(), pyarrow.float64()), [(date(2026, 1, 31), math.nan)]],
}  # fmt: skip


def carrying_source(path: Path) -> RowSource:
    """A row with values that JSON does not have."""
    if path.suffix == ".parquet":
        columns = {name: pyarrow.array([value], type=kind) for name, (_, kind, value) in CARRIED.items()}
        parquet.write_table(pyarrow.table(columns), path)
    else:
        path.write_text("{" + ", ".join(f'"{name}": {text}' for name, (text, *_) in CARRIED.items()) + "}\n")
    return open_source(path, format_of(path))


def refuse_constant(name: str) -> None:
    raise AssertionError(f"{name} is not JSON")


def strict(text: str) -> Any:
    return json.loads(text, parse_constant=refuse_constant)


def carried(given: Path, format: FileFormat) -> dict[str, Any]:
    """The carried cells of the row in a file of this format; of CSV as text."""
    file = written(carrying_source(given), format, LINES[:1])
    if format.kind == "parquet":
        row = parquet.read_table(io.BytesIO(file)).to_pylist()[0]
    elif format.kind == "csv":
        row = next(csv.DictReader(io.StringIO(file.decode())))
    else:
        row = strict(file.decode())["row"]
    return {name: row[name] for name in CARRIED}


def test_a_carried_value_of_parquet_that_json_does_not_have_is_text_in_json(tmp_path: Path) -> None:
    found = carried(tmp_path / "in.parquet", FileFormat("jsonl"))
    nested = {"a": ["inf", "-inf", None]}
    assert found == {"half": None, "number": "inf", "nested": nested, "days": {"2026-01-31": None}}
    found = carried(tmp_path / "in.parquet", FileFormat("csv"))
    assert (found["half"], found["number"]) == ("", "inf")
    assert (strict(found["nested"]), strict(found["days"])) == (nested, {"2026-01-31": None})


@pytest.mark.parametrize("format", [FileFormat("csv"), FileFormat("parquet"), FileFormat("jsonl")], ids=str)
def test_a_carried_value_of_json_lines_that_json_does_not_have_is_text(tmp_path: Path, format: FileFormat) -> None:
    found = carried(tmp_path / "in.jsonl", format)
    assert (found["half"], found["number"]) == ("\ud800" if format.kind == "jsonl" else "\\ud800", "inf")
    nested = found["nested"] if format.kind == "jsonl" else strict(found["nested"])
    assert nested == {"a": ["inf", "-inf", 0.5]}


def test_a_line_of_a_batch_is_json(tmp_path: Path) -> None:
    with closing(LineFile(tmp_path / "out.jsonl")) as lines:
        lines.write({"index": 0, "row": {"number": math.inf, "days": {date(2026, 1, 31): math.nan}}})
    assert strict((tmp_path / "out.jsonl").read_text())["row"] == {"number": "inf", "days": {"2026-01-31": None}}


def test_a_column_name_that_parquet_cannot_have_is_refused() -> None:
    table_writers.refuse_unwritable(FileFormat("jsonl"), ["\ud800"])
    table_writers.refuse_unwritable(FileFormat("parquet"), ["é"])
    with pytest.raises(dspex.DspexError, match=r"the column '.ud800' has half of a surrogate pair"):
        table_writers.refuse_unwritable(FileFormat("parquet"), ["\ud800"])


@pytest.mark.parametrize("format", [FileFormat("csv"), FileFormat("parquet")], ids=str)
def test_errors_have_their_row(tmp_path: Path, format: FileFormat) -> None:
    error = {"code": "rate_limited", "message": "wait"}
    lines = [{"index": 1, "id": None, "error": error}, {"index": 2, "id": "id-2", "error": error}]
    found = written(source_of(tmp_path / "in.csv"), format, lines, errors=True)
    if format.kind == "csv":
        rows: list[Any] = list(csv.DictReader(io.StringIO(found.decode())))
    else:
        rows = parquet.read_table(io.BytesIO(found)).to_pylist()
    assert [(int(row["row"]), row["code"], row["message"]) for row in rows] == [
        (2, "rate_limited", "wait"), (3, "rate_limited", "wait"),
    ]  # fmt: skip
    assert [row["ticket"] for row in rows] == ["two, or more", "three"]


@pytest.mark.parametrize(
    ("columns", "names"),
    [
        (["ticket"], ["queue", "queue_output", "row"]),
        (["ticket", "queue"], ["queue_output_2", "queue_output", "row"]),
        (["queue", "queue_output"], ["queue_output_2", "queue_output_output", "row"]),
        (["queue", "queue_output_2", "row"], ["queue_output_3", "queue_output", "row_output"]),
    ],
)
def test_an_output_whose_name_is_taken_gets_another(columns: list[str], names: list[str]) -> None:
    fields = dspex.signature("ticket -> queue, queue_output, row").output_fields
    assert [column.name for column in result_columns(fields, columns)] == names


def test_a_column_of_errors_whose_name_is_taken_gets_another() -> None:
    names = [column.name for column in error_columns(["message", "message_error", "code"])]
    assert names == ["row", "code_error", "message_error_2", "execution_id"]


@pytest.mark.parametrize("format", [FileFormat("csv"), FileFormat("parquet")], ids=str)
def test_columns_of_similar_names_keep_their_values(tmp_path: Path, format: FileFormat) -> None:
    path = tmp_path / "in.csv"
    path.write_text("queue,score,score_output\nexpected,1,2\n")
    lines = [{"index": 0, "id": "id-0", "result": {"queue": "a", "queue_output": "b", "score": "c"}}]
    source, fields = open_source(path, format_of(path)), dspex.signature("t -> queue, queue_output, score")
    columns = source.survey().columns
    file = io.BytesIO()
    made = result_columns(fields.output_fields, columns)
    writer = open_writer(file, format, columns, made, schema=source.schema)
    write_beside(source, iter(lines), writer)
    writer.close()
    if format.kind == "csv":
        rows: list[Any] = list(csv.DictReader(io.StringIO(file.getvalue().decode())))
    else:
        rows = parquet.read_table(io.BytesIO(file.getvalue())).to_pylist()
    assert rows == [
        {
            "queue": "expected", "score": "1", "score_output": "2",
            "queue_output_2": "a", "queue_output": "b", "score_output_2": "c",
        }
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["in.csv", "in.jsonl", "in.parquet"])
def test_long_rows_are_read_and_written_few_at_a_time(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (delimited_file, json_lines_file, parquet_file):
        monkeypatch.setattr(module, "CHUNK_BYTES", 2**19)
    monkeypatch.setattr(table_writers, "GROUP_BYTES", 2**21)
    texts = [f"{n}{'x' * 2**16}" for n in range(50)]
    path = tmp_path / name
    if name == "in.parquet":
        parquet.write_table(pyarrow.table({"ticket": texts}), path)
    elif name == "in.csv":
        path.write_text("ticket\n" + "\n".join(texts))
    else:
        path.write_text("".join(f'{{"ticket": "{text}"}}\n' for text in texts))
    source = open_source(path, format_of(path))
    chunks = [(chunk.begin, len(chunk)) for chunk in source.chunks()]
    assert max(length for _, length in chunks) <= 17
    assert [begin for begin, _ in chunks] == [sum(length for _, length in chunks[:n]) for n in range(len(chunks))]
    lines = [{"index": n, "id": "", "result": RESULT} for n in range(50)]
    whole = parquet.ParquetFile(io.BytesIO(written(source, FileFormat("parquet"), lines)))
    assert (whole.metadata.num_rows, whole.metadata.num_row_groups) == (50, 2)


def test_parquet_can_begin_at_any_row(tmp_path: Path) -> None:
    path = tmp_path / "in.parquet"
    parquet.write_table(pyarrow.table({"n": list(range(2500))}), path, row_group_size=700)
    source = open_source(path, format_of(path))
    for begin in (0, 1, 699, 700, 1200, 2499, 2500):
        chunks = list(source.chunks(begin))
        assert [row["n"] for chunk in chunks for row in chunk.rows()] == list(range(begin, 2500))  # type: ignore[index]
        assert [chunk.begin for chunk in chunks[:1]] == ([begin] if begin < 2500 else [])
