"""Versions, evaluations and optimisations over HTTP and in the console, over a real server and without a worker."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator

import dspex
from dspex.client.client import Client
from dspex.embedded.embedded_servers import EmbeddedServers
from dspex.serve.access.access_keys import AccessKeys
from dspex.settings import Backends, Settings
from dspex.settings.security_settings import new_key
from tests.conftest import fresh_backends
from tests.improvement_data import METRIC_ERROR, finished_evaluation, finished_job
from tests.serving import Served, serving

MARKUP = "<script>window.hacked = 1</script>"
FIRST = dspex.Program(
    "triage", dspex.signature(":string ticket -> :string queue"), adapter="scripted", model="openai/test"
)
SECOND = replace(FIRST, timeout=61)
ROWS = [{"ticket": f"{MARKUP} {n}", "queue": "bug" if n % 2 else "other"} for n in range(8)]
BEFORE = [1.0, 1.0, 0.0, 0.5, None, 1.0, METRIC_ERROR, 1.0]
AFTER = [0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0]
NEWER = "0" * 8 + "-0000-7000-8000-000000000000"


class Desk:
    """A gateway over two evaluations and a job that are over."""

    def __init__(self, served: Served, backends: Backends, client: Client) -> None:
        self.served, self.backends, self.client = served, backends, client
        database = client._database
        client.deploy(FIRST, note="the first")
        note = f"gepa from {FIRST.version} on tickets 0, metric exact, seed 0, score 0.8, complete, job x"
        client.deploy(SECOND, current=False, note=note)
        tickets = client.dataset("tickets", ROWS, inputs=["ticket"])
        self.before = finished_evaluation(client, database, "triage", tickets, BEFORE)
        self.after = finished_evaluation(
            client, database, "triage", tickets, AFTER, version=SECOND.version, outputs={"queue": MARKUP}
        )
        self.part = finished_evaluation(client, database, "triage", tickets[2:4], [1.0, 0.0, 0.0, 0.0], repeats=2)
        self.other = client.evaluate("triage", client.dataset("few", ROWS[:2], inputs=["ticket"]), metric="exact")
        tried = [(FIRST.version, 0.25, None), (SECOND.version, 0.75, FIRST.version)]
        self.job = finished_job(client, database, "triage", "tickets", tried)


@pytest.fixture(scope="module")
def desk(servers: EmbeddedServers) -> Iterator[Desk]:
    with fresh_backends(servers) as backends, Client(
        database_url=backends.database_url, broker_url=backends.broker_url
    ) as client, serving(backends) as served:  # fmt: skip
        yield Desk(served, backends, client)


@pytest.fixture
def browser_requests(desk: Desk) -> Iterator[httpx.Client]:
    """A browser's requests."""
    headers = {"Accept": "text/html", "Origin": desk.served.url}
    with httpx.Client(base_url=desk.served.url, headers=headers, follow_redirects=True, timeout=120) as opened:
        yield opened


def token_of(page: httpx.Response) -> str:
    found = re.search(r'name="token" value="(\w+)"', page.text)
    assert found is not None
    return found[1]


