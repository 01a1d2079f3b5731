"""The statuses of an execution, and the legal transitions between them."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["TRANSITIONS", "Status"]


class Status(StrEnum):
    """Where an execution is in its life.

    ::

        queued ──claim──► running ──settle──► completed | failed | cancelled
           ▲                 │
           ├─retry, recover──┤
           │                 │
           └─resume─ waiting ◄─park
    """

    #: Stored, and waiting for a worker, for its ``run_at`` or for the backoff of a retry.
    QUEUED = "queued"
    #: A worker holds it under its lease.
    RUNNING = "running"
    #: Between attempts: it is parked until something from outside comes, and holds no worker. What it waits for is in
    #: the table parked_calls.
    WAITING = "waiting"
    #: Its outputs are valid and recorded. Final.
    COMPLETED = "completed"
    #: Its error is recorded: it is not retryable, or no attempt is left. Final, unless an operator retries it.
    FAILED = "failed"
    #: It was cancelled. Final, unless an operator retries it.
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        return self in (Status.COMPLETED, Status.FAILED, Status.CANCELLED)


#: Every legal transition. The database enforces the same table (migration 0001).
TRANSITIONS = frozenset(
    {
        (Status.QUEUED, Status.RUNNING),  # claim
        (Status.QUEUED, Status.CANCELLED),  # cancel before it ran
        (Status.RUNNING, Status.QUEUED),  # retry, or recover from a dead worker
        (Status.RUNNING, Status.WAITING),  # park
        (Status.RUNNING, Status.COMPLETED),  # settle
        (Status.RUNNING, Status.FAILED),
        (Status.RUNNING, Status.CANCELLED),
        (Status.WAITING, Status.QUEUED),  # resume
        (Status.WAITING, Status.FAILED),  # its deadline passed while it waited
        (Status.WAITING, Status.CANCELLED),
        (Status.FAILED, Status.QUEUED),  # an operator's retry
        (Status.CANCELLED, Status.QUEUED),
    }
)
