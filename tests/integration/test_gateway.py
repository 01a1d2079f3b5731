"""The HTTP interface over a real server and a real worker."""

from __future__ import annotations

import importlib
import json
import os
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import openapi_spec_validator
import pyarrow
import pytest
from jsonschema import Draft202012Validator
from pyarrow import parquet

import dspex
from dspex.client.client import Client
from dspex.embedded.embedded_servers import EmbeddedServers
from dspex.embedded.ports import free_port
from dspex.serve.access.access_keys import AccessKeys
from dspex.serve.api.parquet_upload import PARQUET
from dspex.settings import Backends
from dspex.store.database import Database
from dspex.store.operations import webhook_deliveries
from tests.conftest import fresh_backends
from tests.processes import WorkerProcess, command, run_module
from tests.refusing import Refusing
from tests.serving import Served, events_of, not_reading, peak_growth, serving
from tests.store.test_executions import triggers
from tests.waiting import wait_for

TRIAGE = dspex.signature(
    'signature triage "Route a ticket": :string(max_length=80) ticket, :integer(min=1, max=10) max_words = 5, '
    ':optional(:datetime) due -> :enum("billing", "bug") queue, :string note'
)
PROGRAMS = (
    dspex.Program(
        "triage", TRIAGE, adapter="scripted", module_options={"outputs": {"queue": "bug", "note": "<b>x</b>"}}
    ),
    dspex.Program(
        "slow", dspex.signature("question -> answer"), adapter="scripted", module_options={"sleep_ms": 60_000}
    ),
    dspex.Program(
        "doomed", dspex.signature("question -> answer"), adapter="scripted", retry=dspex.Retry(1),
        module_options={"fail": {"code": "authentication", "times": 9}},
    ),
    dspex.Program(
        "long", dspex.signature("question -> answer"), adapter="scripted",
        module_options={"outputs": {"answer": "x" * 6_000_000}},
    ),
)  # fmt: skip
SUBMIT, UPLOAD = "/v1/programs/triage/executions", "/v1/programs/triage/batches"
JSON, LINES = {"Content-Type": "application/json"}, {"Content-Type": "application/jsonl"}
#: For openapi-python-client, which knows these media types under other names only.
GENERATOR = {
    "package_name_override": "generated_client", "post_hooks": [],
    "content_type_overrides": {
        "application/jsonl": "application/octet-stream", "application/x-ndjson": "application/octet-stream",
        "text/csv": "application/octet-stream", "text/event-stream": "text/plain", PARQUET: "application/octet-stream",
    },
}  # fmt: skip
TICKET = {"inputs": {"ticket": "It does not start"}}
JSON_LINE = b'{"ticket": "It does not start"}\n'
#: Rows of a program that takes a minute.
SLOW_UPLOAD, QUESTION = "/v1/programs/slow/batches", b'{"question": "?"}\n'


@pytest.fixture(scope="module")
def place(servers: EmbeddedServers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backends]:
    """Backends with the programs deployed, and a worker."""
    with fresh_backends(servers) as backends:
        with Client(database_url=backends.database_url, broker_url=backends.broker_url) as client:
            for program in PROGRAMS:
                client.deploy(program)
        log: Path = tmp_path_factory.mktemp("gateway") / "worker.log"
        worker = WorkerProcess(backends, log, {})
        try:
            worker.wait_until_ready()
            yield backends
        finally:
            worker.stop()


@contextmanager
def fresh_queue(servers: EmbeddedServers) -> Iterator[tuple[Backends, Client, Served]]:
    """Backends of programs that no worker runs, a client of them and a gateway."""
    with (
        fresh_backends(servers) as backends,
        Client(database_url=backends.database_url, broker_url=backends.broker_url) as client,
        serving(backends) as running,
    ):
        for program in PROGRAMS:
            client.deploy(program)
        yield backends, client, running


@pytest.fixture(scope="module")
def served(place: Backends) -> Iterator[Served]:
    with serving(place) as running:
        yield running


@pytest.fixture(scope="module")
def locked(place: Backends) -> Iterator[Served]:
    """A gateway that needs keys."""
    with serving(place, is_open=False) as running:
        yield running


@pytest.fixture
def keys(locked: Served) -> AccessKeys:
    return AccessKeys(locked.gateway.blocking._session.database)


def test_a_submit_is_stored_at_once_and_its_result_can_be_waited_for(served: Served) -> None:
    answer = served.http.post("/v1/programs/triage/executions", json=TICKET)
    assert answer.status_code == 202
    assert answer.headers["location"] == f"/v1/executions/{answer.json()['id']}"
    done = served.http.get(answer.headers["location"], headers={"Prefer": "wait=60"}).json()
    assert (done["status"], done["result"]) == ("completed", {"queue": "bug", "note": "<b>x</b>"})
    assert done["inputs"] == {"ticket": "It does not start", "max_words": 5, "due": None}
    waited = served.http.post("/v1/programs/triage/executions", json=TICKET, headers={"Prefer": "wait=60"})
    assert (waited.status_code, waited.json()["status"]) == (200, "completed")
    assert waited.headers["preference-applied"] == "wait=60"


