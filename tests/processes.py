"""Worker processes of tests: real ones, started and killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import psycopg

from dspex.embedded import child_launcher
from dspex.settings import Backends
from dspex.store.sessions import libpq_url
from tests.forked import Forked, ForkServer, own_fork_server
from tests.waiting import wait_for

#: A process of the tests.
Process = subprocess.Popen[bytes] | Forked

_fork_server: ForkServer | None = None


@contextmanager
def forked_workers(server: Path | None = None) -> Iterator[None]:
    """Meanwhile worker processes are forks of one that has imported their libraries: of this ``server``, if given."""
    global _fork_server  # noqa: PLW0603
    with nullcontext(server) if server else own_fork_server() as address, ForkServer(address) as _fork_server:
        yield
    _fork_server = None


def fork_server_address() -> Path:
    """That of the server of :func:`forked_workers`."""
    assert _fork_server is not None
    return _fork_server.address


def environment_of(backends: Backends, extra: Mapping[str, Any]) -> dict[str, str]:
    return {
        **os.environ,
        "DSPEX_DATABASE_URL": backends.database_url,
        "DSPEX_BROKER_URL": backends.broker_url,
        "PYTHONWARNINGS": "default",
        **{name: str(value) for name, value in extra.items()},
    }


def mortal(*arguments: str, python: str = sys.executable) -> list[str]:
    """Python with these arguments, killed by the kernel when the tests are: an interruption leaves nothing."""
    own = ["--parent", str(os.getpid()), "--death-signal", str(int(signal.SIGKILL))]
    return [sys.executable, "-I", "-S", child_launcher.__file__, *own, python, *arguments]


def dspex_command(*arguments: str, python: str = sys.executable) -> list[str]:
    """The ``dspex`` command, :func:`mortal`."""
    return mortal("-m", "dspex.cli", *arguments, python=python)


@contextmanager
def command(
    backends: Backends, log: Path, *arguments: str, forked: bool = True, **environment: Any
) -> Iterator[Process]:
    """A ``dspex`` command whose output goes to ``log``, ended by SIGTERM.

    A fork where :func:`forked_workers` holds, unless ``forked`` is false: /proc shows another environment of a fork.
    """
    whole = environment_of(backends, environment)
    with log.open("wb") as output:
        process = (
            start("dspex.cli", *arguments, environment=whole, output=output)
            if forked
            else _popen(dspex_command(*arguments), whole, output)
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(60)


def run_dspex(
    *arguments: str, environment: Mapping[str, str], directory: Path, timeout: float = 240
) -> subprocess.CompletedProcess[str]:
    """A ``dspex`` command and what it prints; a fork where :func:`forked_workers` holds."""
    return run_module("dspex.cli", *arguments, environment=environment, directory=directory, timeout=timeout)


def run_module(
    *arguments: str, environment: Mapping[str, str], directory: Path, timeout: float = 240
) -> subprocess.CompletedProcess[str]:
    """A module of the ``directory`` or of a library with its arguments, or ``-c`` and code, as :func:`run_dspex`."""
    command = _python(*arguments)
    if _fork_server is None:
        return subprocess.run(
            command, env=environment, cwd=directory, capture_output=True, text=True, timeout=timeout, check=False
        )
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        process = _fork_server.start(
            *arguments, environment=environment, output=output, errors=errors, directory=directory
        )
        try:
            code = process.wait(timeout)
        finally:
            process.kill()
            process.wait()
        return subprocess.CompletedProcess(command, code, _text(output), _text(errors))


def interruptible(
    *arguments: str, backends: Backends, directory: Path | None = None, **files: Any
) -> subprocess.Popen[str]:
    """A ``dspex`` command that a test interrupts with SIGINT, its outputs in pipes; ``files`` are those of Popen."""
    return subprocess.Popen(
        dspex_command(*arguments), env=environment_of(backends, {}), cwd=directory, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, **files,
        # Tests in the background of a shell ignore SIGINT, and what they start inherits that.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - it takes no lock
    )  # fmt: skip


class WorkerProcess:
    """``dspex worker`` in a process of its own, its output in ``log``.

    It is a fork where :func:`forked_workers` holds, and else, or with a ``prefix`` or another ``python``, a new
    interpreter: ``prefix`` is a command that starts it and becomes it. It has no parent: the process is the worker.
    """

    def __init__(
        self,
        backends: Backends,
        log: Path,
        environment: Mapping[str, Any],
        *,
        prefix: Sequence[str] = (),
        python: str = sys.executable,
    ) -> None:
        self.log = log
        self._backends = backends
        arguments = ("worker", "--processes", "1")
        command = [*prefix, *dspex_command(*arguments, python=python)]
        plain = not prefix and python == sys.executable
        with log.open("wb") as output:
            self.process = (
                start("dspex.cli", *arguments, environment=environment_of(backends, environment), output=output)
                if plain
                else _popen(command, environment_of(backends, environment), output)
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def wait_until_ready(self) -> None:
        url = libpq_url(self._backends.database_url)
        with psycopg.connect(url, autocommit=True, prepare_threshold=None) as connection:
            wait_for(lambda: self._registered(connection), f"worker {self.pid} to register")

    def kill(self) -> None:
        """SIGKILL: no last words."""
        self.process.kill()
        self.process.wait()

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def stop(self, timeout: float = 30) -> int:
        """SIGTERM, and SIGKILL when that is not enough. Returns the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                return self.process.wait(timeout)
            except subprocess.TimeoutExpired:
                self.kill()
        return self.process.wait()

    def _registered(self, connection: psycopg.Connection) -> bool:
        if self.process.poll() is not None:
            raise AssertionError(f"the worker ended with {self.process.returncode}:\n{self.log.read_text()}")
        asked = "SELECT FROM dspex.workers WHERE pid = %s AND stopped_at IS NULL"
        return connection.execute(asked, [self.pid]).fetchone() is not None


def _text(file: BinaryIO) -> str:
    file.seek(0)
    return file.read().decode()


def start(*arguments: str, environment: Mapping[str, str], output: BinaryIO) -> Process:
    """A module and its arguments, or ``-c`` and code; a fork where :func:`forked_workers` holds, or :func:`mortal`."""
    if _fork_server is not None:
        return _fork_server.start(*arguments, environment=environment, output=output)
    return _popen(_python(*arguments), environment, output)


def _python(*arguments: str) -> list[str]:
    return mortal(*arguments) if arguments[0] == "-c" else mortal("-m", *arguments)


def _popen(command: Sequence[str], environment: Mapping[str, str], output: BinaryIO) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
