"""Postgres' clock is set forward or back: nothing is lost, taken from a living worker, or held up for long."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial
from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from dspex.store import programs, workers
from dspex.store.database import Database
from dspex.store.lifecycle.recovery import Overdue
from tests.store.test_control import execute
from tests.store.test_executions import PROGRAM, claim, recover, register, submit, take_back_unclaimed

HOUR = timedelta(hours=1)


@pytest.fixture(autouse=True)
def _deployed(database: Database) -> None:
    database.run(partial(programs.deploy, program=PROGRAM))


@pytest.fixture
def worker_id(database: Database) -> UUID:
    return register(database)


def step(database: Database, table: str, columns: str, by: str) -> None:
    """What a step of the clock does to the times that were stored before: they move the other way."""
    moved = ", ".join(f"{column} = {column} - interval '{by}'" for column in columns.split())
    execute(database, f"UPDATE dspex.{table} SET {moved}")


def alive(database: Database) -> list[bool]:
    return [row["live"] for row in database.run(workers.listing)]


def lead(database: Database, worker_id: UUID, silent: workers.Lead | None = None) -> workers.Lead:
    found = database.run(partial(workers.lead, duty="pump", worker_id=worker_id, seconds=2.0, silent=silent))
    assert found is not None
    return found


@pytest.mark.parametrize("by", ["1 hour", "-1 hour"], ids=["forward", "back"])
def test_a_worker_is_dead_by_what_the_leader_saw_and_not_by_the_clock(
    database: Database, worker_id: UUID, by: str
) -> None:
    (seen,) = database.run(workers.heartbeats)
    step(database, "workers", "heartbeat_at", by)
    assert database.run(partial(workers.declare_dead, silent=[seen])) == [], "another heartbeat than the one seen"
    assert alive(database) == [False], "there is no leader that knows better"
    lead(database, worker_id)
    assert alive(database) == [True]
    assert database.run(partial(workers.fleet, beating=[worker_id])).count == 1
    (seen,) = database.run(workers.heartbeats)
    assert database.run(partial(workers.declare_dead, silent=[seen])) == [worker_id]
    assert alive(database) == []


def test_an_attempt_is_overdue_only_by_time_that_the_leader_saw_pass(database: Database, worker_id: UUID) -> None:
    id = submit(database, timeout_seconds=60.0)
    claim(database, worker_id, id)
    step(database, "executions", "started_at deadline_at", "1 hour")
    now = datetime.now(UTC)
    assert recover(database, Overdue(10.0, watched_since=now, watched_seconds=69.0)) == []
    (taken,) = recover(database, Overdue(10.0, watched_since=now, watched_seconds=70.0))
    assert (taken.id, taken.expired) == (id, False)


def test_an_attempt_that_began_while_the_leader_watched_is_overdue_by_the_clock(
    database: Database, worker_id: UUID
) -> None:
    id = submit(database, timeout_seconds=60.0)
    claim(database, worker_id, id)
    step(database, "executions", "started_at deadline_at", "71 s")
    watched = Overdue(10.0, watched_since=datetime.now(UTC) - HOUR, watched_seconds=3600.0)
    assert [row.id for row in recover(database, watched)] == [id]


@pytest.mark.parametrize("by", ["1 hour", "-1 hour"], ids=["forward", "back"])
def test_the_lead_is_taken_from_a_leader_that_does_not_renew_it_and_from_no_other(
    database: Database, worker_id: UUID, by: str
) -> None:
    seen = lead(database, worker_id)
    other: UUID = uuid7()
    step(database, "leaderships", "expires_at", by)
    moved = lead(database, other)
    assert moved.worker_id == worker_id, "whatever the clock shows"
    assert lead(database, other, silent=seen).worker_id == worker_id, "it was renewed since"
    assert lead(database, other, silent=moved).worker_id == other
    assert lead(database, worker_id).worker_id == other


def test_what_was_dispatched_before_a_step_back_is_dispatched_again(database: Database) -> None:
    id = submit(database)
    assert take_back_unclaimed(database, 60.0) == []
    step(database, "executions", "dispatched_at", "-1 hour")
    assert take_back_unclaimed(database, 60.0) == [id]
