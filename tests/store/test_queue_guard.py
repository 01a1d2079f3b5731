"""The leader of the pump empties a queue that holds far more messages than were dispatched, and no other queue."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from uuid import UUID

import pytest
import redis

from dspex.publish.broker import QUEUE, Broker, queue_depth
from dspex.settings import Backends
from dspex.store import programs
from dspex.store.database import Database
from tests.store.test_executions import PROGRAM, register, submit
from workers.process.leader.queue_guard import FLOOD_FACTOR, FLOOD_MESSAGES
from workers.process.pump import Pump


class Leader:
    """A pump that is run by hand, what it refuses, and its Redis."""

    def __init__(self, database: Database, url: str) -> None:
        own = register(database)
        database.run(partial(programs.deploy, program=PROGRAM))
        self.refused: list[str] = []
        self.broker = Broker(url, pool_size=1)
        self.redis = redis.Redis.from_url(url)
        self.pump = Pump(database, self.broker, lambda: own, refuse=self.refused.append)

    def flood(self, messages: int) -> None:
        self.redis.lpush(QUEUE, *["forged"] * messages)

    def close(self) -> None:
        self.pump.stop()
        self.broker.close()
        self.redis.close()


@pytest.fixture
def leader(database: Database, backends: Backends) -> Iterator[Leader]:
    made = Leader(database, backends.broker_url)
    yield made
    made.close()


def dispatched(database: Database, leader: Leader, count: int) -> list[UUID]:
    """So many executions, each with its message."""
    ids = [submit(database) for _ in range(count)]
    for id in ids:
        leader.broker.publish([id], program="qa", priority=5)
    return ids


def test_a_flood_is_removed_and_what_was_dispatched_is_dispatched_again(database: Database, leader: Leader) -> None:
    dispatched(database, leader, 3)
    leader.flood(FLOOD_MESSAGES + FLOOD_FACTOR * 4)
    leader.pump.run_once()
    assert leader.refused == ["flood"]
    with leader.redis as client:
        assert 1 <= queue_depth(client) <= 3
        assert b"forged" not in client.lrange(QUEUE, 0, -1)


def test_messages_of_what_was_dispatched_are_no_flood(database: Database, leader: Leader) -> None:
    dispatched(database, leader, 3)
    leader.flood(FLOOD_MESSAGES + FLOOD_FACTOR - 1)
    before = queue_depth(leader.redis)
    leader.pump.run_once()
    assert leader.refused == []
    assert queue_depth(leader.redis) == before
