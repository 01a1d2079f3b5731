"""Refuses connections to other hosts while a file says so: in the tests' process, and in the worker.

An audit hook of the interpreter sees each name that is looked up and each connection that a socket of Python makes,
whatever library it is for. It cannot be removed, so it looks at the file each time. uvloop does both without the
interpreter, so two methods of its loop are wrapped. Connections that a library makes in C, as libpq does, are not seen.

The worker is another process that replaces itself: it installs the hook from a ``sitecustomize`` on its path.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

__all__ = ["VARIABLE", "LoopbackGuard", "install"]

#: The environment variable with the directory of a guard.
VARIABLE = "DSPEX_TESTING_GUARD"
_ACTIVE, _TRIED = "loopback-only", "other-hosts"
_STARTUP = "from dspex.testing.loopback_guard import install\n\ninstall()\n"

#: The check of each guard of this process, by its directory.
_installed: dict[str, Callable[[object, object], None]] = {}


class LoopbackGuard:
    """The guard of a session, in the files of a directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @property
    def startup_directory(self) -> Path:
        """A directory for the path of a process: the process then installs the guard when it starts."""
        directory = self._directory / "startup"
        directory.mkdir(exist_ok=True)
        (directory / "sitecustomize.py").write_text(_STARTUP)
        return directory

    @contextmanager
    def active(self) -> Iterator[None]:
        """Refuse connections to other hosts in the block."""
        install(str(self._directory))
        (self._directory / _TRIED).unlink(missing_ok=True)
        (self._directory / _ACTIVE).touch()
        try:
            yield
        finally:
            (self._directory / _ACTIVE).unlink()

    def tried(self) -> Sequence[str]:
        """The addresses of the connections that were refused."""
        file = self._directory / _TRIED
        return sorted(set(file.read_text().splitlines())) if file.exists() else ()


def install(directory: str | None = None) -> None:
    """Add the hook for the guard in a directory; by default the one that the environment names."""
    place = directory or os.environ.get(VARIABLE)
    if not place or place in _installed:
        return
    _installed[place] = partial(_check, os.path.join(place, _ACTIVE), os.path.join(place, _TRIED))
    if len(_installed) == 1:
        sys.addaudithook(_hook)
        _wrap_uvloop()


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "socket.connect" and isinstance(arguments[1], tuple):
        _check_all(*arguments[1][:2])
    elif event == "socket.getaddrinfo":
        _check_all(*arguments[:2])


def _check_all(host: object, port: object) -> None:
    for check in list(_installed.values()):
        check(host, port)


def _check(active: str, tried: str, host: object, port: object) -> None:
    """Refuse a host that is not this machine, if the file ``active`` is there."""
    name = host.decode() if isinstance(host, bytes) else str(host or "")
    if _is_local(name) or not os.path.exists(active):
        return
    with open(tried, "a") as file:
        file.write(f"{name}:{port}\n")
    raise ConnectionRefusedError(f"dspex_no_paid_calls: a connection to {name} was refused")


def _is_local(name: str) -> bool:
    """Whether a name or an address is of this machine."""
    host = name.partition("%")[0]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host in ("", "localhost", socket.gethostname())
    return address.is_loopback or address.is_unspecified


def _wrap_uvloop() -> None:
    try:
        from uvloop import Loop
    except ImportError:
        return
    connect, resolve = Loop.create_connection, Loop.getaddrinfo

    async def create_connection(loop: Any, factory: Any, host: Any = None, port: Any = None, **options: Any) -> Any:
        _check_all(host, port)
        return await connect(loop, factory, host, port, **options)

    async def getaddrinfo(loop: Any, host: Any, port: Any, **options: Any) -> Any:
        _check_all(host, port)
        return await resolve(loop, host, port, **options)

    Loop.create_connection, Loop.getaddrinfo = create_connection, getaddrinfo  # type: ignore[method-assign, assignment]
