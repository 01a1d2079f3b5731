"""Tools: the user's functions that an agent may call."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import dspy

from dspex.program.program import Program
from workers.adapters.user_code import load

__all__ = ["ObservedTool", "tools_of"]


def tools_of(program: Program, packages: Collection[str]) -> list[dspy.Tool]:
    """The program's tools. Raises ModuleNotAllowed and ProgramError."""
    return [ObservedTool(load(program, reference, packages)) for reference in program.tools]


class ObservedTool(dspy.Tool):  # type: ignore[misc]
    """A tool whose error the agent observes, as in DSPy, but without DSPy's traceback: it would show the model this
    machine's paths, and a later attempt on another machine would not find the journaled calls that followed."""

    async def acall(self, **arguments: Any) -> Any:
        try:
            return await super().acall(**arguments)
        except Exception as error:  # the boundary to the user's code
            return _observed(self.name, error)

    def __call__(self, **arguments: Any) -> Any:
        """For callers without a loop, such as DSPy's optimisers."""
        try:
            with dspy.context(allow_tool_async_sync_conversion=True):
                return super().__call__(**arguments)
        except Exception as error:  # the boundary to the user's code
            return _observed(self.name, error)


def _observed(name: str | None, error: Exception) -> str:
    return f"Execution error in {name}: {type(error).__name__}: {error}"
