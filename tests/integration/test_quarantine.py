"""An execution whose code keeps the interpreter's lock in C ends its workers; the executions beside it complete."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import text

import dspex
from dspex.client.client import Client
from dspex.store.database import Database
from dspex.store.lifecycle import executions
from tests.integration.test_execution import scripted
from tests.processes import WorkerProcess
from tests.waiting import wait_for

ATTEMPTS = 3
CLAIMED = '[{"kind":"claimed"}]'

#: As a pattern that backtracks for hours, without the CPU that takes: PyDLL does not release the lock.
HOLDER = """
import asyncio, ctypes

async def hold(run, proceed):
    await asyncio.sleep(0.5)
    ctypes.PyDLL(None).sleep(600)
"""


def test_a_holder_of_the_lock_is_poisoned_and_no_other_execution_is_lost(
    client: Client, start_worker: Callable[..., WorkerProcess], tmp_path: Path
) -> None:
    (tmp_path / "holder.py").write_text(HOLDER)
    started: list[WorkerProcess] = []

    def start() -> None:
        started.append(
            start_worker(
                DSPEX_PROGRAM_PACKAGES="holder", PYTHONPATH=tmp_path, DSPEX_LEASE_SECONDS=2, DSPEX_WATCHDOG_SECONDS=2
            )
        )

    start()
    start()
    retry = dspex.Retry(max_attempts=ATTEMPTS)
    client.deploy(scripted("guilty", actions=["holder:hold"], retry=retry))
    client.deploy(scripted("innocent", retry=retry, module_options={"sleep_ms": 1000, "outputs": {"answer": "!"}}))
    guilty = client.submit("guilty", {"question": "?"})
    innocent = [client.submit("innocent", {"question": f"number {n}"}) for n in range(8)]

    def over() -> bool:
        """As a supervisor does, another worker is started for each that has ended."""
        dead = sum(worker.process.poll() is not None for worker in started)
        for _ in range(2 + dead - len(started)):
            start()
        return all(each.refresh().status.is_final for each in (guilty, *innocent))

    wait_for(over, "all to end", timeout=180, every=0.2)
    assert {each.status for each in innocent} == {dspex.Status.COMPLETED}
    assert guilty.error is not None
    assert guilty.error.code == "poisoned"
    assert max(each.attempts for each in innocent) <= ATTEMPTS, "the last one alone"
    dead = [worker for worker in started if worker.process.poll() is not None]
    assert len(dead) <= ATTEMPTS
    for worker in dead:
        assert worker.process.returncode == 1
        assert "holder.py" in worker.log.read_text(), "the code that kept the lock is named"
    assert not client.verify_audit()


def test_a_suspect_runs_once_the_others_have_ended_or_were_handed_back(
    client: Client, database: Database, start_worker: Callable[..., WorkerProcess]
) -> None:
    start_worker(DSPEX_GRACE_SECONDS=0.5)
    client.deploy(scripted("endless", timeout=3600, module_options={"sleep_ms": 600_000}))
    client.deploy(scripted())
    endless = client.submit("endless", {"question": "?"})
    wait_for(lambda: endless.refresh().status is dspex.Status.RUNNING, "it to run")
    suspect = client.submit("qa", {"question": "?"}, run_at=datetime.now(UTC) + timedelta(hours=1))
    with database.transaction() as connection:
        due = text("UPDATE dspex.executions SET lost_attempts = 2, run_at = now() WHERE id = :id")
        connection.execute(due, {"id": suspect.id})
    suspect.result(timeout=60)
    wait_for(lambda: endless.audit_trail.kinds.count("claimed") == 2, "it to run again")
    assert endless.audit_trail["recovered"].at <= suspect.audit_trail["claimed"].at, "it was handed back first"
    assert endless.refresh().attempts == 2
    client.cancel(endless.id)


def test_a_suspect_whose_claim_was_not_answered_runs_alone_too(
    client: Client, database: Database, start_worker: Callable[..., WorkerProcess]
) -> None:
    """Its worker finds with its lease that it owns the attempt."""
    start_worker(DSPEX_GRACE_SECONDS=0.5, DSPEX_LEASE_SECONDS=1)
    client.deploy(scripted("endless", timeout=3600, module_options={"sleep_ms": 600_000}))
    client.deploy(scripted())
    endless = client.submit("endless", {"question": "?"})
    wait_for(lambda: endless.refresh().status is dspex.Status.RUNNING, "it to run")
    suspect = client.submit("qa", {"question": "?"}, run_at=datetime.now(UTC) + timedelta(hours=1))
    with database.transaction() as connection:
        dispatched = text("UPDATE dspex.executions SET lost_attempts = 2, dispatched_at = now() WHERE id = :id")
        connection.execute(dispatched, {"id": suspect.id})
        worker_id = connection.scalar(text("SELECT id FROM dspex.workers WHERE stopped_at IS NULL"))
        ids = [suspect.id]
        claim = executions.claim_parameters(ids, worker_id=worker_id, events=CLAIMED, alone=ids)
        assert connection.exec_driver_sql(executions.CLAIM, claim).all()
    suspect.result(timeout=60)
    assert endless.audit_trail.kinds.count("recovered") == 1, "it was handed back"
    assert suspect.finished_at is not None
    assert endless.audit_trail["recovered"].at < suspect.finished_at
    client.cancel(endless.id)
