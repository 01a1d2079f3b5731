"""The worker process of a test session: started when it is needed, killed and paused by tests."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Mapping

from dspex.embedded.application_process import is_live
from dspex.embedded.child_process import ChildProcess
from dspex.embedded.home import Home, read_stack
from dspex.errors import BackendUnavailable
from dspex.store.database import Database

__all__ = ["WorkerHandle"]

#: How long a worker may take to register.
START_SECONDS = 60.0
#: The grace period of a worker that is stopped: a test has no use for what it leaves running.
GRACE_SECONDS = 2.0


class WorkerHandle:
    """A worker of one process, on the servers of a session."""

    def __init__(self, home: Home, environment: Mapping[str, str]) -> None:
        self._home = home
        self._environment = {"DSPEX_GRACE_SECONDS": f"{GRACE_SECONDS:g}", **environment}
        self._process: ChildProcess | None = None
        self._paused = False

    @property
    def pid(self) -> int:
        """The id of its process."""
        return self._started.pid

    @property
    def running(self) -> bool:
        """Whether its process exists, paused or not."""
        return self._process is not None and self._process.running

    def ensure(self) -> None:
        """Start it unless it runs, and let it go on if it is paused. Returns once it takes executions."""
        self.resume()
        if not self.running:
            self.begin()
        self._wait_until_ready()

    def begin(self) -> None:
        """Start it, without waiting. It imports its libraries while the servers start."""
        self.stop()
        self._home.log_dir.mkdir(exist_ok=True)
        self._process = ChildProcess(
            name="worker",
            argv=[sys.executable, "-m", "dspex.testing.early_worker", str(self._home.path)],
            log=self._home.log_dir / "worker.log",
            env={"PYTHONHASHSEED": "0", "TQDM_DISABLE": "1", **self._environment},
            stop_signals=((signal.SIGTERM, GRACE_SECONDS + 5),),
        )
        self._process.start()

    def kill(self) -> None:
        """End it with SIGKILL, as a crash does. Another worker, or its restart, takes over what it ran."""
        self._started.kill()
        self.stop()

    def pause(self) -> None:
        """Stop it with SIGSTOP: it does nothing, and its lease runs out."""
        os.kill(self.pid, signal.SIGSTOP)
        self._paused = True

    def resume(self) -> None:
        """Let a paused worker go on. What it ran may belong to another attempt by now."""
        if self._paused and self.running:
            os.kill(self.pid, signal.SIGCONT)
        self._paused = False

    def restart(self) -> None:
        """Kill it if it runs, and start another."""
        if self.running:
            self.kill()
        self.begin()
        self._wait_until_ready()

    def stop(self) -> None:
        """End it in order."""
        self.resume()
        if self._process is not None:
            self._process.stop()
            self._process = None

    @property
    def _started(self) -> ChildProcess:
        if self._process is None:
            raise RuntimeError("the worker does not run: use the fixture dspex_worker, or restart()")
        return self._process

    def _wait_until_ready(self) -> None:
        stack = read_stack(self._home.path)
        if stack is None:
            raise BackendUnavailable(f"no stack is announced in {str(self._home.path)!r}")
        database = Database(stack.database_url, pool_size=1)
        deadline = time.monotonic() + START_SECONDS
        try:
            while not is_live(database, self.pid):
                if not self._started.running or time.monotonic() > deadline:
                    raise BackendUnavailable(f"the worker of the tests did not start: {self._started.evidence()}")
                time.sleep(0.05)
        finally:
            database.close()
