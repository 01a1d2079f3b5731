"""Schedules: each due time is submitted once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlalchemy import text

import dspex
from dspex.client.client import Client
from dspex.client.recurring.schedule import MOST_AT_ONCE
from dspex.errors import ProgramNotFound, ValidationError
from dspex.settings import Backends
from dspex.store.database import Database

QA = dspex.Program("qa", dspex.signature("question -> answer"), adapter="scripted")


@pytest.fixture
def deployed(client: Client) -> Client:
    client.deploy(QA)
    return client


def make_due(database: Database, ago: timedelta = timedelta(seconds=1)) -> None:
    with database.transaction() as connection:
        connection.execute(text("UPDATE dspex.schedules SET next_at = clock_timestamp() - :ago"), {"ago": ago})


def test_a_due_time_is_submitted_once_by_any_number_of_gateways(
    deployed: Client, backends: Backends, database: Database
) -> None:
    made = deployed.schedule("nightly", program="qa", inputs={"question": "?"}, cron="0 7 * * *", tenant="acme")
    assert deployed._schedules.fire_due() == 0
    make_due(database)
    others = [Client(database_url=backends.database_url, broker_url=backends.broker_url) for _ in range(4)]
    with ThreadPoolExecutor(len(others)) as threads:
        fired = list(threads.map(lambda other: other._schedules.fire_due(), others))
    for other in others:
        other.close()
    assert sum(fired) == 1
    (execution,) = deployed.list(tenant="acme")
    (after,) = deployed.schedules()
    assert (after.last_execution_id, after.next_at, after.error) == (execution.id, made.next_at, None)
    assert execution.audit_trail.verify()


@pytest.mark.parametrize(("missed", "count"), [("run_once", 1), ("skip", 0)])
def test_due_times_that_were_missed(deployed: Client, database: Database, missed: str, count: int) -> None:
    deployed.schedule("hourly", program="qa", inputs={"question": "?"}, cron="0 * * * *", missed=missed)
    make_due(database, timedelta(hours=5))
    assert deployed._schedules.fire_due() == count
    assert deployed._schedules.fire_due() == 0
    (after,) = deployed.schedules()
    assert (after.error is None) == (missed == "run_once")


def test_a_schedule_that_no_longer_fits_its_program_says_so_and_stops_no_other(
    deployed: Client, database: Database
) -> None:
    deployed.deploy(dspex.Program("other", dspex.signature("question -> answer"), adapter="scripted"))
    deployed.schedule("a", program="other", inputs={"question": "?"}, cron="* * * * *")
    deployed.schedule("b", program="qa", inputs={"question": "?"}, cron="* * * * *")
    deployed.deploy(dspex.Program("other", dspex.signature("ticket -> answer"), adapter="scripted"))
    make_due(database)
    assert deployed._schedules.fire_due() == 1
    a, b = deployed.schedules()
    assert a.error is not None
    assert "ticket" in a.error
    assert (b.error, b.last_execution_id is None) == (None, False)


def test_a_time_zone_that_one_host_does_not_know_stops_no_other_schedule(
    deployed: Client, backends: Backends, database: Database
) -> None:
    for number in range(MOST_AT_ONCE):
        deployed.schedule(
            f"far{number}", program="qa", inputs={"question": "?"}, cron="* * * * *", timezone="Asia/Tokyo"
        )
    deployed.schedule("near", program="qa", inputs={"question": "?"}, cron="* * * * *")
    make_due(database)
    newer = "UPDATE dspex.schedules SET timezone = :zone, next_at = next_at - interval '1 s' WHERE name LIKE 'far%'"
    with database.transaction() as connection:  # a newer release of the data of time zones has it
        connection.execute(text(newer), {"zone": "Europe/Newtown"})
    assert [deployed._schedules.fire_due() for _ in range(2)] == [0, 1]
    *far, near = deployed.schedules()
    assert (near.error, near.last_execution_id is None) == (None, False)
    assert {each.last_execution_id for each in far} == {None}
    assert all(each.error is not None and "Europe/Newtown" in each.error for each in far)
    with database.transaction() as connection:
        connection.execute(text("UPDATE dspex.schedules SET timezone = :zone WHERE name LIKE 'far%'"), {"zone": "UTC"})
    with Client(database_url=backends.database_url, broker_url=backends.broker_url) as other:
        assert other._schedules.fire_due() == MOST_AT_ONCE
    assert all(each.error is None for each in deployed.schedules())


def test_a_schedule_is_replaced_and_removed(deployed: Client) -> None:
    first = deployed.schedule("s", program="qa", inputs={"question": "1"}, cron="0 7 * * *", timezone="Europe/Berlin")
    second = deployed.schedule("s", program="qa", inputs={"question": "2"}, cron="0 7 * * *", timezone="Europe/Berlin")
    assert (first.next_at, second.inputs) == (second.next_at, {"question": "2"})
    assert len(deployed.schedules()) == 1
    assert (deployed.unschedule("s"), deployed.unschedule("s")) == (True, False)


def test_every_fault_of_a_schedule_is_named(deployed: Client) -> None:
    with pytest.raises(ValidationError) as found:
        deployed.schedule("a b", program="qa", inputs={"question": "?"}, cron="0 7", timezone="Mars", missed="later")
    assert {fault.path for fault in found.value.errors} == {"name", "cron", "timezone", "missed"}
    with pytest.raises(ValidationError, match="question"):
        deployed.schedule("s", program="qa", inputs={}, cron="0 7 * * *")
    with pytest.raises(ProgramNotFound):
        deployed.schedule("s", program="qb", inputs={}, cron="0 7 * * *")
