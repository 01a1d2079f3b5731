"""EmbeddedServers: Postgres and Redis of one home, up together and down together."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from os import getpid
from pathlib import Path
from types import TracebackType
from typing import Self

from dspex.embedded.postgres import PostgresServer
from dspex.embedded.redis import RedisServer
from dspex.embedded.state import Home, Stack, write_stack

__all__ = ["EmbeddedServers"]


class EmbeddedServers:
    """Postgres and Redis of ``home``, as child processes of this one, on free ports of 127.0.0.1.

    ::

        with EmbeddedServers(tmp_path, durable=False) as servers:
            servers.database_url, servers.broker_url

    ``durable=False`` skips fsync: for tests. Raises :class:`StackRunning` when another process runs this home,
    ConfigurationError when the wheels are not installed. While it runs, ``read_stack(home)`` finds it.
    """

    def __init__(self, home: Path | str, *, durable: bool = True) -> None:
        self.home = Home(home)
        self.postgres = PostgresServer(self.home, durable=durable)
        self.redis = RedisServer(self.home, durable=durable)
        self.started_at = ""

    @property
    def database_url(self) -> str:
        return self.postgres.url

    @property
    def broker_url(self) -> str:
        return self.redis.url

    def start(self) -> None:
        """Start both and wait until both answer; on failure nothing is left running."""
        self.home.acquire()
        self.started_at = datetime.now(UTC).isoformat(timespec="seconds")
        try:
            with ThreadPoolExecutor(max_workers=1) as pool:
                redis = pool.submit(self.redis.start)
                self.postgres.start()
                redis.result()
            self.announce()
        except BaseException:
            self.stop()
            raise

    def announce(self, *, flower_url: str | None = None) -> None:
        """Write ``stack.json``, so that clients with the same home find the servers."""
        write_stack(
            self.home,
            Stack(
                database_url=self.database_url,
                broker_url=self.broker_url,
                pid=getpid(),
                started_at=self.started_at,
                flower_url=flower_url,
            ),
        )

    def stop(self) -> None:
        """Stop Redis, then Postgres, and let go of the home."""
        try:
            self.redis.stop()
        finally:
            try:
                self.postgres.stop()
            finally:
                self.home.release()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
