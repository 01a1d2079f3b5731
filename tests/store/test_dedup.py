"""Dedup: of many equal submits one stores an execution."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from uuid import UUID

import pytest

import dspex
from dspex.client.client import Client
from dspex.errors import ValidationError
from dspex.store.database import Database
from tests.store.test_executions import claim, dispatch_due, register, settle

QA = dspex.signature("question -> answer")
PROGRAM = dspex.Program("qa", QA, adapter="scripted")
ASKED = {"question": "What is the capital of France?"}


@pytest.fixture(autouse=True)
def _deployed(client: Client) -> None:
    client.deploy(PROGRAM)


def end(database: Database, id: UUID, status: str) -> None:
    dispatch_due(database, window=100)
    (claimed,) = claim(database, register(database), id)
    error = '{"code":"billing","message":"no"}' if status == "failed" else None
    assert settle(database, claimed, status, error=error)


def test_of_fifty_submits_at_once_one_stores_an_execution(client: Client) -> None:
    with ThreadPoolExecutor(10) as threads:
        found = list(threads.map(lambda _: client.submit("qa", ASKED, dedup=True), range(50)))
    assert len({each.id for each in found}) == 1
    assert sum(not each.deduplicated for each in found) == 1
    assert len(client.list()) == 1


def test_only_executions_that_are_under_way_or_completed_are_returned(client: Client, database: Database) -> None:
    first = client.submit("qa", ASKED, dedup=True)
    end(database, first.id, "failed")
    second = client.submit("qa", ASKED, dedup=True)
    assert (second.id != first.id, second.deduplicated) == (True, False)
    assert client.submit("qa", ASKED, dedup=True).id == second.id
    second.cancel()
    third = client.submit("qa", ASKED, dedup=True)
    assert third.id != second.id
    end(database, third.id, "completed")
    again = client.submit("qa", ASKED, dedup=True)
    assert (again.id, again.status, again.deduplicated) == (third.id, "completed", True)
    assert client.submit("qa", ASKED, dedup=timedelta(hours=1)).id == third.id
    assert client.submit("qa", ASKED, dedup=timedelta(microseconds=1)).id != third.id
    assert not client.submit("qa", ASKED).deduplicated


def test_other_inputs_and_other_versions_are_other_executions(client: Client) -> None:
    first = client.submit("qa", ASKED, dedup=True)
    assert client.submit("qa", {"question": "?"}, dedup=True).id != first.id
    client.deploy(dspex.Program("qa", QA, adapter="scripted", module_options={"calls": 2}))
    assert client.submit("qa", ASKED, dedup=True).id != first.id
    client.deploy(dspex.Program("other", QA, adapter="scripted"))
    assert client.submit("other", ASKED, dedup=True).id != first.id


def test_what_must_not_stand_for_another_is_refused(client: Client) -> None:
    tools = ["tests.own_programs:look_up"]
    client.deploy(dspex.Program("agent", QA, module="react", model="openai/test", tools=tools))
    with pytest.raises(ValidationError, match="tools"):
        client.submit("agent", ASKED, dedup=True)
    with pytest.raises(ValidationError, match="idempotency_key"):
        client.submit("qa", ASKED, dedup=True, idempotency_key="k")
    with pytest.raises(ValidationError, match="timedelta"):
        client.submit("qa", ASKED, dedup=timedelta(0))
    with pytest.raises(ValidationError, match="idempotency_key"):
        client.submit("qa", ASKED, idempotency_key="dspex:dedup:x")
    assert client.list() == []
