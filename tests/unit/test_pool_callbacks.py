"""The pool's calls of Celery's callbacks, on kombu's own hub."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Callable
from uuid import uuid4

import pytest
from kombu.asynchronous import Hub

from dspex.publish.broker import TASK
from dspex.publish.envelope import pack
from dspex.store.lifecycle.status import Status
from workers.attempt.executor import OnEnd, OnStart, Outcome, Received
from workers.consume.message import ENDED_SECONDS
from workers.pool import AsyncioPool


class Instant(AsyncioPool):
    """Its executions are over at once: what is tested is what the pool then tells Celery."""

    def submit(self, received: Received, on_start: OnStart, on_end: OnEnd) -> None:
        for id in received.ids:
            on_start(id)
            on_end(id, Outcome(Status.COMPLETED))


class Slow(AsyncioPool):
    """Its executions begin, and do not end."""

    def submit(self, received: Received, on_start: OnStart, on_end: OnEnd) -> None:
        for id in received.ids:
            on_start(id)


class Listened:
    """Celery's event dispatcher while Flower listens."""

    enabled, groups = True, None

    def __init__(self) -> None:
        self.sent: list[str] = []

    def send(self, event: str, **_: object) -> None:
        self.sent.append(event)


def apply(
    pool: AsyncioPool, accept_callback: Callable[..., None], callback: Callable[..., None] = lambda *_: None
) -> None:
    """Have the pool run a message with two executions."""
    ids = [uuid4(), uuid4()]
    target: tuple[str, str, dict[str, str], str, str] = (
        TASK,
        str(ids[0]),
        {},
        json.dumps([[pack(ids)], {}, {}]),
        "application/json",
    )
    pool.on_apply(fail, target, callback=callback, accept_callback=accept_callback)


def fail(*_: object) -> None:
    raise ValueError("a callback's own fault")


async def test_callbacks_that_fail_are_logged_and_the_next_message_is_as_any(caplog: pytest.LogCaptureFixture) -> None:
    pool, hub, done = Instant(limit=2), Hub(), list[str]()
    pool.register_with_event_loop(hub)

    def told(what: str) -> Callable[..., None]:
        return lambda *_: done.append(what)

    apply(pool, told("first started"), told("first completed"))
    apply(pool, fail, fail)
    apply(pool, told("third started"), told("third completed"))
    assert pool._timer is not None
    assert pool._timer.when() <= asyncio.get_running_loop().time() + ENDED_SECONDS  # no longer that of a start alone
    with caplog.at_level(logging.ERROR):
        while len(done) < 4:
            await asyncio.to_thread(hub.run_once)
    assert done == ["first started", "first completed", "third started", "third completed"]
    assert caplog.text.count("ValueError: a callback's own fault") == 2
    hub.close()


async def test_celery_learns_that_a_message_was_accepted_although_its_executions_go_on() -> None:
    pool, hub, accepted = Slow(limit=2), Hub(), list[int]()
    pool.register_with_event_loop(hub)
    apply(pool, lambda pid, _at: accepted.append(pid))
    assert not hub._ready  # it is not woken for it at once
    while not accepted:
        await asyncio.to_thread(hub.run_once)
    assert accepted == [os.getpid()]
    hub.close()


async def test_while_flower_listens_celery_learns_it_at_once() -> None:
    pool, hub, accepted = Slow(limit=2), Hub(), list[int]()
    pool.register_with_event_loop(hub)
    pool.events = Listened()
    apply(pool, lambda pid, _at: accepted.append(pid))
    assert hub._ready
    hub.run_once()
    assert accepted == [os.getpid()]
    assert pool.events.sent == ["task-received", "task-started"]  # of the second: Celery sends the first one's
    hub.close()
