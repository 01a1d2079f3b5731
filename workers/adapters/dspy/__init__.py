"""The DSPy adapter: programs as DSPy modules. Only this package imports dspy."""

from __future__ import annotations

import inspect
import sys

__all__: list[str] = []


def _callers(context: int = 1) -> list[inspect.FrameInfo]:
    """``inspect.stack()`` of the function that calls it and of its caller, without their source."""
    function = sys._getframe(1)
    frames = [function, function.f_back or function]
    return [inspect.FrameInfo(f, f.f_code.co_filename, f.f_lineno, f.f_code.co_name, None, None) for f in frames]


def _import_dspy() -> None:
    """Import dspy in half the time.

    It notes the caller of each import of an optional package that is missing, with ``inspect.stack()``, which searches
    the source of every frame: 1.5 s of CPU at each start of a worker.
    """
    complete = inspect.stack
    inspect.stack = _callers
    try:
        import dspy  # noqa: F401
    finally:
        inspect.stack = complete


_import_dspy()
