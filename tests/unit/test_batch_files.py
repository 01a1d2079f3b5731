"""The files of ``dspex batch`` after a kill at any byte."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import pytest

import dspex
from dspex.cli.batches.batch_files import BatchFiles, BatchState, read_state, write_state
from dspex.cli.batches.line_file import LineFile, LineStream
from dspex.data.formats import format_of
from dspex.data.row_source import open_source
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


def indexes(path: Path) -> list[int]:
    return [json.loads(line)["index"] for line in path.read_bytes().splitlines()]


def test_lines_are_taken_out_and_written_anew_and_sorted(tmp_path: Path) -> None:
    path = tmp_path / "real.jsonl"
    (tmp_path / "out.jsonl").symlink_to(path)
    path.write_bytes(b"".join(b'{"index":%d}\n' % index for index in (0, 2, 5, 6)))
    path.chmod(0o600)
    (tmp_path / "real.jsonl.new").write_bytes(b"of a run that was killed")
    file = LineFile(tmp_path / "out.jsonl")
    file.recover(IndexSet(7))
    file.drop({2, 6})
    for index in (1, 3, 2, 6):
        file.write({"index": index, "note": "\u2028 and half a \ud83d"})
    with pytest.raises(dspex.DspexError, match="another `dspex batch`"):
        LineFile(path)
    file.sort()
    assert indexes(path) == [0, 1, 2, 3, 5, 6]
    file.write({"index": 4})
    file.close()
    assert indexes(path) == [0, 1, 2, 3, 5, 6, 4]
    assert (path.stat().st_mode & 0o777, (tmp_path / "real.jsonl.new").exists()) == (0o600, False)

    again, written = LineFile(path), IndexSet(7)
    assert again.recover(written) == 7
    again.sort()
    again.close()
    assert indexes(path) == list(written) == list(range(7))


def test_a_file_that_is_in_order_is_not_replaced(tmp_path: Path) -> None:
    file = LineFile(tmp_path / "out.jsonl")
    file.write({"index": 0})
    file.write({"index": 3})
    inode = (tmp_path / "out.jsonl").stat().st_ino
    file.sort()
    file.close()
    assert (tmp_path / "out.jsonl").stat().st_ino == inode


def test_an_input_is_its_lines(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b'{"a": 1}\n\n{"a": 2}\n{"a": 3}\n\n  \n')
    source = open_source(path, format_of(path))
    assert source.survey().rows == 4
    (chunk,) = source.chunks(1)
    blank, *others = chunk.rows()
    assert isinstance(blank, dspex.ValidationError)
    assert others == [{"a": 2}, {"a": 3}]
    path.write_bytes(b"")
    assert source.survey().rows == 0
    assert list(source.chunks()) == []


def test_the_state_comes_back_or_is_refused(tmp_path: Path) -> None:
    path, state = tmp_path / "out.jsonl.batch", BatchState("id", "qa", "v", "hash", ordered=True)
    assert read_state(path) is None
    write_state(path, state)
    assert read_state(path) == state
    path.write_text("{}")
    with pytest.raises(dspex.DspexError, match="--restart"):
        read_state(path)


def files_of(tmp_path: Path, source: str, output: str, errors: str | None = None) -> BatchFiles:
    return BatchFiles.of(
        tmp_path / source, tmp_path / output, None if errors is None else tmp_path / errors, tmp_path / "temporary",
        source_format=None, output_format=None,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("output", "errors", "lines"),
    [
        ("out.jsonl", "out.errors.jsonl", "out.jsonl"),
        ("out.jsonl.gz", "out.errors.jsonl", "out.jsonl.gz.batch.results"),
        ("out.csv", "out.errors.csv", "out.csv.batch.results"),
        ("out.parquet", "out.errors.parquet", "out.parquet.batch.results"),
    ],
)
def test_every_output_has_lines_that_record_it(tmp_path: Path, output: str, errors: str, lines: str) -> None:
    files = files_of(tmp_path, "in.csv", output)
    assert files.output.lines == tmp_path / lines
    assert files.errors.path == tmp_path / errors
    assert files.output.is_table == (lines != output)


@pytest.mark.parametrize(
    ("source", "output", "errors"),
    [("a.csv", "a.csv", None), ("a.csv", "b.csv", "a.csv"), ("a.csv", "b.csv", "b.csv"), ("a.csv", "link.csv", None)],
)
def test_two_of_its_files_cannot_be_the_same(tmp_path: Path, source: str, output: str, errors: str | None) -> None:
    (tmp_path / "a.csv").write_text("question\n?\n")
    (tmp_path / "link.csv").symlink_to(tmp_path / "a.csv")
    with pytest.raises(dspex.DspexError, match="choose another file") as error:
        files_of(tmp_path, source, output, errors)
    assert error.value.code == "batch_refused"


def test_a_full_disk_is_reported_with_the_name_of_the_file() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    stream = LineStream(Path("/dev/full"), Path("/dev/full").open("wb"))  # noqa: SIM115 - closing it fails, too
    with pytest.raises(OSError, match="No space left"):
        stream.write({"index": 0})
    with suppress(OSError):
        stream._file.close()
