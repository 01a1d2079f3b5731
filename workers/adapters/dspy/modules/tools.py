"""Tools that an agent may call: the user's functions, and tools of MCP servers."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import dspy

from dspex.errors import ProgramError
from dspex.program.modules import is_mcp
from dspex.program.program import Program
from workers.adapters.dspy.modules.mcp_tools import found_tools
from workers.adapters.user_code import load

__all__ = ["ObservedTool", "tools_of"]


def tools_of(program: Program, packages: Collection[str]) -> list[dspy.Tool]:
    """The program's tools. Raises ModuleNotAllowed and ProgramError."""
    return [tool for reference in program.tools for tool in _tools(program, reference, packages)]


def _tools(program: Program, reference: str, packages: Collection[str]) -> Iterator[dspy.Tool]:
    if not is_mcp(reference):
        yield ObservedTool(load(program, reference, packages))
        return
    if reference not in found_tools.get():
        raise ProgramError(f"program {program.name!r}: only a worker opens sessions with MCP servers: {reference!r}")
    for tool in found_tools.get()[reference]:
        yield ObservedTool(
            tool.func, name=tool.name, desc=tool.desc, args=tool.args, arg_types=tool.arg_types, arg_desc=tool.arg_desc
        )


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
