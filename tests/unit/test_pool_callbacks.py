"""A callback of Celery's that fails takes neither the pool nor other messages with it: on kombu's own hub."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from uuid import uuid4

import pytest
from kombu.asynchronous import Hub

from dspex.publish.broker import TASK
from dspex.publish.envelope import pack
from dspex.store.lifecycle.status import Status
from workers.attempt.executor import OnEnd, OnStart, Outcome, Received
from workers.pool import AsyncioPool


class Instant(AsyncioPool):
    """Its executions are over at once: what is tested is what the pool then tells Celery."""

    def submit(self, received: Received, on_start: OnStart, on_end: OnEnd) -> None:
        for id in received.ids:
            on_start(id)
            on_end(id, Outcome(Status.COMPLETED))


def test_callbacks_that_fail_are_logged_and_the_next_message_is_as_any(caplog: pytest.LogCaptureFixture) -> None:
    pool, hub, done = Instant(limit=2), Hub(), list[str]()
    pool.register_with_event_loop(hub)

    def fail(*_: object) -> None:
        raise ValueError("a callback's own fault")

    def apply(accept_callback: Callable[..., None], callback: Callable[..., None]) -> None:
        ids = [uuid4(), uuid4()]
        body = json.dumps([[pack(ids)], {}, {}])
        target: tuple[str, str, dict[str, str], str, str] = (TASK, str(ids[0]), {}, body, "application/json")
        pool.on_apply(fail, target, callback=callback, accept_callback=accept_callback)

    def told(what: str) -> Callable[..., None]:
        return lambda *_: done.append(what)

    apply(told("first started"), told("first completed"))
    apply(fail, fail)
    apply(told("third started"), told("third completed"))
    with caplog.at_level(logging.ERROR):
        hub.run_once()
    assert done == ["first started", "first completed", "third started", "third completed"]
    assert caplog.text.count("ValueError: a callback's own fault") == 2
    hub.close()
