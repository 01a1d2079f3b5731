"""An exception that a signal handler raises while Postgres carries out a statement, as a soft time limit of Celery."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import psycopg
import pytest
from celery.exceptions import SoftTimeLimitExceeded

from dspex.client.client import Client
from dspex.store import programs
from dspex.store.database import Database
from dspex.store.sessions import libpq_url
from tests.store.test_executions import PROGRAM

QUESTION = {"question": "?"}


class Stopped(BaseException):
    """As KeyboardInterrupt."""


@contextmanager
def interrupted_by(error: type[BaseException], database: Database) -> Iterator[None]:
    """The table of executions is locked; once a statement waits for it, the error is raised in the main thread."""

    def interrupt(_signal: int, _frame: object) -> None:
        if not lock.execute("SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'").fetchone():
            signal.setitimer(signal.ITIMER_REAL, 0.02)
            return
        raise error

    with psycopg.connect(libpq_url(database.url)) as lock:
        lock.execute("LOCK TABLE dspex.executions IN ACCESS EXCLUSIVE MODE")
        before = signal.signal(signal.SIGALRM, interrupt)
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        try:
            with pytest.raises(error):
                yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)


CALLS: dict[str, Callable[[Client], Any]] = {
    "submit": lambda client: client.submit("qa", QUESTION),
    "execute": lambda client: client.execute("qa", QUESTION, timeout=60),
    "submit_many": lambda client: client.submit_many("qa", [QUESTION]),
    "list": lambda client: list(client.list(program="qa")),
}


@pytest.mark.parametrize("error", [SoftTimeLimitExceeded, Stopped])
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_what_ends_a_statement_reaches_the_caller_and_the_client_goes_on(
    client: Client, database: Database, call: Callable[[Client], Any], error: type[BaseException]
) -> None:
    database.run(partial(programs.deploy, program=PROGRAM))
    first = client.submit("qa", QUESTION)
    with interrupted_by(error, database):
        call(client)
    for _ in range(3):
        assert client.get(client.submit("qa", QUESTION).id).status == "queued"
        assert client.submit_many("qa", [QUESTION]).progress.total == 1
    assert client.get(first.id).id == first.id
