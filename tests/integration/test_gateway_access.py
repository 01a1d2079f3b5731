"""What a key may see and for how long, and what proxies and caches between a client and the gateway make of it.

No worker runs: what is submitted stays in the queue.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from typing import Any
from uuid import UUID

import httpx
import pytest

import dspex
from dspex.client.client import Client
from dspex.embedded.embedded_servers import EmbeddedServers
from dspex.serve.access.access_keys import AccessKeys
from dspex.serve.api.parquet_upload import PARQUET
from tests.conftest import fresh_backends
from tests.integration.test_console import token_of
from tests.serving import Served, serving
from tests.waiting import wait_for

PROGRAM = dspex.Program("qa", dspex.signature("question -> answer"), adapter="scripted")
SUMS = dspex.signature(":string question, :list(:integer) numbers = [] -> :string answer")
PROGRAMS = (PROGRAM, dspex.Program("sums", SUMS, adapter="scripted"))
SUBMIT, UPLOAD = "/v1/programs/qa/executions", "/v1/programs/qa/batches"
QUESTION, LINES = {"inputs": {"question": "?"}}, {"Content-Type": "application/jsonl"}
ROW = b'{"question": "?"}\n'
MCP = {"Accept": "application/json, text/event-stream"}


@pytest.fixture(scope="module")
def served(servers: EmbeddedServers) -> Iterator[Served]:
    with fresh_backends(servers) as backends:
        with Client(database_url=backends.database_url, broker_url=backends.broker_url) as client:
            for program in PROGRAMS:
                client.deploy(program)
        with serving(backends, is_open=False, serve_max_streams=1) as running:
            yield running


@pytest.fixture
def keys(served: Served) -> AccessKeys:
    return AccessKeys(served.gateway.blocking._session.database)


def call(question: object) -> dict[str, Any]:
    """The call of the program as a tool."""
    params = {"name": "qa", "arguments": {"question": question}}
    return {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}


@pytest.mark.parametrize("kind", ["application/jsonl", PARQUET])
def test_a_key_that_is_revoked_ends_its_downloads(served: Served, keys: AccessKeys, kind: str) -> None:
    name = f"leaving-{len(kind)}"
    with served.bearer(keys.create(name)[1]) as http:
        location = http.post(UPLOAD, content=ROW, headers=LINES).headers["location"]
        with http.stream("GET", f"{location}/output?follow=true", headers={"Accept": kind}) as answer:
            assert answer.status_code == 200, "before the first row is over"
            assert keys.revoke(name)
            with pytest.raises(httpx.RemoteProtocolError, match="incomplete"):
                answer.read()
    wait_for(lambda: served.gateway.streams.used == 0, "the slot to be free again")


@pytest.mark.skipif(find_spec("mcp") is None, reason="the extra mcp is not installed")
def test_a_key_that_is_revoked_ends_its_calls_of_tools(served: Served, keys: AccessKeys) -> None:
    client = served.gateway.blocking
    known = {each.id for each in client.list()}
    with served.bearer(keys.create("calling")[1]) as http, ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(http.post, "/mcp", json=call("?"), headers=MCP)
        wait_for(lambda: {each.id for each in client.list()} > known, "the call to be submitted")
        (called,) = (each for each in client.list() if each.id not in known)
        assert keys.revoke("calling")
        try:
            said = waiting.result(60).text
            wait_for(lambda: called.refresh().status == "cancelled", "its execution to be cancelled")
        finally:
            called.cancel()  # so that the call ends in any case
    assert '"text":"not_authenticated: the key is no longer in force"' in said


@pytest.mark.skipif(find_spec("mcp") is None, reason="the extra mcp is not installed")
def test_the_endpoint_of_tools_is_asked_by_post_and_says_what_is_wrong(served: Served, keys: AccessKeys) -> None:
    with served.bearer(keys.create("asking", scopes=["read"])[1]) as http:
        for method in ("GET", "DELETE", "PUT"):
            refused = http.request(method, "/mcp", headers=MCP)
            assert (refused.status_code, refused.json()["code"]) == (405, "method_not_allowed")
        lacking = http.post("/mcp", json=call("?"), headers=MCP).text
        assert "not_allowed: key asking has the scopes read; this needs submit" in lacking
        unknown = {**call("?"), "params": {"name": "other", "arguments": {}}}
        assert "program_not_found: there is no tool 'other'" in http.post("/mcp", json=unknown, headers=MCP).text
    with served.bearer(keys.create("calling-wrongly")[1]) as http:
        wrong = http.post("/mcp", json=call(5), headers=MCP).text
        assert r"validation_error\nquestion: expected text, got 5" in wrong


def test_a_head_of_a_stream_ends_at_once_and_takes_no_slot(served: Served, keys: AccessKeys) -> None:
    with served.bearer(keys.create("heads")[1]) as http:
        execution = http.post(SUBMIT, json=QUESTION).headers["location"]
        batch = http.post(UPLOAD, content=ROW, headers=LINES).headers["location"]
        with served.gateway.streams.take():
            assert http.head(f"{execution}/events").status_code == 503
        for path, kind in ((f"{execution}/events", "text/event-stream"), (f"{batch}/output", "application/jsonl")):
            head = http.head(path, params={"follow": "true"} if path.endswith("output") else {})
            assert (head.status_code, head.headers["content-type"].partition(";")[0]) == (200, kind)
            assert served.gateway.streams.used == 0


def test_a_batch_of_another_tenant_is_unknown_in_the_same_words(served: Served, keys: AccessKeys) -> None:
    (_, mine), (_, other) = keys.create("mine", tenant="acme"), keys.create("theirs", tenant="other")
    with served.bearer(mine) as http:
        id = http.post(UPLOAD, content=ROW, headers=LINES).json()["id"]
    with served.bearer(other) as http:
        unknown_id = str(UUID(int=UUID(id).int ^ 1))
        hidden, unknown = (http.get(f"/v1/batches/{each}").json() for each in (id, unknown_id))
    assert hidden["detail"].replace(id, "ID") == unknown["detail"].replace(unknown_id, "ID")
    assert (hidden["status"], hidden.keys()) == (404, unknown.keys())


def test_a_tenant_does_not_get_an_execution_of_no_tenant(served: Served, keys: AccessKeys) -> None:
    """The idempotency keys of a tenant are stored with its name before them, which other keys may begin with."""
    (_, free), (_, tenant) = keys.create("free"), keys.create("of-tenant", tenant="tenant")
    with served.bearer(free) as http:
        assert http.post(SUBMIT, json=QUESTION, headers={"Idempotency-Key": "tenant:1"}).status_code == 202
    with served.bearer(tenant) as http:
        refused = http.post(SUBMIT, json=QUESTION, headers={"Idempotency-Key": "1"})
        assert (refused.status_code, refused.json()["code"]) == (409, "idempotency_conflict")
        assert http.post(SUBMIT, json=QUESTION, headers={"Idempotency-Key": "2"}).status_code == 202


def test_no_cache_keeps_what_a_key_reads(served: Served, keys: AccessKeys) -> None:
    with served.bearer(keys.create("cached", scopes=["admin"])[1]) as http:
        execution = http.post(SUBMIT, json=QUESTION)
        batch = http.post(UPLOAD, content=ROW, headers=LINES).headers["location"]
        paths = (
            execution.headers["location"], "/v1/executions", f"{batch}/output", f"{batch}/errors", "/openapi.json",
            "/metrics", "/v1/nothing", "/sign-in",
        )  # fmt: skip
        for answer in (execution, *map(http.get, paths)):
            assert answer.headers.get_list("cache-control") == ["no-store"], answer.url
        assert http.get("/assets/console.js").headers["cache-control"] == "public, max-age=300"


def test_a_path_that_ends_with_a_slash_needs_no_redirect(served: Served, keys: AccessKeys) -> None:
    """A redirect behind a proxy with TLS would lead to plain HTTP."""
    with served.bearer(keys.create("slash")[1]) as http:
        assert http.post(f"{SUBMIT}/", json=QUESTION).status_code == 202
        assert http.get("/v1/executions/", params={"limit": "1"}).status_code == 200
        assert http.get("/v1/nothing/").status_code == 404
        assert http.get("/sign-in/").status_code == 200


@pytest.mark.parametrize(
    ("scheme", "header", "is_secure"),
    [
        ("http", {}, (False, False)),
        ("https", {}, (False, True)),
        ("https", {"X-Forwarded-Proto": "https"}, (True, True)),
    ],
)
def test_the_session_of_a_browser_that_comes_by_tls_is_sent_by_tls_only(
    served: Served, keys: AccessKeys, scheme: str, header: dict[str, str], is_secure: tuple[bool, bool]
) -> None:
    """A proxy ends TLS: what it sends on is plain HTTP with the headers of the browser, and perhaps its own."""
    _, text = keys.create(f"browsing-{scheme}-{len(header)}", scopes=["read"])
    with httpx.Client(base_url=served.url, headers=header, timeout=120) as http:
        form = http.get("/sign-in")
        sent = {"token": token_of(form), "key": text, "next": "/"}
        headers = {
            "Origin": served.url.replace("http", scheme), "Cookie": form.headers["set-cookie"].partition(";")[0]
        }  # fmt: skip
        http.cookies.clear()
        signed_in = http.post("/sign-in", data=sent, headers=headers)
    assert signed_in.status_code == 303
    assert tuple("; Secure" in each.headers["set-cookie"] for each in (form, signed_in)) == is_secure


def test_a_form_in_a_wrong_charset_is_refused(served: Served) -> None:
    body = '--B\r\nContent-Disposition: form-data; name="key"\r\n\r\nä\r\n--B--\r\n'.encode()
    headers = {"Content-Type": "multipart/form-data; boundary=B; charset=undefined", "Accept": "text/html"}
    refused = served.http.post("/sign-in", content=body, headers=headers)
    assert refused.status_code == 400
    assert "the form is not text in the charset that it names" in refused.text


@pytest.mark.parametrize(
    ("body", "pointers"),
    [
        ({"inputs": {"question": "?", "numbers": [""] * 100_000}}, ["/inputs/numbers"]),
        ({"inputs": {"question": "?", **{f"n{n}": 1 for n in range(100_000)}}}, ["/inputs/n0"]),
        ({**QUESTION, **{f"n{n}": 1 for n in range(100_000)}}, ["/n0"]),
    ],
    ids=["values", "fields", "members"],
)
def test_a_request_with_very_many_faults_gets_a_short_answer(
    served: Served, keys: AccessKeys, body: Any, pointers: list[str]
) -> None:
    """A description of each held the gateway up for a minute, and took a gigabyte."""
    with served.bearer(keys.create(f"faults{pointers[0].replace('/', '-')}")[1]) as http:
        refused = http.post("/v1/programs/sums/executions", json=body)
    assert (refused.status_code, [each["pointer"] for each in refused.json()["errors"]]) == (422, pointers)
