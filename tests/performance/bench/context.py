"""What workloads run on: the servers, a database of each contender's own, workers, peers; all ended in the end."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import redis
from sqlalchemy import create_engine, text

from dspex.client.client import Client
from dspex.embedded.embedded_servers import EmbeddedServers
from dspex.store import migrate
from dspex.store.database import Database
from tests.processes import WorkerProcess, mortal

__all__ = ["Context"]

ROOT = Path(__file__).parents[3]
PEERS = Path(__file__).parent / "peers"
BUILD = ROOT / "build" / "bench"
#: Numbers of Redis databases: ours, a peer's messages, a peer's results.
OURS, MESSAGES, RESULTS = 1, 2, 3


class Context(AbstractContextManager["Context"]):
    """The machine of a run.

    ``quick`` asks for sizes that do for a look; ``repeats`` is how often each is measured, ``gib`` the size of files.
    """

    def __init__(self, *, quick: bool, repeats: int, gib: float = 1.0, told: Callable[[str], None]) -> None:
        self.quick = quick
        self.repeats = repeats
        self.gib = gib
        self.told = told
        self._stack = ExitStack()
        self._numbers = itertools.count(1)

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dspex-bench-")))
            self.servers = stack.enter_context(EmbeddedServers(self.directory / "home"))
            self._admin = create_engine(
                self._url("postgres").replace("postgresql:", "postgresql+psycopg:"), isolation_level="AUTOCOMMIT"
            )
            stack.callback(self._admin.dispose)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def size(self, full: int, quick: int) -> int:
        return quick if self.quick else full

    # ------------------------------------------------------------------------------------------------- DSPex

    @contextmanager
    def database(self) -> Iterator[str]:
        """An empty database; it is dropped afterwards."""
        name = f"bench_{next(self._numbers)}"
        self._administer(f"CREATE DATABASE {name}")
        try:
            yield self._url(name)
        finally:
            self._administer(f"DROP DATABASE {name} WITH (FORCE)")

    @contextmanager
    def deployment(self) -> Iterator[Client]:
        """A client of a migrated database and an empty Redis."""
        with self.database() as url:
            database = Database(url)
            database.guard(migrate.upgrade)
            database.close()
            with Client(database_url=url, broker_url=self._redis(OURS)) as client:
                yield client

    @contextmanager
    def worker(self, client: Client, *, python: str = sys.executable, **settings: Any) -> Iterator[WorkerProcess]:
        """A worker process of the client's deployment, ready for work."""
        backends = client.settings.backends()
        log = self.directory / f"worker-{next(self._numbers)}.log"
        worker = WorkerProcess(backends, log, settings, python=python)
        try:
            worker.wait_until_ready()
            yield worker
        finally:
            worker.stop()

    @contextmanager
    def model(self) -> Iterator[str]:
        """The URL of a fake model server in a process of its own: tests/performance/bench/model.py."""
        command = mortal("-m", "tests.performance.bench.model")
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                yield process.stdout.readline().strip()
            finally:
                process.kill()

    # ------------------------------------------------------------------------------------------------- peers

    def peer(self, name: str) -> str:
        """The Python of a peer's environment, which is made if it is not there."""
        subprocess.run(["deploy/bench-peers", str(BUILD / "venvs"), name], cwd=ROOT, check=True)
        return str(BUILD / "venvs" / name / "bin" / "python")

    @contextmanager
    def peer_environment(self, **extra: str) -> Iterator[dict[str, str]]:
        """The variables by which a peer finds an empty Redis and an empty database."""
        with self.database() as url:
            yield {
                **os.environ,
                "PEER_DATABASE": url,
                "PEER_BROKER": self._redis(MESSAGES),
                "PEER_RESULTS": self._redis(RESULTS),
                "PYTHONPATH": str(PEERS),
                **extra,
            }

    @contextmanager
    def process(self, command: Sequence[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
        """A process that ends with the block, and with this process, whatever happens to it."""
        log = self.directory / f"peer-{next(self._numbers)}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*mortal()[:-1], *command],
                env=environment,
                cwd=PEERS,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            yield process
            if process.poll() is not None:
                raise RuntimeError(f"{command[1:4]} ended with {process.returncode}:\n{log.read_text()[-2000:]}")
        finally:
            process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)
            _kill_session(process)

    def ask(self, command: Sequence[str], environment: dict[str, str]) -> Any:
        """What a command prints last, which is JSON. Raises RuntimeError when it fails."""
        done = subprocess.run(
            [*mortal()[:-1], *command], env=environment, cwd=PEERS, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{list(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
        return json.loads(done.stdout.strip().splitlines()[-1])

    # ----------------------------------------------------------------------------------------------- private

    def _url(self, database: str) -> str:
        return f"{self.servers.database_url.rsplit('/', 1)[0]}/{database}"

    def _redis(self, number: int) -> str:
        """An emptied Redis database."""
        url = f"{self.servers.broker_url.rsplit('/', 1)[0]}/{number}"
        with redis.Redis.from_url(url) as client:
            client.flushdb()
        return url

    def _administer(self, statement: str) -> None:
        with self._admin.connect() as connection:
            connection.execute(text(statement))


def _kill_session(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
