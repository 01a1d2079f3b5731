"""The colour of each status on a terminal."""

from __future__ import annotations

from dspex.store.lifecycle.status import Status

__all__ = ["STATUS_STYLES"]

STATUS_STYLES = {
    Status.QUEUED: "yellow",
    Status.RUNNING: "cyan",
    Status.WAITING: "blue",
    Status.COMPLETED: "green",
    Status.FAILED: "red",
    Status.CANCELLED: "magenta",
}