def test_a_wait_that_ends_first_answers_202(served: Served) -> None:
    question = {"inputs": {"question": "?"}}
    answer = served.http.post("/v1/programs/slow/executions", json=question, headers={"Prefer": "wait=0.1"})
    assert (answer.status_code, answer.json()["status"] in ("queued", "running")) == (202, True)
    cancelled = served.http.post(f"{answer.headers['location']}/cancel")
    assert cancelled.status_code in (200, 202)
    ended = served.http.get(answer.headers["location"], headers={"Prefer": "wait=60"}).json()
    assert ended["status"] == "cancelled"
    again = served.http.post(f"{answer.headers['location']}/retry")
    assert (again.status_code, again.json()["status"]) == (202, "queued")
    served.http.post(f"{answer.headers['location']}/cancel")
    trail = served.gateway.blocking._session.audit_trail(UUID(answer.json()["id"]))
    assert trail["retried"].data["by"] == "this machine"
    assert trail.verify()


def test_a_failure_is_part_of_the_answer(served: Served) -> None:
    failed = served.http.post(
        "/v1/programs/doomed/executions", json={"inputs": {"question": "?"}}, headers={"Prefer": "wait=60"}
    )
    assert (failed.status_code, failed.json()["status"], failed.json()["cause_code"]) == (
        200,
        "failed",
        "authentication",
    )
    found = served.http.get("/v1/executions", params={"error": "authentication", "program": "doomed"}).json()
    assert failed.json()["id"] in [each["id"] for each in found["executions"]]
    assert served.http.post("/v1/retry-failed", json={"program": "triage"}).json() == {"retried": 0}
    unknown = served.http.post("/v1/retry-failed", json={"program": "triaje"})
    assert (unknown.status_code, unknown.json()["code"]) == (404, "program_not_found")
    assert "did you mean 'triage'?" in unknown.json()["detail"]


def test_values_that_are_text_in_json_become_values(served: Served) -> None:
    body = {"inputs": {"ticket": "late", "due": "2026-01-31T08:00:00Z"}}
    done = served.http.post("/v1/programs/triage/executions", json=body, headers={"Prefer": "wait=60"}).json()
    assert done["inputs"]["due"].startswith("2026-01-31T08:00:00")


def test_text_that_a_submit_of_python_refuses_is_refused(served: Served) -> None:
    row = {"ticket": "late", "due": "2026-01-31"}
    refused = served.http.post(SUBMIT, json={"inputs": row})
    assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, "/inputs/due")
    lines = "\n".join(json.dumps(each) for each in (row, {"ticket": "late", "due": "2026-01-31T00:00:00Z"}))
    batch = served.http.post(UPLOAD, content=lines, headers=LINES).json()
    assert (batch["stored"], batch["rejected"]["first"][0]["index"]) == (1, 0)


def test_a_key_of_the_client_makes_a_submit_safe_to_repeat(served: Served) -> None:
    headers = {"Idempotency-Key": "order-7"}
    first = served.http.post("/v1/programs/triage/executions", json=TICKET, headers=headers).json()
    second = served.http.post("/v1/programs/triage/executions", json=TICKET, headers=headers).json()
    assert first["id"] == second["id"]
    other = served.http.post("/v1/programs/triage/executions", json={"inputs": {"ticket": "else"}}, headers=headers)
    assert (other.status_code, other.json()["code"], other.json()["execution_id"]) == (
        409,
        "idempotency_conflict",
        first["id"],
    )


@pytest.mark.parametrize(
    ("body", "status", "pointers"),
    [
        ({"inputs": {"ticket": 5, "max_words": 11}}, 422, {"/inputs/ticket", "/inputs/max_words"}),
        ({"inputs": {}}, 422, {"/inputs/ticket"}),
        ({"inputs": {"ticket": "x", "tickets": "y"}}, 422, {"/inputs/tickets"}),
        ({"inputs": [], "extra": 1, "run_at": "tomorrow"}, 422, {"/inputs", "/extra", "/run_at"}),
        ({"inputs": {"ticket": "x"}, "priority": 12, "timeout": -1}, 422, {"/priority", "/timeout"}),
        ([], 422, {"/"}),
    ],
)
def test_every_fault_of_a_body_has_its_pointer(served: Served, body: Any, status: int, pointers: set[str]) -> None:
    answer = served.http.post("/v1/programs/triage/executions", json=body)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert {fault["pointer"] for fault in answer.json()["errors"]} == pointers


@pytest.mark.parametrize(
    ("path", "options", "status", "code"),
    [
        (SUBMIT, {"content": b"{", "headers": JSON}, 400, "malformed_json"),
        (SUBMIT, {"content": b'{"inputs": {"ticket": NaN}}', "headers": JSON}, 400, "malformed_json"),
        (SUBMIT, {"content": b"{}", "headers": {"Content-Type": "text/plain"}}, 415, "unsupported_media_type"),
        ("/v1/programs/triag/executions", {"json": TICKET}, 404, "program_not_found"),
        (SUBMIT, {"json": {"inputs": {"ticket": "x" * 11_000_000}}}, 413, "body_too_large"),
        (UPLOAD, {"content": b"", "headers": {"Content-Type": "application/pdf"}}, 415, "unsupported_media_type"),
        ("/v1/executions/x/cancel", {}, 404, "execution_not_found"),
        ("/v1/nothing", {}, 404, "not_found"),
        ("/v1/executions", {}, 405, "method_not_allowed"),
    ],
)  # fmt: skip
def test_what_cannot_be_served_is_a_problem(
    served: Served, path: str, options: dict[str, Any], status: int, code: str
) -> None:
    answer = served.http.post(path, **options)
    assert (answer.status_code, answer.json()["code"]) == (status, code)


