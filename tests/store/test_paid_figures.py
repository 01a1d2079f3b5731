"""The figures of executions that end without an attempt which counts their calls: they have what their journal has."""

from __future__ import annotations

from functools import partial
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from dspex.store import programs
from dspex.store.database import Database
from dspex.store.lifecycle import control, executions, parked
from dspex.store.lifecycle.executions import Settlement
from tests.store.test_control import row_of
from tests.store.test_executions import PROGRAM, claim, register, settle, submit, trail
from tests.store.test_parked import R, S, a_call, an_answer, answer, park, parked_execution

PAID = {"lm_calls": 1, "prompt_tokens": 10, "completion_tokens": 5, "cost_usd": 0.1, "unpriced_lm_calls": 0,
        "saved_usd": 0.1}  # fmt: skip


@pytest.fixture(autouse=True)
def _deployed(database: Database) -> None:
    database.run(partial(programs.deploy, program=PROGRAM))


@pytest.fixture
def worker_id(database: Database) -> UUID:
    return register(database)


def has_paid(database: Database, id: UUID, status: str, **others: Any) -> None:
    row = row_of(database, id)
    assert (row["status"], row["metrics"]) == (status, {**PAID, **others})
    assert trail(database, id).verify()


def cancel(database: Database, id: UUID) -> None:
    assert database.run(partial(control.cancel, ids=[id])).ended == [id]


def test_a_cancelled_execution_has_what_was_answered_while_it_waited(database: Database, worker_id: UUID) -> None:
    waiting = parked_execution(database, worker_id, a_call(R), a_call(S))
    assert answer(database, an_answer(waiting.id)) == []
    resumed = parked_execution(database, worker_id)
    assert answer(database, an_answer(resumed.id)) == [resumed.id]
    for id in (waiting.id, resumed.id):
        cancel(database, id)
        has_paid(database, id, "cancelled")


def test_an_execution_whose_time_ends_has_what_was_answered_while_it_waited(
    database: Database, worker_id: UUID
) -> None:
    (claimed,) = claim(database, worker_id, submit(database, timeout_seconds=0.01))
    assert park(database, claimed, a_call(R), a_call(S), expires=True) == "waiting"
    assert answer(database, an_answer(claimed.id)) == []
    database.run(lambda c: c.execute(text("SELECT pg_sleep(0.02)")))
    assert database.run(parked.expire) == [claimed.id]
    has_paid(database, claimed.id, "failed")


def test_an_attempt_that_cannot_say_what_it_paid_has_what_the_journal_has(database: Database, worker_id: UUID) -> None:
    waiting = parked_execution(database, worker_id)
    assert answer(database, an_answer(waiting.id)) == [waiting.id]
    database.run(lambda c: c.execute(text("UPDATE dspex.executions SET dispatched_at = now()")))
    (again,) = claim(database, worker_id, waiting.id)
    assert settle(database, again, "failed", metrics=None, error='{"code":"worker_failed"}')
    has_paid(database, waiting.id, "failed")


def test_a_cancel_keeps_the_figures_of_an_execution_without_calls(database: Database, worker_id: UUID) -> None:
    begun, new = submit(database), submit(database)
    (claimed,) = claim(database, worker_id, begun)
    made = Settlement(
        begun, claimed.attempt, worker_id, "queued", events='[{"kind":"retried"}]', metrics='{"cost_usd":0.5}',
        error='{"code":"timeout"}',
    )  # fmt: skip
    database.run(lambda c: c.exec_driver_sql(executions.SETTLE, executions.settle_parameters([made])).all())
    for id in (begun, new):
        cancel(database, id)
        assert trail(database, id).verify()
    assert (row_of(database, begun)["metrics"], row_of(database, new)["metrics"]) == ({"cost_usd": 0.5}, None)
