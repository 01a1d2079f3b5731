"""Waiting on conditions."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

#: A pause lasts so many times as long as the look before it, up to so many seconds.
PAUSE_PER_LOOK, LONGEST_PAUSE = 8, 0.2


def wait_for(condition: Callable[[], T], what: str, timeout: float = 120.0, *, every: float = 0.02) -> T:
    """The condition's first true value, looked for ``every`` so many seconds.

    Less often if the condition itself takes long, such as a query: the processes that are waited for need the
    processors. Fails the test, saying what was waited for, after ``timeout`` seconds.
    """
    deadline = time.monotonic() + timeout
    while True:
        began = time.monotonic()
        if value := condition():
            return value
        now = time.monotonic()
        if now > deadline:
            raise AssertionError(f"waited {timeout:g} s in vain for {what}")
        time.sleep(max(every, min(PAUSE_PER_LOOK * (now - began), LONGEST_PAUSE)))
