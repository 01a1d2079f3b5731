"""What a worker does while Postgres does not get on with its settlements."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import cast

from sqlalchemy import Connection, text

import dspex
from dspex.client.client import Client
from dspex.store import workers
from dspex.store.database import Database
from tests.waiting import wait_for

CONCURRENCY = 2
#: Those in a slot, with the one of the reserve, and as many as there are slots that wait to be settled.
MOST = 2 * CONCURRENCY + 1


def is_blocked(connection: Connection) -> bool:
    waiting = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    return bool(connection.scalar(text(f"SELECT EXISTS ({waiting})")))


def heartbeat(database: Database) -> datetime:
    (worker,) = database.run(workers.listing)
    return cast("datetime", worker["heartbeat_at"])


def test_the_next_are_claimed_while_the_last_are_settled_but_not_without_bound(
    client: Client, database: Database, start_worker: Callable[..., object]
) -> None:
    client.deploy(dspex.Program("quick", dspex.signature("question -> answer"), adapter="scripted"))
    client.deploy(
        dspex.Program(
            "slow",
            dspex.signature("question -> answer"),
            adapter="scripted",
            module_options={"sleep_ms": 500},
        )
    )
    start_worker(DSPEX_WORKER_CONCURRENCY=CONCURRENCY, DSPEX_LEASE_SECONDS=3)
    first = client.submit("slow", {"question": "?"})
    wait_for(lambda: first.refresh().status is dspex.Status.RUNNING, "the first to run")
    with database.transaction() as connection:
        connection.execute(text("SELECT FROM dspex.executions WHERE id = :id FOR UPDATE"), {"id": first.id})
        wait_for(lambda: database.run(is_blocked), "its settlement to wait for this lock; the others wait behind it")
        batch = client.submit_many("quick", ({"question": str(number)} for number in range(30)))
        wait_for(lambda: batch.progress.running > CONCURRENCY, "more to be claimed than there are slots")
        seen = heartbeat(database)
        wait_for(lambda: heartbeat(database) > seen, "a worker that claims without bound to have had the time for it")
        unlocked_at = connection.scalar(text("SELECT clock_timestamp()"))
    wait_for(lambda: batch.progress.completed == 30, "all of them")
    claimed = text("SELECT count(*) FROM dspex.executions WHERE batch_id = :id AND started_at < :at")
    count = database.run(lambda connection: connection.scalar(claimed, {"id": batch.id, "at": unlocked_at}))
    assert CONCURRENCY < count <= MOST
