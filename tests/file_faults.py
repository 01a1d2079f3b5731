"""Faults of files with rows, by format, and what becomes of each: the table of docs/reference/batch-files.md.

``python -m tests.file_faults`` prints the table; tests/unit/test_file_faults.py checks each case, and the page.
"""

from __future__ import annotations

import codecs
import gzip
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import parquet

import dspex
from dspex.data.formats import format_of
from dspex.data.input_columns import InputColumns
from dspex.data.row_source import open_source

SIGNATURE = dspex.signature(":string text, :optional(:integer) n -> :string answer")
FORMATS = ("csv", "jsonl", "jsonl.gz", "parquet")
#: What a case expects: the inputs of each row, or a part of the message of a row's error; for a file that is refused,
#: a part of its message.
Rows = tuple[Mapping[str, Any] | str, ...]


@dataclass(frozen=True)
class FaultCase:
    """A fault in a file of a format: the file, the options, the answer in words, and what is expected."""

    fault: str
    format: str
    content: bytes
    answer: str
    rows: Rows = ()
    refused: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.format}: {self.fault}"


def outcome(case: FaultCase, directory: Path) -> list[Mapping[str, Any] | str]:
    """The inputs of each row as the program gets them, or the message of its error. Raises DspexError."""
    path = directory / f"in.{case.format}"
    path.write_bytes(case.content)
    options = dict(case.options)
    source = open_source(path, format_of(path), options.pop("encoding", None))
    columns = InputColumns(SIGNATURE.input_fields, source.cells, options.pop("mapping", {}), **options)
    survey = source.survey()
    if source.has_header:
        columns.check(survey.columns, "the file", fix="Use --map {}=COLUMN")
    found = [_checked(row) for chunk in source.chunks() for row in columns.chunk_inputs(chunk)]
    assert found == [_checked(columns.inputs(row)) for chunk in source.chunks() for row in chunk.rows()]
    assert len(found) == survey.rows
    return found


def _checked(row: Any) -> Mapping[str, Any] | str:
    if isinstance(row, dspex.ValidationError):
        return str(row)
    try:
        return SIGNATURE.validate_inputs(row)
    except dspex.ValidationError as error:
        return str(error)


def table(**columns: Any) -> bytes:
    file = io.BytesIO()
    parquet.write_table(pyarrow.table(columns), file)
    return file.getvalue()


def twice() -> bytes:
    file = io.BytesIO()
    schema = pyarrow.schema([("text", pyarrow.string()), ("text", pyarrow.string())])
    arrays = [pyarrow.array(["a"]), pyarrow.array(["b"])]
    parquet.write_table(pyarrow.Table.from_arrays(arrays, schema=schema), file)
    return file.getvalue()


def both(fault: str, content: bytes, answer: str, **expected: Any) -> list[FaultCase]:
    """A case of JSON lines, plain and compressed."""
    return [
        FaultCase(fault, "jsonl", content, answer, **expected),
        FaultCase(fault, "jsonl.gz", gzip.compress(content), answer, **expected),
    ]


def line(**values: Any) -> bytes:
    return json.dumps(values, ensure_ascii=False).encode() + b"\n"


