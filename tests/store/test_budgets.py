"""Budgets: reserved exactly, settled once, charged in full when a worker dies."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any
from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

import dspex
from dspex.store import programs, workers
from dspex.store.database import Database
from dspex.store.improvement import program_changes
from dspex.store.lifecycle import budgets
from dspex.store.lifecycle.budgets import Budget, Reservation
from tests.store.test_executions import PROGRAM, register


@pytest.fixture(autouse=True)
def _deployed(database: Database) -> None:
    deploy(database, 1.0)


def deploy(database: Database, usd: float | None) -> None:
    limits = dspex.Limits(max_cost_usd=usd)
    program = dspex.Program("dear", PROGRAM.signature, adapter="scripted", limits=limits)
    database.run(partial(programs.deploy, program=program))


def reserve(database: Database, worker_id: UUID, *usds: float) -> list[tuple[UUID, bool, bool]]:
    """For each: its id, whether it was granted, whether the budget is spent."""
    made = [Reservation(uuid7(), "dear", usd) for usd in usds]

    def work(connection: Any) -> list[tuple[UUID, bool, bool]]:
        rows = connection.exec_driver_sql(budgets.RESERVE, budgets.reserve_parameters(made, worker_id)).all()
        found = {row[0]: (row[0], row[1], row[2]) for row in rows}
        return [found[r.id] for r in made]

    return database.run(work)


def settle(database: Database, ended: dict[UUID, float | None]) -> None:
    parameters = budgets.settle_parameters(list(ended.items()))
    database.run(lambda connection: connection.exec_driver_sql(budgets.SETTLE, parameters))


def budget(database: Database) -> Budget:
    found = database.run(partial(budgets.find, program="dear"))
    assert found is not None
    return found


def spent_and_reserved(database: Database) -> tuple[float, float]:
    found = budget(database)
    return found.spent_usd, found.reserved_usd


def test_a_call_is_reserved_before_and_settled_after_once(database: Database) -> None:
    worker_id = register(database)
    (first, granted, _), (second, _, _) = reserve(database, worker_id, 0.4, 0.2)
    assert granted
    assert spent_and_reserved(database) == pytest.approx((0.0, 0.6))
    settle(database, {first: 0.1, second: None})
    settle(database, {first: 0.1, second: None})
    assert spent_and_reserved(database) == pytest.approx((0.3, 0.0)), "NULL: what was reserved"


def test_whole_dollars_and_parts_are_taken_together(database: Database) -> None:
    (first, _, _), (second, _, _) = reserve(database, register(database), 0, 0.25)
    settle(database, {first: 0, second: 0.125})
    assert spent_and_reserved(database) == pytest.approx((0.125, 0.0))


def test_what_calls_under_way_may_cost_is_not_given_twice_but_pauses_nothing(database: Database) -> None:
    worker_id = register(database)
    answers = reserve(database, worker_id, 0.5, 0.4, 0.4, 0.1)
    assert [(granted, exhausted) for _, granted, exhausted in answers] == [
        (True, False), (True, False), (False, False), (False, False),
    ]  # fmt: skip
    assert database.run(programs.paused) == {}
    settle(database, dict.fromkeys([id for id, granted, _ in answers if granted], 0.35))
    assert [granted for _, granted, _ in reserve(database, worker_id, 0.3)] == [True]


def test_a_call_that_does_not_fit_what_is_left_pauses_the_program(database: Database) -> None:
    worker_id = register(database)
    settle(database, {reserve(database, worker_id, 0.95)[0][0]: 0.95})
    assert reserve(database, worker_id, 0.1)[0][1:] == (False, True)
    reason = "its budget of $1 is spent: $0.95 so far, and the next call may cost up to $0.1"
    assert database.run(programs.paused) == {"dear": reason}
    changes = database.run(partial(program_changes.listing, program="dear"))
    assert [(each.kind, each.about) for each in changes if each.kind == "paused"] == [("paused", reason)]
    deploy(database, 2.0)
    assert database.run(programs.paused) == {"dear": reason}, "deploying does not end a pause"
    assert reserve(database, worker_id, 0.1)[0][1]
    deploy(database, None)
    assert reserve(database, worker_id, 100.0)[0][1], "the limit in force is that of the current version"


def test_forty_reservations_at_once_are_exact(database: Database) -> None:
    worker_id = register(database)
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: reserve(database, worker_id, 0.03, 0.03), range(20)))
    assert sum(granted for pair in answers for _, granted, _ in pair) == 33
    assert budget(database).reserved_usd == pytest.approx(0.99)


def test_what_a_dead_worker_had_reserved_is_charged_once(database: Database) -> None:
    doomed, other = register(database), register(database)
    ((id, _, _),) = reserve(database, doomed, 0.4)
    reserve(database, other, 0.1)
    database.run(budgets.charge_the_dead)
    assert budget(database).spent_usd == 0
    database.run(partial(workers.stop, id=doomed))
    for _ in range(2):
        database.run(budgets.charge_the_dead)
    settle(database, {id: 0.1})  # it was only paused, and comes back
    assert spent_and_reserved(database) == pytest.approx((0.4, 0.1))