def test_every_answer_has_the_documented_shape(desk: Desk) -> None:
    document = desk.served.http.get("/openapi.json").json()
    program, evaluation = "/v1/programs/{name}", "/v1/evaluations/{id}"
    paths = {
        f"{program}/versions": "/v1/programs/triage/versions", f"{program}/changes": "/v1/programs/triage/changes",
        f"{program}/rollouts": "/v1/programs/triage/rollouts",
        f"{program}/diff": f"/v1/programs/triage/diff?before={FIRST.version}&after={SECOND.version}",
        "/v1/evaluations": "/v1/evaluations", evaluation: f"/v1/evaluations/{desk.before.id}",
        f"{evaluation}/rows": f"/v1/evaluations/{desk.before.id}/rows?limit=3",
        f"{evaluation}/comparison": f"/v1/evaluations/{desk.after.id}/comparison?with={desk.before.id}",
        "/v1/optimizations": "/v1/optimizations", "/v1/optimizations/{id}": f"/v1/optimizations/{desk.job.id}",
    }  # fmt: skip
    for path, sent in paths.items():
        answer = desk.served.http.get(sent)
        assert answer.status_code == 200, (sent, answer.text)
        schema = document["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
        Draft202012Validator({**schema, "components": document["components"]}).validate(answer.json())


def test_lists_go_on_at_their_cursors_and_every_item_comes_once(desk: Desk) -> None:
    def all_of(path: str, name: str, **query: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        asked = {**query, "limit": "1"}
        while True:
            answer = desk.served.http.get(path, params=asked).json()
            found += answer[name]
            if answer["next_cursor"] is None:
                return found
            asked["cursor"] = answer["next_cursor"]

    ids = [each["id"] for each in all_of("/v1/evaluations", "evaluations")]
    assert ids == [str(each.id) for each in (desk.other, desk.part, desk.after, desk.before)]
    versions = [each["version"] for each in all_of("/v1/programs/triage/versions", "versions")]
    assert versions == [SECOND.version, FIRST.version]
    assert [each["id"] for each in all_of("/v1/optimizations", "optimizations")] == [str(desk.job.id)]
    rows = all_of(f"/v1/evaluations/{desk.before.id}/rows", "rows")
    assert [each["row"] for each in rows] == [6, 2, 4, 3, 0, 1, 5, 7], "the metric's error, then the lowest scores"
    failed = all_of(f"/v1/evaluations/{desk.before.id}/rows", "rows", only="program_errors")
    assert [(each["row"], each["score"]) for each in failed] == [(4, 0.0)]
    unscored = all_of(f"/v1/evaluations/{desk.before.id}/rows", "rows", only="metric_errors")
    assert [each["row"] for each in unscored] == [6]
    compared = all_of(f"/v1/evaluations/{desk.after.id}/comparison", "rows", **{"with": str(desk.before.id)})
    assert [each["row"] for each in compared] == [0, 3, 2, 4, 1, 5, 7], "worse, then better, then the same"


def test_the_comparison_is_that_of_the_client(desk: Desk) -> None:
    expected = desk.after.compare(desk.before)
    found = desk.served.http.get(f"/v1/evaluations/{desk.after.id}/comparison?with={desk.before.id}").json()
    assert (found["sentence"], found["verdict"]) == (expected.sentence, expected.verdict)
    assert found["left_out"] == expected.left_out == 1
    assert found["rows"][0]["fields"] == {"queue": {"before": "bug", "after": MARKUP}}


def test_a_part_of_a_dataset_is_compared_by_its_rows_and_the_means_of_their_repeats(desk: Desk) -> None:
    path, ids = f"/v1/evaluations/{desk.part.id}/comparison?with={desk.before.id}", desk.part.batch.ids
    found = desk.served.http.get(path).json()
    assert [(each["row"], each["score_before"], each["score_after"]) for each in found["rows"]] == [
        (3, 0.5, 0.0), (2, 0.0, 0.5),
    ]  # fmt: skip
    assert [each["execution_after"] for each in found["rows"]] == [str(ids[1]), str(ids[0])]
    expected = desk.part.compare(desk.before)
    assert (found["left_out"], found["sentence"]) == (expected.left_out, expected.sentence)
    row = f"/evaluations/{desk.part.id}/compare/row?with={desk.part.id}&row=2&repeat=1"
    assert f"/executions/{ids[2]}" in desk.served.http.get(row, headers={"Accept": "text/html"}).text


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/evaluations?limit=0", 422),
        ("/v1/evaluations?nothing=1", 422),
        (f"/v1/evaluations/{NEWER}", 404),
        ("/v1/evaluations/none", 404),
        ("/v1/evaluations/{after}/rows?cursor=nan_1", 422),
        ("/v1/evaluations/{after}/comparison", 422),
        ("/v1/evaluations/{after}/comparison?with={other}", 422),
        (f"/v1/optimizations/{NEWER}", 404),
        ("/v1/programs/none/versions", 404),
        ("/v1/programs/triage/diff?before=none&after=none", 404),
        ("/v1/programs/triage/diff", 422),
    ],
)
def test_what_is_not_there_is_a_problem(desk: Desk, path: str, status: int) -> None:
    answer = desk.served.http.get(path.format(after=desk.after.id, other=desk.other.id))
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"


def test_promotion_and_rollouts_are_recorded_with_who_did_it(desk: Desk) -> None:
    post, path = desk.served.http.post, "/v1/programs/triage"
    guard = {"max_error_rate": 0.02}
    begun = post(f"{path}/rollouts", json={"version": SECOND.version, "percent": 5, "guard": guard})
    assert (begun.status_code, begun.json()["percent"]) == (201, 5.0)
    assert post(f"{path}/rollouts/end").json()["ended"]["reason"] == "ended by an operator"
    assert post(f"{path}/rollouts/end").json() == {"ended": None}
    assert post(f"{path}/aliases", json={"alias": "best", "version": SECOND.version}).status_code == 200
    assert post(f"{path}/promote", json={"version": "best"}).json()["version"] == SECOND.version
    assert post(f"{path}/promote", json={"version": FIRST.version}).status_code == 200
    wrong = post(f"{path}/rollouts", json={"version": SECOND.version, "percent": 0, "guard": {"min_executions": 0}})
    assert [each["pointer"] for each in wrong.json()["errors"]] == ["/guard/min_executions", "/percent"]
    assert post(f"{path}/promote", json={"versoin": "x"}).status_code == 422
    changes = desk.served.http.get(f"{path}/changes").json()["changes"]
    assert [(each["kind"], each["by"]) for each in changes[:5]] == [
        (kind, "this machine")
        for kind in ("promoted", "promoted", "alias_set", "rollout_ended", "rollout_begun")
    ]  # fmt: skip
    assert changes[4]["about"] == "5 % of submits"


