"""The servers and the worker of a test session."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Self

from dspex.embedded.embedded_servers import EmbeddedServers
from dspex.settings.security_settings import new_key
from dspex.testing import loopback_guard
from dspex.testing.loopback_guard import LoopbackGuard
from dspex.testing.model_double import KEY_ENV
from dspex.testing.worker_handle import WorkerHandle

__all__ = ["SessionStack"]

#: Settings that the worker takes from the stack.
_ADDRESSES = ("DSPEX_DATABASE_URL", "DSPEX_BROKER_URL")


class SessionStack:
    """Postgres and Redis in ``home``, with DSPex's schema; the worker starts with its first use, or begins at once.

    ``environment`` is for the worker. Modules that the tests can import, the worker can import, too.
    """

    def __init__(self, home: Path, environment: Mapping[str, str], *, with_worker: bool = False) -> None:
        self.home = home
        self._servers = EmbeddedServers(home, durable=False)
        self._environment = environment
        self._with_worker = with_worker
        self._guard = LoopbackGuard(home)
        self._encryption_key = environment.get("DSPEX_ENCRYPTION_KEY") or new_key()

    def __enter__(self) -> Self:
        try:
            if self._with_worker:
                self.worker.begin()
            self._servers.start(announce=False)
            _migrate(self.database_url)
            self._servers.announce()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _stop(self) -> None:
        try:
            self.worker.stop()
        finally:
            self._servers.stop()

    @property
    def database_url(self) -> str:
        return self._servers.database_url

    @property
    def broker_url(self) -> str:
        return self._servers.broker_url

    @property
    def variables(self) -> Mapping[str, str]:
        """The variables with which a client finds the stack."""
        return {
            "DSPEX_ENV": "test",
            "DSPEX_DATABASE_URL": self.database_url,
            "DSPEX_BROKER_URL": self.broker_url,
            "DSPEX_HOME": str(self.home),
            "DSPEX_ENCRYPTION_KEY": self._encryption_key,  # for programs with secret fields
        }

    @cached_property
    def worker(self) -> WorkerHandle:
        """The worker of the session."""
        inherited = {name: value for name, value in os.environ.items() if name.removesuffix("_FILE") not in _ADDRESSES}
        paths = [str(self._guard.startup_directory), *filter(None, sys.path), str(Path.cwd())]
        environment = {
            **inherited,
            KEY_ENV: "test",
            "DSPEX_ENV": "test",
            "DSPEX_HOME": str(self.home),
            "DSPEX_ENCRYPTION_KEY": self._encryption_key,
            "DSPEX_LEASE_SECONDS": "2",  # a test that kills the worker need not wait for long
            "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)),
            loopback_guard.VARIABLE: str(self.home),
            **self._environment,
        }
        return WorkerHandle(self._servers.home, environment)

    @contextmanager
    def loopback_only(self) -> Iterator[Sequence[str]]:
        """Meanwhile connections to other hosts are refused; after the block, the list has what was tried."""
        tried: list[str] = []
        with self._guard.active():
            yield tried
        tried += self._guard.tried()


def _migrate(database_url: str) -> None:
    from dspex.store import migrate
    from dspex.store.database import Database

    database = Database(database_url)
    try:
        migrate.upgrade(database.engine)
    finally:
        database.close()
