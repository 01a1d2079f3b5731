"""The pipe from each worker process to the fleet that started it (:mod:`workers.process.fleet`), and its heartbeat.

The parent gives each child the writing end of a pipe. The child writes one byte for each event, and one now and then
as its heartbeat. C code that keeps the interpreter's lock stops every thread of its process, the lease, the pump and
the watchdog among them, and so the heartbeat too. The parent then kills the child. A process without a parent ends
itself: a timer in C, which needs no lock, runs out when the heartbeat does not set it again.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import threading
import time

__all__ = [
    "EXIT_RETIRED",
    "IMPORTS",
    "PLACE",
    "READY",
    "RETIRING",
    "VARIABLE",
    "ProcessHeartbeat",
    "notify_parent",
    "place",
]

#: The exit code of a worker that was recycled; nothing was left to hand back. It is EX_TEMPFAIL.
EXIT_RETIRED = 75
#: An environment variable of the child: the number of the pipe's file descriptor.
VARIABLE = "_DSPEX_FLEET_FD"
#: An environment variable of the child: its place in the fleet, which its replacement takes over.
PLACE = "_DSPEX_FLEET_PLACE"
#: An environment variable of the child: the file in which it records imports of users' code.
IMPORTS = "_DSPEX_FLEET_IMPORTS"

#: The child may claim executions.
READY = b"r"
#: The child claims nothing more, finishes what it runs, and ends with EXIT_RETIRED: its replacement can start.
RETIRING = b"x"
#: The interpreter of the child runs its threads.
BEAT = b"b"
#: The longest time between two beats, and how many of them fit into the time after which a silent process is ended.
BEAT_SECONDS = 1.0
BEATS_LEAST = 10
_STANDARD_ERROR = 2


def place() -> int:
    """This process's place in the fleet, counted from 0; 0 for a process without a fleet."""
    return int(os.environ.get(PLACE, "0"))


def notify_parent(event: bytes) -> None:
    """Write an event to the pipe. Without a parent this does nothing."""
    if (number := os.environ.get(VARIABLE)) is not None:
        with contextlib.suppress(OSError):  # the parent has ended
            os.write(int(number), event)


class ProcessHeartbeat:
    """A service that beats until the process ends, also while its other services stop.

    After ``limit_seconds`` without a beat the parent kills this process; without a parent it ends with exit code 1.
    Standard error then has the stack of each thread: files, lines and functions, never values.
    """

    def __init__(self, limit_seconds: float) -> None:
        has_parent = VARIABLE in os.environ
        self._exit = not has_parent
        # With a parent, the stacks are written while there is time for it.
        self._timer_seconds = limit_seconds / 2 if has_parent else limit_seconds
        self._pause_seconds = min(BEAT_SECONDS, limit_seconds / BEATS_LEAST)
        self._thread = threading.Thread(target=self._run, name="dspex-heartbeat", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Nothing: the end of a process is watched, too."""

    def _run(self) -> None:
        while True:
            faulthandler.dump_traceback_later(self._timer_seconds, exit=self._exit, file=_STANDARD_ERROR)
            notify_parent(BEAT)
            time.sleep(self._pause_seconds)
