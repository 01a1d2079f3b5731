"""kombu's Redis transport as workers use it: what ends a worker there does not here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from kombu import Connection, Queue

from dspex.settings import Backends
from workers.consume.redis_transport import register

QUEUE = Queue("work")


@pytest.fixture
def connection(backends: Backends) -> Iterator[Any]:
    register()
    with Connection(backends.broker_url) as opened:
        yield opened


def received(connection: Any, body: str) -> Any:
    channel = connection.channel()
    bound = QUEUE(channel)
    bound.declare()
    connection.Producer(channel).publish(body, routing_key="work")
    message = bound.get()
    assert message is not None
    return message


@pytest.mark.parametrize("answer", ["ack", "reject", "requeue"])
def test_an_answer_to_a_message_of_a_connection_that_is_gone_is_dropped(connection: Any, answer: str) -> None:
    message = received(connection, "late")
    message.channel.close()
    message.channel._disconnect_pools()  # as kombu does once it noticed that the connection is lost
    getattr(message, answer)()


def test_a_message_that_is_given_back_comes_again(connection: Any) -> None:
    message = received(connection, "again")
    message.requeue()
    assert QUEUE(message.channel).get().payload == "again"


def test_what_was_received_is_in_redis_no_longer(connection: Any) -> None:
    message = received(connection, "once")
    with message.channel._create_client() as client:
        assert not [key for key in client.scan_iter() if not key.startswith(b"_kombu.")]
        message.channel.close()
        assert not client.exists("work", "unacked")
        client.connection_pool.disconnect()


def test_closing_when_redis_refuses_is_no_error(connection: Any) -> None:
    message = received(connection, "unfinished")
    message.channel.connection.client.hostname = "127.0.0.1"
    message.channel.connection.client.port = 1
    message.channel._disconnect_pools()
    message.channel.close()
