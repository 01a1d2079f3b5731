"""Where a worker runs the code that models write: in Deno's sandbox, or in an interpreter of the deployment's own."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from dspex.errors import ConfigurationError, ProgramError
from dspex.settings import Settings

__all__ = ["interpreter_factory", "interpreter_name", "missing_interpreter"]


def interpreter_name() -> str | None:
    """The interpreter of this worker: ``deno``, what DSPEX_CODE_INTERPRETER names, or None without any."""
    named = Settings.load().code_interpreter
    if named is not None:
        return named
    return "deno" if find_spec("deno") is not None or shutil.which("deno") is not None else None


@cache
def interpreter_factory(named: str) -> Callable[[], Any]:
    """Makes the interpreters of DSPEX_CODE_INTERPRETER. Raises ConfigurationError."""
    module, _, name = named.partition(":")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(f"DSPEX_CODE_INTERPRETER: {named!r} cannot be imported: {error}") from error
    if not callable(found):
        raise ConfigurationError(f"DSPEX_CODE_INTERPRETER: {named!r} is a {type(found).__name__}, not a function")
    return found  # type: ignore[no-any-return]


def missing_interpreter(program: str) -> ProgramError:
    """The error of a program that needs an interpreter, in a worker without one."""
    return ProgramError(
        f"program {program!r} runs code that the model writes, and this worker has no interpreter for it: install "
        'Deno\'s sandbox there with `pip install "dspex[code]"`, or name another interpreter in DSPEX_CODE_INTERPRETER',
        code="interpreter_missing",
        retryable=True,
        program=program,
    )
