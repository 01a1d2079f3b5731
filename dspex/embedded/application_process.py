"""A worker, beat, Flower or the gateway as a process of the stack."""

from __future__ import annotations

import http.client
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from dspex.embedded.child_process import ChildProcess
from dspex.embedded.home import Home, Stack
from dspex.errors import BackendUnavailable

if TYPE_CHECKING:
    from dspex.store.database import Database

__all__ = ["ApplicationProcess", "ReadyCheck", "beat", "flower", "gateway", "is_live", "worker", "worker_is_live"]

#: Whether the process with this id is ready. It is called several times a second while the process starts.
ReadyCheck = Callable[[Stack, int], bool]


class ApplicationProcess:
    """One ``dspex`` command that runs with the stack's servers. The monitor keeps it running."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        home: Home,
        stack: Stack,
        check: ReadyCheck = lambda _stack, _pid: True,
        address: str | None = None,
        grace: float = 10.0,
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.name = name
        self.address = address
        self._stack = stack
        self._check = check
        self._process = ChildProcess(
            name=name,
            argv=[sys.executable, "-m", "dspex.cli", *command],
            log=home.log_dir / f"{name}.log",
            env={**_environment(home.path, stack), **environment},
            stop_signals=((signal.SIGTERM, grace),),
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.running

    def begin(self) -> None:
        self._process.start()

    def ready(self) -> bool:
        return self._check(self._stack, self._process.pid)

    def stop(self) -> None:
        self._process.stop()

    def kill(self) -> None:
        """End it at once; a stop that waits for it returns."""
        self._process.kill()

    def evidence(self) -> str:
        return self._process.evidence()


def worker(
    name: str, home: Home, stack: Stack, *, check: ReadyCheck | None = None, grace: float,
    environment: Mapping[str, str] = MappingProxyType({}),
) -> ApplicationProcess:  # fmt: skip
    """A worker of one process: ready once its row in Postgres shows a current lease."""
    return ApplicationProcess(
        name, ["worker", "--processes", "1"], home=home, stack=stack, check=check or worker_is_live, grace=grace,
        environment=environment,
    )  # fmt: skip


def beat(home: Home, stack: Stack) -> ApplicationProcess:
    """The scheduler of health checks and upkeep."""
    return ApplicationProcess("beat", ["beat"], home=home, stack=stack)


def flower(home: Home, stack: Stack, port: int) -> ApplicationProcess:
    """The live view of workers and tasks: ready once it answers."""

    def answers(_stack: Stack, _pid: int) -> bool:
        return _answers(port)

    command = ["flower", "--port", str(port)]
    return ApplicationProcess(
        "flower", command, home=home, stack=stack, check=answers, address=f"http://127.0.0.1:{port}"
    )


def gateway(home: Home, stack: Stack, port: int) -> ApplicationProcess:
    """The HTTP gateway with the console: ready once it answers."""

    def answers(_stack: Stack, _pid: int) -> bool:
        return _answers(port, "/ready")

    command = ["serve", "--port", str(port)]
    return ApplicationProcess(
        "console", command, home=home, stack=stack, check=answers, address=f"http://127.0.0.1:{port}"
    )


def worker_is_live(stack: Stack, pid: int) -> bool:
    """Whether a worker process of this machine has registered and renews its lease."""
    from dspex.store.database import Database

    database = Database(stack.database_url, pool_size=1)
    try:
        return is_live(database, pid)
    finally:
        database.close()


def is_live(database: Database, pid: int) -> bool:
    """:func:`worker_is_live`, by a connection that is open already."""
    from dspex.store import workers

    try:
        found = database.run(workers.listing)
    except BackendUnavailable:
        return False
    live = {row["pid"] for row in found if row["live"]}
    return pid in live if sys.platform == "linux" else bool(live)  # on other systems `pid` is the launcher's


def _environment(home: Path, stack: Stack) -> Mapping[str, str]:
    own = {"DSPEX_DATABASE_URL": stack.database_url, "DSPEX_BROKER_URL": stack.broker_url, "DSPEX_HOME": str(home)}
    return {name: value for name, value in os.environ.items() if name.removesuffix("_FILE") not in own} | own


def _answers(port: int, path: str = "/") -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", path)
        return connection.getresponse().status < 500
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