HELLO = {"text": "hello", "n": None}
CASES: list[FaultCase] = [
    FaultCase("a byte-order mark", "csv", codecs.BOM_UTF8 + b"text\nhello\n", "ignored", (HELLO,)),
    *both("a byte-order mark", codecs.BOM_UTF8 + line(text="hello"), "ignored", rows=(HELLO,)),
    FaultCase("CRLF", "csv", b"text,n\r\nhello,\r\n", "a line break as any other", (HELLO,)),
    *both("CRLF", b'{"text": "hello"}\r\n', "a line break as any other", rows=(HELLO,)),
    FaultCase(
        "a line break in a quoted cell", "csv", b'text,n\n"one\ntwo",3\n', "part of the text",
        ({"text": "one\ntwo", "n": 3},),
    ),
    FaultCase("a blank line", "csv", b"text\n\nhello\n\n\n", "not a row", (HELLO,)),
    *both(
        "a blank line", b"\n" + line(text="hello") + b"\n\n", "rejected; at the end not a row",
        rows=("line 1", HELLO),
    ),
    FaultCase("an empty cell", "csv", b"text,n\nhello,\n", "left out: the default of its field is used", (HELLO,)),
    FaultCase(
        "an empty cell", "parquet", table(text=["hello"], n=[None]),
        "null is left out: the default of its field is used", (HELLO,),
    ),
    FaultCase(
        "an empty cell, --empty text", "csv", b"text,n\n,3\n", "the empty text", ({"text": "", "n": 3},),
        options={"empty": "text"},
    ),
    FaultCase(
        "an empty cell, --empty null", "csv", b"text,n\nhello,\n", "null", (HELLO,), options={"empty": "null"}
    ),
    FaultCase(
        "an empty cell of a required field", "csv", b"text,n\n,3\n", "the row is rejected", ("text",)
    ),
    *both("null", line(text="hello", n=None), "null", rows=(HELLO,)),
    FaultCase("NaN", "csv", b"text,n\nhello,NaN\n", "text, which is not a number: the row is rejected", ("n: ",)),
    *both("NaN", b'{"text": "hello", "n": NaN}\n', "not JSON: the row is rejected", rows=("NaN is not JSON",)),
    FaultCase(
        "NaN", "parquet", table(text=["hello", "hello"], n=[3.0, float("nan")]),
        "as null; a whole number such as 3.0 is an integer", ({"text": "hello", "n": 3}, HELLO),
    ),
    FaultCase(
        "a number in a column of text", "csv", b"text\n007\n", "text, digit by digit", ({"text": "007", "n": None},)
    ),
    *both("a number in a column of text", line(text=7), "the row is rejected", rows=("text: ",)),
    FaultCase(
        "a number in a column of text", "parquet", table(text=[7]), "its digits as text", ({"text": "7", "n": None},)
    ),
    FaultCase("a number that is not one", "csv", b"text,n\nhello,1.5\n", "the row is rejected", ("n: ",)),
    FaultCase("a column twice", "csv", b"text,text\na,b\n", "refused", refused="column 'text' is there twice"),
    FaultCase("a column twice", "parquet", twice(), "refused", refused="column 'text' is there twice"),
    *both("a key twice", b'{"text": "a", "text": "hello"}\n', "the last one counts", rows=(HELLO,)),
    FaultCase(
        "a row with fewer or more cells", "csv", b"text,n\nhello\nhello,\nhello,,\n", "the row is rejected",
        ("line 2: the row: expected 2 cells", HELLO, "line 4: the row: expected 2 cells"),
    ),
    *both("a line that is not an object", b"[1]\nrubbish\n", "the row is rejected", rows=("inputs", "line 2")),
    FaultCase("no column for a required field", "csv", b"body\nhello\n", "refused", refused="--map text=COLUMN"),
    FaultCase("no column for a required field", "parquet", table(body=["x"]), "refused", refused="--map text=COLUMN"),
    FaultCase(
        "a column of another name, --map text=body", "csv", b"body\nhello\n", "read", (HELLO,),
        options={"mapping": {"text": "body"}},
    ),
    FaultCase(
        "a mapped column that is missing", "csv", b"bodi\nhello\n", "refused, with the nearest name",
        refused="did you mean 'bodi'", options={"mapping": {"text": "body"}},
    ),
    FaultCase("another encoding", "csv", "text\ncafé\n".encode("cp1252"), "refused", refused="not utf-8"),
    *both("another encoding", '{"text": "café"}\n'.encode("cp1252"), "the row is rejected", rows=("line 1",)),
    FaultCase(
        "another encoding, --encoding cp1252", "csv", "text\ncafé\n".encode("cp1252"), "read",
        ({"text": "café", "n": None},), options={"encoding": "cp1252"},
    ),
    *both(
        "another encoding, --encoding cp1252", '{"text": "café"}\n'.encode("cp1252"), "read",
        rows=({"text": "café", "n": None},), options={"encoding": "cp1252"},
    ),
    FaultCase("UTF-16", "csv", "text\nhello\n".encode("utf-16"), "refused", refused="--encoding utf-16"),
    *both("UTF-16", '{"text": "hello"}\n'.encode("utf-16"), "refused", refused="--encoding utf-16"),
    FaultCase(
        "UTF-16, --encoding utf-16", "csv", "text\nhello\n".encode("utf-16"), "read", (HELLO,),
        options={"encoding": "utf-16"},
    ),
    FaultCase("a quote that is not closed", "csv", b'text\n"hello\nand so on\n', "refused", refused="not closed"),
    FaultCase("a quote that is not doubled", "csv", b'text\n"a"b"\n', "refused", refused="must be doubled"),
    FaultCase("cells between semicolons", "csv", b"text;n\nhello;3\n", "refused", refused="separated by ';'"),
    FaultCase("an empty file", "csv", b"", "refused", refused="must name the columns"),
    *both("an empty file", b"", "no rows", rows=()),
    FaultCase("an empty file", "parquet", b"", "refused", refused="cannot be read as Parquet"),
    FaultCase("only a header", "csv", b"text\n", "no rows", ()),
    FaultCase(
        "gzip that is cut off", "jsonl.gz", gzip.compress(line(text="hello") * 100)[:-12], "refused",
        refused="damaged or cut off",
    ),
    FaultCase("not gzip", "jsonl.gz", line(text="hello"), "refused", refused="damaged or cut off"),
    FaultCase("a file that is cut off", "parquet", table(text=["hello"])[:-8], "refused", refused="Parquet"),
    FaultCase("lists and objects", "csv", b'text,n\nhello,"[1]"\n', "JSON in the cell", ("n: ",)),
]  # fmt: skip


def page_table(cases: list[FaultCase] = CASES) -> str:
    """The table: a line for each fault, a column for each format."""
    answers: dict[str, dict[str, str]] = {}
    for case in cases:
        answers.setdefault(case.fault, {})[case.format] = case.answer
    head = f"| | {' | '.join(f'`.{each}`' for each in FORMATS)} |\n|{'---|' * (len(FORMATS) + 1)}\n"
    cells: Callable[[dict[str, str]], str] = lambda found: " | ".join(found.get(each, "–") for each in FORMATS)  # noqa: E731
    return head + "".join(f"| {fault} | {cells(found)} |\n" for fault, found in answers.items())


if __name__ == "__main__":
    print(page_table(), end="")
