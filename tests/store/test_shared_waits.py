"""Waits for single executions: those of one message are looked up together, and each caller is woken with its row."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from uuid_utils.compat import uuid7

import dspex
from dspex.client import execution
from dspex.client.client import Client
from dspex.publish.broker import Broker
from dspex.publish.channels import DONE_CHANNEL
from dspex.settings import Backends
from dspex.store import programs
from dspex.store.database import Database
from dspex.store.lifecycle import executions
from dspex.wait.completion import one_final
from dspex.wait.hints import Watches
from tests.recording import until
from tests.store.test_executions import PROGRAM, claim, register, settle
from tests.waiting import wait_for

COUNT = 20


class Reads:
    """The ids of each statement that reads final executions."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.of: list[set[UUID]] = []
        self._find = executions.find_many
        monkeypatch.setattr(executions, "find_many", self._note)

    def _note(self, connection: Connection, ids: Collection[UUID], *, final: bool = False) -> list[Mapping[str, Any]]:
        if final:
            self.of.append(set(ids))
        return self._find(connection, ids, final=final)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    return Reads(monkeypatch)


def complete_all(database: Database, ids: Sequence[UUID]) -> None:
    database.run(lambda connection: connection.execute(text("UPDATE dspex.executions SET dispatched_at = now()")))
    for claimed in claim(database, register(database), *ids):
        assert settle(database, claimed, result=f'{{"answer":"{claimed.id}"}}')


def announce(backends: Backends, ids: Sequence[UUID]) -> None:
    broker = Broker(backends.broker_url)
    broker.publish_hint(DONE_CHANNEL, ids)
    broker.close()


