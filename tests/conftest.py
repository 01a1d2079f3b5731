"""Real servers for tests: a Postgres and a Redis for each test process, a database in each for every test."""

from __future__ import annotations

import functools
import inspect
import os
import signal
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import redis
import uvloop

from dspex.client.client import Client
from dspex.embedded.embedded_servers import EmbeddedServers
from dspex.settings import Backends
from dspex.store.database import Database
from tests.databases import TestDatabases
from tests.forked import ForkServerProcess
from tests.homes import RUN_DIRECTORY, migrated_servers
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

#: Their tests compute for a minute on the bundled model: at the end, the other processes would have nothing left to do.
BEGUN_FIRST = {"test_embedded.py", "test_examples.py", "test_pages.py", "test_tutorial.py"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in BEGUN_FIRST)


def pytest_configure(config: pytest.Config) -> None:
    uvloop.new_event_loop().close()  # libuv opens a pipe for signals with its first loop, and keeps it
    config.pluginmanager.register(LeftOpen())
    if hasattr(config, "workerinput"):  # a process of xdist
        _import_dspy()
    else:
        config.pluginmanager.register(RunTimes())
        directory = tempfile.TemporaryDirectory(prefix="dspex-run-")
        config.add_cleanup(directory.cleanup)
        os.environ[RUN_DIRECTORY] = directory.name
        if config.getoption("numprocesses", None):
            server = ForkServerProcess(Path(directory.name) / FORK_SERVER)
            config.add_cleanup(server.close)
            server.wait_until_ready()  # in a fresh checkout libraries are compiled once, not by every process at once


def _import_dspy() -> None:
    """In half of the time: for each missing library DSPy asks for its caller, and Python lists all callers."""

    def caller(context: int = 1) -> list[inspect.FrameInfo]:
        frames = sys._getframe(1), sys._getframe(2)
        return [inspect.FrameInfo(f, f.f_code.co_filename, f.f_lineno, f.f_code.co_name, None, None) for f in frames]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inspect, "stack", caller)
        import_module("dspy")


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
        yield running


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
        with redis.Redis.from_url(broker_url) as client:
            client.flushdb()
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
