"""Sessions of Postgres: what they need holds whatever a role, a database or a server is set to."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
from sqlalchemy import Connection, text

from dspex.embedded.embedded_servers import EmbeddedServers
from dspex.errors import ConfigurationError
from dspex.settings import Backends
from dspex.store import migrate
from dspex.store.database import Database
from workers.attempt.batcher import Batcher
from workers.attempt.batcher import Connection as WorkerConnection

SETTINGS = ("transaction_isolation", "statement_timeout", "lock_timeout", "TimeZone", "client_encoding")
SHOW = f"SELECT {', '.join(f'current_setting({name!r})' for name in (*SETTINGS, 'application_name'))}"


@pytest.fixture
def peculiar(backends: Backends, database: Database) -> str:
    """The URL of a database whose settings suit other applications."""
    name = backends.database_url.rsplit("/", 1)[1]
    settings = (
        "default_transaction_isolation = serializable", "statement_timeout = '200ms'", "lock_timeout = '100ms'",
        "idle_in_transaction_session_timeout = '1s'", "timezone = 'Asia/Tokyo'", "client_encoding = 'LATIN1'",
    )  # fmt: skip
    with database.transaction() as connection:
        for setting in settings:
            connection.exec_driver_sql(f"ALTER DATABASE {name} SET {setting}")
    return backends.database_url


def show(connection: Connection) -> tuple[Any, ...]:
    return tuple(connection.execute(text(SHOW)).one())


@asynccontextmanager
async def batcher(url: str) -> AsyncIterator[Batcher[str, tuple[Any, ...]]]:
    """A worker's connection, whose items are queries."""

    async def flush(connection: WorkerConnection, queries: Sequence[str]) -> list[tuple[Any, ...]]:
        return [await (await connection.execute(query.encode())).fetchone() or () for query in queries]

    opened = Batcher("test", url, flush)
    yield opened
    await opened.close()


async def test_settings_of_a_database_do_not_change_what_dspex_needs(peculiar: str) -> None:
    needed = ("read committed", "0", "0", "UTC", "UTF8")
    opened = Database(peculiar, application_name="a producer")
    assert opened.run(show) == (*needed, "a producer")
    with opened.transaction() as connection:
        assert show(connection) == (*needed, "a producer")
    opened.close()
    async with batcher(peculiar) as worker:
        assert await worker.add(SHOW) == (*needed, "dspex worker test")


async def test_what_the_url_sets_holds(peculiar: str) -> None:
    options = quote("-c statement_timeout=5s -c work_mem=5MB -c timezone=Asia/Tokyo")
    url = f"{peculiar}?application_name=shop&options={options}"
    opened = Database(url)
    assert opened.run(show) == ("read committed", "5s", "0", "UTC", "UTF8", "shop")
    opened.close()
    async with batcher(url) as worker:
        assert await worker.add(SHOW) == ("read committed", "5s", "0", "UTC", "UTF8", "shop")
        assert await worker.add("SHOW work_mem") == ("5MB",)


def test_a_pooled_transaction_has_its_isolation_level(peculiar: str) -> None:
    """Without options, as pgbouncer takes none."""
    opened = Database(f"{peculiar}?pgbouncer=true")
    with opened.transaction() as connection:
        assert show(connection)[0] == "read committed"
        assert show(connection)[3] == "UTC"
    opened.close()


async def test_the_next_host_is_used_when_the_first_is_away(backends: Backends) -> None:
    credentials, _, place = backends.database_url.rpartition("@")
    url = f"{credentials}@127.0.0.1:1,{place}?target_session_attrs=read-write"
    opened = Database(url)
    opened.run(migrate.check)
    opened.close()
    async with batcher(url) as worker:
        assert await worker.add("SELECT 1") == (1,)


@pytest.fixture(params=["SQL_ASCII", "LATIN1"])
def other_encoding(request: pytest.FixtureRequest, servers: EmbeddedServers) -> Iterator[str]:
    server = servers.database_url.rsplit("/", 1)[0]
    with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE other TEMPLATE template0 ENCODING '{request.param}' LOCALE 'C'".encode())
        yield f"{server}/other"
        connection.execute("DROP DATABASE other WITH (FORCE)")


def test_a_database_that_cannot_store_every_text_is_refused(other_encoding: str) -> None:
    opened = Database(other_encoding)
    with pytest.raises(ConfigurationError, match="DSPex needs UTF8"):
        opened.guard(migrate.upgrade)
    assert opened.run(lambda connection: connection.scalar(text("SELECT to_regnamespace('dspex')"))) is None
    opened.close()
