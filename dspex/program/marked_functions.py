"""Functions of users' code that are marked: tools, and what loads what is heavy."""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, overload

__all__ = ["SetupFunction", "ToolOptions", "registered_setups", "setup", "tool", "tool_options"]

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

#: The attribute of a function that is marked as a tool.
_OPTIONS = "__dspex_tool__"
#: The longest time that one call of a tool may have: a day.
_LONGEST_SECONDS = 86_400.0


class SetupFunction(Generic[T]):
    """A function without arguments that runs once in a process: at the first call. All calls return its result."""

    def __init__(self, function: Callable[[], T]) -> None:
        if inspect.iscoroutinefunction(function) or inspect.signature(function).parameters:
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


@dataclass(frozen=True, slots=True)
class ToolOptions:
    """``timeout``: the seconds that one call may take; without one, the attempt's time is the limit."""

    timeout: float | None = None


@overload
def tool(function: F, /) -> F: ...


@overload
def tool(*, timeout: float | None = None) -> Callable[[F], F]: ...


def tool(function: F | None = None, /, *, timeout: float | None = None) -> F | Callable[[F], F]:
    """Mark a function as a tool, with options for its calls. A plain function is a tool, too::

        @dspex.tool(timeout=30)
        def weather(city: str) -> str:
            "The weather of a city."

    ``timeout``   the seconds that one call may take. The agent observes a longer one as an error, and goes on. A
                  function that is not asynchronous goes on in its thread meanwhile.

    What a tool returned is journaled: a later attempt does not call it again. The function stays as it is, so it can
    be called and tested like any other.

    Raises ValueError for a ``timeout`` that is no number of seconds.
    """
    if timeout is not None and not (type(timeout) in (int, float) and 0 < timeout <= _LONGEST_SECONDS):
        raise ValueError(f"timeout: expected seconds, more than 0 and at most {_LONGEST_SECONDS:.0f}, got {timeout!r}")
    options = ToolOptions(None if timeout is None else float(timeout))

    def mark(marked: F) -> F:
        setattr(marked, _OPTIONS, options)
        return marked

    return mark if function is None else mark(function)


def tool_options(function: object) -> ToolOptions:
    """The options of a function; the defaults if it is not marked."""
    found = getattr(function, _OPTIONS, None)
    return found if isinstance(found, ToolOptions) else ToolOptions()
