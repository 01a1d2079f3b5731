"""Tools: what a user's function says about how an agent may call it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, overload

__all__ = ["ToolOptions", "tool", "tool_options"]

F = TypeVar("F", bound=Callable[..., Any])

#: The attribute of a marked function.
_OPTIONS = "__dspex_tool__"
#: The longest time that one call may have: a day.
_LONGEST_SECONDS = 86_400.0


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
