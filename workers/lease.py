"""The lease: a worker's row, renewed from a thread of its own, so that a busy loop does not lose it."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable
from importlib.metadata import version
from uuid import UUID

from uuid_utils.compat import uuid7

from dspex.store import workers
from dspex.store.database import Database
from workers.periodic import Periodic

__all__ = ["Lease"]

log = logging.getLogger("dspex.workers")


class Lease(Periodic):
    """Registers this worker and renews its lease every third of ``lease_seconds``.

    ``vitals`` tells how the worker is. When the worker finds that it was declared dead (it was
    stopped, or cut off, for longer than its lease), it owns nothing any more: ``on_lost`` is called, and it goes on
    under a new id.
    """

    name = "lease"

    def __init__(
        self,
        database: Database,
        *,
        lease_seconds: float,
        vitals: Callable[[], workers.Vitals],
        on_lost: Callable[[], None],
    ) -> None:
        super().__init__(lease_seconds / 3)
        self._database = database
        self._lease_seconds = lease_seconds
        self._vitals = vitals
        self._on_lost = on_lost
        self._worker_id = uuid7()

    @property
    def worker_id(self) -> UUID:
        return self._worker_id

    def register(self) -> None:
        """Make the row. The worker may claim from now on."""
        self._database.run(
            lambda connection: workers.register(
                connection,
                id=self._worker_id,
                host=socket.gethostname(),
                pid=os.getpid(),
                version=version("dspex"),
                concurrency=self._vitals().concurrency,
                lease_seconds=self._lease_seconds,
            )
        )

    def run_once(self) -> float | None:
        renewed = self._database.run(lambda connection: workers.beat(connection, self._worker_id, self._vitals()))
        if not renewed:
            lost, self._worker_id = self._worker_id, uuid7()
            log.warning("worker %s lost its lease: what it ran is discarded; it goes on as %s", lost, self._worker_id)
            self._on_lost()
            self.register()
        return None

    def release(self) -> None:
        """End the lease at once."""
        self._database.run(lambda connection: workers.stop(connection, self._worker_id))
