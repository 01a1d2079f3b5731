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


def test_an_execution_of_another_tenant_is_never_returned(client: Client) -> None:
    own = client.submit("qa", ASKED, dedup=True)
    tenants = {name: client.submit("qa", ASKED, tenant=name, dedup=True) for name in ("acme", "other")}
    assert len({own.id, *(each.id for each in tenants.values())}) == 3
    for name, first in tenants.items():
        assert client.submit("qa", ASKED, tenant=name, dedup=True).id == first.id
        assert named(client, client.submit_many("qa", [ASKED], tenant=name, dedup=True)) == [first.id]
    assert named(client, client.submit_many("qa", [ASKED], dedup=True)) == [own.id]


def named(client: Client, batch: dspex.Batch) -> list[UUID | None]:
    """For each row of a batch, the execution whose outputs it takes over."""
    rows = sorted(client._session.rows(batch.ids), key=lambda row: row["id"])
    return [row["same_as"] for row in rows]


def test_rows_of_a_batch_name_the_executions_that_do_the_same(client: Client, database: Database) -> None:
    known = client.submit("qa", ASKED, dedup=True)
    failed = client.submit("qa", {"question": "failed"}, dedup=True)
    end(database, failed.id, "failed")
    rows = [{"question": "new"}, ASKED, {"question": "new"}, {"question": "failed"}, {"question": "failed"}]
    batch = client.submit_many("qa", rows, dedup=True)
    ids = batch.ids
    assert named(client, batch) == [None, known.id, ids[0], None, ids[3]]
    assert [client.get(id).deduplicated for id in ids] == [False, True, True, False, True]
    again = client.submit_many("qa", rows, dedup=True)
    assert named(client, again) == [ids[0], known.id, ids[0], ids[3], ids[3]]
    assert client.submit("qa", {"question": "new"}, dedup=True).id == ids[0]
    assert named(client, client.submit_many("qa", [ASKED])) == [None]


def test_a_row_stands_only_for_what_completed_lately(client: Client, database: Database) -> None:
    known = client.submit("qa", ASKED, dedup=True)
    end(database, known.id, "completed")
    assert named(client, client.submit_many("qa", [ASKED], dedup=timedelta(hours=1))) == [known.id]
    assert named(client, client.submit_many("qa", [ASKED], dedup=timedelta(microseconds=1))) == [None]


def test_of_many_batches_at_once_one_row_runs(client: Client) -> None:
    rows = [{"question": f"number {number % 10}"} for number in range(40)]
    with ThreadPoolExecutor(5) as threads:
        batches = list(threads.map(lambda _: client.submit_many("qa", rows, dedup=True), range(5)))
        singles = list(threads.map(lambda n: client.submit("qa", {"question": f"number {n}"}, dedup=True), range(10)))
    running = {id for batch in batches for id, same_as in zip(batch.ids, named(client, batch), strict=True)
               if same_as is None}  # fmt: skip
    assert len(running) == 10
    assert {each.id for each in singles} == running


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
