"""CSV has the records, the line numbers and the errors of the csv module, also where pyarrow reads it."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dspex.data import record_count
from dspex.data.delimited_file import DelimitedFile
from dspex.data.parquet_file import ArrowChunk
from dspex.data.row_source import cells_of
from dspex.errors import DspexError

TEXTS = st.lists(st.sampled_from(['"', ",", "\n", "\r", "a", '"a"', '""', "\r\n", "\x02"]), max_size=24).map("".join)
CELLS = st.sampled_from(["", "a", "null", " ", "007", '""', '"a, b"', '"a ""b"""', '"\n"', '"\r\n\r"', "é", '5" x'])
ENDS = st.sampled_from(["\n", "\r\n", "\r", "\n\n"])
TABLES = st.lists(st.tuples(CELLS, st.just(","), CELLS, ENDS).map("".join), max_size=8).map("".join)


@given(text=TEXTS | TABLES, block=st.integers(1, 12))
@example(text='""a\n', block=12)
@example(text='a,""a\n', block=12)
@example(text='"a""",b\n"""a"\n', block=12)
@example(text='5" a\n"a\n",b\n', block=3)
@example(text='a\n\n"a\n\na"\n\n', block=2)
def test_a_file_has_the_records_of_the_csv_module(
    text: str, block: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "in.csv"
    path.write_bytes(f"x,y\n{text}".encode())
    file = DelimitedFile(path, delimiter=",", compressed=False, encoding=None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(record_count, "BLOCK", block)
        patch.setattr(record_count, "LONGEST_BLOCK", 8)
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


@pytest.mark.parametrize("rest", ["", "one\n", f"{'long' * 600_000},b\n"])
def test_pyarrow_reads_rows_up_to_one_that_it_cannot_read(tmp_path: Path, rest: str) -> None:
    path = tmp_path / "in.csv"
    path.write_text("x,y\n" + "".join(f'{n},"a ""b"""\n' for n in range(200_000)) + rest)
    file = DelimitedFile(path, delimiter=",", compressed=False, encoding=None)
    rows = file.survey().rows
    chunks = list(file.chunks(150_000, ["y"]))
    assert isinstance(chunks[0], ArrowChunk)
    assert isinstance(chunks[-1], ArrowChunk) is (rest == "")
    assert (chunks[0].begin, sum(map(len, chunks))) == (150_000, rows - 150_000)
    assert cells_of(chunks[0].rows()[0]) == {"y": 'a "b"'}
