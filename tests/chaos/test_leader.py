"""The pump's leader is killed: another worker leads within three seconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from uuid import UUID

import pytest
from sqlalchemy import text

import dspex
from dspex.client.client import Client
from dspex.store.database import Database
from tests.chaos.guarantees import assert_guarantees
from tests.processes import WorkerProcess
from tests.waiting import wait_for

#: Three promised; what the database and this test take to notice comes on top.
WITHIN_SECONDS = 3.5


@pytest.mark.chaos
def test_the_lead_moves_within_three_seconds(
    client: Client, database: Database, start_worker: Callable[..., WorkerProcess]
) -> None:
    client.deploy(dspex.Program("qa", dspex.signature("question -> answer"), adapter="scripted"))
    fleet = {worker.pid: worker for worker in (start_worker(), start_worker())}
    of_id = {row["id"]: fleet[row["pid"]] for row in client.workers()}
    first = wait_for(lambda: leader(database), "a leader")
    of_id[first].kill()
    killed = time.monotonic()
    wait_for(lambda: leader(database) not in (None, first), "another leader")
    assert time.monotonic() - killed < WITHIN_SECONDS
    batch = client.submit_many("qa", [{"question": f"number {n}"} for n in range(20)])  # only a pump dispatches these
    assert_guarantees(client, batch.ids)


def leader(database: Database) -> UUID | None:
    query = text("SELECT worker_id FROM dspex.leaderships WHERE duty = 'pump'")
    found: UUID | None = database.run(lambda connection: connection.scalar(query))
    return found