@pytest.mark.parametrize(
    ("method", "path", "pointer"),
    [
        ("GET", "/v1/programs/triage/changes?limit=x", "/limit"), ("GET", "/v1/workers?foo=1", "/foo"),
        ("GET", "/v1/executions?foo=1", "/foo"), ("GET", f"/v1/executions/{UUID(int=0)}/events?foo=1", "/foo"),
        ("POST", "/v1/programs/triage/pause?until=noon", "/until"), ("POST", f"{UPLOAD}?webhok=x", "/webhok"),
        ("GET", "/v1/programs/triage/versions?limit=x", "/limit"), ("GET", "/v1/batches?tenant=acme", "/tenant"),
        ("GET", "/v1/batches?status=failed", "/status"), ("GET", "/v1/batches?cursor=x", "/cursor"),
        ("GET", "/v1/executions?status=failed&status=cancelled", "/status"),
        ("GET", "/v1/executions?metadata.a=1&metadata.a=2", "/metadata/a"),
        ("GET", "/v1/executions?metadata.a=%00", "/metadata/a"), ("GET", "/v1/batches?program=a&program=b", "/program"),
    ],
)  # fmt: skip
def test_a_query_that_a_route_cannot_use_is_refused(served: Served, method: str, path: str, pointer: str) -> None:
    refused = served.http.request(method, path, content=JSON_LINE, headers=LINES)
    assert (refused.status_code, [each["pointer"] for each in refused.json()["errors"]]) == (422, [pointer])


def test_a_list_goes_on_at_its_cursor_and_every_execution_comes_once(served: Served) -> None:
    tag = {"inputs": {"ticket": "paged"}, "metadata": {"list": "paged"}}
    sent = [served.http.post("/v1/programs/triage/executions", json=tag).json()["id"] for _ in range(5)]
    path: str | None = "/v1/executions?metadata.list=paged&limit=2"
    pages = []
    while path is not None:
        answer = served.http.get(path)
        pages.append([each["id"] for each in answer.json()["executions"]])
        path = answer.links["next"]["url"] if "next" in answer.links else None
    assert pages == [sent[:-3:-1], sent[2:0:-1], sent[:1]]
    wrong = served.http.get("/v1/executions", params={"limit": "many", "status": "lost", "colour": "red"})
    assert {fault["pointer"] for fault in wrong.json()["errors"]} == {"/limit", "/status", "/colour"}


def test_events_end_with_the_result_and_resume_after_a_cursor(served: Served) -> None:
    execution = served.http.post("/v1/programs/triage/executions", json={**TICKET, "stream": True}).json()
    path = f"/v1/executions/{execution['id']}/events"
    with served.http.stream("GET", path) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = list(events_of(answer.iter_lines()))
    assert events[-1][1] == "done"
    assert events[-1][2]["value"] == {"queue": "bug", "note": "<b>x</b>"}
    cursor = events[-3][0]
    with served.http.stream("GET", path, headers={"Last-Event-ID": cursor}) as answer:
        resumed = list(events_of(answer.iter_lines()))
    assert [(id, kind) for id, kind, _ in resumed] == [(id, kind) for id, kind, _ in events[-2:]]
    assert served.http.get(path, params={"after": "x"}).status_code == 422


def test_streams_are_refused_past_their_bound(place: Backends) -> None:
    with serving(place, serve_max_streams=1) as narrow:
        execution = narrow.http.post("/v1/programs/slow/executions", json={"inputs": {"question": "?"}}).json()
        path = f"/v1/executions/{execution['id']}/events"
        with narrow.http.stream("GET", path) as answer:
            events = events_of(answer.iter_lines())  # closed with its last reference, and the stream with it
            next(events)
            refused = narrow.http.get(path)
            assert (refused.status_code, refused.json()["code"]) == (503, "too_many_streams")
        wait_for(lambda: narrow.gateway.streams.used == 0, "the slot to be free again")
        narrow.http.post(f"/v1/executions/{execution['id']}/cancel")


def test_a_client_that_reads_nothing_is_disconnected_and_others_are_served(place: Backends) -> None:
    with serving(place, serve_read_seconds=0.5) as served:
        batch = served.gateway.blocking.submit_many("long", [{"question": "?"}] * 3)
        assert len(list(batch.as_completed(timeout=60))) == 3

        def held() -> int:
            """The most bytes that wait in the gateway for a client."""
            return max((each.transport.get_write_buffer_size() for each in served.server.server_state.connections
                        if each.transport is not None), default=0)  # fmt: skip

        # A stream is sent by pieces; any other response is in memory, and so is its rest.
        paths = {f"/v1/batches/{batch.id}/output": 400_000, f"/v1/executions/{batch.ids[0]}/events": 400_000,
                 f"/v1/executions/{batch.ids[0]}": 7_000_000}  # fmt: skip
        for path, most in paths.items():
            with not_reading(served.url, path) as is_reset:
                wait_for(lambda: held() > 0, f"{path} to wait for its reader", every=0.01)
                assert held() <= most, path
                assert served.http.get("/v1/programs").status_code == 200
                wait_for(is_reset, f"the connection of {path} to be reset", timeout=60)
                wait_for(lambda: held() == 0 and not served.gateway.streams.used, "nothing to be left")


