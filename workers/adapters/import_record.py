"""A record of the imports of users' code, which outlives the process: an import may end it, or never end.

The workers of a fleet share it; its parent keeps the file. A version whose import ended processes is not imported any
more until the fleet is started again.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from workers.process.fleet_pipe import IMPORTS

__all__ = ["ended_processes", "recorded"]

_BEGIN, _END = "begin", "end"


@contextmanager
def recorded(version: str) -> Iterator[None]:
    """Record that this process imports code of this version of a program, and that it survived."""
    _append(_BEGIN, version)
    try:
        yield
    finally:
        _append(_END, version)


def ended_processes(version: str) -> int:
    """How many processes ended while they imported code of this version."""
    under_way: Counter[int] = Counter()
    for line in _lines():
        pid, what, of = line.split(" ", 2)
        if of == version:
            under_way[int(pid)] += 1 if what == _BEGIN else -1
    return sum(count > 0 and not _is_alive(pid) for pid, count in under_way.items())


def _append(what: str, version: str) -> None:
    if path := os.environ.get(IMPORTS):
        with Path(path).open("a") as file:
            file.write(f"{os.getpid()} {what} {version}\n")  # one write, so lines of two processes do not mix


def _lines() -> list[str]:
    path = os.environ.get(IMPORTS)
    return Path(path).read_text().splitlines() if path else []


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
