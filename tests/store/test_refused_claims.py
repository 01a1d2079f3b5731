"""An execution whose claim Postgres refuses: it is dispatched again, later each time, and named."""

from __future__ import annotations

import logging
from functools import partial
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import text

from dspex.settings import Backends
from dspex.store import programs
from dspex.store.database import Database
from tests.store.test_executions import PROGRAM, dispatch_due, register, submit
from tests.store.test_set_aside import forge_entry
from workers.attempt.ledger import Ledger

WAITS = text("""SELECT extract(epoch FROM run_at - now())::float8 FROM dspex.executions
    WHERE id = :id AND status = 'queued' AND dispatched_at IS NULL""")


async def test_a_claim_that_postgres_refuses_is_tried_later_each_time(
    backends: Backends, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    database.run(partial(programs.deploy, program=PROGRAM))
    worker_id = register(database)
    id = submit(database)
    forge_entry(database, id)
    ledger = Ledger(backends.database_url, backends.broker_url, lambda: worker_id)
    waits = []
    try:
        with caplog.at_level(logging.ERROR, "dspex.workers"):
            for _ in range(3):
                waits.append(await refused(ledger, database, id))
                database.run(lambda c: c.execute(text("UPDATE dspex.executions SET run_at = now()")))
                assert [row.id for row in dispatch_due(database)] == [id]
    finally:
        await ledger.close()
    assert [1 < wait / 2**number <= 2 for number, wait in enumerate(waits)] == [True] * 3
    assert [record.getMessage() for record in caplog.records if str(id) in record.getMessage()] == [
        f"{id}: Postgres refuses its claim, which is tried again, later each time: {WHY}; see `dspex audit verify`"
    ]
    assert ledger.trouble == f"Postgres refuses the claims of 1 executions, {id} among them: {WHY}"


WHY = "UniqueViolation (SQLSTATE 23505)"


async def refused(ledger: Ledger, database: Database, id: UUID) -> float:
    """Have the claim refused. Returns in how many seconds it is due then."""
    with pytest.raises(psycopg.errors.UniqueViolation) as caught:
        await ledger.claim(id)
    await ledger.postpone(id, caught.value)
    return float(database.run(lambda connection: connection.scalar(WAITS, {"id": id})) or 0.0)
