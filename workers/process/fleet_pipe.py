"""The pipe from each worker process to the fleet that started it (:mod:`workers.process.fleet`).

The parent gives each child the writing end of a pipe. The child writes one byte for each event.
"""

from __future__ import annotations

import contextlib
import os

__all__ = ["EXIT_RETIRED", "PLACE", "READY", "RETIRING", "VARIABLE", "notify_parent", "place"]

#: The exit code of a worker that was recycled; nothing was left to hand back. It is EX_TEMPFAIL.
EXIT_RETIRED = 75
#: An environment variable of the child: the number of the pipe's file descriptor.
VARIABLE = "_DSPEX_FLEET_FD"
#: An environment variable of the child: its place in the fleet, which its replacement takes over.
PLACE = "_DSPEX_FLEET_PLACE"

#: The child may claim executions.
READY = b"r"
#: The child claims nothing more, finishes what it runs, and ends with EXIT_RETIRED: its replacement can start.
RETIRING = b"x"


def place() -> int:
    """This process's place in the fleet, counted from 0; 0 for a process without a fleet."""
    return int(os.environ.get(PLACE, "0"))


def notify_parent(event: bytes) -> None:
    """Write an event to the pipe. Without a parent this does nothing."""
    if (number := os.environ.get(VARIABLE)) is not None:
        with contextlib.suppress(OSError):  # the parent has ended
            os.write(int(number), event)
