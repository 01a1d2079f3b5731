"""The lease: a worker's row, renewed from a thread of its own, so that a busy loop does not lose it."""

from __future__ import annotations

import logging
import math
import os
import socket
import time
from collections.abc import Callable
from importlib.metadata import version
from uuid import UUID

from uuid_utils.compat import uuid7

from dspex.store import workers
from dspex.store.database import Database
from workers.observe.metrics import LEASES_LOST
from workers.process.periodic import Periodic

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
        self._renewed_at = -math.inf

    @property
    def worker_id(self) -> UUID:
        return self._worker_id

    @property
    def age_seconds(self) -> float:
        """Since it was last renewed; infinite before it was made."""
        return time.monotonic() - self._renewed_at

    @property
    def held(self) -> bool:
        """Whether nobody can have taken this worker for dead."""
        return self.age_seconds < self._lease_seconds

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
        self._renewed_at = time.monotonic()

    def run_once(self) -> float | None:
        asked_at = time.monotonic()
        renewed = self._database.run(lambda connection: workers.beat(connection, self._worker_id, self._vitals()))
        if not renewed:
            lost, self._worker_id = self._worker_id, uuid7()
            log.warning("worker %s lost its lease: what it ran is discarded; it goes on as %s", lost, self._worker_id)
            LEASES_LOST.inc()
            self._on_lost()
            self.register()
        self._renewed_at = asked_at
        return None

    def release(self) -> None:
        """End the lease at once."""
        self._database.run(lambda connection: workers.stop(connection, self._worker_id))
