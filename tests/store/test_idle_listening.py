"""A client that has not waited for long stops listening to ``dspex:done``; its next wait listens again."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import redis

import dspex
from dspex.client.client import Client
from dspex.publish.channels import DONE_CHANNEL
from dspex.settings import Backends
from dspex.store import programs
from dspex.store.database import Database
from tests.recording import until
from tests.store.test_executions import PROGRAM
from tests.store.test_shared_waits import announce, complete_all, ids_of, listening, listening_in_loop
from tests.waiting import wait_for

OUT_OF_REACH = "redis://127.0.0.1:1/0"


@pytest.fixture
def idle_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dspex.wait.hints.IDLE_SECONDS", 0.0)


def listeners(backends: Backends) -> int:
    with redis.Redis.from_url(backends.broker_url) as server:
        return int(server.pubsub_numsub(DONE_CHANNEL)[0][1])


def threads_of_waiters() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("dspex-waiter")]


def tasks_of_waiters() -> list[str]:
    return [task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("dspex-waiter")]


def test_a_client_that_waits_no_more_stops_listening_until_it_waits_again(
    client: Client, database: Database, backends: Backends, request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    watches = listening(client, database)
    assert listeners(backends) == 1
    request.getfixturevalue("idle_at_once")
    wait_for(lambda: listeners(backends) == 0, "the client to stop listening")
    wait_for(lambda: not threads_of_waiters(), "its threads to end")
    monkeypatch.setattr("dspex.wait.hints.POLL_SECONDS", 3600.0)  # no poll finds the result
    with ThreadPoolExecutor(1) as thread:
        result = thread.submit(client.execute, "qa", {"question": "?"}, timeout=30)
        (id,) = ids_of(database, 1)
        wait_for(lambda: watches._subscribed, "the client to listen again")
        complete_all(database, [id])
        announce(backends, [id])
        assert result.result()["answer"] == str(id)
    wait_for(lambda: listeners(backends) == 0, "the client to stop listening again")


async def test_a_client_in_a_loop_that_waits_no_more_stops_listening_until_it_waits_again(
    database: Database, backends: Backends, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with listening_in_loop(database, backends) as waiting:
        watches = waiting._session.connections.waiter
        assert listeners(backends) == 1
        request.getfixturevalue("idle_at_once")
        await until(lambda: listeners(backends) == 0 and not tasks_of_waiters())
        monkeypatch.setattr("dspex.wait.hints.POLL_SECONDS", 3600.0)  # no poll finds the result
        result = asyncio.create_task(waiting.execute("qa", {"question": "?"}, timeout=30))
        (id,) = await asyncio.to_thread(ids_of, database, 1)
        await until(lambda: watches._subscribed)
        await asyncio.to_thread(complete_all, database, [id])
        await asyncio.to_thread(announce, backends, [id])
        assert (await result)["answer"] == str(id)
        await until(lambda: listeners(backends) == 0 and not tasks_of_waiters())


@pytest.mark.usefixtures("idle_at_once")
def test_a_client_that_waits_no_more_stops_looking_for_redis(
    database: Database, backends: Backends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dspex.wait.hints.RECONNECT_SECONDS", 0.05)
    with Client(database_url=backends.database_url, broker_url=OUT_OF_REACH) as waiting:
        database.run(partial(programs.deploy, program=PROGRAM))
        submitted = waiting.submit("qa", {"question": "?"})
        with pytest.raises(dspex.ExecutionTimedOut):
            submitted.result(0.2)
        wait_for(lambda: not threads_of_waiters(), "its threads to end")


@pytest.mark.usefixtures("idle_at_once")
async def test_a_client_in_a_loop_that_waits_no_more_stops_looking_for_redis(
    database: Database, backends: Backends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dspex.wait.loop_waiter.RECONNECT_SECONDS", 0.05)
    async with dspex.AsyncClient(database_url=backends.database_url, broker_url=OUT_OF_REACH) as waiting:
        await asyncio.to_thread(database.run, partial(programs.deploy, program=PROGRAM))
        submitted = await waiting.submit("qa", {"question": "?"})
        with pytest.raises(dspex.ExecutionTimedOut):
            await submitted.result(0.2)
        await until(lambda: not tasks_of_waiters())
