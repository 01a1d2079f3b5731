"""The message that executions are final: it leaves before the worker goes on with them."""

from __future__ import annotations

import socket
from functools import partial
from uuid import UUID

import pytest
import redis

from dspex.publish.channels import DONE_CHANNEL
from dspex.publish.redis_clients import async_client
from dspex.settings import Backends
from dspex.store import programs
from dspex.store.database import Database
from dspex.store.lifecycle.executions import Settlement
from dspex.store.lifecycle.status import Status
from tests.recording import until
from tests.store.test_executions import PROGRAM, claim, register, submit
from workers.attempt.ledger import Ledger

COMPLETED = '[{"kind":"completed"}]'


async def settled(ledger: Ledger, database: Database, worker_id: UUID) -> UUID:
    """An execution that completes now."""
    (claimed,) = claim(database, worker_id, submit(database))
    settlement = Settlement(claimed.id, claimed.attempt, worker_id, "completed", COMPLETED, "{}", result="{}")
    assert await ledger.settle(settlement) is Status.COMPLETED
    return claimed.id


async def test_the_message_has_left_when_the_settlement_is_known(backends: Backends, database: Database) -> None:
    """Whatever the loop does then for the executions does not delay those who wait for them."""
    database.run(partial(programs.deploy, program=PROGRAM))
    worker_id = register(database)
    ledger = Ledger(backends.database_url, backends.broker_url, lambda: worker_id)
    with redis.Redis.from_url(backends.broker_url) as client, client.pubsub() as listener:
        listener.subscribe(DONE_CHANNEL)
        assert listener.get_message(timeout=5)
        try:
            await settled(ledger, database, worker_id)
            await until(lambda: listener.get_message() is not None)  # it opened the connection to Redis
            id = await settled(ledger, database, worker_id)
            message = listener.get_message(timeout=2)  # blocks the loop: what has not left by now does not come
            assert message is not None
            assert message["data"].decode() == str(id)
        finally:
            await ledger.close()


async def test_a_command_ends_when_redis_does_not_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        client = async_client(f"redis://127.0.0.1:{silent.getsockname()[1]}", seconds=0.2)
        with pytest.raises(redis.TimeoutError, match=r"no answer within 0\.2 s"):
            await client.publish(DONE_CHANNEL, "")
        await client.aclose()


async def test_an_answer_that_comes_too_late_is_not_the_next_commands(backends: Backends) -> None:
    client = async_client(backends.broker_url, seconds=0.2)
    with pytest.raises(redis.TimeoutError):
        await client.blpop(["nothing"], timeout=1)
    assert await client.echo("its own") == b"its own"
    await client.aclose()
