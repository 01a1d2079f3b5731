"""Finding an action's function: built in, or the user's own from an allowed package."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Mapping

from dspex.errors import ProgramError
from dspex.program.program import Program
from workers.actions import ActionFunction
from workers.actions.resources import resource_management
from workers.actions.validation import complex_validation
from workers.adapters.user_code import allowed_packages, load

__all__ = ["load_actions"]

BUILT_IN_ACTIONS: Mapping[str, ActionFunction] = {
    "complex_validation": complex_validation,
    "resource_management": resource_management,
}


async def load_actions(program: Program) -> dict[str, ActionFunction]:
    """The functions of the program's actions, by name. Importing happens off the loop.

    Raises ModuleNotAllowed, and ProgramError for a function that is not there or is not a coroutine function.
    """
    own = [action.name for action in program.manual_actions if action.name not in BUILT_IN_ACTIONS]
    return {**BUILT_IN_ACTIONS, **(await asyncio.to_thread(_imported, program, own) if own else {})}


def _imported(program: Program, names: list[str]) -> dict[str, ActionFunction]:
    packages = allowed_packages()
    found: dict[str, ActionFunction] = {}
    for name in names:
        found[name] = load(program, name, packages)
        if not inspect.iscoroutinefunction(found[name]):
            raise ProgramError(
                f"program {program.name!r}: action {name!r} is not a coroutine function: "
                "write async def action(run, proceed)",
                program=program.name,
            )
    return found
