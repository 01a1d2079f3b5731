"""Submits of several callers in one statement and one message: each caller gets its own outcome."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any
from uuid import UUID

import pytest
import redis
from kombu import Connection as KombuConnection
from sqlalchemy import Connection
from uuid_utils.compat import uuid7

import dspex
from dspex.client.client import Client
from dspex.publish.broker import QUEUE, Broker, lane, queue_keys
from dspex.publish.envelope import unpack
from dspex.settings import Backends
from dspex.store import programs, workers
from dspex.store.database import Database
from tests.waiting import wait_for

QA = dspex.Program("qa", dspex.signature("question -> answer"), adapter="scripted")
OTHER = dspex.Program("other", dspex.signature("question -> answer"), adapter="scripted")
#: Has statements that store executions wait as long as ``held`` has a row.
HOLD = """
CREATE TABLE public.held AS SELECT 1;
CREATE FUNCTION public.hold() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    WHILE EXISTS (SELECT FROM public.held) LOOP PERFORM pg_sleep(0.02); END LOOP;
    RETURN NULL;
END $$;
CREATE TRIGGER hold BEFORE INSERT ON dspex.executions FOR EACH STATEMENT EXECUTE FUNCTION public.hold();
"""

Submit = Callable[[], Any]


@contextmanager
def stored_by_nobody(database: Database) -> Iterator[None]:
    """No execution is stored meanwhile."""
    database.run(lambda connection: connection.exec_driver_sql(HOLD))
    yield
    database.run(lambda connection: connection.exec_driver_sql("DELETE FROM public.held"))


def waits(connection: Connection, event: str) -> bool:
    found = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = %(event)s"
    return bool(connection.exec_driver_sql(found, {"event": event}).scalar_one())


def is_held(connection: Connection) -> bool:
    return waits(connection, "PgSleep")


def submitted_together(client: Client, database: Database, submits: Sequence[Submit]) -> list[Future[Any]]:
    """The outcomes of these submits, which gather while another submit is under way."""
    with ThreadPoolExecutor(len(submits) + 1) as threads:
        with stored_by_nobody(database):
            first = threads.submit(client.submit, "qa", {"question": "first"})
            wait_for(lambda: first.done() or database.run(is_held), "the first statement to be under way")
            assert not first.done(), first.exception()
            outcomes = [threads.submit(submit) for submit in submits]
            batcher: Any = client._session.connections.submit
            waiting = batcher.__self__._gathering._waiting
            wait_for(lambda: len(waiting) == len(submits), "the others to gather")
        first.result()
    return outcomes


def messages(backends: Backends) -> list[tuple[str, list[UUID]]]:
    """The program and the ids of each message in Redis, the most urgent lane first."""
    found = []
    with redis.Redis.from_url(backends.broker_url) as client:
        for key in queue_keys():
            for raw in reversed(client.lrange(key, 0, -1)):
                message = json.loads(raw)
                (envelope,), _, _ = json.loads(base64.b64decode(message["body"]))
                found.append((message["headers"]["shadow"].split()[1], unpack(envelope)))
    return found


def register_worker(database: Database, concurrency: int) -> None:
    options: dict[str, Any] = {"host": "h", "pid": 1, "version": "0", "concurrency": concurrency, "lease_seconds": 5}
    database.run(partial(workers.register, id=uuid7(), **options))


@pytest.fixture
def deployed(client: Client) -> Client:
    client.deploy(QA)
    client.deploy(OTHER)
    return client


def test_they_travel_together_by_program_and_urgency(deployed: Client, database: Database, backends: Backends) -> None:
    register_worker(database, 100)
    kinds: list[tuple[str, int]] = [("qa", 5)] * 6 + [("qa", 0), ("other", 5), ("other", 5)]
    submits = [partial(deployed.submit, name, {"question": "?"}, priority=priority) for name, priority in kinds]
    executions = [each.result() for each in submitted_together(deployed, database, submits)]
    stored = {
        (row["id"], row["program"], row["priority"]) for row in deployed._session.rows([e.id for e in executions])
    }
    assert stored == {(e.id, *kind) for e, kind in zip(executions, kinds, strict=True)}
    by_kind = {kind: {e.id for e, of in zip(executions, kinds, strict=True) if of == kind} for kind in kinds}
    urgent, *others = messages(backends)
    assert urgent == ("qa", [*by_kind["qa", 0]])
    # The message of the first submit is sent while the statement of the others is under way: before theirs, or after.
    assert sorted((name, len(ids)) for name, ids in others) == [("other", 2), ("qa", 1), ("qa", 6)]
    assert {*max((ids for name, ids in others if name == "qa"), key=len)} == by_kind["qa", 5]


def test_no_worker_receives_what_another_has_room_for(deployed: Client, database: Database, backends: Backends) -> None:
    for concurrency in (4, 12):
        register_worker(database, concurrency)
    submits = [partial(deployed.submit, "qa", {"question": "?"})] * 8
    for each in submitted_together(deployed, database, submits):
        each.result()
    assert sorted(len(ids) for _, ids in messages(backends)) == [1, 2, 2, 2, 2]


def test_each_gets_its_own_outcome(deployed: Client, database: Database) -> None:
    deployed.submit("qa", {"question": "1"}, idempotency_key="taken")
    changed = dspex.Program("other", dspex.signature("question -> reply"), adapter="scripted")
    database.run(partial(programs.deploy, program=changed))  # by another process
    submit = partial(deployed.submit, "qa")
    new, again, twice, conflict, stale, mismatch = submitted_together(
        deployed,
        database,
        [
            partial(submit, {"question": "new"}),
            partial(submit, {"question": "1"}, idempotency_key="taken"),
            partial(submit, {"question": "twice"}, idempotency_key="key"),
            partial(submit, {"question": "other inputs"}, idempotency_key="taken"),
            partial(deployed.submit, "other", {"question": "stale"}),
            partial(deployed.submit, OTHER, {"question": "stale"}),
        ],
    )
    assert new.result().inputs == {"question": "new"}
    assert again.result().id == deployed.submit("qa", {"question": "1"}, idempotency_key="taken").id
    assert twice.result().id == deployed.submit("qa", {"question": "twice"}, idempotency_key="key").id
    assert isinstance(conflict.exception(), dspex.IdempotencyConflict)
    assert stale.result().version == changed.version
    assert isinstance(mismatch.exception(), dspex.ProgramVersionMismatch)


def test_the_same_key_at_the_same_time_is_one_execution(deployed: Client, database: Database) -> None:
    submits = [partial(deployed.submit, "qa", {"question": "?"}, idempotency_key="key")] * 3
    assert len({each.result().id for each in submitted_together(deployed, database, submits)}) == 1
    assert len(deployed.list()) == 2


def test_what_postgres_refuses_for_one_is_stored_for_the_others(deployed: Client, database: Database) -> None:
    database.run(
        lambda connection: connection.exec_driver_sql(
            "ALTER TABLE dspex.executions ADD CONSTRAINT odd CHECK (inputs::text NOT LIKE '%%odd%%')"
        )
    )
    questions = ["a", "odd", "b"]
    outcomes = submitted_together(
        deployed, database, [partial(deployed.submit, "qa", {"question": text}) for text in questions]
    )
    assert [outcomes[n].result().inputs["question"] for n in (0, 2)] == ["a", "b"]
    assert outcomes[1].exception() is not None
    assert len(deployed.list()) == 3


def test_a_key_that_an_open_transaction_holds_delays_only_its_own_submit(deployed: Client, database: Database) -> None:
    with ThreadPoolExecutor(1) as thread:
        with database.transaction() as connection:
            mine = deployed.submit("qa", {"question": "?"}, idempotency_key="held", connection=connection)
            held = thread.submit(deployed.submit, "qa", {"question": "?"}, idempotency_key="held")
            wait_for(lambda: database.run(partial(waits, event="transactionid")), "it to wait for the key")
            for n in range(3):
                deployed.submit("qa", {"question": str(n)}, idempotency_key=str(n))
            assert not held.done()
        assert held.result().id == mine.id


@pytest.mark.parametrize(("fleet", "direct"), [([], 100), ([3], 3), ([100, 30], 130)], ids=str)
def test_only_so_many_of_a_program_are_not_left_to_the_pump(
    deployed: Client, database: Database, fleet: list[int], direct: int
) -> None:
    for concurrency in fleet:
        register_worker(database, concurrency)
    submits = [partial(deployed.submit, "qa", {"question": "?"})] * 70
    with ThreadPoolExecutor(70) as threads:
        for _ in range(2):
            for each in [threads.submit(submit) for submit in submits]:
                each.result()
    count = "SELECT count(*) FROM dspex.executions WHERE dispatched_at IS NOT NULL"
    assert database.run(lambda connection: connection.exec_driver_sql(count).scalar_one()) == direct


@pytest.mark.parametrize("priority", [0, 5, 9])
def test_a_message_is_what_kombu_would_write(backends: Backends, priority: int) -> None:
    broker, ids = Broker(backends.broker_url), [uuid7(), uuid7()]
    at = lane(priority, bulk=False)
    broker.publish(ids, program="qa", priority=priority)
    broker.close()
    with redis.Redis.from_url(backends.broker_url) as client:
        key = queue_keys()[at]
        ours = json.loads(client.rpop(key) or b"")
        body = json.loads(base64.b64decode(ours["body"]))
        options = {"priority_steps": range(8)}
        with KombuConnection(backends.broker_url, transport_options=options) as kombu:
            kombu.Producer().publish(
                body, serializer="json", exchange="", routing_key=QUEUE, headers=ours["headers"], priority=at,
                correlation_id=str(ids[0]),
            )  # fmt: skip
        theirs = json.loads(client.rpop(key) or b"")
    for message in (ours, theirs):
        message["properties"].pop("delivery_tag")
        message["body"] = json.loads(base64.b64decode(message["body"]))
    assert ours == theirs


async def test_tasks_share_as_threads_do(deployed: Client, database: Database, backends: Backends) -> None:
    register_worker(database, 200)
    async with dspex.AsyncClient(database_url=backends.database_url, broker_url=backends.broker_url) as client:
        await client.submit("qa", {"question": "to know the program"})
        held = stored_by_nobody(database)
        held.__enter__()
        tasks = [asyncio.create_task(client.submit("qa", {"question": "first"}))]
        await asyncio.to_thread(wait_for, lambda: database.run(is_held), "a statement to be under way")
        tasks += [asyncio.create_task(client.submit("qa", {"question": str(n)})) for n in range(19)]
        await asyncio.sleep(0)
        tasks[7].cancel()
        tasks.append(asyncio.create_task(client.submit("qa", {"question": "?"}, idempotency_key="k")))
        tasks.append(asyncio.create_task(client.submit("qa", {"question": "!"}, idempotency_key="k")))
        held.__exit__(None, None, None)
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(done[7], asyncio.CancelledError)
        assert sum(isinstance(each, dspex.IdempotencyConflict) for each in done) == 1
        ids = {each.id for each in done if isinstance(each, dspex.AsyncExecution)}
        assert len(ids) == 20
        listed = await client.list()
    assert {each.id for each in listed} > ids
    assert len(listed) == 1 + 20, "a submit that was cancelled while it waited is not stored"
    assert len(messages(backends)) <= 6
