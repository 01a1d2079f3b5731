"""The console: its pages over a real server, and in a browser as a person would use it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest

import dspex
from dspex.client.client import Client
from dspex.client.execution import Execution
from dspex.embedded.embedded_servers import EmbeddedServers
from dspex.serve.access.access_keys import AccessKeys
from dspex.serve.console import operation_pages
from dspex.settings import Backends
from tests.browser import chromium
from tests.conftest import fresh_backends
from tests.processes import WorkerProcess
from tests.serving import Served, serving
from tests.waiting import wait_for

#: The package of the program that calls a tool which waits for an approval.
OWN = "tests.waiting_programs"
MARKUP = "<script>window.hacked = 1</script><img src=x onerror=window.hacked=1>"
SIGNATURE = dspex.signature(
    ':string question "what to ask", :enum("a", "b") kind, :integer(max=9) count = 1 -> :string answer'
)
INPUTS = {"question": MARKUP, "kind": "a"}
PROGRAMS = (
    dspex.Program("good", SIGNATURE, adapter="scripted", module_options={"outputs": {"answer": MARKUP}}),
    dspex.Program(
        "bad", SIGNATURE, adapter="scripted", retry=dspex.Retry(1),
        module_options={"fail": {"code": "authentication", "times": 1}},
    ),
    dspex.Program("slow", SIGNATURE, adapter="scripted", module_options={"sleep_ms": 60_000}),
    dspex.Program(
        "refunds", dspex.signature("question -> answer"), module=f"{OWN}:Refunds", model="openai/test",
        api_base="http://127.0.0.1:1/v1",
    ),
)  # fmt: skip
#: A script or a style within the page, or an address of another host.
INLINE = r"<script(?![^>]*src=)|<style|<[^>]*\son\w+=|<[^>]*\sstyle=|(?:src|href)=.https?:"
PAGES = (
    "/", "/failed", "/approvals", "/programs", "/programs/good", "/batches", "/schedules", "/workers", "/health",
    "/webhooks", "/alerts", "/docs", "/evaluations", "/optimizations", "/programs/graded/versions",
)  # fmt: skip
AXE = files("axe_playwright_python") / "axe.min.js"
#: The windows of a desk and of a telephone.
WIDTHS = (1400, 390)
GRADED = tuple(
    dspex.Program(
        "graded", dspex.signature("ticket -> queue"), adapter="scripted", module_options={"outputs": {"queue": queue}}
    )
    for queue in ("other", "bug")
)
TICKETS = [{"ticket": f"{MARKUP} {n}", "queue": "bug" if n else "other"} for n in range(4)]


class Place:
    """A gateway with a worker and executions that are over."""

    def __init__(self, served: Served, backends: Backends, client: Client) -> None:
        self.served = served
        self.backends = backends
        self.client = client
        self.good = client.submit("good", INPUTS)
        self.bad = client.submit("bad", INPUTS)
        self.batch = client.submit_many("good", [INPUTS] * 3)
        tickets = client.dataset("tickets", TICKETS, inputs=["ticket"])
        self.worse, self.better = (
            client.evaluate("graded", tickets, metric="exact", version=each.version) for each in GRADED
        )
        self.good.result(timeout=60)
        assert len(list(self.batch.as_completed(timeout=60))) == 3
        self.worse.wait(60)
        self.better.wait(60)
        wait_for(lambda: self.bad.refresh().status.is_final, "the bad one to fail")

    @property
    def improvement(self) -> list[str]:
        """The pages of two evaluations, and of two versions."""
        compare = f"/evaluations/{self.better.id}/compare"
        return [
            f"/evaluations/{self.better.id}", f"{compare}?with={self.worse.id}",
            f"{compare}/row?with={self.worse.id}&row=1",
            f"/programs/graded/diff?before={self.worse.version}&after={self.better.version}",
        ]  # fmt: skip


@pytest.fixture(scope="module")
def place(servers: EmbeddedServers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    log: Path = tmp_path_factory.mktemp("console") / "worker.log"
    with fresh_backends(servers) as backends, Client(
        database_url=backends.database_url, broker_url=backends.broker_url
    ) as client:  # fmt: skip
        for program in (*PROGRAMS, *GRADED):
            client.deploy(program)
        worker = WorkerProcess(backends, log, {"DSPEX_PROGRAM_PACKAGES": OWN})
        try:
            worker.wait_until_ready()
            with serving(backends) as served:
                yield Place(served, backends, client)
        finally:
            worker.stop()


@pytest.fixture
def http(place: Place) -> Iterator[httpx.Client]:
    """A browser's requests: it keeps cookies, and names the page it comes from."""
    headers = {"Accept": "text/html", "Origin": place.served.url}
    with httpx.Client(base_url=place.served.url, headers=headers, follow_redirects=True, timeout=120) as opened:
        yield opened


