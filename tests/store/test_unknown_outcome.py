"""What an error states of a write whose answer never came."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import Connection, text

from dspex.errors import BackendUnavailable
from dspex.settings import Backends
from dspex.store.database import Database
from dspex.store.loop.greenlets import in_greenlet
from dspex.store.loop.loop_database import LoopDatabase
from tests.chaos.proxy import Proxy

UNKNOWN = "whether it was saved is not known"


@pytest.fixture
def link(backends: Backends) -> Iterator[Proxy]:
    with Proxy(backends.database_url) as proxy:
        yield proxy


@pytest.fixture
def far(link: Proxy) -> Iterator[Database]:
    """The database behind the link, with a connection in its pool."""
    opened = Database(link.url)
    opened.run(lambda connection: connection.execute(text("CREATE TABLE written (number int)")))
    yield opened
    opened.close()


def write(connection: Connection) -> None:
    connection.execute(text("INSERT INTO written VALUES (1)"))


def written(backends: Backends) -> int:
    database = Database(backends.database_url)
    try:
        return int(database.run(lambda connection: connection.scalar(text("SELECT count(*) FROM written"))))
    finally:
        database.close()


def test_a_statement_whose_answer_is_lost(backends: Backends, link: Proxy, far: Database) -> None:
    def write_and_lose(connection: Connection) -> None:
        write(connection)
        link.cut()
        connection.execute(text("SELECT 1"))

    with pytest.raises(BackendUnavailable, match=UNKNOWN):
        far.run(write_and_lose)
    assert written(backends) == 1


def test_a_commit_whose_answer_is_lost(link: Proxy, far: Database) -> None:
    def write_and_lose() -> None:
        with far.transaction() as connection:
            write(connection)
            link.cut()

    with pytest.raises(BackendUnavailable, match=UNKNOWN):
        write_and_lose()


def test_what_was_never_committed_was_not_saved(backends: Backends, link: Proxy, far: Database) -> None:
    def lose_and_write() -> None:
        with far.transaction() as connection:
            link.cut()
            write(connection)

    with pytest.raises(BackendUnavailable, match="nothing was saved"):
        lose_and_write()
    assert written(backends) == 0


def test_without_a_connection_nothing_was_saved(link: Proxy, far: Database) -> None:
    far.close()
    link.cut()
    with pytest.raises(BackendUnavailable, match="nothing was saved"):
        far.run(write)


async def test_a_statement_of_several_callers(backends: Backends, link: Proxy, far: Database) -> None:
    database = LoopDatabase(link.url, pool_size=1, application_name="dspex test")

    def write_one(connection: Connection) -> int:
        return len(list(connection.exec_driver_sql("INSERT INTO written VALUES (1) RETURNING number", {})))

    def write_and_lose(connection: Connection) -> None:
        write_one(connection)
        link.cut()
        connection.exec_driver_sql("SELECT 1", {})

    async def run(work: Callable[[Connection], int | None]) -> int | None:
        return await in_greenlet(lambda: database.run_in_batch(work))

    assert await run(write_one) == 1
    with pytest.raises(BackendUnavailable, match=UNKNOWN):
        await run(write_and_lose)
    link.restore()
    assert await run(write_one) == 1
    assert written(backends) == 3
    await database.aclose()
