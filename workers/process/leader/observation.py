"""What the leader observes by its own monotonic clock: the heartbeats of workers, and Postgres' clock.

Postgres' clock may be set forward or back, and a machine may sleep. So the age of a heartbeat is how long this leader
has seen no other, and times of Postgres are compared only where the leader saw them pass.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from dspex.store.workers import Heartbeat, Lead

__all__ = ["ClockWatch", "HeartbeatWatch", "LeadWatch"]

#: How often the leader looks for new heartbeats; more often when a lease is short.
LOOK_SECONDS = 1.0
LOOKS_PER_LEASE = 4
#: Clocks that go apart by more than this between two looks were set.
STEP_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class _Seen:
    """A heartbeat, since when it has been the last one, and whether one came before it."""

    beat: Heartbeat
    since: float
    renewed: bool


class HeartbeatWatch:
    """A worker is silent once no new heartbeat was seen for its lease.

    A leader that did not look for half a lease may have slept with all others, and begins to count anew.
    """

    def __init__(self) -> None:
        self._seen: dict[UUID, _Seen] = {}
        self._began_at = math.inf
        self._looked_at = -math.inf

    def forget(self) -> None:
        """Begin to count anew."""
        self._seen = {}
        self._began_at = math.inf
        self._looked_at = -math.inf

    def note(self, found: Sequence[Heartbeat], now: float) -> None:
        """Add what was found: the last heartbeat of each worker."""
        gap, self._looked_at = now - self._looked_at, now
        self._began_at = min(self._began_at, now)
        self._seen = {beat.worker_id: self._next(beat, gap, now) for beat in found}

    def _next(self, beat: Heartbeat, gap: float, now: float) -> _Seen:
        last = self._seen.get(beat.worker_id)
        if last is None or last.beat.at != beat.at:
            return _Seen(beat, now, renewed=last is not None)
        if gap > beat.lease_seconds / 2:
            return _Seen(beat, now, renewed=False)
        return last

    def silent(self, now: float) -> list[Heartbeat]:
        """The last heartbeats of the workers that are dead."""
        return [seen.beat for seen in self._seen.values() if now - seen.since >= seen.beat.lease_seconds]

    def beating(self, now: float) -> Collection[UUID]:
        """The workers that were seen to renew their lease, and hold it."""
        return [id for id, seen in self._seen.items() if seen.renewed and now - seen.since < seen.beat.lease_seconds]

    def is_complete(self, now: float) -> bool:
        """Whether it has lasted long enough to find each dead worker."""
        return all(now - self._began_at >= seen.beat.lease_seconds for seen in self._seen.values())

    def pause_seconds(self, now: float) -> float:
        """When to look again: in a while, and once a worker may have become silent."""
        leases = [seen.beat.lease_seconds for seen in self._seen.values()]
        ends = [seen.since + seen.beat.lease_seconds - now for seen in self._seen.values()]
        return max(min([LOOK_SECONDS, *(lease / LOOKS_PER_LEASE for lease in leases), *ends]), 0.0)


class ClockWatch:
    """Since when Postgres' clock was seen to go on undisturbed: ``since``, by that clock, and for how many seconds."""

    def __init__(self) -> None:
        self.since: datetime | None = None
        self._since = math.inf
        #: How far ahead of the monotonic clock it is: at least and at most.
        self._ahead = (-math.inf, math.inf)

    def note(self, shown: datetime, asked_at: float, answered_at: float) -> None:
        """Add what the clock showed when it was asked."""
        ahead = (shown.timestamp() - answered_at, shown.timestamp() - asked_at)
        apart = max(ahead[0] - self._ahead[1], self._ahead[0] - ahead[1])
        if self.since is None or apart > STEP_SECONDS:
            self.since, self._since = shown, answered_at
        self._ahead = ahead

    def seconds(self, now: float) -> float:
        """How long it has been watched."""
        return max(now - self._since, 0.0)


class LeadWatch:
    """Since when another worker's lead has not been renewed."""

    def __init__(self) -> None:
        self._last: Lead | None = None
        self._since = math.inf

    def note(self, lead: Lead | None, now: float) -> None:
        """Add who leads now."""
        if lead is None or self._last is None or lead[:2] != self._last[:2]:
            self._last, self._since = lead, now

    def silent(self, now: float, *, seconds: float) -> Lead | None:
        """The lead that was not renewed for so many seconds: it can be taken."""
        return self._last if now - self._since >= seconds else None
