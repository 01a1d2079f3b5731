"""What a worker keeps in memory while Postgres refuses to store it."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import ExitStack
from uuid import UUID

import psycopg
import pytest
from uuid_utils.compat import uuid7

import dspex
from dspex.client.client import Client
from dspex.settings import Backends
from dspex.store import workers
from dspex.store.database import Database
from dspex.store.lifecycle.executions import Settlement
from dspex.store.lifecycle.lm_calls import LMCall
from dspex.store.lifecycle.status import Status
from tests.chaos.proxy import Proxy
from tests.integration.test_settling import is_blocked
from tests.recording import until
from tests.refusing import Refusing
from tests.waiting import wait_for
from workers.attempt.ledger import Ledger

QA = dspex.Program("qa", dspex.signature("question -> answer"), adapter="scripted")
ME = uuid7()


@pytest.fixture
def refusing(database: Database) -> Refusing:
    database.run(
        lambda connection: workers.register(
            connection, id=ME, host="here", pid=1, version="0", concurrency=100, lease_seconds=60
        )
    )
    return Refusing(database)


@pytest.fixture
async def ledger(backends: Backends) -> AsyncIterator[Ledger]:
    opened = Ledger(backends.database_url, backends.broker_url, lambda: ME)
    yield opened
    await opened.close()


def submitted(client: Client, count: int) -> list[UUID]:
    client.deploy(QA)
    return [client.submit("qa", {"question": str(number)}).id for number in range(count)]


def completed(id: UUID) -> Settlement:
    return Settlement(id, 1, ME, "completed", '[{"kind":"completed"}]', "{}", result='{"answer":"!"}')


def an_answer(id: UUID) -> LMCall:
    return LMCall(id, hashlib.sha256(b"r").digest(), 0, 1, "openai/test", '{"text":"paid"}', 1, 1, 0.1, 5.0, "req-1")


async def stay_refused(refusing: Refusing, rows: int = 1) -> None:
    """Returns once so many rows were refused three times each, or one of them more often."""
    seen = refusing.count
    await until(lambda: refusing.count >= seen + 3 * rows)


async def test_what_was_paid_is_kept_and_stored_once_it_can_be(
    client: Client, ledger: Ledger, refusing: Refusing
) -> None:
    """For one SQLSTATE of each kind that passes, also for one that no table has."""
    states = ("53100", "57014", "40P01", "55P03", "58030", "XX000", "42501", "ZZ001")
    ids = submitted(client, len(states))
    assert all(await asyncio.gather(*map(ledger.claim, ids)))
    with ExitStack() as refused:
        for id, state in zip(ids, states, strict=True):
            refused.enter_context(refusing.refuse("dspex.lm_calls", state, when=f"NEW.execution_id = '{id}'"))
        storing = [asyncio.create_task(ledger.store_call(an_answer(id))) for id in ids]
        await stay_refused(refusing, len(ids))
        assert not any(task.done() for task in storing)
    await asyncio.gather(*storing)
    with ExitStack() as refused:
        for id, state in zip(ids, states, strict=True):
            refused.enter_context(refusing.refuse("dspex.executions", state, when=f"NEW.id = '{id}'"))
        settling = [asyncio.create_task(ledger.settle(completed(id))) for id in ids]
        await stay_refused(refusing, len(ids))
        assert not any(task.done() for task in settling)
    assert await asyncio.gather(*settling) == [Status.COMPLETED] * len(ids)
    assert client.verify_audit() == {}


async def test_an_answer_outlives_its_attempt_and_is_stored_before_the_settlement(
    client: Client, ledger: Ledger, refusing: Refusing
) -> None:
    (id,) = submitted(client, 1)
    await ledger.claim(id)
    with refusing.refuse("dspex.lm_calls", "53100"):
        storing = asyncio.create_task(ledger.store_call(an_answer(id)))
        await stay_refused(refusing)
        storing.cancel()  # as the deadline of the attempt does
        settling = asyncio.ensure_future(ledger.settle(completed(id)._replace(status="queued", result=None)))
        await stay_refused(refusing)
        assert client.get(id).status is Status.RUNNING
    assert await settling is Status.QUEUED
    assert [call.response for call in await ledger.calls(id)] == ['{"text":"paid"}']


async def test_one_that_is_refused_does_not_hold_up_the_others(
    client: Client, ledger: Ledger, refusing: Refusing
) -> None:
    refused, *others = ids = submitted(client, 4)
    await asyncio.gather(*map(ledger.claim, ids))
    with refusing.refuse("dspex.executions", "XX001", when=f"NEW.id = '{refused}'"):
        first = asyncio.ensure_future(ledger.settle(completed(refused)))
        together = await asyncio.gather(*(ledger.settle(completed(id)) for id in others))
        assert together == [Status.COMPLETED] * 3
        await stay_refused(refusing)
        assert "XX001" in str(ledger.trouble)
    assert await first is Status.COMPLETED
    assert ledger.trouble is None


async def test_data_at_fault_is_refused_for_good(client: Client, ledger: Ledger, refusing: Refusing) -> None:
    good, bad = submitted(client, 2)
    await asyncio.gather(ledger.claim(good), ledger.claim(bad))
    outcomes = await asyncio.gather(
        ledger.settle(completed(good)), ledger.settle(completed(bad)._replace(result="{")), return_exceptions=True
    )
    assert outcomes[0] is Status.COMPLETED
    assert isinstance(outcomes[1], psycopg.errors.InvalidTextRepresentation)


async def test_a_claim_is_found_whose_answer_was_lost_and_whose_repetition_is_refused(
    client: Client, backends: Backends, database: Database, refusing: Refusing
) -> None:
    """The claim is committed, and then the connection ends: no other worker runs the execution."""
    (id,) = submitted(client, 1)
    with Proxy(backends.database_url) as link:
        far = Ledger(link.url, backends.broker_url, lambda: ME)
        assert await far.claim(uuid7()) is None  # it is connected
        with database.transaction() as connection:
            connection.exec_driver_sql("SELECT FROM dspex.executions FOR UPDATE")
            claiming = far.claim(id)
            await asyncio.to_thread(wait_for, lambda: database.run(is_blocked), "the claim to wait for this lock")
            link.swallow()
        await until(lambda: client.get(id).status is Status.RUNNING)
        database.run(lambda connection: connection.exec_driver_sql("ALTER TABLE dspex.program_starts RENAME TO away"))
        link.cut()
        link.restore()
        await until(lambda: far.trouble is not None or claiming.done())
        assert "UndefinedTable" not in str(claiming)
        database.run(lambda connection: connection.exec_driver_sql("ALTER TABLE dspex.away RENAME TO program_starts"))
        claimed = await claiming
        assert claimed is not None
        assert claimed.attempt == 1
        await far.close()