def test_a_head_that_is_too_long_or_comes_too_slowly_ends_its_connection(place: Backends) -> None:
    whole, part = b"GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n", b"GET /ready HTTP/1.1\r\n"
    with serving(place, serve_read_seconds=0.5) as served:
        at = (httpx.URL(served.url).host, httpx.URL(served.url).port)
        for sent in ([], [part], [whole, part], [part, b"X: " + b"x" * 70_000]):
            with socket.create_connection(at, 60) as connection, suppress(ConnectionResetError):
                for each in sent:
                    connection.sendall(each)
                    if each == whole:
                        assert connection.recv(1000).startswith(b"HTTP/1.1 200")
                while connection.recv(1000):  # until it ends, or this times out
                    pass


@pytest.mark.parametrize(
    ("line", "header", "status"),
    [
        ("GET /ready", "", b"200"),
        ("POST /v1/executions", "", b"405"),
        ("POST /sign-in", "Content-Type: application/x-www-form-urlencoded", b"408"),
        ("POST /sign-in", "Content-Type: multipart/form-data; boundary=B", b"408"),
        ("POST /mcp", "Content-Type: application/json\r\nAccept: application/json, text/event-stream", b"408"),
        (f"POST {SUBMIT}", "Content-Type: application/json", b"408"),
    ],
)
def test_a_body_that_does_not_come_ends_its_connection(place: Backends, line: str, header: str, status: bytes) -> None:
    with serving(place, serve_read_seconds=0.5) as served:
        at = (httpx.URL(served.url).host, httpx.URL(served.url).port)
        head = f"{line} HTTP/1.1\r\nHost: localhost:{at[1]}\r\nContent-Length: 1000\r\n{header}".rstrip()
        answer = b""
        with socket.create_connection(at, 15) as connection, suppress(ConnectionResetError):
            connection.sendall(f"{head}\r\n\r\n".encode())
            if status in (b"200", b"405"):  # the response does not wait for the body
                answer = connection.recv(1000)
                connection.sendall(b"x")
            while part := connection.recv(1000):  # until it ends, or this times out
                answer += part
        assert answer.split()[1] == status


def test_without_redis_submits_are_stored_and_run(place: Backends) -> None:
    with serving(Backends((place.database_url, "redis://127.0.0.1:1/0"))) as alone:
        done = alone.http.post(SUBMIT, json=TICKET, headers={"Prefer": "wait=60"})
        assert (done.status_code, done.json()["status"]) == (200, "completed")
        assert alone.http.get("/ready").status_code == 200


def test_rows_are_streamed_in_and_results_out(served: Served) -> None:
    lines = [json.dumps({"ticket": f"number {n}"}) for n in range(22)]
    lines[3], lines[7] = "{", json.dumps({"ticket": 5})
    answer = served.http.post(
        "/v1/programs/triage/batches", content="\n".join(lines), headers={"Content-Type": "application/jsonl"}
    )
    batch = answer.json()
    assert (answer.status_code, batch["rows"], batch["stored"]) == (202, 22, 20)
    assert (batch["rejected"]["count"], [each["index"] for each in batch["rejected"]["first"]]) == (2, [3, 7])
    with served.http.stream("GET", f"{answer.headers['location']}/output?follow=true") as output:
        results = [json.loads(line) for line in output.iter_lines()]
    assert [line["index"] for line in results] == [n for n in range(22) if n not in (3, 7)]
    assert results[3]["result"] == {"queue": "bug", "note": "<b>x</b>"}
    errors = [json.loads(line) for line in served.http.get(f"{answer.headers['location']}/errors").text.splitlines()]
    assert [(line["index"], line["error"]["code"]) for line in errors] == [(3, "rejected"), (7, "rejected")]
    assert served.http.get(f"{answer.headers['location']}/output?follow=perhaps").status_code == 422
    progress = served.http.get(answer.headers["location"]).json()["progress"]
    assert (progress["completed"], progress["finished"]) == (20, 20)


def test_rows_of_csv(served: Served) -> None:
    text = 'ticket,max_words\n"two\nlines, and ""quotes""",3\nplain,\n'
    headers = {"Content-Type": "text/csv; charset=utf-8"}
    batch = served.http.post("/v1/programs/triage/batches", content=text, headers=headers).json()
    assert (batch["stored"], batch["rejected"]["count"]) == (2, 0)
    rows = served.http.get("/v1/executions", params={"batch": batch["id"]}).json()["executions"]
    inputs = [served.http.get(f"/v1/executions/{each['id']}").json()["inputs"] for each in reversed(rows)]
    assert [(each["ticket"], each["max_words"]) for each in inputs] == [('two\nlines, and "quotes"', 3), ("plain", 5)]
    wrong = served.http.post("/v1/programs/triage/batches", content="tickets\nx\n", headers=headers)
    assert (wrong.status_code, wrong.json()["code"]) == (422, "validation_error")
    quotes = served.http.post(UPLOAD, content='ticket\n5" pipe\nfoo\n', headers=headers)
    assert (quotes.status_code, quotes.json()["stored"]) == (202, 2)
    open_quote = served.http.post(UPLOAD, content='ticket\na\n"b\nc', headers=headers)
    assert (open_quote.status_code, open_quote.json()["code"]) == (422, "data_refused")
    assert "the upload, line 4: a quote is opened and not closed" in open_quote.json()["detail"]


