"""A server of the stack: a data directory, a port that may be in use, and waiting until it answers."""

from __future__ import annotations

import importlib.util
import time
from abc import ABC, abstractmethod
from pathlib import Path

from dspex.embedded.child_process import REFUSED, ChildProcess
from dspex.embedded.home import FileLock, Home
from dspex.embedded.ports import free_port, is_free
from dspex.errors import BackendUnavailable, ConfigurationError, DspexError

__all__ = ["BackendServer", "packaged"]

_PORT_ATTEMPTS = 5
# How long a start waits for the server of a killed supervisor: Postgres disconnects clients and writes a checkpoint.
_ORPHAN_SECONDS = 30.0


class BackendServer(ABC):
    """One server of a home. ``start`` prepares its data, chooses a port and waits until it answers."""

    name: str

    def __init__(self, home: Home, *, durable: bool) -> None:
        self.home = home
        self.durable = durable
        self.port = 0
        self._process: ChildProcess | None = None

    @property
    @abstractmethod
    def url(self) -> str:
        """Its address, with its password."""

    @property
    def data(self) -> Path:
        return self.home.path / self.name

    @property
    def process(self) -> ChildProcess:
        if self._process is None:
            raise RuntimeError(f"{self.name} was not started")
        return self._process

    def start(self, *, timeout: float = 60.0) -> None:
        """Start on a free port, or on another one when that port was taken meanwhile."""
        self.prepare()
        for attempt in range(1, _PORT_ATTEMPTS + 1):
            self.port = free_port()
            try:
                self.run(timeout=timeout)
            except BackendUnavailable:
                if attempt == _PORT_ATTEMPTS or is_free(self.port):
                    raise
            else:
                break
        self.provision()

    def begin(self) -> None:
        """Run again on the same port after it died, so that clients can reconnect."""
        self.run(timeout=60.0)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.running

    def evidence(self) -> str:
        return self._process.evidence() if self._process else ""

    def run(self, *, timeout: float) -> None:
        """One attempt on :attr:`port`: start the process and wait until it answers."""
        lock = self._lock_data()
        try:
            self._process = self.build()
            self._process.start(inherit=lock.fd)
        finally:
            lock.close()
        try:
            self._await_ready(self._process, timeout)
        except BaseException:
            self._process.stop()
            raise

    def stop(self) -> None:
        if self._process is not None:
            self._process.stop()

    @abstractmethod
    def prepare(self) -> None:
        """Create the data directory if there is none."""

    @abstractmethod
    def build(self) -> ChildProcess:
        """Make the process for the present port; called before each start, while no other process has the data."""

    @abstractmethod
    def ready(self) -> bool:
        """Whether it answers now."""

    def provision(self) -> None:  # noqa: B027 - most servers need nothing
        """Prepare a server that has just become ready."""

    def _lock_data(self) -> FileLock:
        lock = FileLock(self.home.path / f"{self.name}.lock")
        if not lock.acquire(_ORPHAN_SECONDS):
            raise BackendUnavailable(
                f"{self.name} of an earlier run still uses {str(self.data)!r} after {_ORPHAN_SECONDS:.0f} s. It "
                f"ends when its shutdown is complete; find its process with `fuser '{lock.path}'`, and try again.",
                name=self.name,
            )
        return lock

    def _await_ready(self, process: ChildProcess, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while not self.ready():
            if process.wait(0.02) or time.monotonic() > deadline:
                raise self._failed(process, timeout)

    def _failed(self, process: ChildProcess, timeout: float) -> DspexError:
        if process.exit_code == REFUSED:
            return unreachable_as_root(process.evidence())
        late = f"{self.name} does not answer after {timeout:.0f} s: " if process.running else ""
        return BackendUnavailable(late + process.evidence(), name=self.name)


def unreachable_as_root(text: str) -> ConfigurationError:
    return ConfigurationError(
        f"{text}\nPostgres does not run as root, and this system does not let it run as another account that can "
        "reach the home. Run DSPex as an ordinary user, grant the container CAP_DAC_READ_SEARCH or CAP_DAC_OVERRIDE "
        "and CAP_SETPCAP, or set DSPEX_DATABASE_URL to your own Postgres."
    )


def packaged(module: str, *path: str) -> Path:
    """A file inside an installed wheel, found without importing it."""
    spec = importlib.util.find_spec(module)
    places = spec.submodule_search_locations if spec else None
    file = Path(next(iter(places)), *path) if places else None
    if file is None or not file.exists():
        raise ConfigurationError(
            f"The embedded stack needs {module.replace('_', '-')}, which is not installed here: "
            'pip install "dspex[embedded]". Or set DSPEX_DATABASE_URL and DSPEX_BROKER_URL to your own servers.'
        )
    return file
