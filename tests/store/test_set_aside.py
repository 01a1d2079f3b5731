"""One row that Postgres refuses to change delays no other, and one duty of the pump that fails no other."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from functools import partial
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text
from uuid_utils.compat import uuid7

from dspex.publish.broker import Broker
from dspex.sealing.keyring import Keyring
from dspex.sealing.rotation import rotate
from dspex.sealing.values import SEALED
from dspex.settings import Backends
from dspex.store import programs, workers
from dspex.store.database import Database
from dspex.store.operations import health
from tests.store.test_control import execute
from tests.store.test_executions import PROGRAM, claim, register, status, submit, trail, triggers
from workers.process.pump import Pump


@pytest.fixture(autouse=True)
def _deployed(database: Database) -> None:
    database.run(partial(programs.deploy, program=PROGRAM))


@pytest.fixture
def pump(database: Database, backends: Backends) -> Iterator[Pump]:
    """The pump of a live worker, which is run by hand."""
    own = register(database)
    broker = Broker(backends.broker_url, pool_size=1)
    made = Pump(database, broker, lambda: own, refuse=lambda reason: None)
    yield made
    made.stop()
    broker.close()


def forge_entry(database: Database, id: UUID) -> None:
    """An entry where the next one of the trail belongs: nothing that needs one can happen to the execution."""
    with database.transaction() as connection:
        triggers(connection, "audit_events", "DISABLE")
        connection.execute(
            text("""INSERT INTO dspex.audit_events (execution_id, seq, attempt, at, events, hash)
                    SELECT execution_id, max(seq) + 1, 1, now(), '[]', '' FROM dspex.audit_events
                    WHERE execution_id = :id GROUP BY execution_id"""),
            {"id": id},
        )
        triggers(connection, "audit_events", "ENABLE")


def refuse_changes(database: Database, id: UUID) -> None:
    """Any change of this row fails, as one of a damaged page does."""
    execute(database, """
        CREATE FUNCTION dspex.refuse_change() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'this row is damaged'; END $$""")  # fmt: skip
    execute(database, "CREATE TRIGGER refused BEFORE UPDATE ON dspex.executions FOR EACH ROW "
                      f"WHEN (OLD.id = '{id}') EXECUTE FUNCTION dspex.refuse_change()")  # fmt: skip


def trouble(database: Database) -> Any:
    leader = database.run(partial(health.leader, duty="pump"))
    assert leader is not None
    return leader["trouble"]


def test_an_execution_that_cannot_be_recovered_delays_neither_recovery_nor_dispatch(
    database: Database, pump: Pump
) -> None:
    dead = register(database)
    ids = [submit(database) for _ in range(7)]
    claim(database, dead, *ids)
    forge_entry(database, bad := ids[3])
    waiting = submit(database, publish=False)
    database.run(partial(workers.stop, id=dead))
    pump.run_once()
    assert {id: status(database, id) for id in ids} == {id: "running" if id == bad else "queued" for id in ids}
    dispatched = "SELECT id FROM dspex.executions WHERE dispatched_at IS NOT NULL AND status = 'queued'"
    found = database.run(lambda connection: set(connection.scalars(text(dispatched))))
    assert found == {*ids, waiting} - {bad}, "in the same round"
    pump.run_once()
    reported = trouble(database)
    assert reported["set_aside"] == 1
    assert reported["executions"][str(bad)].startswith("recover: UniqueViolation: duplicate key")
    assert not trail(database, bad).verify()


def test_an_execution_that_was_set_aside_is_recovered_once_that_is_possible(
    database: Database, pump: Pump, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead, id = register(database), submit(database)
    claim(database, dead, id)
    refuse_changes(database, id)
    database.run(partial(workers.stop, id=dead))
    monkeypatch.setattr("workers.process.leader.duties.ASIDE_SECONDS", 0.0)
    monkeypatch.setattr("workers.process.leader.observation.LOOK_SECONDS", 0.0)
    pump.run_once()
    assert status(database, id) == "running"
    execute(database, "DROP TRIGGER refused ON dspex.executions")
    pump.run_once()
    assert status(database, id) == "queued"
    pump.run_once()
    assert trouble(database) is None


def test_an_execution_that_cannot_be_dispatched_delays_no_other(database: Database, pump: Pump) -> None:
    ids = [submit(database, publish=False) for _ in range(5)]
    refuse_changes(database, bad := ids[0])
    pump.run_once()
    dispatched = "SELECT count(*) FROM dspex.executions WHERE dispatched_at IS NOT NULL"
    assert database.run(lambda connection: connection.scalar(text(dispatched))) == 4
    pump.run_once()
    assert list(trouble(database)["executions"]) == [str(bad)]


def test_a_duty_that_fails_delays_no_other_and_is_reported(database: Database, pump: Pump) -> None:
    execute(database, "ALTER TABLE dspex.budget_reservations RENAME TO elsewhere")
    id = submit(database, publish=False)
    pump.run_once()
    found = database.run(
        lambda c: c.scalar(text("SELECT dispatched_at FROM dspex.executions WHERE id = :id"), {"id": id})
    )
    assert found is not None
    pump.run_once()
    # Both read the table; the others go on.
    assert set(trouble(database)["duties"]) == {"budgets", "parked"}


def test_a_row_that_cannot_be_sealed_again_is_named_and_the_others_are_sealed(database: Database) -> None:
    old, new = os.urandom(32), os.urandom(32)
    before = Keyring([old])
    ids = sorted(uuid7() for _ in range(5))
    for id in ids:
        submit(database, id=id, inputs=json.dumps({SEALED: before.seal(b"{}", f"{id}:inputs")}))
    refuse_changes(database, bad := ids[1])
    done = rotate(database, Keyring([new, old]))
    assert (done.rows, done.unreadable) == (4, 1)
    assert done.why == [f"execution '{bad}': Postgres refuses the change: RaiseException: this row is damaged"]
