"""The stack that ``dspex up`` starts, for the pages: its worker is a fork, which begins in a tenth of the time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dspex.embedded.embedded_stack import EmbeddedStack
from dspex.settings import Backends
from tests.homes import copy_home
from tests.processes import WorkerProcess

__all__ = ["stack_with_worker"]

#: How often the worker is looked at.
EVERY_SECONDS = 0.1


@contextmanager
def stack_with_worker(home: Path, log: Path) -> Iterator[None]:
    """Servers, the bundled model and a worker, which is started again when it dies."""
    copy_home(home)
    with EmbeddedStack(home, workers=0, flower=False, beat=False, durable=False) as stack:
        backends = Backends((stack.servers.database_url, stack.servers.broker_url))
        supervisor = _Supervisor(backends, log, home)
        supervisor.start()
        try:
            supervisor.worker.wait_until_ready()
            yield
        finally:
            supervisor.stop()


class _Supervisor(threading.Thread):
    """Starts the worker, and starts it again when it has ended."""

    def __init__(self, backends: Backends, log: Path, home: Path) -> None:
        super().__init__(name="supervisor of the worker")
        self._backends, self._log, self._home = backends, log, home
        self._stopping = threading.Event()
        self.worker = self._begin()

    def run(self) -> None:
        while not self._stopping.wait(EVERY_SECONDS):
            if self.worker.process.poll() is not None:
                self.worker = self._begin()

    def stop(self) -> None:
        self._stopping.set()
        self.join()
        self.worker.stop()

    def _begin(self) -> WorkerProcess:
        return WorkerProcess(self._backends, self._log, {"DSPEX_HOME": self._home, "DSPEX_GRACE_SECONDS": 5})
