"""Tools: the user's functions that an agent may call. Each call is recorded in the audit trail."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import dspy

from dspex.program.program import Program
from workers.adapters.contract import Trail
from workers.adapters.user_code import load
from workers.attempt.sync_threads import run_sync
from workers.observe.tracing import tool_call

__all__ = ["RecordedTool", "current_trail", "tools_of"]

#: The trail of the run that this task or thread works for.
current_trail: ContextVar[Trail | None] = ContextVar("current_trail", default=None)


def tools_of(program: Program, packages: Collection[str]) -> list[dspy.Tool]:
    """The program's tools. Raises ModuleNotAllowed and ProgramError."""
    return [RecordedTool(load(program, reference, packages)) for reference in program.tools]


class RecordedTool(dspy.Tool):  # type: ignore[misc]
    """A tool whose calls are in the audit trail: its name, how long it took, whether it raised; no arguments.

    A coroutine function runs on the loop, any other in a thread of the worker's. The agent observes its
    error, as in DSPy, but without DSPy's traceback: it would show the model this machine's paths, and a later
    attempt on another machine would not find the journaled calls that followed.
    """

    async def acall(self, **arguments: Any) -> Any:
        try:
            with tool_call(self.name), _recorded(self.name):
                return await self._result(arguments)
        except Exception as error:  # the boundary to the user's code
            return _observed(self.name, error)

    def __call__(self, **arguments: Any) -> Any:
        """For callers without a loop, such as DSPy's optimisers."""
        try:
            with tool_call(self.name), _recorded(self.name):
                result = self.func(**self._validate_and_parse_args(**arguments))
                return asyncio.run(result) if inspect.iscoroutine(result) else result
        except Exception as error:  # the boundary to the user's code
            return _observed(self.name, error)

    async def _result(self, arguments: dict[str, Any]) -> Any:
        parsed = self._validate_and_parse_args(**arguments)
        if _is_async(self.func):
            return await self.func(**parsed)
        return await run_sync(self.func, **parsed)


def _is_async(function: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


def _observed(name: str | None, error: Exception) -> str:
    return f"Execution error in {name}: {type(error).__name__}: {error}"


@contextmanager
def _recorded(name: str | None) -> Iterator[None]:
    trail = current_trail.get()
    if trail is None:
        yield
        return
    began_at = trail.now()
    try:
        yield
    except Exception as error:
        trail.record("tool_call", began_at=began_at, tool=name, ok=False, error=type(error).__name__)
        raise
    trail.record("tool_call", began_at=began_at, tool=name, ok=True)
