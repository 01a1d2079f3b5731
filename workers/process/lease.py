"""The lease: a worker's row, renewed from a thread of its own, so that a busy loop does not lose it."""

from __future__ import annotations

import logging
import math
import os
import socket
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version

from uuid_utils.compat import uuid7

from dspex.store import workers
from dspex.store.database import Database
from workers.observe.metrics import LEASES_LOST
from workers.process.periodic import Periodic
from workers.process.worker_state import WorkerState

__all__ = ["Lease"]

log = logging.getLogger("dspex.workers")


class Lease(Periodic):
    """Registers this worker and renews its lease every third of ``lease_seconds``.

    Each renewal stores ``vitals``. When the worker finds that it was declared dead, because it was stopped or cut off
    for longer than its lease, it owns no execution any more: ``on_lost`` is called, and it continues under a new id.
    ``on_renewed`` is called with the attempts that Postgres has as this worker's, so that each of them is run.
    """

    name = "lease"

    def __init__(
        self,
        database: Database,
        worker: WorkerState,
        *,
        lease_seconds: float,
        program_packages: Sequence[str],
        code_interpreter: str | None,
        vitals: Callable[[], workers.Vitals],
        on_lost: Callable[[], None],
        on_renewed: Callable[[Sequence[workers.Owned]], None],
    ) -> None:
        super().__init__(lease_seconds / 3)
        self._database = database
        self._worker = worker
        self._lease_seconds = lease_seconds
        self._program_packages = program_packages
        self._code_interpreter = code_interpreter
        self._vitals = vitals
        self._on_lost = on_lost
        self._on_renewed = on_renewed
        self._renewed_at = -math.inf

    @property
    def age_seconds(self) -> float:
        """The time since the last renewal; infinite before the worker is registered."""
        return time.monotonic() - self._renewed_at

    @property
    def held(self) -> bool:
        """Whether no other worker can have declared this one dead."""
        return self.age_seconds < self._lease_seconds

    def start(self) -> None:
        """Register the worker, which may claim from now on, and renew its lease. Raises BackendUnavailable."""
        self._register()
        super().start()

    def stop(self) -> None:
        """Stop the renewal and release the lease at once. Raises BackendUnavailable; then the lease expires."""
        super().stop()
        self._database.run(lambda connection: workers.stop(connection, self._worker.id))

    def _register(self) -> None:
        vitals = self._vitals()
        self._database.run(
            lambda connection: workers.register(
                connection,
                id=self._worker.id,
                host=socket.gethostname(),
                pid=os.getpid(),
                version=version("dspex"),
                concurrency=vitals.concurrency,
                lease_seconds=self._lease_seconds,
                unrunnable=vitals.unrunnable,
                program_packages=self._program_packages,
                dspy=_dspy_release(),
                code_interpreter=self._code_interpreter,
                setups=vitals.setups,
            )
        )
        self._renewed_at = time.monotonic()

    def run_once(self) -> float | None:
        asked_at = time.monotonic()
        renewed = self._database.run(lambda connection: workers.beat(connection, self._worker.id, self._vitals()))
        if not renewed:
            lost, self._worker.id = self._worker.id, uuid7()
            log.warning(
                "worker %s lost its lease: its running attempts are discarded; it continues as %s",
                lost, self._worker.id,
            )  # fmt: skip
            LEASES_LOST.inc()
            self._on_lost()
            self._register()
        self._renewed_at = asked_at
        self._on_renewed(self._database.run(lambda connection: workers.owned(connection, self._worker.id)))
        return None


def _dspy_release() -> str | None:
    """Which DSPy is installed here, which is not imported to find out."""
    try:
        return version("dspy")
    except PackageNotFoundError:
        return None
