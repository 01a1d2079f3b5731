"""Real servers for tests: a Postgres and a Redis for each test process, a database in each for every test."""

from __future__ import annotations

import functools
import gc
import os
import signal
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import uvloop

from dspex.client.client import Client
from dspex.embedded.embedded_servers import EmbeddedServers
from dspex.publish.redis_clients import client as redis_client
from dspex.settings import Backends
from dspex.store.database import Database
from tests.collected import CollectedTests
from tests.databases import TestDatabases
from tests.forked import ForkServerProcess
from tests.homes import RUN_DIRECTORY, migrated_servers, prepared_home, superuser
from tests.left_open import LeftOpen
from tests.processes import WorkerProcess, forked_workers
from tests.run_times import RunTimes

# No test is timed, and each run tries the same examples.
hypothesis.settings.register_profile(
    "dspex", deadline=None, derandomize=True, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("dspex")

#: The Redis databases that no test uses now; those from 14 on are for tests that name one.
_redis_databases = deque(range(1, 14))


#: In the directory of a run of several processes, the address of the server of forks for all of them.
FORK_SERVER = "fork-server"

#: The files that take longest, begun in this order: else the processes of a run would not end at the same time.
LONGEST = [
    f"test_{name}.py"
    for name in (
        "failpoints", "embedded", "batches", "console", "control", "gateway", "testing_kit", "examples", "pages",
        "health", "tutorial", "retention", "streaming", "limits", "history", "notebook", "fleet", "litellm",
        "many_users", "random", "optimizers", "optimizations", "parked", "bundles", "batch_tables", "doctor",
        "bad_days", "network", "cli",
    )
]  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(LONGEST)))


def pytest_collection_finish() -> None:
    gc.freeze()  # the tests stay: they need not be searched for garbage again and again


def pytest_configure(config: pytest.Config) -> None:
    uvloop.new_event_loop().close()  # libuv opens a pipe for signals with its first loop, and keeps it
    config.pluginmanager.register(LeftOpen())
    if hasattr(config, "workerinput"):  # a process of xdist
        return
    if config.option.collectonly:
        import_module("workers.adapters.dspy")  # imports DSPy in half of the time that DSPy takes by itself
        return
    config.pluginmanager.register(RunTimes())
    directory = tempfile.TemporaryDirectory(prefix="dspex-run-")
    config.add_cleanup(directory.cleanup)
    os.environ[RUN_DIRECTORY] = directory.name
    if config.getoption("numprocesses", None):
        server = ForkServerProcess(Path(directory.name) / FORK_SERVER)
        config.add_cleanup(server.close)
        config.pluginmanager.register(CollectedTests(config, Path(directory.name) / "collected"))
        server.wait_until_ready()
        if config.args_source is config.ArgsSource.TESTPATHS:  # of all tests, many need it
            prepared_home()


@pytest.fixture(scope="session", autouse=True)
def _no_settings_from_outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads the user's settings or touches the user's DSPEX_HOME; which servers are tested with is kept."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("DSPEX_") and "_EMBEDDED_" not in name]:
            patch.delenv(name)
        patch.setenv("DSPEX_HOME", str(tmp_path_factory.mktemp("home")))
        # The bundled model computes in one thread: two of them wait for each other while other tests compute.
        patch.setenv("OMP_THREAD_LIMIT", "1")
        yield


@pytest.fixture(scope="session")
def fork_server() -> Iterator[None]:
    """Workers begin with their libraries imported."""
    shared = Path(os.environ[RUN_DIRECTORY]) / FORK_SERVER
    with forked_workers(shared if shared.exists() else None):
        yield


@pytest.fixture(scope="session")
def servers(fork_server: None) -> Iterator[EmbeddedServers]:
    with tempfile.TemporaryDirectory(prefix="dspex-test-") as home, migrated_servers(Path(home)) as running:
        with superuser(running, "postgres") as connection:
            # Autovacuum analyzes tables, and plans change: in a test of plans, and for good in a database used again.
            connection.execute("ALTER SYSTEM SET autovacuum_naptime = '20d'")
            connection.execute("SELECT pg_reload_conf()")
        yield running
        _databases(running).close()


@pytest.fixture
def backends(servers: EmbeddedServers) -> Iterator[Backends]:
    """A migrated database and an empty Redis database of this test's own."""
    with fresh_backends(servers) as fresh:
        yield fresh


@contextmanager
def fresh_backends(servers: EmbeddedServers) -> Iterator[Backends]:
    """A migrated database and an empty Redis database of the caller's own."""
    databases = _databases(servers)
    name, redis_database = databases.take(), _redis_databases.popleft()
    broker_url = f"{servers.broker_url.rsplit('/', 1)[0]}/{redis_database}"
    try:
        with redis_client(broker_url) as connection:
            connection.flushdb()
        yield Backends((databases.url(name), broker_url))
    finally:
        databases.give_back(name)
        _redis_databases.append(redis_database)


@pytest.fixture
def database(backends: Backends) -> Iterator[Database]:
    opened = Database(backends.database_url)
    yield opened
    opened.close()


@pytest.fixture
def client(backends: Backends) -> Iterator[Client]:
    with Client(database_url=backends.database_url, broker_url=backends.broker_url) as opened:
        yield opened


@contextmanager
def client_with_worker(
    servers: EmbeddedServers, tmp_path_factory: pytest.TempPathFactory, **settings: str
) -> Iterator[Client]:
    """A client and a worker on backends of their own."""
    with fresh_backends(servers) as fresh:
        worker = WorkerProcess(fresh, tmp_path_factory.mktemp("worker") / "worker.log", settings)
        try:
            worker.wait_until_ready()
            with Client(database_url=fresh.database_url, broker_url=fresh.broker_url) as opened:
                yield opened
        finally:
            worker.stop()


@pytest.fixture(scope="module")
def shared_client(servers: EmbeddedServers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A client and a worker that all tests of a module share which use it. A model needs no key."""
    with client_with_worker(servers, tmp_path_factory, OPENAI_API_KEY="none") as opened:
        yield opened


@pytest.fixture
def start_worker(backends: Backends, tmp_path: Path) -> Iterator[Callable[..., WorkerProcess]]:
    """Starts real worker processes on this test's backends, and stops them afterwards."""
    started: list[WorkerProcess] = []

    def start(**environment: Any) -> WorkerProcess:
        worker = WorkerProcess(backends, tmp_path / f"worker-{len(started)}.log", environment)
        started.append(worker)
        worker.wait_until_ready()
        return worker

    yield start
    for worker in started:
        worker.signal(signal.SIGTERM)
    for worker in started:
        worker.stop()


@functools.cache
def _databases(servers: EmbeddedServers) -> TestDatabases:
    return TestDatabases(servers)
