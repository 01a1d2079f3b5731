"""Parts of the gateway that need no server: pointers, uploads, forms, the waterfall, sessions."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from io import StringIO
from itertools import product
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from starlette.datastructures import FormData, QueryParams

import dspex
from dspex.client.audit_trail import AuditEvent
from dspex.data.delimited.delimited_file import DelimitedFile
from dspex.data.delimited.delimited_records import CsvParts, numbered_records
from dspex.data.formats import data_refused
from dspex.data.input_columns import InputColumns
from dspex.errors import DspexError, ExecutionNotFound, ValidationError
from dspex.serve.api.open_api import component_name, description
from dspex.serve.api.problem_details import STATUSES, HttpRefusal, pointer, problem_of
from dspex.serve.api.request_bodies import filters_of
from dspex.serve.api.review_routes import approval_filters, cursor_of
from dspex.serve.api.row_upload import csv_rows, json_line_rows, lines_of
from dspex.serve.console.console_routes import _own_path
from dspex.serve.console.input_form import PREFIX, controls, inputs_of_form, outputs_of_form
from dspex.serve.console.shown_text import brief, milliseconds
from dspex.serve.console.waterfall import MOST_BARS, waterfall
from dspex.serve.improvement.evaluation_routes import read_offset
from dspex.store.lifecycle.approvals import Place

SIGNATURE = dspex.signature(
    ":string text, :integer(min=1) count = 2, :boolean flag = false, :list(:string) tags = [] -> :string answer"
)
NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("text", "/text"), ("history[2].text", "/history/2/text"), ("scores['a/b']", "/scores/a~1b"),
        ("", ""), ("/inputs", "/inputs"), ("rows[0][1]", "/rows/0/1"),
    ],
)  # fmt: skip
def test_the_path_of_a_fault_as_a_pointer(path: str, expected: str) -> None:
    assert pointer(path) == expected


def test_a_problem_names_no_address_of_the_deployment() -> None:
    error = dspex.BackendUnavailable(
        "Postgres at postgresql://db.internal/x is out of reach (nothing was saved): no", backend="postgres"
    )
    answer = problem_of(error)
    assert (answer.status_code, b"internal" in bytes(answer.body)) == (503, False)
    assert answer.headers["retry-after"]


def test_each_status_belongs_to_a_code_that_exists() -> None:
    known = {kind.code for kind in _kinds(DspexError)} | {data_refused("no rows").code}
    assert set(STATUSES) <= known
    assert problem_of(ExecutionNotFound("no execution 'x'", execution_id="x")).status_code == 404


def _kinds(kind: type[DspexError]) -> set[type[DspexError]]:
    return {kind, *(found for each in kind.__subclasses__() for found in _kinds(each))}


async def parts(text: bytes, size: int) -> AsyncIterator[bytes]:
    for begin in range(0, len(text), size):
        yield text[begin : begin + size]


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
async def test_lines_do_not_depend_on_how_they_arrive(size: int) -> None:
    text = b"one\r\n\ntwo words\nthree"
    assert [line async for line in lines_of(parts(text, size), 100)] == [b"one", b"", b"two words", b"three"]


async def test_a_line_that_is_too_long_is_refused_before_it_is_whole() -> None:
    with pytest.raises(HttpRefusal, match="more than 10 bytes"):
        [line async for line in lines_of(parts(b"x" * 1000, 4), 10)]


@pytest.mark.parametrize("size", [1, 5, 1000])
async def test_rows_of_json_lines(size: int) -> None:
    text = b'{"text": "a"}\n\n  \n[]\n{"text": \n{"text": "b", "count": 3}'
    rows: list[Any] = [row async for row in json_line_rows(lines_of(parts(text, size), 100))]
    assert rows[0] == {"text": "a"}
    assert rows[1] == []
    assert isinstance(rows[2], ValidationError)
    assert rows[3] == {"text": "b", "count": 3}


@pytest.mark.parametrize("size", [1, 5, 1000])
async def test_rows_of_csv(size: int) -> None:
    text = '\ufefftext,count,tags\r\n"a ""b""\nc",3,"[""x""]"\r\n\r\nd,,\r\ne,1\r\n5,1,[]'.encode()
    rows: list[Any] = [row async for row in csv_rows(parts(text, size), SIGNATURE, 1000)]
    assert rows[0] == {"text": 'a "b"\nc', "count": 3, "tags": ["x"]}
    assert rows[1] == {"text": "d"}
    assert isinstance(rows[2], ValidationError)
    assert rows[3] == {"text": "5", "count": 1, "tags": []}


@pytest.mark.parametrize("size", [1, 2, 1000])
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b'text\n5" pipe\nfoo\nbar\n', ['5" pipe', "foo", "bar"]),
        (b"text\na\r\rb\n", ["a", "b"]),
        (b'text\n"a\r\nb"\r\nc', ["a\r\nb", "c"]),
        (b'text\n"a""b"\n', ['a"b']),
        (b'text\na\n"b\nc\nd', "line 5: a quote is opened and not closed"),
        (b'text\n"a"b\n', "line 2: a quote inside of a quoted cell must be doubled"),
        (b"text,text\na,b\n", "line 1: the column 'text' is there twice"),
        (b"text;count\na;b\n", "line 1: one column, 'text;count'"),
        (b"text\na\n\xff\n", "the text is not "),
        (b"count\n1\n", "no column for 'text'"),
    ],
)
async def test_an_upload_of_csv_is_read_as_a_file_is(
    tmp_path: Path, text: bytes, expected: list[str] | str, size: int
) -> None:
    (path := tmp_path / "rows.csv").write_bytes(text)

    async def of_upload() -> list[Any]:
        return [row async for row in csv_rows(parts(text, size), SIGNATURE, 1000)]

    def of_file() -> list[Any]:
        file = DelimitedFile(path, delimiter=",", compressed=False, encoding=None)
        columns = InputColumns(SIGNATURE.input_fields, file.cells, {})
        columns.check(file.survey().columns, str(path), fix="{}")
        return [row for chunk in file.chunks() for row in columns.chunk_inputs(chunk)]

    if isinstance(expected, list):
        assert await of_upload() == of_file() == [{"text": value} for value in expected]
    else:
        with pytest.raises(DspexError, match=expected) as refused:
            await of_upload()
        assert refused.value.code == "data_refused"
        with pytest.raises(DspexError, match=expected):
            of_file()


@pytest.mark.parametrize("size", [1, 2, 9])
def test_csv_in_parts_has_the_records_that_the_csv_module_reads(size: int) -> None:
    def read(found: Iterable[tuple[int, list[str]]]) -> tuple[list[tuple[int, list[str]]], str]:
        records = []
        try:
            for each in found:
                records.append(each)
        except DspexError as error:
            return records, str(error)
        return records, ""

    def in_parts(text: str) -> Iterator[tuple[int, list[str]]]:
        reader = CsvParts("x", 100)
        for begin in range(0, len(text), size):
            yield from reader.records(text[begin : begin + size].encode())
        yield from reader.records(b"", is_last=True)

    for length in range(7):
        for characters in product('a",\r\n', repeat=length):
            text = "".join(characters)
            whole = numbered_records(StringIO(text, newline=""), 0, ",", "x")
            assert read(in_parts(text)) == read(whole), repr(text)


async def test_a_quote_that_is_never_closed_does_not_fill_memory() -> None:
    with pytest.raises(HttpRefusal):
        [row async for row in csv_rows(parts(b'text\n"' + b"x\n" * 1000, 64), SIGNATURE, 100)]


def test_a_form_has_a_control_for_each_input_and_gives_the_inputs_back() -> None:
    made = {control.field: control for control in controls(SIGNATURE)}
    assert {name: control.kind for name, control in made.items()} == {
        "text": "text", "count": "number", "flag": "choice", "tags": "json"
    }  # fmt: skip
    assert (made["count"].value, made["flag"].choices, made["text"].required) == ("2", ["true", "false"], True)
    sent = FormData(
        [(PREFIX + "text", "a\r\nb"), (PREFIX + "count", "3"), (PREFIX + "flag", ""), (PREFIX + "tags", '["x"]')]
    )
    inputs, given = inputs_of_form(SIGNATURE, sent)
    assert inputs == {"text": "a\nb", "count": 3, "tags": ["x"]}
    with pytest.raises(ValidationError) as found:
        SIGNATURE.validate_inputs({"text": "x", "count": 0})
    (fault,) = [control for control in controls(SIGNATURE, given, found.value) if control.fault]
    assert (fault.field, fault.value) == ("count", "3")


def test_a_form_of_corrected_outputs_gives_those_that_are_filled_in() -> None:
    signature = dspex.signature(':string question -> :enum("a", "b") kind, :float score, :string reply')
    made = {control.field: control for control in controls(signature, side="outputs")}
    assert [(control.kind, control.required, control.value) for control in made.values()] == [
        ("choice", False, ""), ("number", False, ""), ("text", False, "")
    ]  # fmt: skip
    sent = FormData([(made["kind"].name, "b"), (made["score"].name, "0.5"), (made["reply"].name, "")])
    outputs, given = outputs_of_form(signature, sent)
    assert outputs == {"kind": "b", "score": 0.5}
    assert given == {"kind": "b", "score": "0.5", "reply": ""}


def test_the_cursor_of_approvals() -> None:
    place = Place(NOW + timedelta(microseconds=7), UUID(int=5), "0123456789abcdef-3")
    asked, limit = approval_filters(QueryParams({"cursor": cursor_of(place), "limit": "7"}))
    assert (asked.after, limit) == (place, 7)
    for wrong in ("x", "1.2.3", f"1.{UUID(int=5)}.x", f"x.{UUID(int=5)}.0123456789abcdef-3"):
        with pytest.raises(ValidationError):
            approval_filters(QueryParams({"cursor": wrong}))


@pytest.mark.parametrize(
    ("read", "name", "value", "expected"),
    [
        (filters_of, "since", "abc", "a time with an offset such as 2026-01-31T08:00:00Z"),
        (filters_of, "since", "0001-01-01T00:00:00+14:00", "a time of the years 1 to 9999"),
        (filters_of, "limit", f"{'0' * 8}10000", "an integer from 1 to 500"),
        (approval_filters, "cursor", "1.x.0123456789abcdef-3", "the cursor of an earlier response"),
    ],
)
def test_a_fault_of_a_query_says_what_is_expected(
    read: Callable[[QueryParams], object], name: str, value: str, expected: str
) -> None:
    with pytest.raises(ValidationError) as refused:
        read(QueryParams({name: value}))
    assert [(fault.path, fault.expected, fault.got) for fault in refused.value.errors] == [(name, expected, value)]


def test_an_offset_is_as_long_as_it_is_read() -> None:
    assert read_offset("50") == 50
    with pytest.raises(ValueError, match="the cursor of an earlier response"):
        read_offset(f"{'0' * 10}{2**40}")


def event(kind: str, seconds: float, attempt: int, **data: Any) -> AuditEvent:
    return AuditEvent(kind, NOW + timedelta(seconds=seconds), attempt, data)


def test_the_waterfall_shows_waits_attempts_and_calls() -> None:
    trail = [
        event("submitted", 0, 0), event("claimed", 1, 1, worker="w"),
        event("lm_call", 2, 1, duration_ms=3000, model="m"),
        event("retried", 6, 1, cause="rate_limited"), event("claimed", 8, 2), event("completed", 10, 2),
    ]  # fmt: skip
    bars, left_out = waterfall(trail, NOW, is_final=True)
    assert left_out == 0
    wide = [(bar.label, bar.kind, bar.begin, bar.width) for bar in bars if bar.width > 1]
    assert wide == [
        ("waiting", "queue", 0.0, 10.0), ("attempt 1", "bad", 10.0, 50.0), ("model call", "call", 20.0, 30.0),
        ("waiting", "queue", 60.0, 20.0), ("attempt 2", "attempt", 80.0, 20.0),
    ]  # fmt: skip


def test_an_execution_that_runs_ends_now_and_a_long_one_is_cut() -> None:
    running, _ = waterfall(
        [event("submitted", 0, 0), event("claimed", 1, 1)], NOW + timedelta(seconds=3), is_final=False
    )
    assert [(bar.kind, bar.took) for bar in running if bar.label == "attempt 1"] == [("live", "2.00 s")]
    many = [event("submitted", 0, 0), *(event("lm_call", n, 1, duration_ms=1) for n in range(1000))]
    bars, left_out = waterfall(many, NOW, is_final=True)
    assert (len(bars), left_out) == (MOST_BARS, 1001 - MOST_BARS)
    assert waterfall([], NOW, is_final=True) == ([], 0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/executions/1?a=b", "/executions/1?a=b"), ("", "/"), ("https://evil.example/", "/"), ("//evil.example", "/"),
        ("/\\evil.example", "/"), ("javascript:alert(1)", "/"), ("/a\nb", "/"), ("http://[::1", "/"),
    ],
)  # fmt: skip
def test_signing_in_leads_to_pages_of_the_console_only(text: str, expected: str) -> None:
    assert _own_path(text) == expected


def test_values_in_lists_are_short() -> None:
    assert brief("a\n b") == "a b"
    assert len(brief("x" * 10_000)) <= 110
    assert brief({"a": 1}) == '{"a": 1}'
    assert [milliseconds(value) for value in (1.23, 850, 4200, 90_000, 600_000)] == [
        "1.2 ms", "850 ms", "4.20 s", "90.0 s", "10.0 min"
    ]  # fmt: skip


def test_programs_whose_names_meet_have_names_of_their_own() -> None:
    assert (component_name("simple_qa"), component_name("a.b-c")) == ("SimpleQa", "ABC")
    programs = [dspex.Program(name, SIGNATURE, adapter="scripted") for name in ("a_b", "a.b", "Execution")]
    schemas = description(programs, version="1")["components"]["schemas"]
    assert {"ABInputs", "AB2Inputs", "ExecutionInputs"} <= set(schemas)
    json.dumps(schemas)
