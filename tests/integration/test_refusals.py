"""A worker while Postgres refuses its writes for a while, and what it owns and does not run."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import text

import dspex
from dspex.client.client import Client
from dspex.client.execution import Execution
from dspex.embedded.embedded_servers import EmbeddedServers
from dspex.store import workers
from dspex.store.database import Database
from dspex.store.lifecycle import executions
from tests.chaos.history.host import small_disk
from tests.conftest import fresh_backends
from tests.processes import WorkerProcess
from tests.refusing import Refusing
from tests.waiting import wait_for

StartWorker = Callable[..., WorkerProcess]

COUNT = 20
CALLS = 2
PAID = dspex.Program(
    "paid",
    dspex.signature("question -> answer"),
    adapter="scripted",
    module_options={"calls": CALLS, "outputs": {"answer": "!"}},
)


def submit(client: Client) -> list[Execution]:
    return [client.submit("paid", {"question": f"number {number}"}) for number in range(COUNT)]


def worker_row(database: Database) -> dict[str, object]:
    (row,) = database.run(workers.listing)
    return dict(row)


def reports(database: Database, state: str) -> bool:
    return state in str(worker_row(database)["trouble"])


def all_complete_at_the_first_attempt(submitted: list[Execution]) -> None:
    for execution in submitted:
        assert execution.result(timeout=60).answer == "!"
        execution.refresh()
        assert execution.attempts == 1
        assert (execution.metrics.lm_calls, execution.metrics.replayed_lm_calls) == (CALLS, 0)
        assert execution.audit_trail.verify()


def test_brief_refusals_fail_no_attempt(client: Client, database: Database, start_worker: StartWorker) -> None:
    """On the journal, on the trail and on the row: what was paid is stored once Postgres takes it."""
    client.deploy(PAID)
    refusing = Refusing(database)
    worker = start_worker(DSPEX_LEASE_SECONDS=1)
    for table, when, state in (
        ("dspex.lm_calls", "true", "53100"),
        ("dspex.audit_events", "strpos(NEW.events::text, 'completed') > 0", "57014"),
        ("dspex.executions", "NEW.status = 'completed'", "40P01"),
    ):
        with refusing.refuse(table, state, when=when):
            seen = refusing.count
            submitted = submit(client)
            wait_for(partial(refusing.has_refused, seen + COUNT), f"{table} to refuse them")
            wait_for(partial(reports, database, state), "the worker to report why")
        all_complete_at_the_first_attempt(submitted)
    wait_for(lambda: worker_row(database)["trouble"] is None, "the worker to report nothing more")
    assert worker.process.poll() is None


def test_a_table_that_is_missing_for_a_moment_ends_no_worker(
    client: Client, database: Database, start_worker: StartWorker
) -> None:
    """As while a backup is restored, or rights are granted anew: neither its lease nor its pump ends with it."""
    client.deploy(PAID)
    worker = start_worker(DSPEX_LEASE_SECONDS=1)
    with database.transaction() as connection:
        connection.exec_driver_sql("ALTER TABLE dspex.workers RENAME TO away")
    wait_for(lambda: "lease: the database has no DSPex schema" in worker.log.read_text(), "the lease to find out")
    with database.transaction() as connection:
        connection.exec_driver_sql("ALTER TABLE dspex.away RENAME TO workers")
    all_complete_at_the_first_attempt(submit(client))
    assert worker.process.poll() is None


def test_an_attempt_that_is_owned_and_not_run_is_run(
    client: Client, database: Database, start_worker: StartWorker
) -> None:
    """As after a claim whose answer never came: Postgres has it as this worker's, which does not know of it."""
    client.deploy(PAID)
    start_worker(DSPEX_LEASE_SECONDS=1)
    (me,) = [row["id"] for row in database.run(workers.listing)]
    with database.engine.begin() as connection:
        forgotten = client.submit("paid", {"question": "?"}, connection=connection)
        connection.execute(
            text("UPDATE dspex.executions SET dispatched_at = now() WHERE id = :id"), {"id": forgotten.id}
        )
        events = f'[{{"kind":"claimed","data":{{"worker":"{me}"}}}}]'
        claim = executions.claim_parameters([forgotten.id], worker_id=me, events=events)
        assert connection.exec_driver_sql(executions.CLAIM, claim).one().attempt == 1
    all_complete_at_the_first_attempt([client.get(forgotten.id)])