def test_rows_and_results_as_parquet(served: Served, tmp_path: Path) -> None:
    rows = pyarrow.table({"ticket": ["one", "x" * 81, "three"], "max_words": [3, None, None], "other": [1, 2, 3]})
    parquet.write_table(rows, tmp_path / "rows.parquet")
    body, headers = (tmp_path / "rows.parquet").read_bytes(), {"Content-Type": PARQUET}
    answer = served.http.post(UPLOAD, content=body, headers=headers)
    batch = answer.json()
    assert (answer.status_code, batch["rows"], batch["stored"]) == (202, 3, 2)
    assert [each["index"] for each in batch["rejected"]["first"]] == [1]
    output = served.http.get(
        f"{answer.headers['location']}/output?follow=true", headers={"Accept": f"{PARQUET}, application/jsonl;q=0.5"}
    )
    assert output.headers["content-type"] == PARQUET
    table = parquet.read_table(BytesIO(output.content)).to_pylist()
    assert [(each["index"], each["ticket"], each["max_words"], each["queue"]) for each in table] == [
        (0, "one", 3, "bug"), (2, "three", 5, "bug"),
    ]  # fmt: skip
    damaged = body[:60] + b"\xff" * 60 + body[120:]
    for wrong, said in ((b"ticket\n", "its footer"), (damaged, "after row 0"), (body[:-8] + b"x" * 8, "its footer")):
        refused = served.http.post(UPLOAD, content=wrong, headers=headers)
        assert (refused.status_code, refused.json()["code"]) == (422, "data_refused")
        assert said in refused.json()["detail"]
    parquet.write_table(pyarrow.table({"tickets": ["one"]}), tmp_path / "rows.parquet")
    other = served.http.post(UPLOAD, content=(tmp_path / "rows.parquet").read_bytes(), headers=headers)
    assert "the upload has no column for 'ticket': its columns are tickets" in other.json()["detail"]


def test_a_batch_that_is_uploaded_with_a_webhook(served: Served) -> None:
    def deliveries() -> list[tuple[UUID | None, str]]:
        find = partial(webhook_deliveries.listing, trouble=False, most=10)
        return [(each.batch_id, each.url) for each in served.gateway.blocking._session.database.run(find)]

    lines, hook = {"Content-Type": "application/jsonl"}, {"webhook": "https://example.invalid/hook"}
    refused = served.http.post(UPLOAD, content="", headers=lines, params={"webhook": "http://10.0.0.1/"})
    assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, "/webhook")
    broken = served.http.post(UPLOAD, content=b'{"ticket": "x"}\n' + b"x" * 11_000_000, headers=lines, params=hook)
    assert (broken.status_code, deliveries()) == (413, [])
    batch = served.http.post(UPLOAD, content='{"ticket": "x"}', headers=lines, params=hook).json()
    assert deliveries() == [(UUID(batch["id"]), hook["webhook"])]


@pytest.mark.parametrize("run_at", ["9999-12-31T23:59:59Z", "0001-01-01T00:00:00Z"])
def test_a_time_at_the_end_of_the_calendar_is_refused(served: Served, run_at: str) -> None:
    refused = served.http.post(SUBMIT, json={**TICKET, "run_at": run_at})
    assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, "/run_at")


def test_an_upload_that_breaks_off_in_a_bug_is_cancelled(servers: EmbeddedServers) -> None:
    with fresh_queue(servers) as (backends, client, served), closing(Database(backends.database_url)) as database:
        with Refusing(database).refuse("dspex.executions", "23514", when="NEW.batch_index = 1500"):
            answer = served.http.post(SLOW_UPLOAD, content=QUESTION * 2000, headers=LINES)
        problem = answer.json()
        assert (answer.status_code, problem["code"]) == (500, "unexpected")
        assert (problem["stored"], problem["cancelled"]) == (1000, 1000)
        assert f"1000 of batch {problem['batch_id']}, are cancelled: send all rows again" in problem["detail"]
        assert client.batch(problem["batch_id"]).progress.cancelled == 1000


