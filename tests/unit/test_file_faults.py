"""What becomes of each fault of a file: tests/file_faults.py has the cases, docs/reference/batch-files.md the table."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

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
