"""Functions of users' code that load what is heavy."""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from dspex.program.calls.parameters import signature_of

__all__ = ["SetupFunction", "registered_setups", "setup"]

T = TypeVar("T")


class SetupFunction(Generic[T]):
    """A function without arguments that runs once in a process: at the first call. All calls return its result."""

    def __init__(self, function: Callable[[], T]) -> None:
        if inspect.iscoroutinefunction(function) or signature_of(function).parameters:
            raise TypeError(f"dspex.setup is for a plain function without parameters, not {function.__qualname__}")
        functools.update_wrapper(self, function)
        self.name = f"{function.__module__}:{function.__qualname__}"
        self._function = function
        self._lock = threading.Lock()
        self._results: list[T] = []

    def __call__(self) -> T:
        with self._lock:
            if not self._results:
                self._results.append(self._function())
            return self._results[0]

    @property
    def is_done(self) -> bool:
        """Whether it has run in this process."""
        return bool(self._results)


#: In the order of their definition.
_registered: list[SetupFunction[Any]] = []


def setup(function: Callable[[], T]) -> SetupFunction[T]:
    """Mark a function that loads what is heavy, such as an index, once in each process::

        @dspex.setup
        def index() -> Index:
            return Index.read("wikipedia.bin")

    ``index()`` returns the same object from then on. A worker calls it when it imports the program's code: not on its
    event loop, and before it is ready. `dspex workers` shows how long it took and how much memory it holds.

    Raises TypeError for a coroutine function and for one with parameters.
    """
    made = SetupFunction(function)
    _registered.append(made)
    return made


def registered_setups() -> Sequence[SetupFunction[Any]]:
    """All of them that this process has imported."""
    return tuple(_registered)
