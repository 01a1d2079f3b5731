"""Forks worker processes for tests. Each begins with the libraries of a worker imported, which takes 3 s of CPU.

``python -m tests.fork_server DESCRIPTOR`` listens on a socket until its standard input ends. A request is a module to
run as a program, or ``-c`` and code, with its arguments and its environment, and with them the descriptors of its
standard output, of its standard error, of a socket for its process id and its exit code, and maybe of its standard
input. The server prints a line when its libraries are imported. The tests' end of it is :mod:`tests.forked`.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import json
import os
import runpy
import selectors
import signal
import socket
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, NoReturn

__all__ = ["serve"]

LARGEST_REQUEST = 128 * 1024
PR_SET_PDEATHSIG = 1
#: What a worker imports before it reads its settings, and what most commands import.
LIBRARIES = (
    "alembic.command",
    "billiard.pool",
    "celery.app.amqp",
    "celery.app.control",
    "celery.app.events",
    "celery.app.log",
    "celery.apps.worker",
    "celery.backends.base",
    "celery.concurrency",
    "celery.events.state",
    "celery.fixups.django",
    "celery.loaders.app",
    "celery.worker.autoscale",
    "celery.worker.components",
    "celery.worker.consumer.delayed_delivery",
    "celery.worker.strategy",
    "dspex.cli.batches.batch_command",
    "dspex.cli.executions.list_command",
    "dspex.cli.executions.run_command",
    "dspex.cli.output.console_tables",
    "dspex.cli.output.json_output",
    "dspex.cli.output.progress_bar",
    "dspex.cli.processes.worker_command",
    "dspex.client.client",
    "dspex.client.shown.execution_data",
    "kombu.transport.redis",
    "rich._emoji_codes",
    "sqlalchemy.dialects.postgresql.psycopg",
    "workers.adapters.direct.direct_adapter",
    "workers.adapters.dspy.dspy_adapter",
    "workers.adapters.dspy.modules.agents",
    "workers.adapters.scripted_adapter",
    "workers.consume.consumer",
    "workers.consume.remote_control",
    "workers.consume.sentinel_transport",
    "workers.pool",
)


class Replaced(BaseException):
    """The program called ``os.execve`` with this interpreter: it goes on as the module that the command names."""

    def __init__(self, command: list[str]) -> None:
        super().__init__(command)
        self.command = command


@dataclass(frozen=True)
class Program:
    """A module and its arguments, or ``-c`` and code."""

    arguments: list[str]

    def run(self) -> None:
        """Run it as ``python -m`` or ``python -c`` does."""
        if self.arguments[0] == "-c":
            sys.argv = ["-c", *self.arguments[2:]]
            exec(compile(self.arguments[1], "<string>", "exec"), {"__name__": "__main__"})
            return
        sys.argv = list(self.arguments)
        runpy.run_module(self.arguments[0], run_name="__main__", alter_sys=True)


class ForkServer:
    """Serves its clients until its owner is gone; in each process that it forks, returns the program to run."""

    def __init__(self, listener: socket.socket, owner: int) -> None:
        self._listener = listener
        self._owner = owner
        self._clients: set[socket.socket] = set()
        self._selector = selectors.DefaultSelector()
        for each in (listener, owner):
            self._selector.register(each, selectors.EVENT_READ)

    def serve(self) -> Program | None:
        while True:
            for key, _ in self._selector.select():
                if key.fd == self._owner:
                    self._forget_all()
                    return None
                if key.fileobj is self._listener:
                    self._accept()
                elif key.data:
                    self._report_end(key)
                elif program := self._answer(key.fileobj):  # type: ignore[arg-type]
                    return program

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        self._clients.add(client)
        self._selector.register(client, selectors.EVENT_READ)

    def _answer(self, client: socket.socket) -> Program | None:
        message, descriptors, _, _ = socket.recv_fds(client, LARGEST_REQUEST, 4)
        if message:
            return self._fork(json.loads(message), *descriptors)
        self._selector.unregister(client)
        self._clients.remove(client)
        client.close()
        return None

    def _fork(self, request: dict[str, Any], output: int, errors: int, status: int, *given: int) -> Program | None:
        server = os.getpid()
        if pid := os.fork():
            for each in (output, errors, *given):
                os.close(each)
            reports = socket.socket(fileno=status)
            reports.send(str(pid).encode())
            self._selector.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, reports))
            return None
        os.close(status)
        self._forget_all()
        _die_with(server)
        _take_on(request, *given or (os.open(os.devnull, os.O_RDONLY),), output, errors)
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
        for each in (self._listener, *self._clients):
            each.close()


def _die_with(server: int) -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != server:
        os._exit(1)


def _take_on(request: dict[str, Any], *given_descriptors: int) -> None:
    """The environment, the directory, the input and the outputs of the request, in a session of its own."""
    os.setsid()
    for standard, given in enumerate(given_descriptors):
        os.dup2(given, standard)
        os.close(given)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["directory"])
    sys.path[0] = request["directory"]
    if further := [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]:
        sys.path[1:1] = further
        if adapters := sys.modules.get("dspex.program.adapters"):
            adapters.look_again()


def _replace(path: str, command: list[str], environment: Mapping[str, str]) -> NoReturn:
    """``os.execve``, without giving up what is imported."""
    if path != sys.executable or command[1] != "-m":
        raise NotImplementedError(f"a forked program cannot become {command}")
    if environment is not os.environ:
        os.environ.clear()
        os.environ.update(environment)
    raise Replaced(command[2:])


def _end(code: int) -> NoReturn:
    """End as an interpreter does, but free no memory: that would touch, and so copy, all that the server imported."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:  # the interpreter reports it
        sys.exit(code)
    os._exit(code)


def _run(program: Program) -> None:
    """Run the program, and what it may become; an error or a text that it ends with is left to the interpreter."""
    code = 0
    try:
        try:
            program.run()
        except Replaced as replaced:
            Program(replaced.command).run()
    except SystemExit as ended:
        if isinstance(ended.code, str):
            raise
        code = ended.code or 0
    _end(code)


def main() -> None:
    for name in LIBRARIES:
        import_module(name)
    # What most processes look up once, among the files of all packages and in the system's store.
    import_module("dspex.program.adapters").adapters()
    import_module("workers.lm.connect.http_transport")._trusted_authorities(None)
    serve(int(sys.argv[1]))


def serve(descriptor: int) -> None:
    """Serve on the socket; in each process that is forked, run its program."""
    gc.collect()
    gc.freeze()
    print("ready", flush=True)
    with socket.socket(fileno=descriptor) as listener:
        program = ForkServer(listener, sys.stdin.fileno()).serve()
    if program is not None:
        os.execve = _replace  # type: ignore[assignment]
        _run(program)


if __name__ == "__main__":
    main()
