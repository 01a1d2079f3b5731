"""CSV has the records, the line numbers and the errors of the csv module, also where pyarrow reads it."""

from __future__ import annotations

import csv
import gzip
import io
import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pyarrow
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pyarrow import parquet

from dspex.data.delimited import plain_csv, record_count
from dspex.data.delimited.delimited_file import DelimitedFile
from dspex.data.delimited.plain_csv import RecordPlace, plain_blocks
from dspex.data.formats import format_of
from dspex.data.parquet_file import ArrowChunk
from dspex.data.row_source import cells_of, open_source
from dspex.errors import DspexError

TEXTS = st.lists(st.sampled_from(['"', ",", "\n", "\r", "a", '"a"', '""', "\r\n", "\x02", "\x03"]), max_size=24).map(
    "".join
)
CELLS = st.sampled_from(["", "a", "null", " ", "007", '""', '"a, b"', '"a ""b"""', '"\n"', '"\r\n\r"', "é", '5" x'])
ENDS = st.sampled_from(["\n", "\r\n", "\r", "\n\n"])
TABLES = st.lists(st.tuples(CELLS, st.just(","), CELLS, ENDS).map("".join), max_size=8).map("".join)


@given(text=TEXTS | TABLES, block=st.integers(1, 12), longest=st.sampled_from([8, 100]))
@example(text='""a\n', block=12, longest=100)
@example(text='a,""a\n', block=12, longest=100)
@example(text='"a""",b\n"""a"\n', block=12, longest=100)
@example(text='""\n"""",""\n""""""\n', block=12, longest=100)
@example(text='a""b,"""a"""\n"a"""b"\n', block=100, longest=100)
@example(text='5" a\n"a\n",b\n', block=3, longest=100)
@example(text='a\n\n"a\n\na"\n\n', block=2, longest=100)
@example(text='"\r","\n"\na\n', block=2, longest=100)
@example(text='aaaaaaaaa,"\r\n\r"\n', block=12, longest=100)
@example(text="a,b\n\ufeffa,b\n\ufeff,\n", block=2, longest=100)
def test_a_file_has_the_records_of_the_csv_module(
    text: str, block: int, longest: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "in.csv"
    path.write_bytes(f"x,y\n{text}".encode())
    file = DelimitedFile(path, delimiter=",", compressed=False, encoding=None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(record_count, "BLOCK", block)
        patch.setattr(record_count, "LONGEST_BLOCK", longest)
        patch.setattr(plain_csv, "READ_BYTES", 2 * block)
        patch.setattr(plain_csv, "PARSED_BYTES", block)
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        try:
            expected = [(reader.line_num + 1, record) for record in reader if record]
        except csv.Error:
            message = rf"line {reader.line_num + 1}:"
            with pytest.raises(DspexError, match=message):
                file.survey()
            with pytest.raises(DspexError, match=message):
                list(file.chunks())
            return
        assert file.survey().rows == len(expected)
        for begin in {0, len(expected) // 2}:
            chunks = list(file.chunks(begin))
            rows = [row for chunk in chunks for row in chunk.rows()]
            assert [chunk.begin for chunk in chunks][:1] == [begin] * (len(rows) > 0)
            assert len(rows) == len(expected) - begin
            for row, (line, record) in zip(rows, expected[begin:], strict=True):
                assert dict(cells_of(row)) == dict(zip(("x", "y"), record, strict=False))
                assert len(record) == 2 or f"line {line}:" in str(row)


@pytest.mark.parametrize("name", ["in.csv", "in.csv.gz"])
@pytest.mark.parametrize("rest", ["", "one\n", f"{'long' * 50_000},b\n", 'a"b,c\n'])
def test_pyarrow_reads_the_blocks_that_it_can_read(
    tmp_path: Path, name: str, rest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record_count, "BLOCK", 2**15)
    monkeypatch.setattr(record_count, "LONGEST_BLOCK", 2**17)
    monkeypatch.setattr(plain_csv, "READ_BYTES", 2**16)
    lines = "".join(f'{n},"a ""b"""\n' for n in range(10_000))
    text = f"x,y\n{lines}{rest}{lines}".encode()
    path = tmp_path / name
    path.write_bytes(gzip.compress(text, 1) if path.suffix == ".gz" else text)
    file = DelimitedFile(path, delimiter=",", compressed=path.suffix == ".gz", encoding=None)
    rows = file.survey().rows
    chunks = list(file.chunks(5_000, ["y"]))
    assert isinstance(chunks[0], ArrowChunk)
    assert all(isinstance(chunk, ArrowChunk) for chunk in chunks) is (rest == "")
    assert isinstance(chunks[-1], ArrowChunk) is (rest in ("", "one\n")), "one row is in one block"
    assert (chunks[0].begin, sum(map(len, chunks))) == (5_000, rows - 5_000)
    found = [row for chunk in chunks for row in chunk.rows()]
    assert cells_of(found[0])["y"] == cells_of(found[-1])["y"] == 'a "b"'
    assert rest != "one\n" or "line 10002: the row: expected 2 cells" in str(found[5_000])


@pytest.mark.parametrize("name", ["in.csv", "in.csv.gz", "in.jsonl", "in.jsonl.gz", "in.parquet"])
def test_a_file_is_closed_with_the_iterator_of_its_rows(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if path.suffix == ".parquet":
        parquet.write_table(pyarrow.table({"x": ["a" * 1000] * 3000}), path, row_group_size=500)
    else:
        row = '{"x": "%s"}\n' if ".jsonl" in name else "%s\n"
        text = ("x\n" + (row % ("a" * 1000)) * 3000).removeprefix("x\n" if ".jsonl" in name else "").encode()
        path.write_bytes(gzip.compress(text, 1) if path.suffix == ".gz" else text)
    source = open_source(path, format_of(path))
    source.survey()
    for read in (1, 2) * 10:
        chunks = source.chunks()
        for _ in range(read):
            next(chunks)
        del chunks
        assert not [each for each in _open_files() if each == str(path)]
    assert not [each for each in threading.enumerate() if each.name.startswith("ThreadPool")]


def test_an_error_in_the_block_that_is_read_ahead_is_raised_in_its_turn() -> None:
    def parse(text: bytes) -> None:
        if text == b"b\n":
            raise OSError("the disk is gone")

    blocks = plain_blocks(io.BytesIO(b"a\nb\nc\n"), [RecordPlace(2 * n, n, n) for n in range(4)], 0, parse)
    assert next(blocks).text == b"a\n"
    with pytest.raises(OSError, match="the disk is gone"):
        next(blocks)


def _open_files() -> Iterator[str]:
    for number in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the directory that was listed
            yield os.readlink(f"/proc/self/fd/{number}")