def token_of(page: httpx.Response) -> str:
    found = re.search(r'name="token" value="(\w+)"', page.text)
    assert found is not None
    return found[1]


def test_every_page_is_small_and_has_nothing_inline(place: Place, http: httpx.Client) -> None:
    pages = [*PAGES, f"/executions/{place.good.id}", f"/executions/{place.bad.id}", f"/batches/{place.batch.id}",
             *place.improvement]  # fmt: skip
    for path in pages:
        page = http.get(path)
        assert page.status_code == 200, path
        assert page.headers["content-type"].startswith("text/html")
        assert "script-src 'self'" in page.headers["content-security-policy"]
        assert len(page.content) < 200_000
        assert not re.search(INLINE, page.text), path


def test_markup_in_values_is_text(place: Place, http: httpx.Client) -> None:
    for path in ("/", f"/executions/{place.good.id}", "/?q=%3Cscript%3E"):
        page = http.get(path).text
        assert "<script>window" not in page
        assert "&lt;script&gt;" in page


def test_marks_that_reverse_text_are_left_out_of_pages_and_kept_in_forms(place: Place, http: httpx.Client) -> None:
    marked = "pay \u202e001\u202c to \u2066b"
    execution = place.client.submit("good", {**INPUTS, "question": marked})
    for path in ("/", f"/executions/{execution.id}"):
        page = http.get(path).text
        assert "pay 001 to b" in page
        assert not re.search("[\u202a-\u202e\u2066-\u2069]", page), path
    form = {"token": token_of(http.get("/programs/good")), "input.question": marked, "input.kind": "?"}
    assert f">{marked}</textarea>" in http.post("/programs/good/submit", data=form).text, "what is sent again is whole"


def test_one_that_is_to_begin_later_says_when(place: Place, http: httpx.Client) -> None:
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    page = http.get(f"/executions/{place.client.submit('good', INPUTS, run_at=tomorrow).id}").text
    for expected in (f"{tomorrow:%Y-%m-%d %H:%M:%S} UTC", "It waits for its time"):
        assert expected in page, expected
    assert "Waiting for a worker" not in page


def test_one_that_was_cancelled_before_it_began_has_no_times(place: Place, http: httpx.Client) -> None:
    execution = place.client.submit("good", INPUTS, run_at=datetime.now(UTC) + timedelta(days=1))
    assert "In the queue" in http.get(f"/executions/{place.good.id}").text
    assert execution.cancel()
    page = http.get(f"/executions/{execution.id}").text
    assert "cancelled" in page
    assert not re.search("In the queue|<dt>Ran", page)


def test_filters_without_a_control_are_shown_and_stay(place: Place, http: httpx.Client) -> None:
    given = {"batch": place.batch.id, "since": "2026-01-31T08:00:00Z"}
    query = urlencode(given)
    for path in (f"/?{query}", f"/?{query}&cursor={place.batch.ids[-1]}"):
        page = http.get(path).text
        for name, value in given.items():
            assert f"{name} <code>{value}</code>" in page
            assert f'<input type="hidden" name="{name}" value="{value}">' in page, "the form keeps it"
    assert f'href="/?{escape(query)}">Newest' in page
    assert "Only with" not in http.get("/?program=good&error=").text
    replaced = http.get("/?error=rate_limited&q=authentication").text
    assert str(place.bad.id) in replaced
    assert "rate_limited</code>" not in replaced


def test_a_blank_first_input_is_not_called_missing(place: Place, http: httpx.Client) -> None:
    blank = place.client.submit("good", {**INPUTS, "question": " "})
    page = http.get("/?program=good").text
    assert f'href="/executions/{blank.id}">(empty)</a>' in page
    assert "(no inputs)" not in page


