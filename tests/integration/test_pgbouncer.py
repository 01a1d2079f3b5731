"""Through pgbouncer in transaction mode: the whole path, with four sessions for all there is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC

import pytest
from sqlalchemy import text

import dspex
from dspex.client.client import Client
from dspex.errors import BackendUnavailable
from dspex.operations.retention.upkeep import upkeep
from dspex.settings import Backends, Settings
from dspex.store import migrate
from dspex.store.database import Database
from dspex.store.lifecycle.status import Status
from dspex.store.sessions import is_pooled, libpq_url
from tests.conftest import fresh_backends
from tests.pgbouncer import pgbouncer
from tests.processes import WorkerProcess
from tests.waiting import wait_for

QA = dspex.Program(
    "qa", dspex.signature("question -> answer"), adapter="scripted", module_options={"outputs": {"answer": "!"}}
)
SLOW = dspex.Program(
    "slow", dspex.signature("question -> answer"), adapter="scripted", module_options={"sleep_ms": 60_000}, timeout=90
)


@pytest.fixture
def backends(servers: object, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backends]:
    with fresh_backends(servers) as straight:  # type: ignore[arg-type]
        plain = Database(straight.database_url)
        name = straight.database_url.rsplit("/", 1)[1]
        # A server that is elsewhere: moments come back in UTC all the same.
        plain.run(lambda connection: connection.execute(text(f"ALTER DATABASE {name} SET timezone TO 'Asia/Tokyo'")))
        plain.close()
        with pgbouncer(straight.database_url, tmp_path_factory.mktemp("bouncer")) as url:
            yield Backends((url, straight.broker_url))


def test_the_main_path_and_recovery(
    client: Client, database: Database, start_worker: Callable[..., WorkerProcess]
) -> None:
    head = migrate.head()
    assert migrate.upgrade(database.engine) == (head, head)
    client.deploy(QA)
    killed = start_worker(DSPEX_LEASE_SECONDS=1)
    assert client.execute("qa", {"question": "?"}, timeout=60).answer == "!"
    batch = client.submit_many("qa", ({"question": f"{n}"} for n in range(500)))
    assert sum(execution.status is Status.COMPLETED for execution in batch.as_completed(timeout=60)) == 500
    with database.engine.begin() as connection:
        mine = client.submit("qa", {"question": "?"}, connection=connection)
    execution = client.get(mine.id)
    assert execution.result(timeout=60).answer == "!"
    assert execution.created_at.utcoffset() == UTC.utcoffset(None)
    assert execution.audit_trail.verify()
    assert client.verify_audit() == {}
    settings = Settings.load(retention_days=30)  # a step that finds a lock taken waits for the next time
    wait_for(lambda: not any(step.waits for step in upkeep(database, settings)), "every step of upkeep to be done")
    client.deploy(SLOW)
    slow = client.submit("slow", {"question": "?"})
    wait_for(lambda: client.get(slow.id).status is Status.RUNNING, "the worker to begin")
    killed.kill()
    start_worker(DSPEX_LEASE_SECONDS=1)
    wait_for(lambda: client.get(slow.id).attempts == 2, "another worker to begin it again")
    client.cancel(slow.id)
    wait_for(lambda: client.get(slow.id).status is Status.CANCELLED, "it to be cancelled")


def test_a_url_that_does_not_name_the_pooler_is_reported(backends: Backends) -> None:
    database = Database(backends.database_url.partition("?")[0])
    with pytest.raises(BackendUnavailable, match=r"pgbouncer=true"):
        database.run(migrate.check)
    database.close()


def test_a_url_says_that_pgbouncer_is_in_between() -> None:
    url = "postgresql://u:p%40@h:6432/d?sslmode=require&pgbouncer=true"
    assert is_pooled(url)
    assert libpq_url(url) == "postgresql://u:p%40@h:6432/d?sslmode=require"
    assert not is_pooled("postgresql://h/d?pgbouncer=false")
    assert libpq_url("postgresql://h/d") == "postgresql://h/d"
