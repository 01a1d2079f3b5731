"""The order in which a worker reads the lists of its queues: the most urgent first, and each list in its turn.

Another client of Redis can fill a list. With strict priority, the lists behind it would not be read before it is empty.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

__all__ = ["Turns"]

#: So many replies in the order of urgency, then one that begins with another list.
RUN = 8
#: How long a key of another type is not read.
LEFT_OUT_SECONDS = 1.0


class Turns:
    """Orders the keys for each request."""

    def __init__(self) -> None:
        self._requests = 0
        self._left_out: frozenset[str] = frozenset()
        self._left_out_until = 0.0

    @property
    def left_out(self) -> frozenset[str]:
        """Keys that are not read at the moment."""
        return self._left_out if time.monotonic() < self._left_out_until else frozenset()

    @left_out.setter
    def left_out(self, keys: frozenset[str]) -> None:
        self._left_out, self._left_out_until = keys, time.monotonic() + LEFT_OUT_SECONDS

    def empty(self) -> None:
        """No list has a message: nothing waits for its turn."""
        self._requests = 0

    def order(self, keys: Sequence[str]) -> Sequence[str]:
        """The keys to ask for a message, in this order."""
        self._requests += 1
        turn, place = divmod(self._requests, RUN + 1)
        if place == 0:
            begin = turn % len(keys)
            keys = [*keys[begin:], *keys[:begin]]
        if left_out := self.left_out:
            keys = [key for key in keys if key not in left_out] or keys
        return keys
