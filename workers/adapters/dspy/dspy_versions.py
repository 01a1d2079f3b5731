"""What differs between versions of DSPy: all of it is here.

DSPy 3.5 removes ProgramOfThought and CodeAct, and makes XML the default prompt. DSPex gives each run its prompt itself,
so that the default does not matter.
"""

from __future__ import annotations

from typing import Any

import dspy

from dspex.errors import ProgramError

__all__ = ["MissingModule", "of_dspy"]


class MissingModule(dspy.Module):  # type: ignore[misc]
    """Stands for a module that this version of DSPy does not have."""

    def __init__(self, *_: Any, **__: Any) -> None:
        """Raises ProgramError ``module_missing``."""
        raise ProgramError(
            f"DSPy {dspy.__version__} in this worker has no {type(self).__name__}: use module 'rlm', or another DSPy",
            code="module_missing",
            retryable=True,
        )


def of_dspy(name: str) -> type[dspy.Module]:
    """The module of this name, to derive from; where DSPy has none, one that cannot be made."""
    if name == "ReActV2" and not hasattr(dspy, name):
        name = "ReAct"  # its name since 3.5
    found: type[dspy.Module] | None = getattr(dspy, name, None)
    return found or type(name, (MissingModule,), {})
