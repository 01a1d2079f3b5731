"""What the stack says of itself while it starts, runs and stops."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Progress", "Reporter", "State", "silent", "step", "stop"]


class State(StrEnum):
    """starting → ready → stopping → stopped, and ``failed`` where one of them goes wrong."""

    STARTING = "starting"
    READY = "ready"
    FAILED = "failed"
    STOPPING = "stopping"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Progress:
    """One part of the stack (``name``) reached a ``state``, ``seconds`` after it began to.

    ``address`` is where it can be reached, if anywhere; ``detail`` says what failed and what is done about it.
    """

    name: str
    state: State
    seconds: float = 0.0
    address: str | None = None
    detail: str = ""


#: Called for each event, from whichever thread it happens in; it must return soon.
Reporter = Callable[[Progress], None]


def silent(_event: Progress) -> None:
    """The reporter that says nothing."""


@contextmanager
def step(report: Reporter, name: str, address: Callable[[], str | None] = lambda: None) -> Iterator[None]:
    """Report that ``name`` is starting, then that it is ready or has failed."""
    report(Progress(name, State.STARTING))
    began = time.monotonic()
    try:
        yield
    except BaseException as error:
        report(Progress(name, State.FAILED, time.monotonic() - began, detail=str(error)))
        raise
    report(Progress(name, State.READY, time.monotonic() - began, address()))


def stop(report: Reporter, name: str, end: Callable[[], None]) -> None:
    """Report that ``name`` is stopping, ``end`` it even if the report fails, and report that it has stopped."""
    try:
        report(Progress(name, State.STOPPING))
    finally:
        end()
    report(Progress(name, State.STOPPED))
