"""The stream of an execution as a source of entries: what cannot be read is left out, and Redis may be away."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import redis

from dspex.client.stream_entries import Position, read_entry, read_entry_id
from dspex.errors import MessageRefused
from dspex.publish.refused_data import RefusedData
from dspex.wait.driver import Entries, Follower, Signal

__all__ = ["Entry", "StreamSource"]

log = logging.getLogger("dspex")

Entry = tuple[Position, Mapping[str, Any]]

_refused = RefusedData("streams", log)


class StreamSource:
    """Reads entries through ``follower``. Without one there are none; it waits for ``signal`` instead."""

    def __init__(self, follower: Follower | None, signal: Signal) -> None:
        self._follower = follower
        self._signal = signal
        #: The id of the last entry, also of one that was refused.
        self._last: Position = (0, 0)

    async def read(self, after: Position, seconds: float) -> Sequence[Entry]:
        """The entries after this position; none if none arrive within ``seconds``."""
        if self._follower is not None:
            attempt, number = max(after, self._last)
            try:
                found = await self._follower.read(f"{attempt}-{number}", seconds)
            except (redis.RedisError, OSError) as error:
                log.debug("following by polling Postgres, as Redis failed: %s", error)
            else:
                return [*self._readable(found)]
        await self._signal.wait(seconds)
        return ()

    def refuse(self, reason: str) -> None:
        """Count an entry that its reader does not accept."""
        _refused.note(reason)

    def _readable(self, found: Entries) -> Iterator[Entry]:
        for id, fields in found:
            try:
                self._last = read_entry_id(id)
                yield read_entry(id, fields)
            except MessageRefused as error:
                self.refuse(error.details["reason"])
