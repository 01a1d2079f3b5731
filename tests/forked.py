"""Processes of tests that begin as forks of one that has imported a worker's libraries: :mod:`tests.fork_server`."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

__all__ = ["ForkServer", "Forked"]

ROOT = Path(__file__).parents[1]


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


class ForkServer:
    """The server's process, for as long as a ``with`` block lasts."""

    def __init__(self) -> None:
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.fork_server", str(theirs.fileno())],
                cwd=ROOT,
                env={**environment, "PYTHONWARNINGS": "default"},
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )

    def start(
        self,
        *arguments: str,
        environment: Mapping[str, str],
        output: BinaryIO,
        errors: BinaryIO | None = None,
        directory: Path | None = None,
    ) -> Forked:
        """Run the module and its arguments as ``python -m`` does, in a session of its own.

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
            socket.send_fds(self._requests, [json.dumps(request).encode()], descriptors)
        return Forked(status, arguments)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._requests.close()
        self._process.wait()