def test_one_execution_shows_all_that_is_known(place: Place, http: httpx.Client) -> None:
    page = http.get(f"/executions/{place.bad.id}").text
    for expected in (
        "authentication",
        "The provider refused the key",
        "attempt 1",
        "intact",
        "Retry",
        str(place.bad.id),
    ):
        assert expected in page, expected


@pytest.mark.parametrize(
    ("query", "is_found"),
    [
        ("q=authentication", True),
        ("q=bad", True),
        ("status=completed&program=bad", False),
        ("q=customer%3D42", False),
        ("q=no+such", False),
    ],
)
def test_a_search_finds(place: Place, http: httpx.Client, query: str, is_found: bool) -> None:
    page = http.get(f"/?{query}").text
    assert (f"/executions/{place.bad.id}" in page) == is_found
    assert is_found or "No execution fits" in page


def test_a_search_for_an_id_opens_it(place: Place, http: httpx.Client) -> None:
    assert http.get(f"/?q={place.bad.id}").url.path == f"/executions/{place.bad.id}"
    assert http.get(f"/?q={place.batch.id}").url.path == f"/batches/{place.batch.id}"
    missing = http.get("/?q=00000000-0000-7000-8000-000000000000")
    assert (missing.status_code, "Not found" in missing.text) == (404, True)


def test_a_form_submits_and_names_its_faults(http: httpx.Client) -> None:
    token = token_of(http.get("/programs/good"))
    wrong = http.post(
        "/programs/good/submit", data={"token": token, "input.question": "?", "input.kind": "a", "input.count": "10"}
    )
    assert wrong.status_code == 422
    assert 'class="fault"' in wrong.text
    sent = http.post(
        "/programs/good/submit", data={"token": token, "input.question": "?", "input.kind": "b", "input.count": ""}
    )
    assert sent.url.path.startswith("/executions/")


def test_the_bar_of_a_batch_shows_what_failed(place: Place, http: httpx.Client) -> None:
    failing = place.client.submit_many("bad", [INPUTS] * 2)
    assert len(list(failing.as_completed(timeout=60))) == 2
    for path in (f"/batches/{failing.id}", "/batches"):
        bar = http.get(path).text.partition('aria-label="2 of 2 ended, 2 failed"')[2].partition("</svg>")[0]
        assert re.findall(r'<rect class="(\w+)" x="(\d+)" width="(\d+)"', bar) == [("failed", "0", "2")], path


def test_the_list_of_batches_shows_a_retry_at_once(place: Place, http: httpx.Client) -> None:
    failing = place.client.submit_many("bad", [INPUTS] * 2)
    assert len(list(failing.as_completed(timeout=60))) == 2
    before = http.get("/batches").text
    assert f"/batches/{failing.id}" in before
    http.post(f"/batches/{failing.id}/retry", data={"token": token_of(http.get(f"/batches/{failing.id}"))})
    wait_for(lambda: failing.progress.completed == 2, "the second attempts to complete")
    row = http.get("/batches").text.partition(f'data-href="/batches/{failing.id}"')[2].partition("</tr>")[0]
    assert 'aria-label="2 of 2 ended"' in row, "none failed"


def test_the_list_of_batches_is_kept_current_while_one_is_under_way(place: Place, http: httpx.Client) -> None:
    under_way = place.client.submit_many("slow", [INPUTS])
    assert 'data-reload="5"' in http.get("/batches").text
    under_way.cancel()


