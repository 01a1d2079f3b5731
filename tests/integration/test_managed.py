"""What providers of Postgres and Redis allow is enough: no superuser, no extension, no command of an administrator."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import redis
from sqlalchemy import create_engine, text

import dspex
from dspex.client.client import Client
from dspex.embedded.embedded_servers import EmbeddedServers
from dspex.operations.retention.upkeep import upkeep
from dspex.settings import Backends, Settings
from dspex.store import migrate
from dspex.store.database import Database
from dspex.store.lifecycle.status import Status
from tests.processes import WorkerProcess
from tests.waiting import wait_for

QA = dspex.Program(
    "qa", dspex.signature("question -> answer"), adapter="scripted", module_options={"outputs": {"answer": "!"}}
)
PASSWORD = "of-nobody-else"


@pytest.fixture
def backends(servers: EmbeddedServers) -> Iterator[Backends]:
    """A database whose owner has no other right, and a user of Redis without any command of an administrator."""
    admin = create_engine(
        f"{servers.database_url.rsplit('/', 1)[0]}/postgres".replace("postgresql:", "postgresql+psycopg:"),
        isolation_level="AUTOCOMMIT",
    )
    with admin.connect() as connection:
        role = f"CREATE ROLE tenant LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION PASSWORD '{PASSWORD}'"
        connection.execute(text(role))
        connection.execute(text("GRANT tenant TO CURRENT_USER"))
        connection.execute(text("CREATE DATABASE tenant OWNER tenant"))
    place = servers.database_url.rsplit("@", 1)[1].rsplit("/", 1)[0]
    broker = servers.broker_url.rsplit("@", 1)[1].rsplit("/", 1)[0]
    with redis.Redis.from_url(servers.broker_url) as client:
        rules = ["on", f">{PASSWORD}", "~*", "&*", "+@all", "-@admin", "-@dangerous", "-client", "-info"]
        client.execute_command("ACL", "SETUSER", "tenant", *rules)
        yield Backends((f"postgresql://tenant:{PASSWORD}@{place}/tenant", f"redis://tenant:{PASSWORD}@{broker}/14"))
        client.execute_command("ACL", "DELUSER", "tenant")
    with admin.connect() as connection:
        connection.execute(text("DROP DATABASE tenant WITH (FORCE)"))
        connection.execute(text("DROP ROLE tenant"))
    admin.dispose()


def test_the_main_path(
    backends: Backends, client: Client, database: Database, start_worker: Callable[..., WorkerProcess]
) -> None:
    assert database.guard(migrate.upgrade) == (None, migrate.head())
    client.deploy(QA)
    worker = start_worker()
    assert client.execute("qa", {"question": "?"}, timeout=60).answer == "!"
    streamed = client.submit("qa", {"question": "?"}, stream=True)
    assert [event.kind for event in streamed.stream()][-1] == "done"
    batch = client.submit_many("qa", ({"question": f"{n}"} for n in range(100)))
    assert sum(execution.status is Status.COMPLETED for execution in batch.as_completed(timeout=60)) == 100
    assert client.verify_audit() == {}
    settings = Settings.load(retention_days=30)  # a step that finds a lock taken waits for the next time
    wait_for(lambda: not any(step.waits for step in upkeep(database, settings)), "every step of upkeep to be done")
    redis_health = client.health().components["redis"]
    assert redis_health.status == "healthy", redis_health
    with redis.Redis.from_url(backends.broker_url) as refused, pytest.raises(redis.exceptions.NoPermissionError):
        refused.info()
    assert worker.stop() == 0
    log = worker.log.read_text()
    assert "NOPERM" not in log, log
    assert "permission" not in log, log
