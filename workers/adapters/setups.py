"""Runs the setup functions of users' code in a worker process, and measures them."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from dspex.errors import ProgramError
from dspex.program.marked_functions import SetupFunction, registered_setups
from workers.adapters.imported_modules import imported_by
from workers.attempt.supervision import is_interruption
from workers.process.recycling import resident_mb

__all__ = ["finished_setups", "run_setups"]

log = logging.getLogger("dspex.workers")

#: One at a time, so that the memory that each of them takes is its own.
_running = threading.RLock()
_finished: list[Mapping[str, Any]] = []


def run_setups(program: str, module: str, packages: Collection[str]) -> None:
    """Run the setup functions of the module and of the modules in ``packages`` that it imports, in the order of their
    definition, unless they have run. Functions of other modules are not run: they may fail.

    Raises ProgramError ``code_not_found`` for one that fails: another worker may be able to run it.
    """
    with _running:
        left = [setup for setup in registered_setups() if not setup.is_done]
        needed = imported_by(module, packages) if left else ()
        for setup in left:
            if setup.is_done or _module_of(setup) not in needed:
                continue
            before, began = resident_mb(), time.monotonic()
            try:
                setup()
            except BaseException as error:  # the boundary to the user's code
                if is_interruption(error):
                    raise
                raise ProgramError(
                    f"program {program!r}: its setup function {setup.name} raised {type(error).__name__} here",
                    code="code_not_found",
                    retryable=True,
                    program=program,
                    reference=setup.name,
                ) from error
            seconds, taken = time.monotonic() - began, max(resident_mb() - before, 0.0)
            _finished.append({"function": setup.name, "seconds": round(seconds, 3), "memory_bytes": int(taken * 2**20)})
            log.info("%s has run: %.1f s, %.0f MB", setup.name, seconds, taken)


def _module_of(setup: SetupFunction[Any]) -> str:
    return setup.name.partition(":")[0]


def finished_setups() -> Sequence[Mapping[str, Any]]:
    """The setup functions that have run in this process: function, seconds, memory in bytes."""
    return tuple(_finished)
