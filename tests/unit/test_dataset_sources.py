"""What a dataset can be made of."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import dspy
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
