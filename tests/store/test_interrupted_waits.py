"""A wait that is interrupted anywhere as it begins leaves a client that can wait, and be closed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

import dspex
from dspex.client.client import Client
from dspex.settings import Backends
from dspex.store import programs
from dspex.store.database import Database
from tests.interrupts import Interrupt, Interrupted
from tests.store.test_executions import PROGRAM
from tests.waiting import wait_for

#: More than there are.
POINTS = 300


def test_an_interrupted_wait_leaves_a_client_that_can_wait(
    backends: Backends, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    database.run(partial(programs.deploy, program=PROGRAM))
    monkeypatch.setattr("dspex.wait.hints.POLL_SECONDS", 3600.0)  # no poll finds the result
    for at in range(1, POINTS):
        interrupt = Interrupt(at, Interrupted, ("hints.py",))
        with Client(database_url=backends.database_url, broker_url=backends.broker_url) as client:
            submitted = client.submit("qa", {"question": "?"})
            watches = client._session.connections.waiter
            wait_and_be_interrupted(submitted, interrupt)
            with ThreadPoolExecutor(1) as thread:
                result = thread.submit(submitted.result, 30)
                wait_for(lambda: watches._subscribed, "the client to listen")  # noqa: B023
                client.cancel(submitted.id)
                assert isinstance(result.exception(), dspex.ExecutionCancelled)
        if not interrupt.was_raised:
            break
    assert 20 < at < POINTS - 1, "each point was one at which it was interrupted"


def wait_and_be_interrupted(submitted: dspex.Execution, interrupt: Interrupt) -> None:
    try:
        with interrupt.armed():
            submitted.result(0.01)
    except (Interrupted, dspex.ExecutionTimedOut):
        return
