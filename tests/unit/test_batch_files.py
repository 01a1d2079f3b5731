"""The files of ``dspex batch`` after a kill at any byte."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import dspex
from dspex.cli.executions.batch_files import BatchInput, BatchState, LineFile, read_state, write_state
from dspex.wait.completion import IndexSet


def test_a_line_that_a_kill_cut_short_is_taken_off(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    lines = [json.dumps({"index": index, "result": {"text": "ü\n🐈" * index}}).encode() + b"\n" for index in range(4)]
    whole = b"".join(lines)
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        file, written = LineFile(path), IndexSet(4)
        kept = file.recover(written)
        assert list(written) == list(range(kept))
        for index in range(kept, 4):
            file.write(json.loads(lines[index]))
        file.close()
        assert [json.loads(line) for line in path.read_bytes().splitlines()] == [json.loads(line) for line in lines]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b'{"index":0}\nrubbish\n{"index":1}\n', "line 2, was not written by dspex batch"),
        (b'{"index":0}\n{"index":0}\n{"index":1}\n', "row 0 is there twice"),
        (b'{"index":7}\n{"index":1}\n', "row 7, which the input does not have"),
    ],
)
def test_a_file_that_somebody_changed_is_refused(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "out.jsonl"
    path.write_bytes(content)
    file = LineFile(path)
    with pytest.raises(dspex.DspexError, match=says):
        file.recover(IndexSet(3))
    file.close()
    assert path.read_bytes() == content


def test_two_runs_do_not_write_one_file(tmp_path: Path) -> None:
    first = LineFile(tmp_path / "out.jsonl")
    with pytest.raises(dspex.DspexError, match="another `dspex batch`"):
        LineFile(tmp_path / "out.jsonl")
    first.close()
    LineFile(tmp_path / "out.jsonl").close()


def test_lines_of_retried_rows_are_taken_out_at_once(tmp_path: Path) -> None:
    path = tmp_path / "errors.jsonl"
    first, written = LineFile(path), IndexSet(4)
    for index in range(4):
        first.write({"index": index, "error": {"text": "ü"}})
    first.sync()
    with path.open("rb") as before:
        first.remove({1, 3})
        assert [entry["index"] for entry in first.entries()] == [0, 2]
        assert len(before.readlines()) == 4, "the old file is replaced, not changed"
    with pytest.raises(dspex.DspexError, match="another `dspex batch`"):
        LineFile(path)
    first.write({"index": 1, "error": {}})
    first.close()
    again = LineFile(path)
    assert again.recover(written) == 3
    assert list(written) == [0, 1, 2]
    again.close()
    assert [file.name for file in tmp_path.iterdir()] == ["errors.jsonl"]


def test_an_input_is_its_lines(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b'{"a": 1}\n\n{"a": 2}\n{"a": 3}\n\n  \n')
    rows = BatchInput.survey(path)
    assert rows.rows == 4
    assert list(rows.lines(1)) == [b"\n", b'{"a": 2}\n', b'{"a": 3}\n']
    path.write_bytes(b"")
    assert BatchInput.survey(path).rows == 0


def test_the_state_comes_back_or_is_refused(tmp_path: Path) -> None:
    path, state = tmp_path / "out.jsonl.batch", BatchState("id", "qa", "v", "hash", ordered=True)
    assert read_state(path) is None
    write_state(path, state)
    assert read_state(path) == state
    path.write_text("{}")
    with pytest.raises(dspex.DspexError, match="--restart"):
        read_state(path)
