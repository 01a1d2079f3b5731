"""The client processes of a history."""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dspex.settings import Backends
from tests.chaos.history.clients import KINDS
from tests.processes import Process, environment_of, start
from tests.waiting import wait_for

__all__ = ["Clients"]

#: A client may wait so long for what it asked last.
LATE_SECONDS = 60.0


class Clients:
    """One process of each kind; one that is killed is replaced, under a name of its own. Shared by threads."""

    def __init__(self, backends: Backends, history: Path, logs: Path, seed: int, server: str) -> None:
        self._environment = environment_of(backends, {})
        self._history = history
        self._logs = logs
        self._seed = seed
        self._over = history / "over"
        self._server = server
        self._lock = threading.Lock()
        self._spawner = ThreadPoolExecutor(max_workers=1, thread_name_prefix="client-spawner")
        self._incarnations = dict.fromkeys(KINDS, 0)
        self._running = {kind: self._start(kind) for kind in KINDS}

    def kill(self, chance: random.Random) -> None:
        with self._lock:
            kind = chance.choice(list(self._running))
            self._running[kind].kill()
            self._running[kind].wait()
            self._running[kind] = self._start(kind)

    def wait_until_begun(self) -> None:
        """Until each has submitted."""
        files = [self._history / f"{kind}-1.jsonl" for kind in KINDS]
        wait_for(lambda: all(f.exists() and f.stat().st_size for f in files), "the clients")

    def finish(self) -> None:
        """Have each end, once it has what it asked for last."""
        self._over.touch()
        for kind, process in self._running.items():
            code = process.wait(LATE_SECONDS)
            assert code == 0, f"client {kind} ended with {code}:\n{self._log(kind).read_text()[-3000:]}"

    def stop(self) -> None:
        for process in self._running.values():
            process.kill()
            process.wait()
        self._spawner.shutdown()

    def _start(self, kind: str) -> Process:
        self._incarnations[kind] += 1
        arguments = {
            "name": f"{kind}-{self._incarnations[kind]}", "seed": self._seed, "server": self._server,
            "over": self._over, "directory": self._history,
        }  # fmt: skip
        options = [part for name, value in arguments.items() for part in (f"--{name}", str(value))]
        # The kernel kills a process when the thread that started it ends, so one thread starts them all.
        return self._spawner.submit(self._spawn, options, kind, self._log(kind)).result()

    def _spawn(self, options: Sequence[str], kind: str, log: Path) -> Process:
        with log.open("wb") as output:
            return start("tests.chaos.history.clients", kind, *options, environment=self._environment, output=output)

    def _log(self, kind: str) -> Path:
        return self._logs / f"client-{kind}-{self._incarnations[kind]}.log"
