"""A test that leaves something open fails: a connection, a file, a thread, a process.

What is open is compared before and after each test. A fixture of the session may hold what it opened. While a
fixture of a module is alive, the comparison waits for its end.

A failure names what is open, also what the garbage collector would close one day. With ``PYTHONTRACEMALLOC=25`` in
the environment it also shows where it was opened.
"""

from __future__ import annotations

import gc
import os
import socket
import threading
import time
import tracemalloc
from collections.abc import Generator, Iterator
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import psycopg
import pytest

__all__ = ["LeftOpen", "describe", "keep", "resources"]

#: Opened by a library at its first use, once for the whole process: files by path, threads by name.
ONCE_PER_PROCESS = ("/dev/urandom", "/dev/null", "tqdm_monitor", "dspex-spawner_0")

#: kombu leaves the selector of a connection that it could not make to the garbage collector.
SELECTOR = "anon_inode:[eventpoll]"

Resource = tuple[str, Any, str]
"""Its kind, its number or the thread itself, and what it is."""

_shared_by_tests: set[Resource] = set()


def keep(descriptor: int) -> None:
    """Let tests share it: it may be left open."""
    _shared_by_tests.add(("file", descriptor, os.readlink(f"/proc/self/fd/{descriptor}")))


class LeftOpen:
    """The plugin. ``patience_seconds``: how long a thread or a process that was asked to stop may take."""

    def __init__(self, *, patience_seconds: float = 30.0) -> None:
        self._patience_seconds = patience_seconds
        self._kept: set[Resource] = set()
        self._before: set[Resource] | None = None
        self._shared: set[pytest.FixtureDef[Any]] = set()

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any]) -> Generator[None, Any, Any]:
        """Remember the fixtures that outlive a test, and what those of the session opened."""
        if fixturedef.scope == "function":
            return (yield)
        before = resources()
        try:
            return (yield)
        finally:
            if fixturedef.scope == "session":
                self._kept |= resources() - before
            else:
                self._shared.add(fixturedef)

    def pytest_fixture_post_finalizer(self, fixturedef: pytest.FixtureDef[Any]) -> None:
        self._shared.discard(fixturedef)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self) -> Generator[None, None, None]:
        if self._before is None:
            self._before = resources()
        yield

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self) -> Generator[None, None, None]:
        try:
            yield
        finally:
            if not self._shared and (left := self._left()):
                pytest.fail(f"left open: {'; '.join(map(describe, left))}", pytrace=False)

    def _left(self) -> list[Resource]:
        """What was opened and neither closed nor kept for the session."""
        known = (self._before or set()) | self._kept | _shared_by_tests
        deadline = time.monotonic() + self._patience_seconds
        while {*_threads(), *_children()} - known and time.monotonic() < deadline:
            time.sleep(0.005)
        now = resources()
        if now - known and all(target == SELECTOR for _, _, target in now - known):
            gc.collect()
            now = resources()
        self._before = now  # the next test's
        return sorted(now - known, key=str)


def resources() -> set[Resource]:
    """What this process has open."""
    return {*_files(), *_threads(), *_children()}


def _files() -> Iterator[Resource]:
    for number in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{number}")
        except FileNotFoundError:  # the directory that was listed
            continue
        if target not in ONCE_PER_PROCESS and int(number) != _of_tracker("_fd"):
            yield "file", int(number), target


def _threads() -> Iterator[Resource]:
    return (("thread", each, each.name) for each in threading.enumerate() if each.name not in ONCE_PER_PROCESS)


def _children() -> Iterator[Resource]:
    for task in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{task}/children") as file:
                children = file.read().split()
        except FileNotFoundError:  # a thread that ended meanwhile
            continue
        for pid in children:
            if int(pid) != _of_tracker("_pid"):
                yield "process", int(pid), ""


def _of_tracker(attribute: str) -> object:
    """Of the process that Python starts for the first lock of multiprocessing, from 3.14 on, and keeps to its end."""
    return getattr(resource_tracker._resource_tracker, attribute, None)


def describe(resource: Resource) -> str:
    """Its kind and its holder, as a failure names them."""
    kind, number, target = resource
    if kind == "process":
        return f"process {number} {_command(number)}"
    if kind == "thread":
        return f"thread {target!r}"
    return f"descriptor {number} {_owner(number) or target}"


def _command(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()


def _owner(number: int) -> str:
    """The object that holds a file descriptor, and where it was made, if that is known."""
    for each in gc.get_objects():
        if isinstance(each, psycopg.Connection | psycopg.AsyncConnection | socket.socket) and _number(each) == number:
            return f"{each!r}{_place(each)}"
    return ""


def _number(holder: Any) -> int:
    try:
        return int(holder.fileno())
    except (psycopg.Error, OSError):
        return -1


def _place(holder: object) -> str:
    trace = tracemalloc.get_object_traceback(holder)
    return "\n".join(["", *trace.format()]) if trace else ""
