"""The workers of a history: any may be killed or frozen, and whatever ended is replaced."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from dspex.settings import Backends
from tests.chaos.history.record import Recorder
from tests.processes import WorkerProcess

__all__ = ["Fleet"]

#: What a worker logs once it has a lease.
READY = " is ready: "


class Fleet:
    """A fixed number of worker processes. Every death is recorded as a fault. Shared by threads."""

    def __init__(
        self, backends: Backends, logs: Path, recorder: Recorder, environment: Mapping[str, Any], size: int
    ) -> None:
        self._backends = backends
        self._logs = logs
        self._recorder = recorder
        self._environment = environment
        self._lock = threading.Lock()
        # The kernel kills a worker when the thread that started it ends, so one thread starts them all.
        self._spawner = ThreadPoolExecutor(max_workers=1, thread_name_prefix="fleet-spawner")
        self._started = 0
        self._workers = [self._start() for _ in range(size)]

    def kill(self, chance: random.Random) -> None:
        """SIGKILL to one of them; another takes its place."""
        with self._lock:
            self._replace_ended()
            place = chance.randrange(len(self._workers))
            with self._recorder.operation("fault", kind="kill_worker", pid=self._workers[place].pid):
                self._workers[place].kill()
            self._workers[place] = self._start()

    def freeze(self, chance: random.Random, seconds: float) -> None:
        """SIGSTOP to one of them, and SIGCONT after some seconds."""
        with self._lock:
            self._replace_ended()
            worker = chance.choice(self._workers)
        with self._recorder.operation("fault", kind="freeze_worker", pid=worker.pid):
            worker.signal(signal.SIGSTOP)
            time.sleep(seconds)
            worker.signal(signal.SIGCONT)

    def tend(self) -> None:
        """Record and replace those that ended by themselves."""
        with self._lock:
            self._replace_ended()

    def stop(self) -> None:
        with self._lock:
            for worker in self._workers:
                worker.stop()
        self._spawner.shutdown()

    def _replace_ended(self) -> None:
        for place, worker in enumerate(self._workers):
            code = worker.process.poll()
            if code is not None:
                # A worker that finds no Postgres does not start.
                kind = "worker_ended" if READY in worker.log.read_text() else "worker_refused"
                with self._recorder.operation("fault", kind=kind, pid=worker.pid, exit_code=code):
                    self._workers[place] = self._start()

    def _start(self) -> WorkerProcess:
        self._started += 1
        log = self._logs / f"worker-{self._started}.log"
        return self._spawner.submit(WorkerProcess, self._backends, log, self._environment).result()