def test_a_list_of_webhooks_that_is_cut_says_so(
    place: Place, http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        place.client.execute("good", INPUTS, timeout=60, webhook="https://hook.invalid/")
    assert "there are more" not in http.get("/webhooks").text
    monkeypatch.setattr(operation_pages, "MOST_WEBHOOKS", 1)
    page = http.get("/webhooks").text
    assert (page.count("https://hook.invalid/"), "The latest 1 are listed; there are more" in page) == (1, True)


def test_a_file_with_rows_becomes_a_batch(http: httpx.Client) -> None:
    token = token_of(http.get("/programs/good"))
    file = {"file": ("rows.jsonl", b'{"question": "1", "kind": "a"}\n{"question": "2", "kind": "b"}\n')}
    sent = http.post("/programs/good/upload", data={"token": token}, files=file)
    assert sent.url.path.startswith("/batches/")
    assert "2 rows" in sent.text
    assert sent.url.path in http.get("/batches").text
    assert sent.url.path not in http.get(f"/batches?cursor={sent.url.path.removeprefix('/batches/')}").text
    none = http.post(
        "/programs/good/upload", data={"token": token}, files={"file": ("rows.jsonl", b'{"question": 1}\n')}
    )
    assert (none.status_code, "no row of the upload fits the program" in none.text) == (422, True)


def test_actions(place: Place, http: httpx.Client) -> None:
    execution = place.client.submit("slow", INPUTS)
    token = token_of(http.get(f"/executions/{execution.id}"))
    http.post(f"/executions/{execution.id}/cancel", data={"token": token})
    wait_for(lambda: execution.refresh().status == "cancelled", "the execution to be cancelled")
    assert "Paused" in http.post("/programs/slow/pause", data={"token": token}).text
    assert "slow" in place.client.paused()
    http.post("/programs/slow/resume", data={"token": token})
    assert "slow" not in place.client.paused()
    assert http.get("/failed?error=authentication").status_code == 422  # it lists all causes
    again = place.client.submit("bad", INPUTS)
    wait_for(lambda: again.refresh().status.is_final, "it to fail")
    http.post("/failed/retry", data={"token": token, "program": "bad", "error": "authentication"})
    wait_for(lambda: again.refresh().status == "completed", "it to complete in its second attempt")


@pytest.mark.parametrize("sent", [{}, {"token": "x" * 48}])
def test_a_form_of_another_site_is_refused(place: Place, http: httpx.Client, sent: dict[str, str]) -> None:
    http.get("/programs/good")
    refused = http.post("/programs/slow/pause", data=sent)
    assert (refused.status_code, "expired" in refused.text) == (403, True)
    token = token_of(http.get("/programs/good"))
    foreign = http.post("/programs/slow/pause", data={"token": token}, headers={"Origin": "https://evil.example"})
    assert foreign.status_code == 403
    assert "slow" not in place.client.paused()


def test_who_signs_in_with_a_key_sees_what_it_may(place: Place) -> None:
    with serving(place.backends, is_open=False) as locked, httpx.Client(
        base_url=locked.url, headers={"Accept": "text/html", "Origin": locked.url}, follow_redirects=True, timeout=120,
    ) as http:  # fmt: skip
        keys = AccessKeys(locked.gateway.blocking._session.database)
        _, text = keys.create("reader", scopes=["read"], tenant="acme")
        form = http.get(f"/executions/{place.good.id}")
        assert form.url.path == "/sign-in"
        wrong = http.post("/sign-in", data={"token": token_of(form), "key": "dspex_wrong", "next": "/"})
        assert (wrong.status_code, "unknown" in wrong.text) == (403, True)
        home = http.post("/sign-in", data={"token": token_of(form), "key": text, "next": "/"})
        assert (home.status_code, home.url.path) == (200, "/")
        assert str(place.good.id) not in home.text
        assert "Workers" not in home.text
        assert 'name="tenant"' not in home.text
        assert http.get(f"/executions/{place.good.id}").status_code == 404
        assert http.get("/workers").status_code == 403
        assert http.get("/v1/executions").status_code == 401, "the cookie is the console's alone"
        one = f"/executions/{place.good.id}"
        for action in ("/programs/slow/pause", f"{one}/decide", f"{one}/feedback"):
            assert http.post(action, data={"token": token_of(home)}).status_code == 403
        assert keys.revoke("reader")
        wait_for(lambda: http.get("/").url.path == "/sign-in", "the session to end with its key")


def test_a_key_of_some_programs_does_not_learn_the_names_of_others(place: Place) -> None:
    """The 404 of an unknown name proposes the name of a program that is like it."""
    with serving(place.backends, is_open=False) as locked, httpx.Client(
        base_url=locked.url, headers={"Accept": "text/html", "Origin": locked.url}, follow_redirects=True, timeout=120,
    ) as http:  # fmt: skip
        _, text = AccessKeys(locked.gateway.blocking._session.database).create("of-slow", programs=["slow"])
        form = http.get("/sign-in")
        home = http.post("/sign-in", data={"token": token_of(form), "key": text, "next": "/"})
        assert home.status_code == 200
        token = {"token": token_of(home)}
        for unknown in ("good", "goodd"):
            seen = http.get(f"/programs/{unknown}/diff"), http.post(f"/programs/{unknown}/submit", data=token)
            assert [each.status_code for each in seen] == [403, 403]
            assert all("did you mean" not in each.text for each in seen)


def test_a_page_while_postgres_is_away_says_so_and_loads_again(place: Place) -> None:
    away = Backends(("postgresql://127.0.0.1:1/none", place.backends.broker_url))
    with serving(away) as served:
        page = served.http.get("/", headers={"Accept": "text/html"})
        assert (page.status_code, page.headers["refresh"]) == (503, "5")
        assert "safe in Postgres. This page loads again by itself" in page.text
        act = served.http.post("/programs/good/upload", headers={"Accept": "text/html"})
        assert (act.status_code, "refresh" in act.headers, "loads again" in act.text) == (503, False, False)
        answer = served.http.get("/v1/executions")
        assert (answer.status_code, answer.json()["code"]) == (503, "backend_unavailable")
        assert served.http.get("/ready").status_code == 503
        assert served.http.get("/health/live").status_code == 200


# ----------------------------------------------------------------------------------------- approvals and feedback


def test_a_call_is_approved_on_a_page_and_who_comes_second_reads_so(
    place: Place, http: httpx.Client, tmp_path: Path
) -> None:
    execution = refund(place, tmp_path / "made")
    page = http.get("/approvals")
    for expected in ("refund", str(tmp_path / "made"), '<span class="count">1</span>', "Approve"):
        assert expected in page.text, expected
    assert "It waits for a decision" in http.get(f"/executions/{execution.id}").text
    form = {"token": token_of(page), "call": open_call(place, execution), "decision": "approve", "note": "as agreed"}
    assert http.post(f"/executions/{execution.id}/decide", data={**form, "token": "x"}).status_code == 403
    assert http.post(f"/executions/{execution.id}/decide", data={**form, "decision": "?"}).status_code == 422
    shown = http.post(f"/executions/{execution.id}/decide", data={**form, "from": "list"})
    assert (shown.url.path, "goes on" in shown.text, "Nothing waits" in shown.text) == ("/approvals", True, True)
    assert execution.result(60).answer.startswith("refunded")
    late = http.post(f"/executions/{execution.id}/decide", data={**form, "decision": "reject"})
    assert (late.status_code, "approved by this machine before" in late.text) == (409, True)
    done = http.get(f"/executions/{execution.id}").text
    for expected in ("Decisions", "by this machine", "as agreed"):
        assert expected in done, expected
    assert execution.audit_trail["approved"].data["by"] == "this machine"


def test_a_call_is_rejected_and_judged_over_http(place: Place, tmp_path: Path) -> None:
    api, execution = place.served.http, refund(place, tmp_path / "made")
    path = f"/v1/executions/{execution.id}"
    (call,) = api.get("/v1/approvals", params={"execution": str(execution.id)}).json()["approvals"]
    assert (call["tool"], call["arguments"]) == ("refund", {"order": str(tmp_path / "made")})
    assert api.post(f"{path}/feedback", json={"score": 1}).json()["code"] == "result_not_ready"
    wrong = api.post(f"{path}/reject", json={"note": 1, "why": ""})
    assert {each["pointer"] for each in wrong.json()["errors"]} == {"/note", "/why"}
    assert api.post(f"{path}/approve", json={"call_id": "0" * 16 + "-0"}).status_code == 404
    decision = {"call_id": call["call_id"], "note": "too much", "by": "bert"}
    assert api.post(f"{path}/reject", json=decision).status_code == 202
    done = api.get(path, headers={"Prefer": "wait=60"}).json()
    assert "rejected by bert via this machine: too much" in done["result"]["answer"]
    second = api.post(f"{path}/approve", json=decision)
    assert (second.status_code, second.json()["code"]) == (409, "already_decided")
    assert not (tmp_path / "made").exists()
    refused = api.post(f"{path}/feedback", json={"outputs": {"answer": 5}, "score": 10**400})
    assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, "/score")
    refused = api.post(f"{path}/feedback", json={"outputs": {"answer": ["x"]}})
    assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, "/outputs/answer")
    given = api.post(f"{path}/feedback", json={"score": 0.5, "outputs": {"answer": "none"}, "by": "ada"})
    assert (given.status_code, given.json()["by"]) == (201, "ada via this machine")
    assert api.get(f"{path}/feedback").json()["feedback"][0]["outputs"] == {"answer": "none"}
    assert execution.audit_trail["feedback"].data["by"] == "ada via this machine"