def test_an_attempt_that_a_bug_of_the_worker_ended_is_given_back(
    client: Client, database: Database, start_worker: StartWorker
) -> None:
    """Neither its outcome nor its failure can be stored: its pipeline breaks, and the lease goes on."""
    client.deploy(PAID)
    refusing = Refusing(database)
    start_worker(DSPEX_LEASE_SECONDS=1)
    with refusing.refuse("dspex.executions", "P0001", when="NEW.status IN ('completed', 'failed')", most=2):
        execution = client.submit("paid", {"question": "?"})
        assert execution.result(timeout=60).answer == "!"
    execution.refresh()
    assert execution.attempts == 2
    assert execution.audit_trail["retried"].data["code"] == "worker_failed"
    assert execution.audit_trail.verify()


def test_an_execution_that_a_bug_of_the_worker_ended_has_the_cost_of_its_calls(
    client: Client, database: Database, start_worker: StartWorker
) -> None:
    client.deploy(dataclasses.replace(PAID, name="once", retry=dspex.Retry(max_attempts=1)))
    refusing = Refusing(database)
    start_worker(DSPEX_LEASE_SECONDS=1)
    with refusing.refuse("dspex.executions", "P0001", when="NEW.status IN ('completed', 'failed')", most=2):
        execution = client.submit("once", {"question": "?"})
        with pytest.raises(dspex.ExecutionFailed, match="worker_failed"):
            execution.result(timeout=60)
    execution.refresh()
    assert execution.metrics is not None
    assert execution.metrics.lm_calls == len(execution.calls) == CALLS
    assert execution.audit_trail.verify()


@pytest.fixture
def small_space(servers: EmbeddedServers) -> Iterator[Path]:
    """A tablespace ``small`` on a file system of its own, of 4 MB."""
    with tempfile.TemporaryDirectory(prefix="dspex-disk-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        with small_disk(directory / "disk", megabytes=4) as missing:
            if missing is not None:
                pytest.skip(missing)
            place = directory / "disk" / "postgres"
            place.mkdir()
            owner = servers.postgres.data.stat()
            os.chown(place, owner.st_uid, owner.st_gid)
            superuser = servers.postgres.home.password("superuser")
            with psycopg.connect(
                f"postgresql://postgres:{superuser}@127.0.0.1:{servers.postgres.port}/postgres", autocommit=True
            ) as connection:
                connection.execute(sql.SQL("CREATE TABLESPACE small LOCATION {}").format(str(place)))
                connection.execute("GRANT CREATE ON TABLESPACE small TO public")
                yield place.parent
                connection.execute("DROP TABLESPACE small")


def move_the_journal(database: Database) -> None:
    """Have the journal's tables and indexes in the small tablespace, without pages that have room for rows."""
    names = text("""SELECT relkind, oid::regclass::text FROM pg_class
        WHERE relnamespace = 'dspex'::regnamespace AND relname LIKE 'lm_calls%' AND relkind IN ('r', 'i')""")
    with database.transaction() as connection:
        connection.exec_driver_sql("TRUNCATE dspex.lm_calls")
        for kind, name in connection.execute(names).all():
            connection.exec_driver_sql(f"ALTER {'TABLE' if kind == 'r' else 'INDEX'} {name} SET TABLESPACE small")


def fill(file: Path) -> None:
    with contextlib.suppress(OSError), file.open("wb", buffering=0) as filler:
        while filler.write(bytes(4096)):
            pass


def test_a_full_disk(servers: EmbeddedServers, small_space: Path, tmp_path: Path) -> None:
    """The journal's disk is full, in earnest: finished calls wait in memory, and none is made again."""
    filler = small_space / "filler"
    with fresh_backends(servers) as backends, ExitStack() as opened:
        database = Database(backends.database_url)
        opened.callback(database.close)
        client = opened.enter_context(Client(database_url=backends.database_url, broker_url=backends.broker_url))
        client.deploy(PAID)
        move_the_journal(database)
        worker = WorkerProcess(backends, tmp_path / "worker.log", {"DSPEX_LEASE_SECONDS": 1})
        opened.callback(worker.stop)
        worker.wait_until_ready()
        fill(filler)
        submitted = submit(client)
        wait_for(partial(reports, database, "53100"), "the worker to report the full disk")
        filler.unlink()
        all_complete_at_the_first_attempt(submitted)
