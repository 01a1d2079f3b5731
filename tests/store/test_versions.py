"""Versions beside the current one: submits by version and alias, promotion, rollouts and their guards."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from sqlalchemy import text

import dspex
from dspex.client.client import Client
from dspex.operations.alerts.rollout_watch import end_tripped, ended_rollouts
from dspex.settings import Backends
from dspex.store.database import Database
from dspex.store.improvement import rollouts
from tests.store.test_executions import claim, dispatch_due, register, settle, submit
from tests.waiting import wait_for

A = dspex.Program("qa", dspex.signature("question -> answer"), adapter="scripted")
B = dspex.Program(
    "qa", dspex.signature(':string question, :string language = "en" -> :string answer'), adapter="scripted"
)
INPUTS = {"question": "?"}


@pytest.fixture(autouse=True)
def _deployed(client: Client) -> None:
    client.deploy(A, note="the first")
    client.deploy(B, current=False)


def versions(client: Client, count: int, **options: Any) -> list[str]:
    return [client.submit("qa", INPUTS, **options).version for _ in range(count)]


def test_a_version_beside_the_current_one_gets_the_submits_that_name_it(client: Client) -> None:
    assert client.submit("qa", INPUTS).version == A.version
    assert client.submit("qa", INPUTS, version=B.version).version == B.version
    client.alias("qa", "challenger", B.version)
    assert client.submit("qa", {**INPUTS, "language": "de"}, version="challenger").version == B.version
    batch = client.submit_many("qa", [INPUTS] * 3, version="challenger")
    assert {client.get(id).version for id in batch.ids} == {B.version}
    with pytest.raises(dspex.ValidationError):
        client.submit("qa", {**INPUTS, "language": "de"})
    with pytest.raises(dspex.ProgramNotFound, match="its aliases are challenger"):
        client.submit("qa", INPUTS, version="champion")
    with pytest.raises(dspex.ProgramNotFound):
        client.submit("qa", INPUTS, version="0" * 16)


def test_promotion_changes_new_submits_and_no_old_one(client: Client) -> None:
    before = client.submit("qa", INPUTS)
    client.alias("qa", "best", B.version)
    assert client.promote("qa", "best").program == B
    assert client.submit("qa", INPUTS).version == B.version
    assert before.refresh().version == A.version
    found = {each.version: each for each in client.versions("qa")}
    assert (found[A.version].current, found[A.version].note) == (False, "the first")
    assert (found[B.version].current, found[B.version].aliases) == (True, ("best",))
    assert client.program("qa", "best") == B


def test_another_client_follows_a_promotion_at_once(client: Client, backends: Backends) -> None:
    with Client(database_url=backends.database_url, broker_url=backends.broker_url) as other:
        assert other.submit("qa", INPUTS).version == A.version
        client.promote("qa", B.version)
        assert other.submit("qa", INPUTS).version == B.version


def test_versions_that_an_optimiser_tried_are_listed_when_asked_for(client: Client) -> None:
    tried, named, chosen = (replace(A, timeout=seconds) for seconds in (7, 8, 9))
    for each in (tried, named, chosen, B):
        client._session.deploy(each, current=False, candidate=True)
    shown = {each.version: each for each in client.versions("qa", candidates=True)}
    assert {version for version, each in shown.items() if each.candidate} == {tried.version, named.version,
                                                                            chosen.version}  # fmt: skip
    assert not shown[B.version].candidate, "it was deployed before"
    assert {each.version for each in client.versions("qa")} == {A.version, B.version}
    client.alias("qa", "best", named.version)
    client.deploy(chosen, current=False, note="the best")
    assert {each.version for each in client.versions("qa")} == {A.version, B.version, named.version, chosen.version}
    client.promote("qa", tried.version)
    listed = {each.version: each for each in client.versions("qa")}
    assert (listed[tried.version].current, listed[tried.version].candidate) == (True, False)
    assert (listed[chosen.version].note, listed[A.version].note) == ("the best", "the first")


def test_an_alias_is_no_version_and_a_name(client: Client) -> None:
    for alias in ("0123456789abcdef", "two words", ""):
        with pytest.raises(dspex.ValidationError):
            client.alias("qa", alias, A.version)


def test_a_rollout_gets_its_share_until_it_ends_also_from_clients_that_do_not_know(
    client: Client, backends: Backends
) -> None:
    with Client(database_url=backends.database_url, broker_url=backends.broker_url) as other:
        assert versions(other, 1) == [A.version]
        begun = client.rollout("qa", B.version, percent=50)
        found = versions(other, 60)
        assert 10 < found.count(B.version) < 50
        keyed = {key: other.submit("qa", INPUTS, idempotency_key=key).version for key in map(str, range(40))}
        assert set(keyed.values()) == {A.version, B.version}
        assert {key: client.submit("qa", INPUTS, idempotency_key=key).version for key in keyed} == keyed
        assert [each.rollout_percent for each in client.versions("qa")] == [50, None]
        ended = client.end_rollout("qa")
        assert ended is not None
        assert ended.id == begun.id
        assert set(versions(other, 20)) == {A.version}
    assert client.end_rollout("qa") is None
    assert [each.reason for each in client.rollouts("qa")] == ["ended by an operator"]


def test_a_deploy_ends_a_rollout(client: Client) -> None:
    client.rollout("qa", B.version, percent=100)
    assert versions(client, 3) == [B.version] * 3
    third = dspex.Program("qa", A.signature, adapter="scripted", timeout=7)
    client.deploy(third)
    assert versions(client, 3) == [third.version] * 3
    (ended,) = client.rollouts("qa")
    assert ended.reason == "another version was made the current one"


def test_a_rollout_needs_another_version_and_a_share(client: Client) -> None:
    for version, percent in ((A.version, 10.0), (B.version, 0.0), (B.version, 101.0)):
        with pytest.raises(dspex.ValidationError):
            client.rollout("qa", version, percent=percent)


def test_a_rollout_ends_by_itself_when_its_guard_trips(client: Client, database: Database) -> None:
    client.rollout("qa", B.version, percent=10, guard=dspex.Guard(max_error_rate=0.2, min_executions=5))
    ids = [submit(database, program="qa", version=B.version, pinned=True) for _ in range(5)]
    dispatch_due(database)
    claimed = claim(database, register(database), *ids)
    for each, status in zip(claimed, ["completed"] * 4 + ["failed"], strict=True):
        settle(database, each, status, error='{"code": "x"}' if status == "failed" else None)
    assert end_tripped(database) == [], "one of five is not more than a fifth"
    (last,) = [submit(database, program="qa", version=B.version, pinned=True)]
    dispatch_due(database)
    settle(database, claim(database, register(database), last)[0], "failed", error='{"code": "x"}')
    (ended,) = end_tripped(database)
    assert ended.tripped == "max_error_rate"
    assert "2 of its 6 executions failed" in str(ended.reason)
    assert end_tripped(database) == []
    assert versions(client, 5) == [A.version] * 5
    (breach,) = ended_rollouts(database, within_seconds=60)
    assert (breach.rule, breach.subject) == ("rollout_ended", "qa")
    assert database.run(partial(rollouts.listing, program="qa"))[0].tripped == "max_error_rate"


def test_the_score_of_feedback_guards_a_rollout(client: Client, database: Database) -> None:
    client.rollout("qa", B.version, percent=10, guard=dspex.Guard(min_score=0.5, min_executions=2))
    ids = [submit(database, program="qa", version=B.version, pinned=True) for _ in range(2)]
    dispatch_due(database)
    for each in claim(database, register(database), *ids):
        settle(database, each, result='{"answer":"x"}')
        client.get(each.id).feedback(score=0.25)
    (rollout,) = client.rollouts("qa")
    figures = database.run(partial(rollouts.recent, rollout=rollout, current=A.version))
    assert (figures.ended, figures.failed, figures.current_ended) == (2, 0, 0)
    assert (figures.scored, figures.score) == (2, 0.25)
    (ended,) = end_tripped(database)
    assert ended.tripped == "min_score"


def test_a_rollout_that_something_else_ends_is_listed_as_ended(client: Client) -> None:
    client.rollout("qa", B.version, percent=10, by="ann")
    client.rollout("qa", B.version, percent=50, by="bob")
    client.promote("qa", B.version, by="cleo")
    client.rollout("qa", A.version, percent=5)
    client.deploy(dspex.Program("qa", A.signature, adapter="scripted", timeout=7))
    found = [(each.kind, each.version, each.about, each.by) for each in reversed(client.program_changes("qa", limit=8))]
    assert [each for each in found if each[0] == "rollout_ended"] == [
        ("rollout_ended", B.version, "another rollout began", "bob"),
        ("rollout_ended", B.version, "its version was made the current one", "cleo"),
        ("rollout_ended", A.version, "another version was made the current one", None),
    ]
    once_more = ["rollout_ended", "rollout_begun", "rollout_ended", "promoted"]
    assert [each[0] for each in found] == ["rollout_begun", *once_more, "rollout_begun", "rollout_ended", "promoted"]


WAITING = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


def waiting(database: Database) -> int:
    """How many sessions wait for a lock."""
    return int(database.run(lambda c: c.scalar(text(WAITING))) or 0)


@pytest.mark.parametrize(
    ("other", "under_way"),
    [
        (lambda client: client.rollout("qa", B.version, percent=50), True),
        (lambda client: client.deploy(replace(A, timeout=7)), False),
        (lambda client: client.end_rollout("qa"), False),
    ],
)
def test_a_rollout_that_begins_while_something_else_ends_rollouts_does_not_stay(
    client: Client, database: Database, other: Callable[[Client], Any], under_way: bool
) -> None:
    """All of them wait for the row of the program, and read the rollouts before they have it."""
    client.rollout("qa", B.version, percent=1)
    with ThreadPoolExecutor(2) as threads:
        with database.transaction() as connection:
            connection.execute(text("SELECT FROM dspex.programs WHERE name = 'qa' FOR UPDATE"))
            done = [threads.submit(client.rollout, "qa", B.version, percent=10)]
            wait_for(lambda: waiting(database) == 1, "it to wait for the row")
            done.append(threads.submit(other, client))
            wait_for(lambda: waiting(database) == 2, "the other to wait for the row")
        for each in done:
            each.result()
    routed = database.run(lambda c: c.scalar(text("SELECT rollout_id FROM dspex.programs WHERE name = 'qa'")))
    found = client.rollouts("qa")
    assert [each.id for each in found if each.ended_at is None] == [each for each in [routed] if each is not None]
    assert (routed is not None) == under_way
    ends = [each for each in client.program_changes("qa") if each.kind == "rollout_ended"]
    assert len(ends) == sum(each.ended_at is not None for each in found)


def test_what_is_done_to_a_program_is_kept_with_who_did_it(client: Client) -> None:
    client.promote("qa", B.version, by="key ann")
    client.deploy(A)
    client.deploy(A)
    client.rollout("qa", B.version, percent=25, by="key ann")
    client.end_rollout("qa", by="key bob")
    assert client.end_rollout("qa", by="key bob") is None
    client.alias("qa", "best", B.version, by="key ann")
    client.pause("qa")
    client.pause("qa")
    client.resume("qa")
    found = [(each.kind, each.version, each.about, each.by) for each in reversed(client.program_changes("qa"))]
    assert found == [
        ("promoted", A.version, None, None),
        ("promoted", B.version, None, "key ann"),
        ("promoted", A.version, None, None),
        ("rollout_begun", B.version, "25 % of submits", "key ann"),
        ("rollout_ended", B.version, "ended by an operator", "key bob"),
        ("alias_set", B.version, "best", "key ann"),
        ("paused", None, "by an operator", None),
        ("resumed", None, None, None),
    ]
    assert [each.kind for each in client.program_changes("qa", limit=1)] == ["resumed"]


HEADERS = ["x-api-key", "api-key", "Ocp-Apim-Subscription-Key", "Cookie", "X-Vault-Token", "Proxy-Authorization"]


@pytest.mark.parametrize("place", ["model_options", "models.judge.options", "fallback[0].options"])
@pytest.mark.parametrize("header", HEADERS)
def test_a_secret_in_a_header_is_not_stored(client: Client, header: str, place: str) -> None:
    def program(text: str) -> dspex.Program:
        model = dspex.Model("openai/x", options={"extra_headers": {header: text, "X-Title": "support"}})
        settings: dict[str, dict[str, Any]] = {
            "model_options": {"model": model},
            "models.judge.options": {"model": "openai/y", "models": {"judge": model}},
            "fallback[0].options": {"model": "openai/y", "fallback": [model]},
        }
        return dspex.Program("asks", A.signature, **settings[place])

    with pytest.raises(dspex.SecretInProgram) as refused:
        client.deploy(program("8d1f60c2"))
    assert refused.value.details["path"].endswith(f".extra_headers.{header}")
    assert "8d1f60c2" not in str(refused.value)
    client.deploy(program("${GATEWAY_TOKEN}"))
