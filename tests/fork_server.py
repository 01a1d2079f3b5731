"""Forks worker processes for tests. Each begins with the libraries of a worker imported, which takes 3 s of CPU.

``python -m tests.fork_server DESCRIPTOR`` reads requests from a socket: a module to run as a program, its arguments
and its environment, and with them the descriptors of its standard output, of its standard error and of a socket for
its process id and its exit code.
The tests' end of it is :mod:`tests.forked`.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import runpy
import selectors
import signal
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, NoReturn

__all__ = ["LARGEST_REQUEST", "load_libraries"]

LARGEST_REQUEST = 128 * 1024
PR_SET_PDEATHSIG = 1
#: What a worker imports before it reads its settings, and what most commands import.
LIBRARIES = (
    "celery.app.amqp",
    "celery.app.control",
    "celery.app.events",
    "celery.app.log",
    "celery.apps.worker",
    "celery.concurrency",
    "celery.events.state",
    "celery.loaders.app",
    "celery.worker.autoscale",
    "celery.worker.components",
    "celery.worker.strategy",
    "dspex.cli.output.console_tables",
    "dspex.cli.output.execution_data",
    "dspex.cli.output.progress_bar",
    "dspex.cli.processes.worker_command",
    "dspex.client.client",
    "kombu.transport.redis",
    "sqlalchemy.dialects.postgresql.psycopg",
    "workers.adapters.direct.direct_adapter",
    "workers.adapters.dspy.dspy_adapter",
    "workers.adapters.dspy.modules.agents",
    "workers.adapters.scripted_adapter",
    "workers.consume.consumer",
    "workers.pool",
)


class Replaced(BaseException):
    """The program called ``os.execve`` with this interpreter: it goes on as the module that the command names."""

    def __init__(self, command: list[str]) -> None:
        super().__init__(command)
        self.command = command


@dataclass(frozen=True)
class Program:
    """A module and its arguments."""

    arguments: list[str]

    def run(self) -> None:
        """Run it as ``python -m`` does."""
        sys.argv = list(self.arguments)
        runpy.run_module(self.arguments[0], run_name="__main__", alter_sys=True)


class ForkServer:
    """Serves requests until their socket is closed; in each process that it forks, returns the program to run."""

    def __init__(self, requests: socket.socket) -> None:
        self._requests = requests
        self._selector = selectors.DefaultSelector()
        self._selector.register(requests, selectors.EVENT_READ)

    def serve(self) -> Program | None:
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is not self._requests:
                    self._report_end(key)
                    continue
                message, descriptors, _, _ = socket.recv_fds(self._requests, LARGEST_REQUEST, 3)
                if not message:
                    self._forget_all()
                    return None
                if program := self._fork(json.loads(message), *descriptors):
                    return program

    def _fork(self, request: dict[str, Any], output: int, errors: int, status: int) -> Program | None:
        server = os.getpid()
        if pid := os.fork():
            os.close(output)
            os.close(errors)
            reports = socket.socket(fileno=status)
            reports.send(str(pid).encode())
            self._selector.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, reports))
            return None
        os.close(status)
        self._forget_all()
        _die_with(server)
        _take_on(request, output, errors)
        return Program(request["arguments"])

    def _report_end(self, key: selectors.SelectorKey) -> None:
        pid, reports = key.data
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        self._selector.unregister(key.fileobj)
        os.close(key.fd)
        with reports:
            reports.send(str(code).encode())

    def _forget_all(self) -> None:
        """Close what belongs to the server and to its other children."""
        for key in list(self._selector.get_map().values()):
            if key.data:
                os.close(key.fd)
                key.data[1].close()
        self._selector.close()
        self._requests.close()


def _die_with(server: int) -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != server:
        os._exit(1)


def _take_on(request: dict[str, Any], output: int, errors: int) -> None:
    """The environment, the working directory and the output of the request, in a session of its own."""
    os.setsid()
    for given, standard in ((output, 1), (errors, 2)):
        os.dup2(given, standard)
        os.close(given)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["directory"])
    sys.path[0] = request["directory"]
    sys.path[1:1] = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]


def _replace(path: str, command: list[str], environment: Mapping[str, str]) -> NoReturn:
    """``os.execve``, without giving up what is imported."""
    if path != sys.executable or command[1] != "-m":
        raise NotImplementedError(f"a forked program cannot become {command}")
    if environment is not os.environ:
        os.environ.clear()
        os.environ.update(environment)
    raise Replaced(command[2:])


def load_libraries() -> None:
    for name in LIBRARIES:
        import_module(name)


def main() -> None:
    load_libraries()
    gc.collect()
    gc.freeze()
    with socket.socket(fileno=int(sys.argv[1])) as requests:
        program = ForkServer(requests).serve()
    if program is None:
        return
    os.execve = _replace  # type: ignore[assignment]
    try:
        program.run()
    except Replaced as replaced:
        program = Program(replaced.command)
    program.run()


if __name__ == "__main__":
    main()