def test_an_upload_whose_rows_cannot_be_cancelled_names_them(servers: EmbeddedServers) -> None:
    with fresh_queue(servers) as (backends, _, served), closing(Database(backends.database_url)) as database:
        refused = "NEW.batch_index = 1500 OR NEW.status = 'cancelled'"
        with Refusing(database).refuse("dspex.executions", "53100", when=refused):
            answer = served.http.post(SLOW_UPLOAD, content=QUESTION * 2000, headers=LINES)
        problem = answer.json()
        assert (answer.status_code, problem["code"], answer.headers["retry-after"]) == (503, "backend_unavailable", "2")
        assert (problem["stored"], problem["cancelled"], problem["retryable"]) == (1000, 0, True)
        cancel = f"/v1/batches/{problem['batch_id']}/cancel"
        assert f"at least 1000 of batch {problem['batch_id']}, could not be cancelled" in problem["detail"]
        assert f"POST {cancel} before you send the rows again" in problem["detail"]
        assert served.http.post(cancel).json()["cancelled"] == 1000


@pytest.mark.parametrize(
    ("body", "rows", "said"),
    [
        (b"", 0, "the upload has no rows, so there is no batch"),
        (b'{"ticket": 1}\n{}\n', 2, "no row of the upload fits the program, so there is no batch; row 0: "),
    ],
)
def test_an_upload_without_a_valid_row_is_no_batch(served: Served, body: bytes, rows: int, said: str) -> None:
    refused = served.http.post(UPLOAD, content=body, headers=LINES)
    problem = refused.json()
    assert (refused.status_code, problem["code"], "location" in refused.headers) == (422, "no_row_stored", False)
    assert (problem["rows"], problem["rejected"]["count"]) == (rows, rows)
    assert [each["index"] for each in problem["rejected"]["first"]] == list(range(rows))
    assert problem["detail"].startswith(said)


def test_an_upload_has_no_idempotency_key(served: Served) -> None:
    refused = served.http.post(UPLOAD, content=JSON_LINE, headers={**LINES, "Idempotency-Key": "once"})
    assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, "/Idempotency-Key")


def test_the_description_is_valid_and_types_each_program(served: Served) -> None:
    document = served.http.get("/openapi.json").json()
    openapi_spec_validator.validate(document)
    schemas = document["components"]["schemas"]
    assert schemas["TriageInputs"]["required"] == ["ticket"]
    assert schemas["TriageOutputs"]["properties"]["queue"]["enum"] == ["billing", "bug"]
    assert document["paths"]["/v1/programs/triage/executions"]["post"]["operationId"] == "submitTriage"
    names = [operation["operationId"] for path in document["paths"].values() for operation in path.values()]
    assert len(names) == len(set(names))
    used = {ref.rsplit("/", 1)[1] for ref in _references(document)}
    assert used <= set(schemas)


