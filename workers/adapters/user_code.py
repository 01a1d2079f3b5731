"""The user's own code: found by name, and only in the packages that this worker allows.

A program is data that anyone with access to the database can write, so its names are not trusted: a package that is
not listed in ``DSPEX_PROGRAM_PACKAGES`` is never imported, and objects that an allowed module imported from elsewhere
(``os.system``) are refused.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection
from importlib import import_module
from types import ModuleType
from typing import Any

from dspex.errors import ModuleNotAllowed, ProgramError
from dspex.program.modules import is_reference, is_within
from dspex.program.program import Program
from dspex.settings import Settings
from workers.adapters.import_record import ended_processes, recorded
from workers.adapters.setups import run_setups
from workers.attempt.supervision import is_interruption

__all__ = ["allow_packages", "allowed_packages", "is_worker", "load"]

#: A version whose import ended so many processes is not imported any more. One may have ended by chance.
DEATHS_MOST = 2

#: What this worker process allowed when it started; None outside of a worker.
_allowed: Collection[str] | None = None


def allow_packages(packages: Collection[str]) -> None:
    """From now on this process allows code from these packages, and from no other."""
    global _allowed  # noqa: PLW0603
    _allowed = tuple(packages)


def is_worker() -> bool:
    """Whether this process is a worker."""
    return _allowed is not None


def allowed_packages() -> Collection[str]:
    """The packages in ``DSPEX_PROGRAM_PACKAGES`` when the worker started; outside of a worker, now."""
    return Settings.load().program_packages if _allowed is None else _allowed


def load(program: Program, reference: str, packages: Collection[str]) -> Callable[..., Any]:
    """The function or class that ``package.module:name`` names.

    What it loads once per process (:func:`dspex.setup`) is loaded then, and what the modules do that it imports.

    Raises ModuleNotAllowed for one from outside ``packages``, and ProgramError ``code_not_found`` when there is none,
    its module cannot be imported or its setup fails: another worker may have it.
    """
    module, _, name = reference.partition(":")
    if not is_reference(reference) or not is_within(module, packages):
        raise _refused(program, reference, packages)
    try:
        found = getattr(_imported(program, module), name)
    except BaseException as error:  # the boundary to the user's code, which the import runs
        if is_interruption(error):
            raise
        # Only these two are known not to quote anything else.
        why = f": {error}" if isinstance(error, ImportError | AttributeError) else ""
        raise ProgramError(
            f"program {program.name!r}: {reference!r} cannot be imported in this worker ({type(error).__name__}{why}): "
            "install its package there, or name its directory in PYTHONPATH; then restart the worker",
            code="code_not_found",
            retryable=True,
            program=program.name,
            reference=reference,
        ) from error
    if not callable(found):
        raise ProgramError(f"program {program.name!r}: {reference!r} is a {type(found).__name__}, not a function")
    if not is_within(_home(found), packages):
        raise _refused(program, reference, packages, of=_home(found))
    run_setups(program.name, module, packages)
    return found  # type: ignore[no-any-return]


def _imported(program: Program, module: str) -> ModuleType:
    if module in sys.modules:
        return import_module(module)
    version = f"{program.name} {program.version}"
    if (deaths := ended_processes(version)) >= DEATHS_MOST:
        raise ImportError(f"{deaths} worker processes ended while they imported it")
    with recorded(version):
        return import_module(module)


def _home(found: Any) -> str:
    """The module that defines it; for an instance (``functools.partial``), the module of its class."""
    defined = found if isinstance(found, type) or hasattr(found, "__code__") else type(found)
    return str(defined.__module__)


def _refused(program: Program, reference: str, packages: Collection[str], *, of: str = "") -> ModuleNotAllowed:
    listed = ", ".join(packages) or "none"
    whose = f", which is {of}'s," if of else ""
    return ModuleNotAllowed(
        f"program {program.name!r} wants {reference!r}{whose} and this worker allows code from these packages: "
        f"{listed}; list its package in DSPEX_PROGRAM_PACKAGES if you trust it, and start the worker again",
        program=program.name,
        reference=reference,
    )
