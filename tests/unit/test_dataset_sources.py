"""What a dataset can be made of."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import dspy
import numpy
import pandas
import pyarrow
import pyarrow.parquet
import pytest

import dspex
from dspex.client.improvement.dataset_sources import read_source

ROWS = [{"question": "a", "answer": "1"}, {"question": "b\n\u2028", "answer": "ü"}]


def values(source: Any) -> list[Any]:
    return [dict(row.values) for row in read_source(source)]


def written(path: Path, rows: Iterable[dict[str, str]]) -> Path:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def test_files_are_read_by_their_extension(tmp_path: Path) -> None:
    assert values(written(tmp_path / "a.jsonl", ROWS)) == ROWS
    assert values(str(written(tmp_path / "a.jsonl.gz", ROWS))) == ROWS
    for name, delimiter in (("a.csv", ","), ("a.tsv", "\t")):
        with (tmp_path / name).open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["question", "answer"], delimiter=delimiter)
            writer.writeheader()
            writer.writerows(ROWS)
        assert values(tmp_path / name) == ROWS
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    assert values(tmp_path / "a.parquet") == ROWS
    assert values(pyarrow.Table.from_pylist(ROWS)) == ROWS


def test_examples_bring_their_inputs() -> None:
    found = list(read_source([dspy.Example(**row).with_inputs("question") for row in ROWS]))
    assert [dict(row.values) for row in found] == ROWS
    assert {row.inputs for row in found} == {frozenset({"question"})}


@pytest.mark.parametrize(
    ("source", "path"),
    [
        (7, "source"),
        ({"question": "a"}, "source"),
        ([{"question": "a"}, "b"], "rows[1]"),
        ("tickets.xlsx", "source"),
    ],
)
def test_other_sources_are_refused(source: Any, path: str) -> None:
    with pytest.raises(dspex.ValidationError) as refused:
        list(read_source(source))
    assert [fault.path for fault in refused.value.errors] == [path]


def test_the_row_of_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"question": "a"}\n[1]\n')
    with pytest.raises(dspex.ValidationError, match=r"rows\[1\]"):
        list(read_source(tmp_path / "a.jsonl"))
    (tmp_path / "a.csv").write_text("question,answer\na,1,2\n")
    with pytest.raises(dspex.ValidationError, match=r"rows\[0\]"):
        list(read_source(tmp_path / "a.csv"))


LATIN = "Größe".encode("latin-1")


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("a.csv", b"question,answer\na," + LATIN, "not UTF-8"),
        ("a.jsonl", b'{"question": "' + LATIN + b'"}', "text in UTF-8"),
        ("a.jsonl", b'{"question": ' + 100_000 * b"[" + 100_000 * b"]" + b"}", r"rows\[0\]"),
        ("a.jsonl.gz", b"text", "gzip data is damaged"),
        ("a.jsonl.gz", gzip.compress(b'{"question": "a"}\n')[:-4], "gzip data is damaged"),
        ("a.parquet", b"text", "cannot be read as Parquet"),
        ("a.csv", b'question,answer\n"a,1\n', "a quote is opened and not closed"),
        ("a.csv", b"question;answer\na;1\n", "separated by ';'"),
        ("a.csv", b"question,question,answer\na,b,1\n", "'question' is there twice"),
        ("a.tsv", b"question\tquestion\na\tb\n", "'question' is there twice"),
    ],
    ids=["csv-latin-1", "jsonl-latin-1", "deep", "no-gzip", "cut-gzip", "no-parquet", "open-quote", "semicolons",
         "csv-twice", "tsv-twice"],
)  # fmt: skip
def test_a_file_that_cannot_be_read_is_refused_in_words(tmp_path: Path, name: str, content: bytes, why: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(dspex.DspexError, match=why):
        list(read_source(tmp_path / name))


def test_cells_may_be_long(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"question,answer\n{200_000 * 'a'},1\n")
    assert values(tmp_path / "a.csv") == [{"question": 200_000 * "a", "answer": "1"}]


def test_frames_have_values_of_python() -> None:
    """Arrays are lists, whatever their length, also within others; what is missing is null."""
    frame = pandas.DataFrame(
        {
            "list": [numpy.array([1.0]), numpy.array([1.0, 2.0])],
            "map": [{"a": numpy.int64(1)}, {"a": [numpy.int64(2)]}],
            "moment": [pandas.NaT, pandas.NaT],
            "number": pandas.array([1, None], dtype="Int64"),
        }
    )
    first, second = values(frame)
    assert json.dumps(first) == '{"list": [1.0], "map": {"a": 1}, "moment": null, "number": 1}'
    assert json.dumps(second) == '{"list": [1.0, 2.0], "map": {"a": [2]}, "moment": null, "number": null}'
    table = pyarrow.table({"map": pyarrow.array([[("a", 1)]], type=pyarrow.map_(pyarrow.string(), pyarrow.int64()))})
    assert values(table) == [{"map": {"a": 1}}]


@pytest.mark.parametrize(
    "frame", [pandas.DataFrame([[1, 2]], columns=["a", "a"]), pyarrow.table([[1], [2]], names=["a", "a"])]
)
def test_a_frame_with_a_column_twice_is_refused(frame: Any) -> None:
    with pytest.raises(dspex.DspexError, match="'a' is there twice"):
        values(frame)