def test_feedback_is_given_in_a_form_that_names_its_faults(place: Place, http: httpx.Client) -> None:
    path = f"/executions/{place.good.id}"
    form = {"token": token_of(http.get(path)), "score": "good", "note": MARKUP, "output.answer": "Paris"}
    wrong = http.post(f"{path}/feedback", data=form)
    assert (wrong.status_code, 'value="good"' in wrong.text, "a number" in wrong.text) == (422, True, True)
    given = http.post(f"{path}/feedback", data={**form, "score": "0.25"})
    assert (given.status_code, given.url.path) == (200, path)
    for expected in ("0.25", "by this machine", "Paris", "&lt;script&gt;window"):
        assert expected in given.text, expected
    (entry,) = place.good.feedback_entries
    assert (entry.score, entry.outputs, entry.note) == (0.25, {"answer": "Paris"}, MARKUP)


def refund(place: Place, made: Path) -> Execution:
    """An execution that waits for an approval: its tool makes a file."""
    execution = place.client.submit("refunds", {"question": str(made)})
    wait_for(lambda: execution.refresh().waiting is not None, "it to wait", timeout=60)
    return execution


def open_call(place: Place, execution: Execution) -> str:
    (call,) = place.client.approvals(execution_id=execution.id)
    return call.call_id


