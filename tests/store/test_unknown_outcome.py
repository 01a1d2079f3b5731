"""What an error states of a write whose answer never came."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import Connection, event, text

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


def test_without_a_connection_a_second_one_is_not_tried(link: Proxy, far: Database) -> None:
    tried: list[object] = []
    event.listen(far._autocommit, "do_connect", lambda *arguments: tried.append(arguments))
    far.close()
    link.cut()
    with pytest.raises(BackendUnavailable, match="nothing was saved"):
        far.run_in_batch(lambda connection: None)
    assert len(tried) == 1


async def test_without_a_connection_in_a_loop_nothing_was_saved(link: Proxy) -> None:
    database = LoopDatabase(link.url, pool_size=1, application_name="dspex test")
    link.cut()
    with pytest.raises(BackendUnavailable, match="nothing was saved"):
        await in_greenlet(lambda: database.run_in_batch(lambda connection: None))
    await database.aclose()


class Several:
    """The statements of several callers."""

    def __init__(self, link: Proxy) -> None:
        self._link = link

    def write(self, connection: Connection) -> int:
        return len(list(connection.exec_driver_sql("INSERT INTO written VALUES (1) RETURNING number", {})))

    def write_and_lose(self, connection: Connection) -> int:
        self.write(connection)
        self._link.cut()
        return len(list(connection.exec_driver_sql("SELECT 1", {})))


def test_a_statement_of_several_threads(backends: Backends, link: Proxy, far: Database) -> None:
    several = Several(link)
    assert far.run_in_batch(several.write) == 1
    with pytest.raises(BackendUnavailable, match=UNKNOWN):
        far.run_in_batch(several.write_and_lose)
    link.restore()
    assert far.run_in_batch(several.write) == 1
    assert written(backends) == 3


async def test_a_statement_of_several_tasks(backends: Backends, link: Proxy, far: Database) -> None:
    several = Several(link)
    database = LoopDatabase(link.url, pool_size=1, application_name="dspex test")

    async def run(work: Callable[[Connection], int]) -> int:
        return await in_greenlet(lambda: database.run_in_batch(work))

    assert await run(several.write) == 1
    with pytest.raises(BackendUnavailable, match=UNKNOWN):
        await run(several.write_and_lose)
    link.restore()
    assert await run(several.write) == 1
    assert written(backends) == 3
    await database.aclose()


def test_a_statement_that_waits_too_long_for_a_lock_is_not_sent_again(far: Database) -> None:
    sent = []

    def wait_for_lock(connection: Connection) -> int:
        sent.append(connection)
        connection.exec_driver_sql("SELECT set_config('lock_timeout', '50ms', false)", {})
        return len(list(connection.exec_driver_sql("DELETE FROM written RETURNING number", {})))

    with far.transaction() as holder:
        holder.execute(text("LOCK TABLE written"))
        with pytest.raises(BackendUnavailable, match="nothing was saved"):
            far.run_in_batch(wait_for_lock)
    assert len(sent) == 1


def test_when_all_connections_are_in_use_the_error_names_the_setting(
    backends: Backends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dspex.store.database.POOL_SECONDS", 0.1)
    database = Database(backends.database_url, pool_size=1, overflow=0)
    with database.transaction(), pytest.raises(BackendUnavailable, match="DSPEX_CLIENT_CONNECTIONS"):
        database.run_in_batch(lambda connection: None)
    database.close()
