"""Programs and tools of tests that raise what is no ordinary error, such as what extensions in Rust raise."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import dspy

import dspex

__all__ = ["Circular", "Panic", "Panics", "SyncPanics", "panic_action", "panic_once", "panic_reward"]


class Panic(BaseException):
    """As a ``pyo3_runtime.PanicException``: no Exception."""


def fail(how: str) -> None:
    """Raise as the name says."""
    raised: dict[str, BaseException] = {
        "Panic": Panic("a secret text"),
        "KeyboardInterrupt": KeyboardInterrupt(),
        "GeneratorExit": GeneratorExit(),
        "StopIteration": StopIteration(),
        "CancelledError": asyncio.CancelledError(),
        "TimeoutError": TimeoutError("a secret text"),
    }
    if how == "SystemExit":
        sys.exit(1)
    raise raised[how]


class Panics(dspy.Module):  # type: ignore[misc]
    """A model call, and the end."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.ask = dspy.Predict("question -> answer")

    async def aforward(self, question: str) -> Any:
        await self.ask.acall(question=question)
        fail(self.how)


class SyncPanics(Panics):
    """The same, synchronous."""

    def forward(self, question: str) -> Any:
        self.ask(question=question)
        fail(self.how)


class Circular(dspy.Module):  # type: ignore[misc]
    """It returns a value that contains itself: as its output, or besides it."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.ask = dspy.Predict("question -> answer")

    async def aforward(self, question: str) -> dict[str, Any]:
        values: list[Any] = [[]]
        values += [values, values]
        return {"answer": (await self.ask.acall(question=question)).answer, self.name: values, "plain": [1]}


@dspex.tool(once=True)
async def panic_once(path: str) -> str:
    """Add a line to a file."""
    with Path(path).open("a") as file:  # noqa: ASYNC230
        file.write("called\n")
    raise Panic("a secret text")


async def panic_reward(inputs: Any, prediction: Any) -> float:
    raise Panic("a secret text")


async def panic_action(run: Any, proceed: Any) -> None:
    await proceed()
    raise Panic
