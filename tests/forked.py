"""Processes of tests that begin as forks of one that has imported a worker's libraries: :mod:`tests.fork_server`.

``python forked.py ADDRESS … -c CODE`` runs the code in a fork of the server at the address, and is its standard input
and output.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

__all__ = ["ForkServer", "ForkServerProcess", "Forked", "forking_python", "own_fork_server"]

ROOT = Path(__file__).parents[1]
FORK_SERVER = ("-W", "default", "-m", "tests.fork_server")


class Forked:
    """A process, with what tests use of :class:`subprocess.Popen`."""

    def __init__(self, status: socket.socket, arguments: Sequence[str]) -> None:
        self.args = list(arguments)
        self.returncode: int | None = None
        self._status = status
        self.pid = int(status.recv(64))

    def poll(self) -> int | None:
        """The exit code, or None while it runs."""
        if self.returncode is None and select.select([self._status], [], [], 0)[0]:
            self._note_end()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code. Raises subprocess.TimeoutExpired."""
        if self.returncode is None:
            if not select.select([self._status], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            self._note_end()
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _note_end(self) -> None:
        with self._status:
            code = self._status.recv(64)
        self.returncode = int(code) if code else -signal.SIGKILL  # the server is gone, and its children with it


class ForkServerProcess:
    """The server's process. Processes of tests connect to its ``address``, a path.

    The ``command`` is for Python; the descriptor of the socket is its last argument.
    """

    def __init__(self, address: Path, command: Sequence[str] = FORK_SERVER) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(str(address))
            listener.listen()
            self._process = subprocess.Popen(
                [sys.executable, *command, str(listener.fileno())],
                cwd=ROOT,
                env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=[listener.fileno()],
            )

    def wait_until_ready(self) -> None:
        """Wait until its libraries are imported."""
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"

    def close(self) -> None:
        """End it, and its forks."""
        with self._process:
            assert self._process.stdin is not None
            self._process.stdin.close()


@contextmanager
def own_fork_server() -> Iterator[Path]:
    """The address of a server that serves until the end of the block."""
    with tempfile.TemporaryDirectory(prefix="dspex-fork-") as directory:
        server = ForkServerProcess(address := Path(directory) / "requests")
        try:
            yield address
        finally:
            server.close()


def forking_python(address: Path) -> str:
    """The command of an interpreter for pytest-xdist, which gives it code: it runs in a fork of the server."""
    return f"{sys.executable} -S -P {__file__} {address}"


class ForkServer:
    """A connection with the server at an ``address``, for as long as a ``with`` block lasts."""

    def __init__(self, address: Path) -> None:
        self.address = address
        self._requests = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._requests.connect(str(address))

    def start(
        self,
        *arguments: str,
        environment: Mapping[str, str],
        output: BinaryIO,
        errors: BinaryIO | None = None,
        directory: Path | None = None,
        standard_input: BinaryIO | None = None,
    ) -> Forked:
        """Run the module and its arguments as ``python -m`` does, or ``-c`` and code, in a session of its own.

        Of Python's own variables, ``environment`` may set PYTHONPATH. ``errors`` go to the ``output`` if not given.
        """
        request = {
            "arguments": arguments,
            "environment": dict(environment),
            "directory": str(directory or Path.cwd()),
        }
        status, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            descriptors = [output.fileno(), (errors or output).fileno(), theirs.fileno()]
            if standard_input is not None:
                descriptors.append(standard_input.fileno())
            socket.send_fds(self._requests, [json.dumps(request).encode()], descriptors)
        return Forked(status, arguments)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._requests.close()


def main() -> int:
    """Run ``-c`` and code in a fork of the server at the first argument; end with its exit code."""
    address, *_, code = sys.argv[1:]
    with ForkServer(Path(address)) as server:
        fork = server.start(
            "-c", code, environment=os.environ, output=sys.stdout.buffer, errors=sys.stderr.buffer,
            standard_input=sys.stdin.buffer,
        )  # fmt: skip
        return fork.wait()


if __name__ == "__main__":
    sys.exit(main())
