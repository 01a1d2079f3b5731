"""A client that is closed, also twice, from another loop, or while something waits."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

import dspex
from dspex.client.client import Client
from dspex.settings import Backends
from dspex.store import programs
from dspex.store.database import Database
from tests.store.test_executions import PROGRAM
from tests.store.test_shared_waits import ids_of

QUESTION = {"question": "?"}
#: For what would take for ever.
SECONDS = 20.0


@pytest.fixture(autouse=True)
def deployed(database: Database) -> None:
    database.run(partial(programs.deploy, program=PROGRAM))


@pytest.fixture
def asynchronous(backends: Backends) -> dspex.AsyncClient:
    return dspex.AsyncClient(database_url=backends.database_url, broker_url=backends.broker_url)


async def test_an_asynchronous_client_may_be_closed_twice_and_used_again(asynchronous: dspex.AsyncClient) -> None:
    async with asynchronous as client:
        await client.submit("qa", QUESTION)
        await client.close()
        await client.close()
        await client.submit("qa", QUESTION)
        assert list(await client.datasets()) == []
    await asynchronous.close()


def test_a_client_is_closed_whose_other_loop_does_not_run(asynchronous: dspex.AsyncClient) -> None:
    with asyncio.Runner() as of_a_module:
        of_a_module.run(asynchronous.submit("qa", QUESTION))

        async def close() -> None:
            async with asyncio.timeout(SECONDS):
                await asynchronous.close()

        asyncio.run(close())
        assert of_a_module.run(asynchronous.submit("qa", QUESTION)).status == "queued"
        of_a_module.run(close())


def test_a_client_is_closed_whose_other_loop_runs_in_a_thread(asynchronous: dspex.AsyncClient) -> None:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    asyncio.run_coroutine_threadsafe(asynchronous.submit("qa", QUESTION), loop).result(SECONDS)
    asyncio.run(asyncio.wait_for(asynchronous.close(), SECONDS))
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def test_who_waits_when_the_client_is_closed_is_told_what_for(client: Client, database: Database) -> None:
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(client.execute, "qa", QUESTION, timeout=60)
        (id,) = ids_of(database, 1)
        client._session.connections.waiter.end()
        with pytest.raises(dspex.DspexError, match=f"waited for execution {id}, which goes on") as error:
            waiting.result(SECONDS)
    assert error.value.code == "client_closed"
    assert error.value.details == {"execution_id": str(id)}


@pytest.mark.parametrize("seconds", [float("nan"), "5", True, object()])
@pytest.mark.parametrize("asynchronously", [False, True])
async def test_a_timeout_that_is_no_number_is_refused_before_anything_is_stored(
    client: Client, asynchronous: dspex.AsyncClient, seconds: Any, *, asynchronously: bool
) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: client.execute("qa", QUESTION, timeout=seconds),
        lambda: list(client.map("qa", [QUESTION], timeout=seconds)),
    ]
    if asynchronously:
        calls = [
            lambda: asynchronous.execute("qa", QUESTION, timeout=seconds),
            lambda: asynchronous.map("qa", [QUESTION], timeout=seconds),
        ]
    for call in calls:
        with pytest.raises(dspex.ValidationError, match="timeout: expected a number of seconds, or None"):
            await call()
    assert not list(client.list(program="qa"))


@pytest.mark.parametrize("seconds", [float("inf"), 1e10, 10**30])
async def test_a_very_long_timeout_is_none(client: Client, asynchronous: dspex.AsyncClient, seconds: float) -> None:
    submitted = client.submit("qa", QUESTION)
    client.cancel(submitted.id)
    for wait in (submitted.result, client.get(submitted.id).result):
        with pytest.raises(dspex.ExecutionCancelled):
            wait(seconds)
    assert [row["id"] for row in client.wait_any([submitted.id], seconds)] == [submitted.id]
    async with asynchronous as other:
        with pytest.raises(dspex.ExecutionCancelled):
            await (await other.get(submitted.id)).result(seconds)


def broken_source() -> Iterator[dict[str, str]]:
    for number in range(1500):
        yield {"question": str(number)}
    raise OSError("the disk is gone")


async def broken_source_async() -> AsyncIterator[dict[str, str]]:
    for row in broken_source():
        yield row


async def test_rows_whose_source_fails_are_named(client: Client, asynchronous: dspex.AsyncClient) -> None:
    with pytest.raises(OSError, match="the disk is gone") as error:
        client.submit_many("qa", broken_source())
    assert_named(client, error.value, 1000)
    for source in (broken_source, broken_source_async):
        with pytest.raises(OSError, match="the disk is gone") as error:
            await asynchronous.submit_many("qa", source())
        assert_named(client, error.value, 1000)
    await asynchronous.close()


def assert_named(client: Client, error: OSError, stored: int) -> None:
    (batch,) = [each for each in client.batches() if str(each.id) in error.__notes__[0]]
    assert error.__notes__[0].startswith(f"{stored} rows of batch {batch.id} are stored, and they go on: ")
    client.cancel_batch(batch.id)