# --------------------------------------------------------------------------------------------------- in a browser


def test_a_person_finds_a_failure_reads_it_and_retries_it(place: Place, browser: Any) -> None:
    failed = place.client.submit("bad", INPUTS)
    wait_for(lambda: failed.refresh().status.is_final, "it to fail")
    browser.get(f"{place.served.url}/")
    search = browser.find_element("css selector", "[data-search]")
    search.send_keys("authentication\n")
    _shown(browser, str(failed.id)[-8:])
    browser.find_element("css selector", f"a[href='/executions/{failed.id}']").click()
    _shown(browser, "The provider refused the key")
    browser.find_element("css selector", "button.retry").click()
    _shown(browser, "completed", within="main h1")
    _is_clean(browser)


def test_a_person_runs_a_program_and_watches_it_complete(place: Place, browser: Any) -> None:
    browser.get(f"{place.served.url}/programs/good")
    browser.find_element("css selector", "[name='input.question']").send_keys("Is it live?")
    browser.find_element("css selector", "form.inputs button").click()
    _shown(browser, "completed", within="main h1")
    _shown(browser, MARKUP)
    _is_clean(browser)


def test_a_person_compares_two_evaluations(place: Place, browser: Any) -> None:
    browser.get(f"{place.served.url}/evaluations")
    browser.find_element("css selector", f"a[href='/evaluations/{place.better.id}']").click()
    _shown(browser, "0.750", within=".facts")
    browser.find_element("css selector", "form.filters button").click()
    _shown(browser, "more than the 0.250", within=".verdict")
    rows = browser.find_elements("css selector", "tr[data-href] b")
    assert [row.text for row in rows] == ["−1.000", "+1.000", "+1.000", "+1.000"], "what got worse comes first"
    browser.find_element("css selector", "tr[data-href] a.whole").click()
    _shown(browser, "Row 0", within="main h1")
    assert len(browser.find_elements("css selector", ".side .waterfall")) == 2
    assert [each.text for each in browser.find_elements("css selector", ".changed pre")] == ["other", "bug"]
    _is_clean(browser)


def test_a_person_pauses_a_program_and_uploads_a_batch_that_runs_once_it_is_resumed(
    place: Place, browser: Any, tmp_path: Path
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(f'{{"question": "{n}", "kind": "a"}}\n' for n in range(3)))
    browser.get(f"{place.served.url}/programs/good")
    _click(browser, "form[action$='/pause'] button")
    browser.switch_to.alert.accept()
    _shown(browser, "Paused")
    assert "good" in place.client.paused()
    _click(browser, "details.upload summary")
    browser.find_element("css selector", "input[type=file]").send_keys(str(rows))
    _click(browser, "details.upload button")
    _shown(browser, "3 rows", within="main h1")
    batch = browser.current_url
    browser.get(f"{place.served.url}/programs/good")
    _click(browser, "form[action$='/resume'] button")
    wait_for(lambda: "good" not in place.client.paused(), "it to be resumed")
    browser.get(batch)
    _shown(browser, "done", within="dl.facts")
    assert browser.find_element("css selector", "dd.good").text == "3"
    _is_clean(browser)