def test_every_answer_has_the_documented_shape(served: Served) -> None:
    document = served.http.get("/openapi.json").json()
    done = served.http.post("/v1/programs/triage/executions", json=TICKET, headers={"Prefer": "wait=60"}).json()
    paths = {
        "/v1/executions": "/v1/executions", "/v1/executions/{id}": f"/v1/executions/{done['id']}",
        "/v1/programs": "/v1/programs", "/v1/programs/{name}": "/v1/programs/triage", "/v1/batches": "/v1/batches",
        "/v1/health": "/v1/health", "/v1/workers": "/v1/workers", "/v1/alerts": "/v1/alerts",
    }  # fmt: skip
    for path, sent in paths.items():
        answer = served.http.get(sent)
        assert answer.status_code == 200, sent
        schema = document["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
        Draft202012Validator({**schema, "components": document["components"]}).validate(answer.json())


def test_a_generated_client_works(served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = tmp_path / "openapi.json"
    document.write_bytes(served.http.get("/openapi.json").content)
    (tmp_path / "config.yaml").write_text(json.dumps(GENERATOR))
    generate = ("generate", "--path", "openapi.json", "--config", "config.yaml", "--output-path", "generated")
    made = run_module("openapi_python_client", *generate, environment=os.environ, directory=tmp_path)
    assert (made.returncode, made.stderr) == (0, ""), made.stdout
    monkeypatch.syspath_prepend(tmp_path / "generated")
    models = importlib.import_module("generated_client.models")
    submit = importlib.import_module("generated_client.api.executions.submit_triage")
    with importlib.import_module("generated_client").Client(base_url=served.url) as client:
        body = models.TriageSubmit(inputs=models.TriageInputs(ticket="It does not start"))
        done = submit.sync(client=client, body=body, prefer="wait=60")
        assert isinstance(done, models.TriageExecution)
        assert (done.status, done.result) == ("completed", models.TriageOutputs(queue="bug", note="<b>x</b>"))
        wrong = submit.sync(client=client, body=models.TriageSubmit(inputs=models.TriageInputs(ticket="x" * 81)))
        assert isinstance(wrong, models.Problem)
        assert wrong.errors[0].pointer == "/inputs/ticket"


def _references(data: Any) -> Iterator[str]:
    if isinstance(data, dict):
        if isinstance(data.get("$ref"), str):
            yield data["$ref"]
        for value in data.values():
            yield from _references(value)
    elif isinstance(data, list):
        for value in data:
            yield from _references(value)


def test_probes_need_no_key(locked: Served) -> None:
    assert locked.http.get("/health/live").json() == {"status": "live"}
    assert locked.http.get("/ready").json() == {"status": "ready"}


@pytest.mark.parametrize("path", ["/v1/executions", "/v1/programs", "/v1/health", "/v1/workers", "/openapi.json"])
def test_without_a_key_there_is_nothing(locked: Served, path: str) -> None:
    for headers in ({}, {"Authorization": "Bearer dspex_wrong"}, {"Authorization": "Basic eDp5"}):
        answer = locked.http.get(path, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (401, "not_authenticated")


def test_a_key_does_what_its_scopes_say(locked: Served, keys: AccessKeys) -> None:
    _, text = keys.create("reader", scopes=["read"])
    with locked.bearer(text) as http:
        assert http.get("/v1/executions").status_code == 200
        refused = http.post("/v1/programs/triage/executions", json=TICKET)
        assert (refused.status_code, refused.json()["code"], refused.json()["needed"]) == (403, "not_allowed", "submit")
        assert http.post("/v1/programs/triage/pause").status_code == 403
        for decision in ("approve", "reject"):
            refused = http.post(f"/v1/executions/{UUID(int=1)}/{decision}", json={"call_id": "1"})
            assert (refused.status_code, refused.json()["needed"]) == (403, "operate")


def test_a_tenant_sees_its_own_executions_only(locked: Served, keys: AccessKeys) -> None:
    (_, acme), (_, other), (_, all_of_them) = (
        keys.create("acme", tenant="acme"), keys.create("other", tenant="other"), keys.create("ops", scopes=["admin"]),
    )  # fmt: skip
    with locked.bearer(acme) as mine, locked.bearer(other) as theirs, locked.bearer(all_of_them) as operator:
        headers = {"Idempotency-Key": "the same"}
        sent = mine.post("/v1/programs/triage/executions", json=TICKET, headers=headers).json()
        second = theirs.post("/v1/programs/triage/executions", json=TICKET, headers=headers).json()
        assert sent["id"] != second["id"]
        assert (sent["tenant"], second["tenant"]) == ("acme", "other")
        assert theirs.get(f"/v1/executions/{sent['id']}").status_code == 404
        assert theirs.get(f"/v1/executions/{sent['id']}/events").status_code == 404
        assert [each["id"] for each in theirs.get("/v1/executions").json()["executions"]] == [second["id"]]
        assert theirs.get("/v1/executions", params={"tenant": "acme"}).status_code == 403
        assert theirs.get("/v1/workers").status_code == 403
        assert "queued" not in theirs.get("/v1/programs").json()["programs"][0]
        assert operator.get(f"/v1/executions/{sent['id']}").json()["tenant"] == "acme"
        rows = mine.post(
            "/v1/programs/triage/batches", content='{"ticket": "x"}', headers={"Content-Type": "application/jsonl"}
        )
        assert mine.get(rows.headers["location"]).status_code == 200
        assert theirs.get(rows.headers["location"]).status_code == 404
    trail = locked.gateway.blocking._session.audit_trail(UUID(sent["id"]))
    assert trail["submitted"].data["tenant"] == "acme"
    assert trail.verify()


def test_a_key_of_one_program(locked: Served, keys: AccessKeys) -> None:
    _, text = keys.create("one", programs=["triage"])
    with locked.bearer(text) as http:
        assert http.post("/v1/programs/triage/executions", json=TICKET).status_code == 202
        assert http.post("/v1/programs/slow/executions", json={"inputs": {"question": "?"}}).status_code == 403
        assert {each["name"] for each in http.get("/v1/programs").json()["programs"]} == {"triage"}
        assert {each["program"] for each in http.get("/v1/executions").json()["executions"]} == {"triage"}
        assert "SlowInputs" not in http.get("/openapi.json").json()["components"]["schemas"]


def test_a_key_with_a_rate(locked: Served, keys: AccessKeys) -> None:
    _, text = keys.create("slowly", per_minute=2)
    with locked.bearer(text) as http:
        found = [http.post("/v1/programs/triage/executions", json=TICKET) for _ in range(3)]
    assert [each.status_code for each in found] == [202, 202, 429]
    assert int(found[2].headers["retry-after"]) >= 1


def test_a_tenant_with_a_budget(locked: Served, keys: AccessKeys) -> None:
    _, text = keys.create("thrifty", tenant="thrifty", budget_usd=0.5)
    with locked.bearer(text) as http:
        sent = http.post(SUBMIT, json=TICKET, headers={"Prefer": "wait=60"})
        assert (sent.status_code, sent.json()["status"]) == (200, "completed")
        with locked.gateway.blocking._session.database.transaction() as connection:
            triggers(connection, "executions", "DISABLE")
            connection.exec_driver_sql(
                "UPDATE dspex.executions SET metrics = '{\"cost_usd\": 0.6}' WHERE tenant = 'thrifty'"
            )
            triggers(connection, "executions", "ENABLE")
        wait_for(lambda: http.post(SUBMIT, json=TICKET).is_error, "the budget to be spent", every=1)
        refused = http.post(SUBMIT, json=TICKET)
        assert (refused.status_code, refused.json()["code"], refused.json()["spent_usd"]) == (402, "budget_spent", 0.6)
        assert int(refused.headers["retry-after"]) >= 1
        rows = http.post(UPLOAD, content='{"ticket": "x"}', headers={"Content-Type": "application/jsonl"})
        assert rows.status_code == 402
    metrics = locked.http.get("/metrics", headers={"Authorization": f"Bearer {keys.create('scraper')[1]}"}).text
    assert 'dspex_http_submitted_total{tenant="thrifty"}' in metrics
    assert 'dspex_http_refused_total{code="budget_spent",tenant="thrifty"} 3.0' in metrics
    assert 'route="/v1/programs/{name}/executions",status="4xx"' in metrics


def test_a_key_that_is_revoked_ends_its_streams(locked: Served, keys: AccessKeys) -> None:
    _, text = keys.create("leaving")
    with locked.bearer(text) as http:
        execution = http.post("/v1/programs/slow/executions", json={"inputs": {"question": "?"}}).json()
        with http.stream("GET", f"/v1/executions/{execution['id']}/events") as answer:
            events = events_of(answer.iter_lines())
            next(events)
            assert keys.revoke("leaving")
            assert list(events)[-1][1] == "closed"
        assert http.get("/v1/executions").status_code == 401
    locked.gateway.blocking._session.control.cancel(UUID(execution["id"]))


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"Origin": "https://evil.example"}, "foreign_origin"),
        ({"Host": "evil.example"}, "foreign_host"),
        ({"Origin": "http://[::1"}, "foreign_origin"),
        ({"Host": "[::1"}, "foreign_host"),
    ],
)
def test_pages_of_other_sites_cannot_use_a_gateway_without_keys(
    served: Served, headers: dict[str, str], code: str
) -> None:
    answer = served.http.post("/v1/programs/triage/pause", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (403, code)


def test_the_command_serves_and_ends_its_streams_when_it_stops(place: Backends, tmp_path: Path) -> None:
    port = free_port()
    url, log = f"http://127.0.0.1:{port}", tmp_path / "serve.log"
    with command(place, log, "serve", "--port", str(port)) as process, httpx.Client(base_url=url, timeout=120) as http:

        def is_ready() -> bool:
            try:
                return http.get("/ready").status_code == 200
            except httpx.TransportError:
                return False

        wait_for(is_ready, "the gateway to listen", timeout=60)
        rows = {"Content-Type": "application/jsonl"}
        http.post(UPLOAD, content=JSON_LINE, headers=rows)  # so that all it needs is loaded
        lines = (b"x" * 100_000 + b"\n" for _ in range(1000))  # no JSON, so that nothing is stored but the last
        taken: list[Any] = []
        grown = peak_growth(
            process.pid, lambda: taken.append(http.post(UPLOAD, content=chain(lines, [JSON_LINE]), headers=rows).json())
        )
        assert (taken[0]["rows"], taken[0]["stored"]) == (1001, 1)
        assert grown < 30_000_000, "an upload of 100 MB, by parts"
        execution = http.post("/v1/programs/slow/executions", json={"inputs": {"question": "?"}}).json()
        with http.stream("GET", f"/v1/executions/{execution['id']}/events") as answer:
            events = events_of(answer.iter_lines())
            next(events)
            http.post(f"/v1/executions/{execution['id']}/cancel")
            process.terminate()
            list(events)  # it ends, and no error is raised
        assert process.wait(60) == 0
    assert f"The console: {url}/" in log.read_text()


@pytest.mark.parametrize(("proxies", "status"), [(("127.0.0.1", "::1"), 200), (("10.0.0.0/8",), 401)])
def test_a_user_that_a_proxy_names_is_believed_from_that_proxy_only(
    place: Backends, proxies: tuple[str, ...], status: int
) -> None:
    settings = {
        "serve_user_header": "X-User",
        "serve_trusted_proxies": proxies,
        "serve_user_scopes": ("read", "operate"),
    }
    with serving(place, is_open=False, **settings) as behind:
        headers = {"X-User": "ann@example.com"}
        assert behind.http.get("/v1/executions", headers=headers).status_code == status
        assert behind.http.get("/v1/executions").status_code == 401
        if status == 200:
            assert behind.http.post("/v1/programs/slow/pause", headers=headers).json()["paused_reason"] == (
                "by user ann@example.com"
            )
            assert behind.http.post("/v1/programs/slow/resume", headers=headers).status_code == 200
            assert behind.http.post("/v1/programs/triage/executions", json=TICKET, headers=headers).status_code == 403


def test_browsers_of_other_origins_are_served_where_they_are_named(place: Backends) -> None:
    with serving(place, is_open=False, serve_cors_origins=("https://app.example",)) as shared:
        asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
        for origin, is_allowed in (("https://app.example", True), ("https://evil.example", False)):
            answer = shared.http.options("/v1/programs/triage/executions", headers={"Origin": origin, **asked})
            assert ("access-control-allow-origin" in answer.headers) == is_allowed


def test_long_answers_are_compressed_and_events_are_not(served: Served) -> None:
    answer = served.http.get("/openapi.json", headers={"Accept-Encoding": "gzip"})
    assert answer.headers["content-encoding"] == "gzip"
    execution = served.http.post("/v1/programs/triage/executions", json=TICKET, headers={"Prefer": "wait=60"}).json()
    with served.http.stream("GET", f"/v1/executions/{execution['id']}/events") as stream:
        assert "content-encoding" not in stream.headers
        assert list(events_of(stream.iter_lines()))[-1][1] == "done"