def let_nobody_ask(driver: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Callers are woken with their rows: one that is woken without its row would ask."""

    async def asked(ids: Sequence[UUID]) -> Sequence[Mapping[str, Any]]:
        raise AssertionError(f"a caller asked for {ids}")

    monkeypatch.setattr(driver, "finals", asked)


def let_nobody_wait_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who submits and waits is woken with the final row: one that is woken before would wait once more."""

    async def wait(_driver: Any, id: UUID, _seconds: float | None, **_: Any) -> None:
        raise AssertionError(f"the caller waits for {id} once more")

    monkeypatch.setattr(execution, "one_final", wait)


def ids_of(database: Database, count: int) -> list[UUID]:
    """The ids of the executions that are submitted by others meanwhile, once there are so many."""
    newest = "SELECT id FROM dspex.executions WHERE inputs->>'question' <> 'to begin to listen'"

    def stored() -> list[UUID]:
        return list(database.run(lambda connection: connection.execute(text(newest)).scalars().all()))

    wait_for(lambda: len(stored()) == count, "the submits")
    return stored()


def listening(client: Client, database: Database) -> Watches:
    """The watches of a client that listens already: what it submits from now on needs no look-up before its hint."""
    database.run(partial(programs.deploy, program=PROGRAM))
    watches = client._session.connections.waiter
    with pytest.raises(dspex.ExecutionTimedOut):
        client.execute("qa", {"question": "to begin to listen"}, timeout=0.01)
    wait_for(lambda: watches._subscribed, "the client to listen")
    return watches


@asynccontextmanager
async def listening_in_loop(database: Database, backends: Backends) -> AsyncIterator[dspex.AsyncClient]:
    """An asynchronous client that listens already."""
    database.run(partial(programs.deploy, program=PROGRAM))
    async with dspex.AsyncClient(database_url=backends.database_url, broker_url=backends.broker_url) as client:
        with pytest.raises(dspex.ExecutionTimedOut):
            await client.execute("qa", {"question": "to begin to listen"}, timeout=0.01)
        await until(lambda: client._session.connections.waiter._subscribed)
        yield client


def test_threads_that_wait_share_a_read(
    client: Client, database: Database, backends: Backends, reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    watches = listening(client, database)
    let_nobody_ask(client._session.driver, monkeypatch)
    submitted = [client.submit("qa", {"question": str(number)}) for number in range(COUNT)]
    reads.of.clear()
    with ThreadPoolExecutor(COUNT) as threads:
        results = [threads.submit(each.result, 30) for each in submitted]
        wait_for(lambda: len(watches._watches) == COUNT, "all to wait")
        ids = [each.id for each in submitted]
        complete_all(database, ids)
        announce(backends, [*ids, uuid7()])
        assert [each.result()["answer"] for each in results] == [str(id) for id in ids]
    assert reads.of == [set(ids)]


async def test_tasks_that_wait_share_a_read(
    database: Database, backends: Backends, reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with listening_in_loop(database, backends) as waiting:
        watches = waiting._session.connections.waiter
        let_nobody_ask(waiting._session.driver, monkeypatch)
        submitted = [await waiting.submit("qa", {"question": str(number)}) for number in range(COUNT)]
        reads.of.clear()
        results = [asyncio.create_task(each.result(30)) for each in submitted]
        await until(lambda: len(watches._watches) == COUNT)
        ids = [each.id for each in submitted]
        await asyncio.to_thread(complete_all, database, ids)
        await asyncio.to_thread(announce, backends, [*ids, uuid7()])
        assert [each["answer"] for each in await asyncio.gather(*results)] == [str(id) for id in ids]
    assert reads.of == [set(ids)]


def test_threads_that_submit_and_wait_are_woken_once(
    client: Client, database: Database, backends: Backends, reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    watches = listening(client, database)
    let_nobody_ask(client._session.driver, monkeypatch)
    let_nobody_wait_twice(monkeypatch)
    reads.of.clear()
    with ThreadPoolExecutor(COUNT) as threads:
        results = [threads.submit(client.execute, "qa", {"question": str(n)}, timeout=30) for n in range(COUNT)]
        ids = ids_of(database, COUNT)
        assert len(watches._watches) == COUNT
        complete_all(database, ids)
        announce(backends, ids)
        assert sorted(each.result()["answer"] for each in results) == sorted(map(str, ids))
    assert reads.of == [set(ids)]


async def test_tasks_that_submit_and_wait_are_woken_once(
    database: Database, backends: Backends, reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with listening_in_loop(database, backends) as waiting:
        watches = waiting._session.connections.waiter
        let_nobody_ask(waiting._session.driver, monkeypatch)
        let_nobody_wait_twice(monkeypatch)
        reads.of.clear()
        results = [asyncio.create_task(waiting.execute("qa", {"question": str(n)})) for n in range(COUNT + 1)]
        ids = await asyncio.to_thread(ids_of, database, COUNT + 1)
        results.pop().cancel()
        await until(lambda: len(watches._watches) == COUNT)
        await asyncio.to_thread(complete_all, database, ids)
        await asyncio.to_thread(announce, backends, ids)
        answers = [each["answer"] for each in await asyncio.gather(*results)]
        assert len({*answers} & {*map(str, ids)}) == COUNT
        assert not watches._watches
    assert len(reads.of) == 1


def test_who_submits_and_waits_finds_the_result_without_a_hint(
    client: Client, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    listening(client, database)
    for name in ("POLL_SECONDS", "POLL_SECONDS_WITHOUT_REDIS"):
        monkeypatch.setattr(f"dspex.wait.hints.{name}", 0.05)
    with ThreadPoolExecutor(1) as thread:
        result = thread.submit(client.execute, "qa", {"question": "?"})
        (id,) = ids_of(database, 1)
        complete_all(database, [id])
        assert result.result()["answer"] == str(id)


def test_the_wait_of_who_submits_and_waits_begins_with_the_submit(
    client: Client, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    watches = listening(client, database)
    monkeypatch.setattr("dspex.client.execution.LONGEST_HOLD_SECONDS", 0.0)
    for name in ("POLL_SECONDS", "POLL_SECONDS_WITHOUT_REDIS"):
        monkeypatch.setattr(f"dspex.wait.hints.{name}", 0.2)
    waited: list[float | None] = []

    async def note(driver: Any, id: UUID, seconds: float | None, **options: Any) -> Any:
        waited.append(seconds)
        return await one_final(driver, id, seconds, **options)

    monkeypatch.setattr(execution, "one_final", note)
    with pytest.raises(dspex.ExecutionTimedOut, match=r"after 1\.5 s"):
        client.execute("qa", {"question": "?"}, timeout=1.5)
    assert len(waited) == 1, "the hold ended with a poll"
    assert waited[0] is not None
    assert 0 < waited[0] < 1.5
    assert not watches._watches


def test_who_submits_and_waits_is_told_that_the_client_is_closed(client: Client, database: Database) -> None:
    watches = listening(client, database)
    with ThreadPoolExecutor(1) as thread:
        result = thread.submit(client.execute, "qa", {"question": "?"})
        ids_of(database, 1)
        watches.end()
        with pytest.raises(dspex.DspexError, match="the client was closed while it waited"):
            result.result()


def test_who_submits_and_waits_finds_what_was_stored_although_no_answer_came(
    client: Client, database: Database, backends: Backends, monkeypatch: pytest.MonkeyPatch
) -> None:
    listening(client, database)
    insert = executions.insert_all

    def sent_again(connection: Connection, **options: Any) -> Any:
        insert(connection, **options)
        return insert(connection, **options)

    monkeypatch.setattr(executions, "insert_all", sent_again)
    with ThreadPoolExecutor(1) as thread:
        result = thread.submit(client.execute, "qa", {"question": "?"}, timeout=30)
        (id,) = ids_of(database, 1)
        complete_all(database, [id])
        announce(backends, [id])
        assert result.result()["answer"] == str(id)
    assert len(ids_of(database, 1)) == 1


def test_who_submits_and_waits_uses_the_version_that_is_current(
    client: Client, database: Database, backends: Backends
) -> None:
    listening(client, database)
    changed = dspex.Program("qa", PROGRAM.signature, adapter="scripted", retry=dspex.Retry(max_attempts=7))
    database.run(partial(programs.deploy, program=changed))
    with ThreadPoolExecutor(1) as thread:
        result = thread.submit(client.execute, "qa", {"question": "?"}, timeout=30)
        (id,) = ids_of(database, 1)
        complete_all(database, [id])
        announce(backends, [id])
        assert result.result()["answer"] == str(id)
    assert client.get(id).version == changed.version


def test_what_is_announced_and_not_final_wakes_nobody(
    client: Client, database: Database, backends: Backends, reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    watches = listening(client, database)
    let_nobody_ask(client._session.driver, monkeypatch)
    submitted = client.submit("qa", {"question": "?"})
    reads.of.clear()
    with ThreadPoolExecutor(1) as threads:
        result = threads.submit(submitted.result, 30)
        wait_for(lambda: len(watches._watches) == 1, "it to wait")
        announce(backends, [submitted.id])
        wait_for(lambda: reads.of == [{submitted.id}], "the look-up")
        assert not result.done()
        complete_all(database, [submitted.id])
        announce(backends, [submitted.id])
        assert result.result()["answer"] == str(submitted.id)


def test_when_the_shared_read_fails_each_caller_looks_up_its_own(
    client: Client, database: Database, backends: Backends, monkeypatch: pytest.MonkeyPatch
) -> None:
    watches: Any = listening(client, database)
    monkeypatch.setattr("dspex.wait.hints.POLL_SECONDS", 3600.0)  # no poll saves them
    submitted = [client.submit("qa", {"question": str(number)}) for number in range(COUNT)]
    look_up, failed = watches._finals, []
    definition = database.run(lambda c: c.scalar(text("SELECT pg_get_functiondef('dspex.executions_by_id'::regproc)")))

    def fail(ids: Sequence[UUID]) -> Any:
        database.run(lambda c: c.execute(text("DROP FUNCTION dspex.executions_by_id(uuid[])")))
        try:
            return look_up(ids)
        except DBAPIError:
            failed.append(len(ids))
            raise
        finally:
            database.run(lambda c: c.exec_driver_sql(definition))

    monkeypatch.setattr(watches, "_finals", fail)
    with ThreadPoolExecutor(COUNT) as threads:
        results = [threads.submit(each.result, 30) for each in submitted]
        wait_for(lambda: len(watches._watches) == COUNT, "all to wait")
        ids = [each.id for each in submitted]
        complete_all(database, ids)
        announce(backends, ids)
        assert [each.result()["answer"] for each in results] == [str(id) for id in ids]
    assert failed == [COUNT]
