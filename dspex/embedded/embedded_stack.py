"""EmbeddedStack: servers, schema, workers, beat, Flower and the local model of one home."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType, MappingProxyType, TracebackType
from typing import NoReturn, Self

from dspex.embedded import application_process, stack_progress
from dspex.embedded.application_process import ApplicationProcess, ReadyCheck
from dspex.embedded.bundled_model import LocalModel
from dspex.embedded.embedded_servers import EmbeddedServers
from dspex.embedded.home import Home, Stack, write_private
from dspex.embedded.ports import free_port
from dspex.embedded.process_monitor import ProcessMonitor
from dspex.embedded.stack_progress import Reporter, silent, step
from dspex.errors import ConfigurationError

__all__ = ["EmbeddedStack", "stop_on_signals"]


class EmbeddedStack:
    """All that DSPex needs, as child processes of this process.

    ::

        with stop_on_signals(), EmbeddedStack(home, on_progress=print) as stack:
            stack.wait()  # until Ctrl-C

    A process that dies is started again, a server on the same port. ``flower_port`` is chosen when it is None.
    Without a ``console_port`` no gateway is started. A worker
    is ready when ``worker_check`` returns true, by default once it has registered in Postgres and renews its lease.
    Workers have the variables of ``worker_environment``, too. ``before_workers`` is called before they start, when
    clients can connect already. The local model starts when it is first asked for, or at once with ``serve_model``.
    ``on_progress`` is called from several threads. Raises StackRunning, ConfigurationError, ProcessFailed or
    BackendUnavailable; then nothing is left running.
    """

    def __init__(
        self,
        home: Path | str,
        *,
        workers: int = 1,
        flower: bool = True,
        beat: bool = True,
        flower_port: int | None = None,
        console_port: int | None = None,
        durable: bool = True,
        start_timeout: float = 120.0,
        worker_grace: float = 30.0,
        worker_check: ReadyCheck | None = None,
        worker_environment: Mapping[str, str] = MappingProxyType({}),
        before_workers: Callable[[], None] = lambda: None,
        serve_model: bool = False,
        on_progress: Reporter = silent,
    ) -> None:
        self.servers = EmbeddedServers(home, durable=durable, on_progress=on_progress)
        self.home = self.servers.home
        self.applications: list[ApplicationProcess] = []
        self._workers = workers
        self._beat = beat
        self._flower_port = (flower_port or free_port()) if flower else None
        self._console_port = console_port
        self._start_timeout = start_timeout
        self._worker_grace = worker_grace
        self._worker_check = worker_check
        self._worker_environment = worker_environment
        self._before_workers = before_workers
        self._serve_model = serve_model
        self._report = on_progress
        self._model = LocalModel(self.home)
        self._monitor = ProcessMonitor(on_progress, before_check=self._serve_model_when_wanted)
        self._stop_requested = threading.Event()

    @property
    def info(self) -> Stack:
        """The addresses of the stack, as ``read_stack(home)`` returns them."""
        return self.servers.info

    def start(self) -> None:
        """Start everything and wait until it is ready."""
        self.servers.start(announce=False)
        try:
            if self._serve_model:
                self._monitor.launch(self._model)
            with step(self._report, "schema"):
                _migrate(self.home, self.servers.database_url)
            self.servers.announce(flower_url=self._flower_url, serves_model=True, console_url=self._console_url)
            self._before_workers()
            for server in (self.servers.postgres, self.servers.redis):
                self._monitor.adopt(server)
            self.applications = self._build_applications()
            for each in self.applications:
                self._monitor.launch(each)
            self._monitor.await_ready(self._start_timeout)
            self._monitor.start()
        except BaseException:
            self.stop()
            raise

    def wait(self) -> None:
        """Wait until :meth:`request_stop`, or an exception such as the KeyboardInterrupt of Ctrl-C."""
        self._stop_requested.wait()

    def request_stop(self) -> None:
        """Make :meth:`wait` return; for another thread."""
        self._stop_requested.set()

    def stop(self) -> None:
        """Stop the applications, then the model that they may still call, then Redis, then Postgres."""
        self._stop_requested.set()
        with ExitStack() as last_first:
            last_first.callback(self.servers.stop)
            last_first.callback(self._stop_model)
            last_first.callback(self._stop_applications)
            last_first.callback(self._monitor.stop)

    @property
    def _flower_url(self) -> str | None:
        return f"http://127.0.0.1:{self._flower_port}" if self._flower_port else None

    @property
    def _console_url(self) -> str | None:
        return f"http://127.0.0.1:{self._console_port}" if self._console_port else None

    def _build_applications(self) -> list[ApplicationProcess]:
        home, info = self.home, self.info
        found = [
            application_process.worker(
                f"worker-{n}",
                home,
                info,
                check=self._worker_check,
                grace=self._worker_grace,
                environment=self._worker_environment,
            )
            for n in range(1, self._workers + 1)
        ]
        if self._beat:
            found.append(application_process.beat(home, info))
        if self._flower_port:
            found.append(application_process.flower(home, info, self._flower_port))
        if self._console_port:
            found.append(application_process.gateway(home, info, self._console_port))
        return found

    def _serve_model_when_wanted(self) -> None:
        if self._model.wanted and not self._monitor.monitors(self._model):
            self._monitor.launch(self._model)

    def _stop_applications(self) -> None:
        with ThreadPoolExecutor(max_workers=len(self.applications) or 1) as pool:
            try:
                list(pool.map(lambda each: stack_progress.stop(self._report, each.name, each.stop), self.applications))
            except BaseException:  # a second Ctrl-C: no more grace
                for each in self.applications:
                    each.kill()
                raise

    def _stop_model(self) -> None:
        if self._monitor.monitors(self._model):
            stack_progress.stop(self._report, self._model.name, self._model.stop)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


@contextmanager
def stop_on_signals() -> Iterator[None]:
    """Make SIGTERM and SIGHUP raise KeyboardInterrupt in the main thread, as Ctrl-C does, so that the stack stops."""

    def interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _migrate(home: Home, database_url: str) -> None:
    """Bring the schema up to date. Raises ConfigurationError if other migrations than this DSPex's made it."""
    from dspex.store import migrate
    from dspex.store.database import Database

    database = Database(database_url)
    try:
        with database.engine.connect() as connection:
            found = migrate.current(connection)
        recorded = json.loads(home.schema_file.read_text()) if home.schema_file.exists() else {}
        digests = migrate.digests()
        if found is not None and (found not in digests or recorded.get(found) != digests[found]):
            raise ConfigurationError(
                f"The data in {str(home.path)!r} was made by another state of DSPex, whose schema this one cannot use. "
                f"If you do not need the data, remove it: rm -r {home.path}. Else set another DSPEX_HOME."
            )
        write_private(home.schema_file, recorded | digests)  # before: a start that is killed can be repeated
        migrate.upgrade(database.engine)
    finally:
        database.close()
