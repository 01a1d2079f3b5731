"""EmbeddedServers: Postgres and Redis of one home, started and stopped together."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from dspex.embedded import stack_progress
from dspex.embedded.backend_server import BackendServer
from dspex.embedded.home import Home, Stack, write_stack
from dspex.embedded.postgres_server import PostgresServer
from dspex.embedded.redis_server import RedisServer
from dspex.embedded.stack_progress import Reporter, silent, step

__all__ = ["EmbeddedServers"]


class EmbeddedServers:
    """Postgres and Redis of ``home``, as child processes of this one, on free ports of 127.0.0.1.

    ::

        with EmbeddedServers(tmp_path, durable=False) as servers:
            servers.database_url, servers.broker_url

    ``durable=False`` skips fsync: for tests. Raises :class:`StackRunning` when another process runs this home,
    ConfigurationError when the wheels are not installed. While it runs, ``read_stack(home)`` finds it.
    """

    def __init__(self, home: Path | str, *, durable: bool = True, on_progress: Reporter = silent) -> None:
        self.home = Home(home)
        self.postgres = PostgresServer(self.home, durable=durable)
        self.redis = RedisServer(self.home, durable=durable)
        self._report = on_progress
        self._info: Stack | None = None

    @property
    def database_url(self) -> str:
        return self.postgres.url

    @property
    def broker_url(self) -> str:
        return self.redis.url

    @property
    def info(self) -> Stack:
        """The addresses of the servers, as in ``stack.json`` once they are announced."""
        if self._info is None:
            raise RuntimeError("the servers were not started")
        return self._info

    def start(self, *, announce: bool = True) -> None:
        """Start both and wait until both answer; on failure nothing is left running."""
        self.home.acquire()
        try:
            with ThreadPoolExecutor(max_workers=1) as pool:
                redis = pool.submit(self._start_one, self.redis)
                self._start_one(self.postgres)
                redis.result()
            self._info = Stack(
                database_url=self.database_url,
                broker_url=self.broker_url,
                pid=os.getpid(),
                started_at=datetime.now(UTC).isoformat(timespec="seconds"),
            )
            if announce:
                self.announce()
        except BaseException:
            self.stop()
            raise

    def announce(
        self, *, flower_url: str | None = None, serves_model: bool = False, console_url: str | None = None
    ) -> None:
        """Write ``stack.json``, so that clients with the same home find the servers."""
        self._info = replace(self.info, flower_url=flower_url, serves_model=serves_model, console_url=console_url)
        write_stack(self.home, self._info)

    def stop(self) -> None:
        """Stop Redis, then Postgres, and release the home; each step also when the one before failed."""
        with ExitStack() as last_first:
            last_first.callback(self.home.release)
            last_first.callback(self._stop_one, self.postgres)
            last_first.callback(self._stop_one, self.redis)

    def _start_one(self, server: BackendServer) -> None:
        with step(self._report, server.name, lambda: server.address):
            server.start()

    def _stop_one(self, server: BackendServer) -> None:
        if server.running:
            stack_progress.stop(self._report, server.name, server.stop)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
