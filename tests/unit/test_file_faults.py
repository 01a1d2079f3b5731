"""What becomes of each fault of a file: tests/file_faults.py has the cases, docs/reference/batch-files.md the table."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

import dspex
from tests.docs.pages import ROOT
from tests.file_faults import CASES, FaultCase, outcome, page_table


@pytest.mark.parametrize("case", CASES, ids=str)
def test_each_fault_has_its_answer(case: FaultCase, tmp_path: Path) -> None:
    if case.refused:
        with pytest.raises(dspex.DspexError, match=r".") as error:
            outcome(case, tmp_path)
        assert error.value.code == "data_refused"
        assert case.refused in str(error.value)
        return
    found = outcome(case, tmp_path)
    assert len(found) == len(case.rows)
    for got, expected in zip(found, case.rows, strict=True):
        assert expected in got if isinstance(expected, str) else got == expected


def test_the_page_has_the_table() -> None:
    page = (ROOT / "docs" / "reference" / "batch-files.md").read_text()
    assert page_table() in page, "python -m tests.file_faults prints the table"


def test_a_line_without_an_end_costs_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dspex.data import text_input
    from dspex.data.formats import format_of
    from dspex.data.row_source import open_source

    monkeypatch.setattr(text_input, "LONGEST_LINE", 1000)
    path = tmp_path / "in.jsonl"
    path.write_bytes(b'{"text": "' + b"x" * 5000 + b'"}\n{"text": "short"}\n')
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    source = open_source(path, format_of(path))
    rows = [row for chunk in source.chunks() for row in chunk.rows()]
    assert source.survey().rows == 2
    assert isinstance(rows[0], dspex.ValidationError)
    assert rows[1] == {"text": "short"}
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


READ = """
import pathlib, sys
from dspex.data.parquet_file import ParquetFile

def status(name):
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))

source = ParquetFile(pathlib.Path(sys.argv[1]))
source.schema(())
pathlib.Path("/proc/self/clear_refs").write_text("5")  # the most memory so far is forgotten
before = status("VmRSS:")
assert sum(len(chunk.rows()) for chunk in source.chunks())
print(status("VmHWM:") - before)
"""


@pytest.mark.parametrize(
    ("group_mib", "page_mib", "least", "most"), [(128, 1, 0, 32), (32, 1024, 30, 100)], ids=["pages", "one page"]
)
def test_a_row_group_of_parquet_is_read_page_by_page(
    tmp_path: Path, group_mib: int, page_mib: int, least: int, most: int
) -> None:
    """A row group of 128 MiB needs little memory; a page of 32 MiB needs as much, once or twice."""
    path = tmp_path / "in.parquet"
    table = pyarrow.table({"text": [f"{n}{'x' * 2**18}" for n in range(4 * group_mib)]})
    parquet.write_table(
        table, path, compression="none", use_dictionary=False, write_batch_size=1, data_page_size=page_mib * 2**20
    )
    assert parquet.read_metadata(path).row_group(0).total_byte_size > group_mib * 2**20
    done = subprocess.run([sys.executable, "-c", READ, str(path)], capture_output=True, text=True, check=True)
    assert least < float(done.stdout) < most
