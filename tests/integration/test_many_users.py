"""Many users who wait: threads on one client, tasks on one asynchronous client; and what they leave open."""

from __future__ import annotations

import asyncio
import json
import subprocess
import threading
import urllib.request
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis
import uvloop

import dspex
from dspex.client.client import Client
from dspex.embedded.ports import free_port
from dspex.settings import Backends
from dspex.store.database import Database
from tests.processes import WorkerProcess, environment_of, mortal
from tests.waiting import wait_for

QA = dspex.Program("qa", dspex.signature("question -> answer"), adapter="scripted")
StartWorker = Callable[..., WorkerProcess]
TIMEOUT = 60
SESSIONS = "SELECT sessions FROM pg_stat_database WHERE datname = current_database()"
#: The most that a worker opens, and what the test itself opens: both fixtures and the look whether the worker is ready.
WORKER_CONNECTIONS, OWN_CONNECTIONS = 11, 3
#: A web application whose requests wait for an execution, each process with a client of its own.
WEB_APPLICATION = """
import os
from contextlib import asynccontextmanager

import dspex
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

@asynccontextmanager
async def lifespan(app):
    async with dspex.AsyncClient() as app.state.client:
        yield

async def ask(request):
    result = await request.app.state.client.execute("qa", {"question": "?"}, timeout=60)
    return JSONResponse({"process": os.getpid(), "answer": result.answer})

app = Starlette(routes=[Route("/", ask)], lifespan=lifespan)
"""
CLIENTS = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'dspex client'"


def opened(backends: Backends, database: Database) -> tuple[int, int]:
    """How many sessions of Postgres and connections of Redis were ever opened."""
    with redis.Redis.from_url(backends.broker_url) as client:
        received = client.info("stats")["total_connections_received"]
    return database.run(lambda connection: connection.exec_driver_sql(SESSIONS).scalar_one()), received


async def test_users_who_wait_open_no_connection_that_is_thrown_away(
    backends: Backends, client: Client, database: Database, start_worker: StartWorker
) -> None:
    client.deploy(QA)
    start_worker()
    async with dspex.AsyncClient(database_url=backends.database_url, broker_url=backends.broker_url) as users:

        async def user(number: int) -> None:
            await users.execute("qa", {"question": str(number)}, timeout=TIMEOUT)
            execution = await users.submit("qa", {"question": "?"})
            await execution.cancel()
            await users.get(execution.id)

        before = opened(backends, database)
        async with asyncio.TaskGroup() as group:
            for number in range(200):
                group.create_task(user(number))
        clients = database.run(lambda connection: connection.exec_driver_sql(CLIENTS).scalar_one())
    # The pools grow to their size, and Postgres counts sessions late, also earlier ones: 800 calls opened no others.
    most = users.settings.client_connections
    assert clients <= 1 + most, "the other is of the client that deployed"
    for earlier, now in zip(before, opened(backends, database), strict=True):
        assert now - earlier <= most + WORKER_CONNECTIONS + OWN_CONNECTIONS


def test_500_threads_share_one_client(client: Client, start_worker: StartWorker) -> None:
    client.deploy(QA)
    start_worker()
    together = threading.Barrier(500)

    def user(number: int) -> str:
        together.wait()
        return str(client.execute("qa", {"question": str(number)}, timeout=TIMEOUT).answer)

    with ThreadPoolExecutor(500) as threads:
        assert len(list(threads.map(user, range(500)))) == 500
    pool: Any = client._database.engine.pool
    assert pool.checkedin() <= client.settings.client_connections


async def test_a_cancelled_task_leaves_nothing_behind(backends: Backends, client: Client) -> None:
    client.deploy(QA)
    before = asyncio.all_tasks()
    async with dspex.AsyncClient(database_url=backends.database_url, broker_url=backends.broker_url) as users:
        executions = [await users.submit("qa", {"question": str(n)}) for n in range(20)]
        waits = [asyncio.create_task(execution.result()) for execution in executions]
        submits = [asyncio.create_task(users.submit("qa", {"question": "?"})) for _ in range(20)]
        reads = [asyncio.create_task(users.get(execution.id)) for execution in executions]
        await asyncio.sleep(0)
        for task in (*waits, *submits, *reads):
            task.cancel()
        await asyncio.gather(*waits, *submits, *reads, return_exceptions=True)
        connections = users._session.connections
        assert not connections.waiter._watches
        assert (await users.get(executions[0].id)).status is dspex.Status.QUEUED
        pool: Any = connections.database.engine.pool
        await asyncio.to_thread(wait_for, lambda: pool.checkedout() == 0, "statements that were sent to end")
    assert asyncio.all_tasks() == before


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_a_client_serves_one_loop_after_another(
    run: Callable[[Coroutine[Any, Any, None]], None], backends: Backends, client: Client
) -> None:
    client.deploy(QA)
    users = dspex.AsyncClient(database_url=backends.database_url, broker_url=backends.broker_url)
    kept: list[dspex.AsyncExecution] = []

    async def use() -> None:
        execution = await users.submit("qa", {"question": "?"})
        with pytest.raises(dspex.ExecutionTimedOut):
            await execution.result(timeout=0.05)
        kept.append(execution)
        for each in kept:
            await each.refresh()

    run(use())
    run(use())
    run(users.close())
    assert {each.id for each in kept} == {each.id for each in client.list()}


def test_each_process_of_uvicorn_has_its_own_client(
    client: Client, backends: Backends, start_worker: StartWorker, tmp_path: Path
) -> None:
    client.deploy(QA)
    start_worker()
    (tmp_path / "web_users.py").write_text(WEB_APPLICATION)
    port = free_port()
    command = mortal("-m", "uvicorn", "web_users:app", "--workers", "2", "--port", str(port), "--log-level", "warning")
    environment = environment_of(backends, {"PYTHONPATH": tmp_path})
    with subprocess.Popen(command, env=environment) as web, ThreadPoolExecutor(20) as users:
        try:
            wait_for(lambda: ask(port), "the application to answer", timeout=60)
            both = wait_for(
                lambda: len(found := {each for each in users.map(ask, [port] * 20) if each}) == 2 and found,
                "both processes to answer", timeout=60,
            )  # fmt: skip
        finally:
            web.terminate()
        assert web.wait(60) == 0
    assert both
    assert {each.status for each in client.list()} == {dspex.Status.COMPLETED}


def ask(port: int) -> int | None:
    """The process that answered; None if none listens yet."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=TIMEOUT) as response:
            return int(json.load(response)["process"])
    except OSError:
        return None
