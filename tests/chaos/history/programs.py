"""The programs of the history: chains of counted model calls, and one without calls for floods."""

from __future__ import annotations

from collections.abc import Iterator

import dspex

__all__ = ["CURRENT", "FLOOD", "PAUSED", "WORK", "current_program", "programs"]

#: What most clients use; what is paused again and again; what is deployed again and again; what the queue is flooded
#: with.
WORK, PAUSED, CURRENT, FLOOD = "work", "paused", "current", "flood"

SIGNATURE = dspex.signature(":string question, :integer calls, :integer fails -> :string answer")
#: Deaths are what a history is made of: no execution may run out of attempts.
MAX_ATTEMPTS = 100


def programs(server: str) -> Iterator[dspex.Program]:
    """Every program, its model served at a URL."""
    yield _steps(WORK, server)
    yield _steps(PAUSED, server)
    yield current_program(server, 0)
    yield dspex.Program(
        FLOOD, SIGNATURE, adapter="scripted", module_options={"calls": 0, "outputs": {"answer": "none"}},
        retry=dspex.Retry(max_attempts=MAX_ATTEMPTS, backoff=0.05),
    )  # fmt: skip


def current_program(server: str, number: int) -> dspex.Program:
    """Version ``number`` of the program that is deployed again and again."""
    return _steps(CURRENT, server, timeout=300 + number)


def _steps(name: str, server: str, *, timeout: float = 300) -> dspex.Program:
    return dspex.Program(
        name, SIGNATURE, adapter="steps", module_options={"server": server}, timeout=timeout,
        retry=dspex.Retry(max_attempts=MAX_ATTEMPTS, backoff=0.05),
    )  # fmt: skip
