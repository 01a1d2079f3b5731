"""The client processes of a history."""

from __future__ import annotations

import random
import subprocess
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dspex.settings import Backends
from tests.chaos.history.clients import KINDS
from tests.processes import environment_of, mortal

__all__ = ["Clients"]

#: So long after its time a client may still wait for what it asked last.
LATE_SECONDS = 60.0


class Clients:
    """One process of each kind; one that is killed is replaced, under a name of its own. Shared by threads."""

    def __init__(self, backends: Backends, history: Path, logs: Path, seed: int, seconds: float, server: str) -> None:
        self._environment = environment_of(backends, {})
        self._history = history
        self._logs = logs
        self._seed = seed
        self._until = time.monotonic() + seconds
        self._server = server
        self._lock = threading.Lock()
        # As in Fleet: a process is killed when the thread that started it ends.
        self._spawner = ThreadPoolExecutor(max_workers=1, thread_name_prefix="client-spawner")
        self._incarnations = dict.fromkeys(KINDS, 0)
        self._running = {kind: self._start(kind) for kind in KINDS}

    def kill(self, chance: random.Random) -> None:
        with self._lock:
            kind = chance.choice(list(self._running))
            self._running[kind].kill()
            self._running[kind].wait()
            self._running[kind] = self._start(kind)

    def wait(self) -> None:
        """Until each has ended, at the end of its time."""
        for kind, process in self._running.items():
            code = process.wait(max(0.0, self._until - time.monotonic()) + LATE_SECONDS)
            assert code == 0, f"client {kind} ended with {code}:\n{self._log(kind).read_text()[-3000:]}"

    def stop(self) -> None:
        for process in self._running.values():
            process.kill()
            process.wait()
        self._spawner.shutdown()

    def _start(self, kind: str) -> subprocess.Popen[bytes]:
        self._incarnations[kind] += 1
        arguments = {
            "name": f"{kind}-{self._incarnations[kind]}", "seed": self._seed, "server": self._server,
            "seconds": max(0.0, self._until - time.monotonic()), "directory": self._history,
        }  # fmt: skip
        options = [part for name, value in arguments.items() for part in (f"--{name}", str(value))]
        command = mortal("-m", "tests.chaos.history.clients", kind, *options)
        return self._spawner.submit(self._popen, command, self._log(kind)).result()

    def _popen(self, command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
        with log.open("wb") as output:
            return subprocess.Popen(command, env=self._environment, stdout=output, stderr=subprocess.STDOUT)

    def _log(self, kind: str) -> Path:
        return self._logs / f"client-{kind}-{self._incarnations[kind]}.log"
