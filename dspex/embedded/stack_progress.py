"""The steps that the stack reports while it starts, runs and stops."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Reporter", "StackStep", "StepState", "silent", "step", "stop"]


class StepState(StrEnum):
    """starting → ready → stopping → stopped, and ``failed`` where one of them goes wrong."""

    STARTING = "starting"
    READY = "ready"
    FAILED = "failed"
    STOPPING = "stopping"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class StackStep:
    """A part of the stack, ``name``, reached a ``state``; the change took ``seconds``.

    ``address`` is None for a part without one; ``detail`` describes what failed and what follows.
    """

    name: str
    state: StepState
    seconds: float = 0.0
    address: str | None = None
    detail: str = ""


#: Called for each step, in the thread in which it happens; it must return soon.
Reporter = Callable[[StackStep], None]


def silent(_event: StackStep) -> None:
    """A reporter that does nothing."""


@contextmanager
def step(report: Reporter, name: str, address: Callable[[], str | None] = lambda: None) -> Iterator[None]:
    """Report that ``name`` is starting, then that it is ready or has failed."""
    report(StackStep(name, StepState.STARTING))
    began = time.monotonic()
    try:
        yield
    except BaseException as error:
        report(StackStep(name, StepState.FAILED, time.monotonic() - began, detail=str(error)))
        raise
    report(StackStep(name, StepState.READY, time.monotonic() - began, address()))


def stop(report: Reporter, name: str, end: Callable[[], None]) -> None:
    """Report that ``name`` is stopping, ``end`` it even if the report fails, and report that it has stopped."""
    try:
        report(StackStep(name, StepState.STOPPING))
    finally:
        end()
    report(StackStep(name, StepState.STOPPED))