def test_a_person_approves_a_tool_and_watches_the_execution_complete(
    place: Place, browser: Any, tmp_path: Path
) -> None:
    execution = place.client.submit("refunds", {"question": str(tmp_path / "made")})
    browser.get(f"{place.served.url}/executions/{execution.id}")
    _shown(browser, "It waits for a decision")
    browser.find_element("css selector", "nav a[href='/approvals']").click()
    note = browser.find_element("css selector", "form.decide input[name=note]")
    note.send_keys("checked the order")
    _click(browser, "form.decide button[value=approve]")
    _shown(browser, "goes on")
    browser.find_element("css selector", "[role=status] a").click()
    _shown(browser, "completed", within="main h1")
    _shown(browser, "checked the order")
    assert (tmp_path / "made").exists()
    _is_clean(browser)


@pytest.mark.parametrize("width", [1280, 700])
def test_a_wide_window_shows_every_page_of_the_navigation(place: Place, browser: Any, width: int) -> None:
    _window(browser, width)
    browser.get(place.served.url)
    script = "const nav = document.querySelector('.top nav'); return nav.scrollWidth - nav.clientWidth"
    assert browser.execute_script(script) == 0
    _window(browser, WIDTHS[0])


def test_every_page_fits_its_window_and_is_accessible(place: Place, browser: Any, tmp_path: Path) -> None:
    """Each page is loaded once: in a wide and a narrow window, through axe-core, and some of them in the dark theme."""
    waiting = refund(place, tmp_path / ("a_name_without_any_break" * 8))
    failed, batch = f"/executions/{place.bad.id}", f"/batches/{place.batch.id}"
    pages = (*PAGES, failed, f"/executions/{waiting.id}", batch, *place.improvement, "/sign-in")
    to_read = {"/", "/failed", "/programs/good", "/schedules", "/health", "/sign-in", "/approvals", failed, batch,
               f"/executions/{waiting.id}", *place.improvement[:2]}  # fmt: skip
    dark = {failed, "/programs/good", "/approvals", place.improvement[1]}
    _theme(browser, "light")
    axe = browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": AXE.read_text()})
    for path in pages:
        _window(browser, WIDTHS[0])
        browser.get(place.served.url + path)
        for width in WIDTHS:
            _window(browser, width)
            assert browser.execute_script("return document.documentElement.scrollWidth") <= width, path
        _window(browser, WIDTHS[0])
        if path in to_read:
            assert _seriously_wrong(browser, {}) == [], path
        if path in dark:  # which has the same elements in other colours
            _theme(browser, "dark")
            assert _seriously_wrong(browser, {"runOnly": ["color-contrast"]}) == [], path
            _theme(browser, "light")
    browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", axe)
    place.client.reject(waiting.id, open_call(place, waiting))
    _is_clean(browser)


def _window(browser: Any, width: int) -> None:
    """A window has a least width; the size of the page within it has none."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def _theme(browser: Any, name: str) -> None:
    feature = {"name": "prefers-color-scheme", "value": name}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})


def _seriously_wrong(browser: Any, options: dict[str, Any]) -> list[tuple[str, str, list[str]]]:
    """What axe-core calls serious or critical in the page."""
    script = "axe.run(document, arguments[0]).then(arguments[1])"
    found = browser.execute_async_script(script, {"resultTypes": ["violations"], **options})
    return [
        (each["id"], each["help"], [node["html"][:200] for node in each["nodes"]])
        for each in found["violations"]
        if each["impact"] in ("serious", "critical")
    ]


def _click(browser: Any, selector: str) -> None:
    browser.find_element("css selector", selector).click()


def _shown(browser: Any, text: str, *, within: str = "body") -> None:
    def found() -> bool:
        script = "const part = document.querySelector(arguments[0]); return part ? part.textContent : ''"
        return text in browser.execute_script(script, within)

    wait_for(found, f"{text!r} to be shown")


def _is_clean(browser: Any) -> None:
    assert browser.execute_script("return window.hacked") is None
    severe = [line["message"] for line in browser.get_log("browser") if line["level"] == "SEVERE"]
    assert severe == []


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A headless Chromium."""
    with chromium(tmp_path_factory.mktemp("browser")) as opened:
        yield opened
