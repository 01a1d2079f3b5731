"""A settlement whose answer is lost with the connection: it is sent again, and found to be stored."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import partial

import pytest
from sqlalchemy import text

from dspex.settings import Backends
from dspex.store import programs
from dspex.store.database import Database
from dspex.store.lifecycle.executions import Settlement
from dspex.store.lifecycle.status import Status
from tests.chaos.proxy import Proxy
from tests.recording import until
from tests.store.test_executions import PROGRAM, claim, register, submit
from workers.attempt.ledger import Ledger

#: Settlements that wait for the lock of the test.
WAITING = text("""SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = 'dspex worker settle' AND wait_event_type = 'Lock'""")


@pytest.fixture
def link(backends: Backends) -> Iterator[Proxy]:
    with Proxy(backends.database_url) as proxy:
        yield proxy


@pytest.mark.parametrize(
    ("asked", "requested", "status"),
    [("completed", False, Status.COMPLETED), ("queued", False, Status.QUEUED), ("queued", True, Status.CANCELLED)],
)
async def test_a_settlement_whose_answer_is_lost_was_no_lost_lease(
    backends: Backends, database: Database, link: Proxy, asked: str, requested: bool, status: Status
) -> None:
    database.run(partial(programs.deploy, program=PROGRAM))
    worker_id = register(database)
    id = submit(database)
    (claimed,) = claim(database, worker_id, id)
    if requested:
        database.run(lambda c: c.execute(text("UPDATE dspex.executions SET cancel_requested_at = now()")))
    kind = "retried" if asked == "queued" else asked
    settlement = Settlement(id, claimed.attempt, worker_id, asked, f'[{{"kind":"{kind}"}}]', "{}")
    ledger = Ledger(link.url, backends.broker_url, lambda: worker_id)

    def waits(count: int) -> bool:
        return bool(database.run(lambda connection: connection.scalar(WAITING)) == count)

    try:
        with database.engine.begin() as holder:
            holder.execute(text("SELECT FROM dspex.executions FOR UPDATE"))
            settling = asyncio.create_task(ledger.settle(settlement))
            await until(lambda: waits(1))
            link.cut()
            link.restore()
            await until(lambda: waits(2))
        assert await settling is status
    finally:
        await ledger.close()