def test_keys_see_and_do_what_they_may(desk: Desk) -> None:
    with serving(desk.backends, is_open=False) as locked:
        keys = AccessKeys(desk.client._database)
        reader = keys.create("reader", scopes=["read"])[1]
        of_tenant = keys.create("of-tenant", scopes=["read", "operate"], tenant="acme")[1]
        of_other = keys.create("of-other", scopes=["read", "operate"], programs=["other"])[1]
        with locked.bearer(reader) as http:
            assert len(http.get("/v1/evaluations").json()["evaluations"]) == 4
            assert http.post("/v1/programs/triage/promote", json={"version": SECOND.version}).status_code == 403
        for key in (of_tenant, of_other):
            with locked.bearer(key) as http:
                assert http.get("/v1/evaluations").json()["evaluations"] == []
                assert http.get("/v1/optimizations").json()["optimizations"] == []
                assert http.get(f"/v1/evaluations/{desk.before.id}").status_code == 404
                assert http.get(f"/v1/optimizations/{desk.job.id}").status_code == 404
                assert http.post("/v1/programs/triage/promote", json={"version": SECOND.version}).status_code == 403
                assert http.post("/v1/programs/triage/rollouts/end").status_code == 403
    assert desk.client.program("triage").version == FIRST.version


def test_secret_values_are_masked(servers: EmbeddedServers) -> None:
    signature = dspex.signature(":string(secret=true) password -> :string(secret=true) token, :string note")
    row = {"password": "open sesame", "token": "of the cave", "note": "plain"}
    key: dict[str, Any] = {"encryption_key": new_key()}
    with fresh_backends(servers) as backends, serving(backends, **key) as served, Client(
        Settings.load(database_url=backends.database_url, broker_url=backends.broker_url, **key)
    ) as client:  # fmt: skip
        client.deploy(dspex.Program("vault", signature, adapter="scripted"))
        found = client.evaluate("vault", client.dataset("doors", [row], inputs=["password"]), metric="exact")
        (shown,) = served.http.get(f"/v1/evaluations/{found.id}/rows").json()["rows"]
        assert (shown["inputs"], shown["labels"]) == (
            {"password": "<secret>"}, {"token": "<secret>", "note": "plain"},
        )  # fmt: skip


# ------------------------------------------------------------------------------------------------------ the console


def test_pages_show_what_is_known_and_markup_is_text(desk: Desk, browser_requests: httpx.Client) -> None:
    before, after = desk.before.id, desk.after.id
    expected = {
        "/evaluations": ["tickets", "0.643", "0.750", f"/evaluations/{after}"],
        "/evaluations?program=triage": [f"/evaluations/{after}"],
        f"/evaluations/{before}": ["metric_error", "rate_limited", "as expected", "&lt;script&gt;", "<svg", str(after)],
        f"/evaluations/{before}?only=metric_errors": ["KeyError"],
        f"/evaluations/{after}/compare?with={before}": ["more than the", "sign test", "−1.000", "<del>bug</del>"],
        f"/evaluations/{after}/compare?with={before}&show=better": ["+1.000"],
        f"/evaluations/{after}/compare/row?with={before}&row=0": ["queue, differs", "Waterfall", "Expected"],
        "/optimizations": ["gepa", "0.750"],
        f"/optimizations/{desk.job.id}": ["<polyline", "best", SECOND.version, "where it began"],
        "/programs/triage": ["Versions and rollouts", SECOND.version[:8]],
        "/programs/triage/versions": ["the first", f"before={FIRST.version}&amp;after={SECOND.version}", "Promote"],
        f"/programs/triage/diff?before={FIRST.version}&after={SECOND.version}": ["timeout", "61.0"],
    }  # fmt: skip
    for path, texts in expected.items():
        page = browser_requests.get(path)
        assert page.status_code == 200, path
        assert len(page.content) < 200_000, path
        assert MARKUP not in page.text, path
        for text in texts:
            assert text in page.text, (path, text)


def test_forms_promote_and_begin_and_end_rollouts(desk: Desk, browser_requests: httpx.Client) -> None:
    http, path = browser_requests, "/programs/triage"
    token = token_of(http.get(f"{path}/versions"))
    assert http.post(f"{path}/promote", data={"version": SECOND.version}).status_code == 403, "without its token"
    sent = {"token": token, "version": SECOND.version, "percent": "12.5", "min_score": "0.8", "max_error_rate": ""}
    begun = http.post(f"{path}/rollout", data=sent)
    assert "12.5 %" in begun.text
    assert "feedback is below 0.8" in begun.text
    assert "Of its latest executions 0 have ended" in begun.text
    wrong = http.post(f"{path}/rollout", data={**sent, "percent": "many"})
    assert (wrong.status_code, "a number" in wrong.text) == (422, True)
    http.post(f"{path}/rollout/end", data={"token": token})
    assert desk.client.rollouts("triage")[0].ended_at is not None
    promoted = http.post(f"{path}/promote", data={"token": token, "version": SECOND.version})
    assert "this machine" in promoted.text
    assert desk.client.program("triage").version == SECOND.version
    http.post(f"{path}/promote", data={"token": token, "version": FIRST.version})
    http.post(f"{path}/pause", data={"token": token})
    http.post(f"{path}/resume", data={"token": token})
    assert [each.kind for each in desk.client.program_changes("triage", limit=2)] == ["resumed", "paused"]
