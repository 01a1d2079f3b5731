"""What a worker process and the fleet that started it (:mod:`workers.process.fleet`) say to each other.

The parent gives each child the writing end of a pipe; the child writes one byte for each thing it has to say.
"""

from __future__ import annotations

import contextlib
import os

__all__ = ["EXIT_RETIRED", "PLACE", "READY", "RETIRING", "VARIABLE", "place", "tell"]

#: The exit code of a worker that used up its memory or its executions, and handed nothing to nobody: EX_TEMPFAIL.
EXIT_RETIRED = 75
#: In the child's environment: the number of the pipe's file descriptor.
VARIABLE = "_DSPEX_FLEET_FD"
#: Also there: the child's place in the fleet, which its replacement takes over.
PLACE = "_DSPEX_FLEET_PLACE"

#: It may claim.
READY = b"r"
#: It claims nothing more, finishes what it runs, and ends with EXIT_RETIRED: its replacement can start.
RETIRING = b"x"


def place() -> int:
    """This process's place in the fleet, counted from 0; 0 for one without a parent."""
    return int(os.environ.get(PLACE, "0"))


def tell(word: bytes) -> None:
    """Say it to the parent, if there is one."""
    if (number := os.environ.get(VARIABLE)) is not None:
        with contextlib.suppress(OSError):  # a parent that is gone hears nothing
            os.write(int(number), word)
